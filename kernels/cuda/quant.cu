#include "kernels/quant.h"

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/group.cuh"
#include "kernels/cuda/reduce.cuh"

enum {
    THREADS = 256,
    N_SHRINKS = 60, /* f = 1 − 0.7 i/60 */
    WORD_BITS = 32
};

/* Blocks in y for a kernel over rows, which strides by what it gets: y counts to 65535. */
static unsigned row_blocks(int64_t rows)
{
    return rows < 65535 ? (unsigned)rows : 65535u;
}

/* --- quant_start ----------------------------------------------------------------------------- */

struct start_t {
    float *s, *z;
    const float *w;
    int64_t n_groups, n;
    int bits, symmetric, n_shrinks;
};

/* Σ (ŵ − w)² of a group in f64, in the CPU's order: 16 lanes side by side, then in pairs. */
__device__ static double squared_error(const float *w, int64_t n, int lane, float s, float z,
                                       float q_max)
{
    double sum = 0.0;
    for (int64_t i = lane; i < n; i += QY_LANES) {
        float d = group_fwd(w[i], s, z, q_max) - w[i];
        sum += (double)d * (double)d;
    }
    return lanes_sum_as_cpu(sum);
}

/* 16 threads own a group and try its shrinks one after the other. */
static __global__ void __launch_bounds__(THREADS) start_kernel(start_t a)
{
    int64_t thread = blockIdx.x * (int64_t)THREADS + threadIdx.x, group = thread / QY_LANES;
    int lane = (int)(thread % QY_LANES);
    bool mine = group < a.n_groups; /* the others only keep the warp together */
    const float *w = a.w + (mine ? group : 0) * a.n;
    float lo = 0.0f, hi = 0.0f, q_max = qy_quant_max(a.bits), best_s = 0.0f, best_z = 0.0f;
    float middle = (float)(1 << (a.bits - 1));
    double best = INFINITY;
    for (int64_t i = lane; i < a.n; i += QY_LANES) {
        lo = w[i] < lo ? w[i] : lo;
        hi = w[i] > hi ? w[i] : hi;
    }
#pragma unroll
    for (int half = QY_LANES / 2; half > 0; half /= 2) {
        float other_lo = __shfl_xor_sync(QY_WARP_ALL, lo, half);
        float other_hi = __shfl_xor_sync(QY_WARP_ALL, hi, half);
        lo = other_lo < lo ? other_lo : lo;
        hi = other_hi > hi ? other_hi : hi;
    }
    for (int i = 0; i < a.n_shrinks; i++) {
        float f = (float)(1.0 - 0.7 * i / N_SHRINKS), s, z;
        if (a.symmetric) {
            s = (hi > -lo ? hi : -lo) * f / (middle - 0.5f);
            s = s < QY_STEP_FLOOR ? QY_STEP_FLOOR : s;
            z = middle;
        } else {
            s = (hi - lo) * f / q_max;
            s = s < QY_STEP_FLOOR ? QY_STEP_FLOOR : s;
            z = qy_clampf(rintf(-lo * f / s), 0.0f, q_max);
        }
        double error = a.n_shrinks > 1 ? squared_error(w, a.n, lane, s, z, q_max) : 0.0;
        if (i == 0 || error < best) {
            best = error;
            best_s = s;
            best_z = z;
        }
    }
    if (mine && lane == 0) {
        a.s[group] = best_s;
        a.z[group] = best_z;
    }
}

qy_status_t qy_cuda_quant_start(const qy_device_t *dev, qy_tensor_t *s, qy_tensor_t *z,
                                const qy_tensor_t *w, int bits, int symmetric, int least_squares,
                                qy_error_t *err)
{
    int64_t n_groups = qy_tensor_count(s);
    const start_t a = {qy_data<float>(s),
                       qy_data<float>(z),
                       qy_data<float>(w),
                       n_groups,
                       qy_tensor_count(w) / n_groups,
                       bits,
                       symmetric,
                       least_squares ? N_SHRINKS : 1};
    unsigned blocks = (unsigned)qy_blocks(n_groups, THREADS / QY_LANES);
    QY_LAUNCH(start_kernel<<<blocks, THREADS, 0, qy_stream(dev)>>>(a));
    return QY_OK;
}

/* --- fake quantization ----------------------------------------------------------------------- */

template <typename T> struct fake_quant_t {
    T *w_hat;
    const float *w, *s, *z;
    int64_t n;
    float q_max;
    template <int V> __device__ void run(int64_t i) const
    {
        float v[V], step = qy_step_used(s[i / n]), zero = qy_zero_used(z[i / n], q_max);
        load<V>(v, w + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = group_fwd(v[j], step, zero, q_max);
        store<V>(w_hat + i, v);
    }
};

qy_status_t qy_cuda_fake_quant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat, const qy_tensor_t *w,
                                   const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                                   qy_error_t *err)
{
    int64_t count = qy_tensor_count(w), n = count / qy_tensor_count(s);
    QY_WITH_TYPE(w_hat->dtype, T, {
        const fake_quant_t<T> body = {
            qy_data<T>(w_hat), qy_data<float>(w), qy_data<float>(s), qy_data<float>(z), n,
            qy_quant_max(bits)};
        return qy_each<4>(dev, count, n % 4 == 0 && qy_aligned(w_hat->data, w->data), body, err);
    });
}

template <typename G> struct fake_quant_bwd_t {
    float *dw, *ds, *dz;
    const G *dw_hat;
    const float *w, *s, *z;
    int64_t n_groups, n;
    float q_max;
};

/* 16 threads own a group. dw may be dw_hat: each thread reads its number before it writes it. */
template <typename G>
static __global__ void __launch_bounds__(THREADS) fake_quant_bwd_kernel(fake_quant_bwd_t<G> a)
{
    int64_t thread = blockIdx.x * (int64_t)THREADS + threadIdx.x, group = thread / QY_LANES;
    int lane = (int)(thread % QY_LANES);
    bool mine = group < a.n_groups; /* the others only keep the warp together */
    int64_t j = mine ? group : 0, end = mine ? (j + 1) * a.n : 0;
    float s = qy_step_used(a.s[j]), z = qy_zero_used(a.z[j], a.q_max), ds = 0.0f, outside = 0.0f;
    for (int64_t i = j * a.n + lane; i < end; i += QY_LANES) {
        group_gradient_t g = group_bwd(to_f32(a.dw_hat[i]), a.w[i], s, z, a.q_max);
        ds += g.ds;
        outside += g.outside;
        a.dw[i] = g.dw;
    }
    ds = lanes_sum_as_cpu(ds);
    outside = lanes_sum_as_cpu(outside);
    if (mine && lane == 0) {
        a.ds[group] = ds;
        a.dz[group] = -s * outside;
    }
}

qy_status_t qy_cuda_fake_quant_bwd(const qy_device_t *dev, qy_tensor_t *dw, qy_tensor_t *ds,
                                   qy_tensor_t *dz, const qy_tensor_t *dw_hat, const qy_tensor_t *w,
                                   const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                                   qy_error_t *err)
{
    int64_t n_groups = qy_tensor_count(s), n = qy_tensor_count(w) / n_groups;
    unsigned blocks = (unsigned)qy_blocks(n_groups, THREADS / QY_LANES);
    QY_WITH_TYPE(dw_hat->dtype, G, {
        const fake_quant_bwd_t<G> a = {qy_data<float>(dw), qy_data<float>(ds), qy_data<float>(dz),
                                       qy_data<G>(dw_hat), qy_data<float>(w),  qy_data<float>(s),
                                       qy_data<float>(z),  n_groups,           n,
                                       qy_quant_max(bits)};
        QY_LAUNCH(fake_quant_bwd_kernel<G><<<blocks, THREADS, 0, qy_stream(dev)>>>(a));
    });
    return QY_OK;
}

/* --- finished weights ------------------------------------------------------------------------ */

/* The step that is written: clamped to ≥ 2^-14, then rounded to f16. */
__device__ static inline float frozen_step(float s)
{
    return __half2float(__float2half_rn(s < QY_STEP_F16_FLOOR ? QY_STEP_F16_FLOOR : s));
}

/* A code; that of a NaN is 0. */
__device__ static inline uint32_t whole(float code)
{
    return code > 0.0f ? (uint32_t)code : 0u;
}

struct freeze_t {
    uint32_t *codes;
    float *s16;
    uint8_t *zeros;
    const float *w, *s, *z;
    int64_t rows, cols, n_words, n_groups, n;
    int bits;
};

/* A thread makes one word of a row: the codes whose bits lie in it, whole or in part. */
static __global__ void __launch_bounds__(THREADS) freeze_kernel(freeze_t a)
{
    int64_t word = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (word >= a.n_words)
        return;
    float q_max = qy_quant_max(a.bits);
    int64_t first_bit = word * WORD_BITS, first = first_bit / a.bits;
    for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
        uint32_t held = 0;
        for (int64_t i = first; i < a.cols && i * a.bits < first_bit + WORD_BITS; i++) {
            int64_t group = row * a.n_groups + i / a.n, shift = i * a.bits - first_bit;
            uint32_t code = whole(qy_code(a.w[row * a.cols + i], frozen_step(a.s[group]),
                                          qy_zero_used(a.z[group], q_max), q_max));
            held |= shift >= 0 ? code << shift : code >> -shift;
        }
        a.codes[row * a.n_words + word] = held;
    }
}

/* 16 threads own a group: its step, NaN where a weight is not finite, and its zero point. */
static __global__ void __launch_bounds__(THREADS) freeze_groups_kernel(freeze_t a)
{
    int64_t thread = blockIdx.x * (int64_t)THREADS + threadIdx.x, group = thread / QY_LANES;
    int lane = (int)(thread % QY_LANES);
    bool mine = group < a.rows * a.n_groups; /* the others only keep the warp together */
    float taint = 0.0f;
    for (int64_t i = lane; mine && i < a.n; i += QY_LANES)
        taint += a.w[group * a.n + i] * 0.0f;
    taint = lanes_sum_as_cpu(taint);
    if (mine && lane == 0) {
        a.s16[group] = frozen_step(a.s[group]) + taint;
        a.zeros[group] = (uint8_t)whole(qy_zero_used(a.z[group], qy_quant_max(a.bits)));
    }
}

qy_status_t qy_cuda_quant_freeze(const qy_device_t *dev, qy_tensor_t *codes, qy_tensor_t *s16,
                                 qy_tensor_t *zeros, const qy_tensor_t *w, const qy_tensor_t *s,
                                 const qy_tensor_t *z, int bits, qy_error_t *err)
{
    int64_t rows = qy_tensor_rows(w), cols = qy_tensor_cols(w), n_groups = qy_tensor_cols(s);
    int64_t n_words = qy_tensor_cols(codes);
    const freeze_t a = {qy_data<uint32_t>(codes),
                        qy_data<float>(s16),
                        qy_data<uint8_t>(zeros),
                        qy_data<float>(w),
                        qy_data<float>(s),
                        qy_data<float>(z),
                        rows,
                        cols,
                        n_words,
                        n_groups,
                        cols / n_groups,
                        bits};
    const dim3 blocks((unsigned)qy_blocks(n_words, THREADS), row_blocks(rows));
    QY_LAUNCH(freeze_kernel<<<blocks, THREADS, 0, qy_stream(dev)>>>(a));
    /* Codes first: s16 may be s. */
    unsigned groups = (unsigned)qy_blocks(rows * n_groups, THREADS / QY_LANES);
    QY_LAUNCH(freeze_groups_kernel<<<groups, THREADS, 0, qy_stream(dev)>>>(a));
    return QY_OK;
}

/* V codes of a row from element i on, i a multiple of V: at most 64 bits in at most 3 words. */
template <int V>
__device__ static inline void unpack(float (&codes)[V], const uint32_t *row, int64_t i, int bits)
{
    int64_t bit = i * bits, word = bit / WORD_BITS;
    int shift = (int)(bit % WORD_BITS), end = shift + V * bits;
    uint64_t held = row[word];
    if (end > WORD_BITS)
        held |= (uint64_t)row[word + 1] << WORD_BITS;
    held >>= shift;
    if (end > 2 * WORD_BITS)
        held |= (uint64_t)row[word + 2] << (2 * WORD_BITS - shift);
    uint32_t mask = (1u << bits) - 1u;
#pragma unroll
    for (int j = 0; j < V; j++)
        codes[j] = (float)((uint32_t)(held >> (j * bits)) & mask);
}

template <typename T> struct dequant_t {
    T *w_hat;
    const uint32_t *codes;
    const float *s;
    const uint8_t *zeros;
    int64_t rows, cols, n_words, n_groups, n;
    int bits, round_f16;
};

/* A thread makes V neighbours of a row, all of one group. */
template <typename T, int V>
static __global__ void __launch_bounds__(THREADS) dequant_kernel(dequant_t<T> a)
{
    int64_t i = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * V;
    if (i >= a.cols)
        return;
    for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
        float v[V];
        unpack<V>(v, a.codes + row * a.n_words, i, a.bits);
        int64_t group = row * a.n_groups + (uint32_t)i / (uint32_t)a.n; /* 32 bits hold a column */
        float s = a.s[group], z = (float)a.zeros[group];
#pragma unroll
        for (int j = 0; j < V; j++) {
            v[j] = (v[j] - z) * s;
            if (a.round_f16)
                v[j] = __half2float(__float2half_rn(v[j]));
        }
        store<V>(a.w_hat + row * a.cols + i, v);
    }
}

qy_status_t qy_cuda_dequant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat,
                                const qy_tensor_t *codes, const qy_tensor_t *s,
                                const qy_tensor_t *zeros, int bits, int round_f16, qy_error_t *err)
{
    int64_t rows = qy_tensor_rows(w_hat), cols = qy_tensor_cols(w_hat);
    int64_t n_groups = qy_tensor_cols(s), n = cols / n_groups;
    const int V = 8;
    QY_WITH_TYPE(w_hat->dtype, T, {
        const dequant_t<T> a = {qy_data<T>(w_hat),
                                qy_data<uint32_t>(codes),
                                qy_data<float>(s),
                                qy_data<uint8_t>(zeros),
                                rows,
                                cols,
                                qy_tensor_cols(codes),
                                n_groups,
                                n,
                                bits,
                                round_f16};
        bool wide = n % V == 0 && qy_aligned(w_hat->data);
        const dim3 blocks((unsigned)qy_blocks(cols, wide ? THREADS * V : THREADS),
                          row_blocks(rows));
        if (wide)
            QY_LAUNCH(dequant_kernel<T, V><<<blocks, THREADS, 0, qy_stream(dev)>>>(a));
        else
            QY_LAUNCH(dequant_kernel<T, 1><<<blocks, THREADS, 0, qy_stream(dev)>>>(a));
    });
    return QY_OK;
}

template <typename G> struct dequant_bwd_t {
    float *ds;
    const G *dw_hat;
    const uint32_t *codes;
    const uint8_t *zeros;
    int64_t n_all, cols, n_words, n_groups, n;
    int bits, accumulate;
};

/* A team owns a group, its threads V neighbours at a time: Σ dw_hat (c − z). */
template <typename G, int V, int TEAM>
static __global__ void __launch_bounds__(THREADS) dequant_bwd_kernel(dequant_bwd_t<G> a)
{
    int64_t group = blockIdx.x * (int64_t)(THREADS / TEAM) + threadIdx.x / TEAM;
    int lane = threadIdx.x % TEAM;
    bool mine = group < a.n_all;
    int64_t row = mine ? group / a.n_groups : 0, first = mine ? group % a.n_groups * a.n : 0;
    float z = mine ? (float)a.zeros[group] : 0.0f, sum = 0.0f, g[V], c[V];
    for (int64_t i = first + lane * V; mine && i < first + a.n; i += TEAM * V) {
        load<V>(g, a.dw_hat + row * a.cols + i);
        unpack<V>(c, a.codes + row * a.n_words, i, a.bits);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum += g[j] * (c[j] - z);
    }
    sum = TEAM < 32            ? lanes_reduce < add_t, TEAM < 32 ? TEAM : 32 > (sum)
                   : team_sum < TEAM < 32 ? 32
                               : TEAM > (sum);
    if (mine && lane == 0)
        a.ds[group] = a.accumulate ? a.ds[group] + sum : sum;
}

template <typename G, int V, int TEAM>
static qy_status_t launch_dequant_bwd(const qy_device_t *dev, const dequant_bwd_t<G> &a,
                                      qy_error_t *err)
{
    QY_LAUNCH(dequant_bwd_kernel<G, V, TEAM>
              <<<(unsigned)qy_blocks(a.n_all, THREADS / TEAM), THREADS, 0, qy_stream(dev)>>>(a));
    return QY_OK;
}

qy_status_t qy_cuda_dequant_bwd(const qy_device_t *dev, qy_tensor_t *ds, const qy_tensor_t *dw_hat,
                                const qy_tensor_t *codes, const qy_tensor_t *zeros, int bits,
                                int accumulate, qy_error_t *err)
{
    int64_t cols = qy_tensor_cols(dw_hat), n_groups = qy_tensor_cols(ds), n = cols / n_groups;
    QY_WITH_TYPE(dw_hat->dtype, G, {
        const dequant_bwd_t<G> a = {qy_data<float>(ds),
                                    qy_data<G>(dw_hat),
                                    qy_data<uint32_t>(codes),
                                    qy_data<uint8_t>(zeros),
                                    qy_tensor_count(ds),
                                    cols,
                                    qy_tensor_cols(codes),
                                    n_groups,
                                    n,
                                    bits,
                                    accumulate};
        if (n % 8 != 0 || !qy_aligned(dw_hat->data))
            return launch_dequant_bwd<G, 1, 32>(dev, a, err);
        if (n <= 64)
            return launch_dequant_bwd<G, 8, 8>(dev, a, err);
        if (n <= 1024)
            return launch_dequant_bwd<G, 8, 32>(dev, a, err);
        return launch_dequant_bwd<G, 8, THREADS>(dev, a, err);
    });
}

/* --- groups of any size ---------------------------------------------------------------------- */

/* A weight is a thread's. */
template <typename T> struct cluster_dequant_t {
    T *w_hat;
    const uint32_t *codes;
    const float *s;
    const int32_t *zeros, *group;
    int64_t cols, n_words, n_groups;
    int bits;
    template <int V> __device__ void run(int64_t i) const
    {
        int64_t row = i / cols, col = i % cols, at = row * n_groups + group[col];
        float code[1];
        unpack<1>(code, codes + row * n_words, col, bits);
        w_hat[i] = from_f32<T>((code[0] - (float)zeros[at]) * s[at]);
    }
};

qy_status_t qy_cuda_cluster_dequant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat,
                                        const qy_tensor_t *codes, const qy_tensor_t *s,
                                        const qy_tensor_t *zeros, const qy_tensor_t *group,
                                        int bits, qy_error_t *err)
{
    QY_WITH_TYPE(w_hat->dtype, T, {
        const cluster_dequant_t<T> body = {qy_data<T>(w_hat),
                                           qy_data<uint32_t>(codes),
                                           qy_data<float>(s),
                                           qy_data<int32_t>(zeros),
                                           qy_data<int32_t>(group),
                                           qy_tensor_cols(w_hat),
                                           qy_tensor_cols(codes),
                                           qy_tensor_cols(s),
                                           bits};
        return qy_each<1>(dev, qy_tensor_count(w_hat), true, body, err);
    });
}

template <typename G> struct cluster_bwd_t {
    float *ds;
    const G *dw_hat;
    const uint32_t *codes;
    const int32_t *zeros, *offsets;
    int64_t n_all, cols, n_words, n_groups;
    int bits, accumulate;
};

/* A warp owns a group of a row: Σ dw_hat (c − z). */
template <typename G>
static __global__ void __launch_bounds__(THREADS) cluster_bwd_kernel(cluster_bwd_t<G> a)
{
    int64_t at = blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (at >= a.n_all) /* the whole warp */
        return;
    int64_t row = at / a.n_groups, group = at % a.n_groups;
    float z = (float)a.zeros[at], sum = 0.0f;
    for (int64_t i = a.offsets[group] + lane; i < a.offsets[group + 1]; i += 32) {
        float code[1];
        unpack<1>(code, a.codes + row * a.n_words, i, a.bits);
        sum += to_f32(a.dw_hat[row * a.cols + i]) * (code[0] - z);
    }
    sum = lanes_reduce<add_t, 32>(sum);
    if (lane == 0)
        a.ds[at] = a.accumulate ? a.ds[at] + sum : sum;
}

qy_status_t qy_cuda_cluster_dequant_bwd(const qy_device_t *dev, qy_tensor_t *ds,
                                        const qy_tensor_t *dw_hat, const qy_tensor_t *codes,
                                        const qy_tensor_t *zeros, const qy_tensor_t *offsets,
                                        int bits, int accumulate, qy_error_t *err)
{
    QY_WITH_TYPE(dw_hat->dtype, G, {
        const cluster_bwd_t<G> a = {qy_data<float>(ds),
                                    qy_data<G>(dw_hat),
                                    qy_data<uint32_t>(codes),
                                    qy_data<int32_t>(zeros),
                                    qy_data<int32_t>(offsets),
                                    qy_tensor_count(ds),
                                    qy_tensor_cols(dw_hat),
                                    qy_tensor_cols(codes),
                                    qy_tensor_cols(ds),
                                    bits,
                                    accumulate};
        unsigned blocks = (unsigned)qy_blocks(a.n_all, THREADS / 32);
        QY_LAUNCH(cluster_bwd_kernel<G><<<blocks, THREADS, 0, qy_stream(dev)>>>(a));
    });
    return QY_OK;
}
