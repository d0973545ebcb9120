/*
 * One number of a quantization group, as kernels/cpu/group.h has it; the files that include this
 * are compiled without fused multiply-add, so that both devices give the same bytes. s and z are
 * the ones used: clamped, and z rounded.
 */
#ifndef QY_KERNELS_CUDA_GROUP_CUH
#define QY_KERNELS_CUDA_GROUP_CUH

#include "base/quant_rule.h"

/* w_hat = (c − z) s */
__device__ static inline float group_fwd(float w, float s, float z, float q_max)
{
    return (qy_code(w, s, z, q_max) - z) * s;
}

/* What the gradient g of w_hat gives: to w, and the terms of Σ in ds and in dz = −s Σ. */
struct group_gradient_t {
    float dw, ds, outside;
};

__device__ static inline group_gradient_t group_bwd(float g, float w, float s, float z, float q_max)
{
    float ratio = qy_ratio(w, s), free = rintf(ratio) + z, c = qy_clampf(free, 0.0f, q_max) - z;
    bool inside = (free >= 0.0f) & (free <= q_max);
    return {inside ? g : 0.0f, g * (inside ? c - ratio : c), inside ? 0.0f : g};
}

#endif
