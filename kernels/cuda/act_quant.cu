#include "kernels/act_quant.h"

#include "base/quant_rule.h"
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/reduce.cuh"

/* Rows up to this many elements are a warp's, longer ones a block's. */
enum { WARP_ROW = 1024, WARP_ROWS = 4, BLOCK_TEAM = 256 };

template <typename T> struct rows_t {
    T *out;           /* y, or dx */
    const T *dy, *x;  /* dy NULL forward */
    int64_t m, d;
    float q_max;
};

/* Least and largest of a team's row; NaNs are passed over. */
template <typename T, int V, int TEAM>
__device__ static inline void row_range(const T *x, int64_t d, int lane, float &lo, float &hi)
{
    float v[V];
    lo = INFINITY;
    hi = -INFINITY;
    for (int64_t i = lane * V; i < d; i += TEAM * V) {
        load<V>(v, x + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            lo = v[j] < lo ? v[j] : lo;
            hi = v[j] > hi ? v[j] : hi;
        }
    }
    lo = -team_max<TEAM>(-lo);
    hi = team_max<TEAM>(hi);
}

/* A team owns a row: it reads it for the range, then to write it. */
template <typename T, int V, int TEAM> static __global__ void forward_kernel(rows_t<T> a)
{
    int64_t row = blockIdx.x * (int64_t)(blockDim.x / TEAM) + threadIdx.x / TEAM;
    int lane = threadIdx.x % TEAM;
    if (row >= a.m)
        return;
    float lo, hi, v[V];
    const T *x = a.x + row * a.d;
    row_range<T, V, TEAM>(x, a.d, lane, lo, hi);
    bool finite = hi - lo < INFINITY, spread = hi > lo;
    float s = qy_act_step(lo, hi, a.q_max), z = spread ? qy_act_zero(lo, hi, a.q_max) : 0.0f;
    for (int64_t i = lane * V; i < a.d; i += TEAM * V) {
        load<V>(v, x + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float quantized = (qy_code(v[j], s, z, a.q_max) - z) * s;
            v[j] = !finite ? NAN : (spread ? quantized : v[j]);
        }
        store<V>(a.out + row * a.d + i, v);
    }
}

/* dy's product with how far the quantized number follows its step. */
__device__ static inline float step_part(float dy, float x, float s, float z, float q_max)
{
    float ratio = qy_ratio(x, s), rounded = rintf(ratio), u = rounded + z;
    return dy * (u >= 0.0f && u <= q_max ? rounded - ratio : qy_clampf(u, 0.0f, q_max) - z);
}

/* A team owns a row: range, then the sums, then the gradient. */
template <typename T, int V, int TEAM> static __global__ void backward_kernel(rows_t<T> a)
{
    int64_t row = blockIdx.x * (int64_t)(blockDim.x / TEAM) + threadIdx.x / TEAM;
    int lane = threadIdx.x % TEAM;
    if (row >= a.m)
        return;
    float lo, hi, v[V], g[V], sum = 0.0f, n_lo = 0.0f, n_hi = 0.0f;
    const T *x = a.x + row * a.d, *dy = a.dy + row * a.d;
    T *dx = a.out + row * a.d;
    row_range<T, V, TEAM>(x, a.d, lane, lo, hi);
    bool spread = hi > lo;
    float s = qy_act_step(lo, hi, a.q_max), z = spread ? qy_act_zero(lo, hi, a.q_max) : 0.0f;
    for (int64_t i = lane * V; i < a.d; i += TEAM * V) {
        load<V>(v, x + i);
        load<V>(g, dy + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            sum += step_part(g[j], v[j], s, z, a.q_max);
            n_lo += v[j] == lo ? 1.0f : 0.0f;
            n_hi += v[j] == hi ? 1.0f : 0.0f;
        }
    }
    sum = team_sum<TEAM>(sum);
    float slope = s == (hi - lo) / a.q_max ? sum / a.q_max : 0.0f;
    float at_lo = slope / team_sum<TEAM>(n_lo), at_hi = slope / team_sum<TEAM>(n_hi);
    for (int64_t i = lane * V; i < a.d; i += TEAM * V) {
        load<V>(v, x + i);
        load<V>(g, dy + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float u = qy_code_free(v[j], s, z), in = u >= 0.0f && u <= a.q_max ? g[j] : 0.0f;
            float moved = v[j] == hi ? in + at_hi : (v[j] == lo ? in - at_lo : in);
            g[j] = spread ? moved : g[j];
        }
        store<V>(dx + i, g);
    }
}

/* Launches kernel<T, V, TEAM>: one team a row. */
#define LAUNCH_ROWS(kernel, T, V)                                                                  \
    do {                                                                                           \
        if (a.d <= WARP_ROW)                                                                       \
            QY_LAUNCH(kernel<T, V, 32><<<(unsigned)qy_blocks(a.m, WARP_ROWS), 32 * WARP_ROWS, 0,   \
                                         stream>>>(a));                                            \
        else                                                                                       \
            QY_LAUNCH(kernel<T, V, BLOCK_TEAM><<<(unsigned)a.m, BLOCK_TEAM, 0, stream>>>(a));      \
    } while (0)

template <typename T>
static qy_status_t run(cudaStream_t stream, const rows_t<T> &a, qy_error_t *err)
{
    const int V = 16 / sizeof(T);
    bool packs = a.d % V == 0 && qy_aligned(a.out, a.x, a.dy);
    if (packs && a.dy)
        LAUNCH_ROWS(backward_kernel, T, V);
    else if (packs)
        LAUNCH_ROWS(forward_kernel, T, V);
    else if (a.dy)
        LAUNCH_ROWS(backward_kernel, T, 1);
    else
        LAUNCH_ROWS(forward_kernel, T, 1);
    return QY_OK;
}

qy_status_t qy_cuda_act_quant_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                                  int bits, qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const rows_t<T> a = {qy_data<T>(y),     nullptr,           qy_data<T>(x),
                             qy_tensor_rows(x), qy_tensor_cols(x), qy_quant_max(bits)};
        return run<T>(qy_stream(dev), a, err);
    });
}

qy_status_t qy_cuda_act_quant_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                                  const qy_tensor_t *x, int bits, qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const rows_t<T> a = {qy_data<T>(dx),    qy_data<T>(dy),    qy_data<T>(x),
                             qy_tensor_rows(x), qy_tensor_cols(x), qy_quant_max(bits)};
        return run<T>(qy_stream(dev), a, err);
    });
}
