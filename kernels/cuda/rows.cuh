/*
 * What kernels over rows share: how many threads own a row, and the formulas of norms, gated
 * products, channel maps and activation quantizers, so that a kernel that fuses them gives the bytes
 * of the single ones. The files that include this are compiled without fused multiply-add.
 */
#ifndef QY_KERNELS_CUDA_ROWS_CUH
#define QY_KERNELS_CUDA_ROWS_CUH

#include "base/quant_rule.h"
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/reduce.cuh"

/* A row's team: a warp up to WARP_ROW elements, a block of BLOCK_TEAM up to WIDE_ROW, WIDE_TEAM
 * beyond. Sums go by team, so all kernels use the same. */
enum {
    QY_WARP_ROW = 1024,
    QY_WARP_ROWS = 4,
    QY_BLOCK_TEAM = 256,
    QY_WIDE_ROW = 16384,
    QY_WIDE_TEAM = 512
};

/* QY_WITH_TEAM(d, TEAM, statements): the statements with TEAM as the team of rows of d. */
#define QY_WITH_TEAM(d, TEAM, ...)                                                                 \
    do {                                                                                           \
        if ((d) <= QY_WARP_ROW) {                                                                  \
            constexpr int TEAM = 32;                                                               \
            __VA_ARGS__;                                                                           \
        } else if ((d) <= QY_WIDE_ROW) {                                                           \
            constexpr int TEAM = QY_BLOCK_TEAM;                                                    \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            constexpr int TEAM = QY_WIDE_TEAM;                                                     \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* Rows of a block, and the blocks of m rows, one team each. */
template <int TEAM> static constexpr int QY_TEAMS = TEAM == 32 ? QY_WARP_ROWS : 1;
template <int TEAM> static inline unsigned qy_team_blocks(int64_t m)
{
    return (unsigned)qy_blocks(m, QY_TEAMS<TEAM>);
}

/* --- norms ------------------------------------------------------------------------------------ */

/* A row's mean (0 where it is not CENTERED) and 1 / deviation, by its team. */
template <typename T, int V, int TEAM, bool CENTERED>
__device__ static inline void norm_stats(const T *x, int64_t d, int lane, float eps, float &mu,
                                         float &r)
{
    float sum = 0.0f, v[V];
    mu = 0.0f;
    if (CENTERED) {
        for (int64_t i = lane * V; i < d; i += TEAM * V) {
            load<V>(v, x + i);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum += v[j];
        }
        mu = team_sum<TEAM>(sum) / (float)d;
        sum = 0.0f;
    }
    for (int64_t i = lane * V; i < d; i += TEAM * V) {
        load<V>(v, x + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum += (v[j] - mu) * (v[j] - mu);
    }
    r = 1.0f / sqrtf(team_sum<TEAM>(sum) / (float)d + eps);
}

/* RMSNorm rounds x rstd to the compute type first. */
template <typename T, bool CENTERED>
__device__ static inline float norm_value(float v, float mu, float r, float w, float b)
{
    return CENTERED ? (v - mu) * r * w + b : to_f32(from_f32<T>(v * r)) * w;
}

/* --- gated products --------------------------------------------------------------------------- */

__device__ static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

__device__ static inline float silu_mul(float gate, float up)
{
    return gate * sigmoid(gate) * up;
}

/* gate and up are replaced by their gradients: dy up σ(1 + gate(1 − σ)), dy gate σ. */
__device__ static inline void silu_mul_back(float &gate, float &up, float dy)
{
    float sigma = sigmoid(gate), g = gate;
    gate = dy * up * (sigma * (1.0f + g * (1.0f - sigma)));
    up = dy * (g * sigma);
}

/* NaN stays NaN. */
__device__ static inline float relu(float x)
{
    return x < 0.0f ? 0.0f : x;
}

/* --- channel maps ----------------------------------------------------------------------------- */

template <typename T>
__device__ static inline float mix_column(const T *x, const int32_t *items, const float *weights,
                                          int32_t first, int32_t end)
{
    float sum = 0.0f;
    for (int32_t k = first; k < end; k++)
        sum += weights[k] * to_f32(x[items[k]]);
    return sum;
}

/* --- activation quantizers -------------------------------------------------------------------- */

/* A row's quantizer: its range, step and zero point. */
struct act_row_t {
    float lo, hi, s, z, q_max;
    bool finite, spread;
};

/* From a thread's share of the range to the row's. */
template <int TEAM>
__device__ static inline act_row_t act_row(float lo, float hi, float q_max)
{
    act_row_t a;
    a.lo = -team_max<TEAM>(-lo);
    a.hi = team_max<TEAM>(hi);
    a.q_max = q_max;
    a.finite = a.hi - a.lo < INFINITY;
    a.spread = a.hi > a.lo;
    a.s = qy_act_step(a.lo, a.hi, q_max);
    a.z = a.spread ? qy_act_zero(a.lo, a.hi, q_max) : 0.0f;
    return a;
}

/* Least and largest so far; NaNs are passed over. */
__device__ static inline void widen(float &lo, float &hi, float v)
{
    lo = v < lo ? v : lo;
    hi = v > hi ? v : hi;
}

template <typename T, int V, int TEAM>
__device__ static inline act_row_t act_row_of(const T *x, int64_t d, int lane, float q_max)
{
    float v[V], lo = INFINITY, hi = -INFINITY;
    for (int64_t i = lane * V; i < d; i += TEAM * V) {
        load<V>(v, x + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            widen(lo, hi, v[j]);
    }
    return act_row<TEAM>(lo, hi, q_max);
}

/* y of a row of d. */
template <typename T, int V, int TEAM>
__device__ static inline void act_store(T *y, const T *x, int64_t d, int lane, const act_row_t &a)
{
    float v[V];
    for (int64_t i = lane * V; i < d; i += TEAM * V) {
        load<V>(v, x + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float quantized = (qy_code(v[j], a.s, a.z, a.q_max) - a.z) * a.s;
            v[j] = !a.finite ? NAN : (a.spread ? quantized : v[j]);
        }
        store<V>(y + i, v);
    }
}

/* dy's product with how far the quantized number follows its step. */
__device__ static inline float act_step_part(float dy, float x, const act_row_t &a)
{
    float ratio = qy_ratio(x, a.s), rounded = rintf(ratio), u = rounded + a.z;
    bool inside = u >= 0.0f && u <= a.q_max;
    return dy * (inside ? rounded - ratio : qy_clampf(u, 0.0f, a.q_max) - a.z);
}

/* dx of a row of d; it may lie where dy or x does. */
template <typename T, int V, int TEAM>
__device__ static inline void act_gradient(T *dx, const T *dy, const T *x, int64_t d, int lane,
                                           const act_row_t &a)
{
    float v[V], g[V], sum = 0.0f, n_lo = 0.0f, n_hi = 0.0f;
    for (int64_t i = lane * V; i < d; i += TEAM * V) {
        load<V>(v, x + i);
        load<V>(g, dy + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            sum += act_step_part(g[j], v[j], a);
            n_lo += v[j] == a.lo ? 1.0f : 0.0f;
            n_hi += v[j] == a.hi ? 1.0f : 0.0f;
        }
    }
    sum = team_sum<TEAM>(sum);
    float slope = a.s == (a.hi - a.lo) / a.q_max ? sum / a.q_max : 0.0f;
    float at_lo = slope / team_sum<TEAM>(n_lo), at_hi = slope / team_sum<TEAM>(n_hi);
    for (int64_t i = lane * V; i < d; i += TEAM * V) {
        load<V>(v, x + i);
        load<V>(g, dy + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float u = qy_code_free(v[j], a.s, a.z), in = u >= 0.0f && u <= a.q_max ? g[j] : 0.0f;
            float moved = v[j] == a.hi ? in + at_hi : (v[j] == a.lo ? in - at_lo : in);
            g[j] = a.spread ? moved : g[j];
        }
        store<V>(dx + i, g);
    }
}

#endif
