/*
 * One quantization group: what the separate kernels of quant.h and the fused update of optim.h do
 * with it, so that they give the same bytes. s and z are the ones used: clamped, and z rounded.
 */
#ifndef QY_KERNELS_CPU_GROUP_H
#define QY_KERNELS_CPU_GROUP_H

#include "base/quant_rule.h"
#include "kernels/cpu/cpu.h"

/* w_hat = (c − z) s */
static inline void qy_group_fwd(float *w_hat, const float *w, int64_t n, float s, float z,
                                float q_max)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        w_hat[i] = (qy_code(w[i], s, z, q_max) - z) * s;
}

/* M: is the code inside the range before the clamp? */
static inline int qy_group_inside(float w, float s, float z, float q_max)
{
    float u = qy_code_free(w, s, z);
    return (u >= 0.0f) & (u <= q_max);
}

static inline float qy_group_ds(float g, float w, float s, float z, float q_max)
{
    float c = qy_code(w, s, z, q_max) - z;
    return g * (qy_group_inside(w, s, z, q_max) ? c - w / s : c);
}

static inline float qy_group_dz(float g, float w, float s, float z, float q_max)
{
    return qy_group_inside(w, s, z, q_max) ? 0.0f : g;
}

/* ds = Σ g ((c − z) − M w/s);  dz = −s Σ g (1 − M) */
static inline void qy_group_sums(float *ds, float *dz, const float *g, const float *w, int64_t n,
                                 float s, float z, float q_max)
{
    float outside;
    QY_LANE_SUM(*ds, i, n, qy_group_ds(g[i], w[i], s, z, q_max));
    QY_LANE_SUM(outside, i, n, qy_group_dz(g[i], w[i], s, z, q_max));
    *dz = -s * outside;
}

#endif
