/*
 * Attention on tensor cores, for f16 and bf16. Scores and probabilities live in registers; keys and
 * values, or queries and gradients, stream through shared memory. Each output is summed by one warp
 * in a fixed order: dq over keys; dk and dv over the query heads of their group and over queries.
 *
 * Source: Dao, FlashAttention-2, arXiv:2307.08691, with the backward pass in two kernels, so that
 * nothing is added atomically.
 */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reduce.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS };

/*
 * Rows that a block owns, and rows of a tile that streams past, in each kernel. The backward pass
 * has smaller tiles too, for GPUs whose blocks have less shared memory: the sums are the same.
 */
enum { FWD_OWN = 128, FWD_PASS = 64, DQ_OWN = 128, DQ_PASS = 32, DKV_OWN = 64, DKV_PASS = 64 };
enum { DQ_PASS_SMALL = 16, DKV_PASS_SMALL = 32 };

static const float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

/* rows [first, first + ROWS) of a head to a tile, not waited for; what is not there becomes 0. */
template <typename T, int D, int ROWS>
__device__ static inline void copy_tile(T *to, const void *from, const attention_t &a, int sample,
                                        int first, int head, int heads)
{
    const int CHUNKS = D / 8, STEP = THREADS / CHUNKS;
    static_assert(THREADS % CHUNKS == 0 && ROWS % STEP == 0, "every thread copies as much");
    int row = threadIdx.x / CHUNKS, col = threadIdx.x % CHUNKS * 8;
    const T *x = static_cast<const T *>(from);
    const int64_t at = row_at(a, sample, first + row, head, heads) + col;
    const int64_t step = (int64_t)STEP * heads * a.d;
    to += row * (D + TILE_PAD) + col;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        bool there = first + row + i * STEP < a.t && col < a.d;
        copy_async<16>(to + i * STEP * (D + TILE_PAD), there ? x + at + i * step : x, there);
    }
}

/*
 * A warp's 16 M rows of results to memory, by way of rows of a tile that no other warp reads any
 * more: stage is the first of them. Row i of them is row first + i of the head.
 */
template <typename T, int D, int M>
__device__ static inline void store_rows(void *to, T *stage, const float (&c)[M][D / 8][4],
                                         const float (&factor)[M][2], const attention_t &a,
                                         int sample, int first, int head, int heads)
{
    const int STRIDE = D + TILE_PAD, CHUNKS = D / 8, lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                T *at = stage + (m * 16 + h * 8 + lane / 4) * STRIDE + n * 8 + lane % 4 * 2;
                *reinterpret_cast<uint32_t *>(at) =
                    pack_pair<T>(c[m][n][2 * h] * factor[m][h], c[m][n][2 * h + 1] * factor[m][h]);
            }
    __syncwarp();
    for (int i = lane; i < 16 * M * CHUNKS; i += 32) {
        int row = i / CHUNKS, col = i % CHUNKS * 8;
        if (first + row < a.t && col < a.d)
            *reinterpret_cast<uint4 *>(static_cast<T *>(to) +
                                       row_at(a, sample, first + row, head, heads) + col) =
                *reinterpret_cast<const uint4 *>(stage + row * STRIDE + col);
    }
}

/* --- forward --------------------------------------------------------------------------------- */

/* Running softmax of a warp's 32 rows: largest score and this lane's share of the sum. */
struct softmax_t {
    float max[2][2], sum[2][2];
};

/* Hides the scores of keys that a query does not see; their rows begin at query first. */
__device__ static inline void hide(float (&s)[2][FWD_PASS / 8][4], const attention_t &a, int first,
                                   int key)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int t = first + m * 16 + i / 2 * 8 + lane / 4, lo = first_key(a, t);
#pragma unroll
            for (int n = 0; n < FWD_PASS / 8; n++) {
                int at = key + n * 8 + lane % 4 * 2 + i % 2;
                s[m][n][i] = at <= t && at >= lo ? s[m][n][i] : -INFINITY;
            }
        }
}

/*
 * Scores, not yet scaled, become probabilities up to a factor that is found at the end; o is
 * brought to the new maximum. The scale is positive.
 */
template <int D>
__device__ static inline void softmax_step(softmax_t &run, float (&s)[2][FWD_PASS / 8][4],
                                           float (&o)[2][D / 8][4], float scale)
{
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = run.max[m][h], part = 0.0f;
#pragma unroll
            for (int n = 0; n < FWD_PASS / 8; n++)
#pragma unroll
                for (int i = 2 * h; i < 2 * h + 2; i++)
                    top = max_t::of(top, s[m][n][i]);
            top = lanes_reduce<max_t, 4>(top);
            /* Where nothing has been seen yet, any shift will do. */
            float shift = top == -INFINITY ? 0.0f : top * scale;
            float keep = power_of_two(run.max[m][h] * scale - shift);
#pragma unroll
            for (int n = 0; n < FWD_PASS / 8; n++)
#pragma unroll
                for (int i = 2 * h; i < 2 * h + 2; i++) {
                    s[m][n][i] = power_of_two(s[m][n][i] * scale - shift);
                    part += s[m][n][i];
                }
            run.max[m][h] = top;
            run.sum[m][h] = run.sum[m][h] * keep + part;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
#pragma unroll
                for (int i = 2 * h; i < 2 * h + 2; i++)
                    o[m][n][i] *= keep;
        }
    }
}

/* A block owns 128 queries of a head, a warp 32 of them. */
template <typename T, int D>
static __global__ void __launch_bounds__(THREADS) forward_kernel(attention_t a)
{
    const int STRIDE = D + TILE_PAD;
    extern __shared__ __align__(16) unsigned char shared[];
    T *q = reinterpret_cast<T *>(shared), *k = q + FWD_OWN * STRIDE, *v = k + FWD_PASS * STRIDE;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, sample = blockIdx.z;
    int first = (gridDim.x - 1 - blockIdx.x) * FWD_OWN; /* long rows first */
    int end = first + FWD_OWN < a.t ? first + FWD_OWN : a.t, kv_head = head / (a.h / a.n_kv);
    int mine = first + warp * 32, key = first_key(a, first) / FWD_PASS * FWD_PASS;
    float o[2][D / 8][4] = {}, inverse[2][2];
    softmax_t run;
    for (int i = 0; i < 4; i++) {
        run.max[i / 2][i % 2] = -INFINITY;
        run.sum[i / 2][i % 2] = 0.0f;
    }
    copy_tile<T, D, FWD_OWN>(q, a.q, a, sample, first, head, a.h);
    copy_tile<T, D, FWD_PASS>(k, a.k, a, sample, key, kv_head, a.n_kv);
    for (; key < end; key += FWD_PASS) {
        bool seen = key <= mine + 31 && key + FWD_PASS > first_key(a, mine);
        bool masked = key + FWD_PASS - 1 > mine || key < first_key(a, mine + 31);
        float s[2][FWD_PASS / 8][4];
        copy_async_wait();
        __syncthreads(); /* the keys are there, the last values have been used */
        copy_tile<T, D, FWD_PASS>(v, a.v, a, sample, key, kv_head, a.n_kv);
        if (seen) {
            multiply_transposed<T, 2, FWD_PASS, D>(s, q + warp * 32 * STRIDE, k);
            if (masked)
                hide(s, a, mine, key);
            softmax_step<D>(run, s, o, a.scale * LOG2_E);
        }
        copy_async_wait();
        __syncthreads(); /* the values are there, the keys have been used */
        if (key + FWD_PASS < end)
            copy_tile<T, D, FWD_PASS>(k, a.k, a, sample, key + FWD_PASS, kv_head, a.n_kv);
        if (seen)
            add_product<T, 2, D, FWD_PASS>(o, s, v);
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int t = mine + m * 16 + h * 8 + lane / 4;
            float sum = lanes_reduce<add_t, 4>(run.sum[m][h]);
            inverse[m][h] = 1.0f / sum;
            if (lane % 4 == 0 && t < a.t)
                a.lse[((int64_t)sample * a.h + head) * a.t + t] =
                    run.max[m][h] * a.scale + log2f(sum) * LN_2;
        }
    store_rows<T, D, 2>(a.o, q + warp * 32 * STRIDE, o, inverse, a, sample, mine, head, a.h);
}

/* --- backward -------------------------------------------------------------------------------- */

/* s becomes p, dp becomes p (dp − delta); lse in units of log2. */
__device__ static inline void score_gradient(float &s, float &dp, float scale, float lse,
                                             float delta)
{
    s = power_of_two(s * scale - lse);
    dp = s * (dp - delta);
}

/* A block owns 128 queries of a head, a warp 32 of them: dq over tiles of PASS keys. */
template <typename T, int D, int PASS>
static __global__ void __launch_bounds__(THREADS) dq_kernel(attention_t a)
{
    const int STRIDE = D + TILE_PAD;
    extern __shared__ __align__(16) unsigned char shared[];
    T *q = reinterpret_cast<T *>(shared), *d_o = q + DQ_OWN * STRIDE, *kv = d_o + DQ_OWN * STRIDE;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, sample = blockIdx.z;
    int first = (gridDim.x - 1 - blockIdx.x) * DQ_OWN, mine = first + warp * 32;
    int end = first + DQ_OWN < a.t ? first + DQ_OWN : a.t, kv_head = head / (a.h / a.n_kv);
    int key = first_key(a, first) / PASS * PASS;
    const float scale = a.scale * LOG2_E;
    float dq[2][D / 8][4] = {}, lse[2][2], delta[2][2], factor[2][2];
    for (int m = 0; m < 2; m++)
        for (int h = 0; h < 2; h++) {
            int t = mine + m * 16 + h * 8 + lane / 4;
            int64_t at = ((int64_t)sample * a.h + head) * a.t + t;
            lse[m][h] = t < a.t ? a.lse[at] * LOG2_E : 0.0f;
            delta[m][h] = t < a.t ? a.delta[at] : 0.0f;
            factor[m][h] = a.scale;
        }
    copy_tile<T, D, DQ_OWN>(q, a.q, a, sample, first, head, a.h);
    copy_tile<T, D, DQ_OWN>(d_o, a.d_o, a, sample, first, head, a.h);
    copy_tile<T, D, PASS>(kv, a.k, a, sample, key, kv_head, a.n_kv);
    copy_tile<T, D, PASS>(kv + PASS * STRIDE, a.v, a, sample, key, kv_head, a.n_kv);
    for (int turn = 0; key < end; key += PASS, turn = 1 - turn) {
        T *k = kv + turn * 2 * PASS * STRIDE, *v = k + PASS * STRIDE;
        T *next = kv + (1 - turn) * 2 * PASS * STRIDE;
        copy_async_wait();
        __syncthreads(); /* this tile is there, the other one has been used */
        if (key + PASS < end) {
            copy_tile<T, D, PASS>(next, a.k, a, sample, key + PASS, kv_head, a.n_kv);
            copy_tile<T, D, PASS>(next + PASS * STRIDE, a.v, a, sample, key + PASS, kv_head,
                                  a.n_kv);
        }
        if (key > mine + 31 || key + PASS <= first_key(a, mine))
            continue;
        bool masked = key + PASS - 1 > mine || key < first_key(a, mine + 31);
        float s[2][PASS / 8][4], dp[2][PASS / 8][4];
        multiply_transposed<T, 2, PASS, D>(s, q + warp * 32 * STRIDE, k);
        multiply_transposed<T, 2, PASS, D>(dp, d_o + warp * 32 * STRIDE, v);
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < PASS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (masked) {
                        int t = mine + m * 16 + i / 2 * 8 + lane / 4;
                        int at = key + n * 8 + lane % 4 * 2 + i % 2;
                        s[m][n][i] = at <= t && at >= first_key(a, t) ? s[m][n][i] : -INFINITY;
                    }
                    score_gradient(s[m][n][i], dp[m][n][i], scale, lse[m][i / 2], delta[m][i / 2]);
                }
        add_product<T, 2, D, PASS>(dq, dp, k);
    }
    store_rows<T, D, 2>(a.dq, q + warp * 32 * STRIDE, dq, factor, a, sample, mine, head, a.h);
}

/* Queries and gradients of one step of dkv_kernel, and their lse and delta. */
template <typename T, int D, int PASS>
__device__ static inline void copy_queries(T *to, float *stats, const attention_t &a, int sample,
                                           int t, int head)
{
    copy_tile<T, D, PASS>(to, a.q, a, sample, t, head, a.h);
    copy_tile<T, D, PASS>(to + PASS * (D + TILE_PAD), a.d_o, a, sample, t, head, a.h);
    if (2 * PASS < THREADS && threadIdx.x >= 2 * PASS)
        return;
    int row = threadIdx.x % PASS;
    const float *from = threadIdx.x < PASS ? a.lse : a.delta;
    int64_t at = ((int64_t)sample * a.h + head) * a.t + t + row;
    copy_async<4>(stats + threadIdx.x, from + (t + row < a.t ? at : 0), t + row < a.t);
}

/*
 * A block owns 64 keys of a key head, a warp 16 of them. Scores are held transposed, keys as rows,
 * so that they are fragments of the products that give dk and dv.
 */
template <typename T, int D, int PASS>
static __global__ void __launch_bounds__(THREADS) dkv_kernel(attention_t a)
{
    static_assert(2 * PASS <= THREADS, "a thread copies at most one lse or delta");
    const int STRIDE = D + TILE_PAD, STEP = 2 * PASS * STRIDE, STATS = 2 * PASS;
    extern __shared__ __align__(16) unsigned char shared[];
    T *k = reinterpret_cast<T *>(shared), *v = k + DKV_OWN * STRIDE, *qs = v + DKV_OWN * STRIDE;
    float *stats = reinterpret_cast<float *>(qs + 2 * STEP);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, kv_head = blockIdx.y, sample = blockIdx.z;
    int first = blockIdx.x * DKV_OWN, mine = first + warp * 16, group = a.h / a.n_kv;
    int last = first + DKV_OWN < a.t ? first + DKV_OWN - 1 : a.t - 1, end = end_query(a, last);
    int n_tiles = (end - first + PASS - 1) / PASS, n_steps = group * n_tiles;
    const float scale = a.scale * LOG2_E;
    float dk[1][D / 8][4] = {}, dv[1][D / 8][4] = {};
    copy_tile<T, D, DKV_OWN>(k, a.k, a, sample, first, kv_head, a.n_kv);
    copy_tile<T, D, DKV_OWN>(v, a.v, a, sample, first, kv_head, a.n_kv);
    copy_queries<T, D, PASS>(qs, stats, a, sample, first, kv_head * group);
    for (int step = 0; step < n_steps; step++) {
        const T *q = qs + step % 2 * STEP, *d_o = q + PASS * STRIDE;
        const float *lse = stats + step % 2 * STATS, *delta = lse + PASS;
        int query = first + step % n_tiles * PASS, next = step + 1;
        copy_async_wait();
        __syncthreads(); /* this step's queries are there, the other ones have been used */
        if (next < n_steps)
            copy_queries<T, D, PASS>(qs + next % 2 * STEP, stats + next % 2 * STATS, a, sample,
                               first + next % n_tiles * PASS, kv_head * group + next / n_tiles);
        bool masked = query < mine + 15 || query + PASS > a.t ||
                      mine < first_key(a, query + PASS - 1);
        float s[1][PASS / 8][4], dp[1][PASS / 8][4];
        multiply_transposed<T, 1, PASS, D>(s, k + warp * 16 * STRIDE, q);
        multiply_transposed<T, 1, PASS, D>(dp, v + warp * 16 * STRIDE, d_o);
#pragma unroll
        for (int n = 0; n < PASS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int col = n * 8 + lane % 4 * 2 + i % 2;
                if (masked) {
                    int t = query + col, at = mine + i / 2 * 8 + lane / 4;
                    bool seen = t < a.t && at <= t && at >= first_key(a, t);
                    s[0][n][i] = seen ? s[0][n][i] : -INFINITY;
                }
                score_gradient(s[0][n][i], dp[0][n][i], scale, lse[col] * LOG2_E, delta[col]);
            }
        add_product<T, 1, D, PASS>(dv, s, d_o);
        add_product<T, 1, D, PASS>(dk, dp, q);
    }
    const float one[1][2] = {{1.0f, 1.0f}}, factor[1][2] = {{a.scale, a.scale}};
    store_rows<T, D, 1>(a.dv, v + warp * 16 * STRIDE, dv, one, a, sample, mine, kv_head, a.n_kv);
    store_rows<T, D, 1>(a.dk, k + warp * 16 * STRIDE, dk, factor, a, sample, mine, kv_head, a.n_kv);
}

/* --- launches -------------------------------------------------------------------------------- */

template <typename Kernel>
static qy_status_t launch(const qy_device_t *dev, Kernel kernel, const attention_t &a, int own,
                          int heads, size_t shared, qy_error_t *err)
{
    const dim3 blocks((unsigned)qy_blocks(a.t, own), (unsigned)heads, (unsigned)a.b);
    QY_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    QY_LAUNCH(kernel<<<blocks, THREADS, shared, qy_stream(dev)>>>(a));
    return QY_OK;
}

template <int D> static size_t tile_bytes(int rows)
{
    return (size_t)(rows * (D + TILE_PAD)) * sizeof(uint16_t);
}

template <typename T, int D>
static qy_status_t forward(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    return launch(dev, forward_kernel<T, D>, a, FWD_OWN, a.h, tile_bytes<D>(FWD_OWN + 2 * FWD_PASS),
                  err);
}

/* Keys and values, two steps of queries and gradients, and of their lse and delta. */
template <int D, int DKV> static size_t dkv_bytes()
{
    return tile_bytes<D>(2 * DKV_OWN + 4 * DKV) + 4 * DKV * sizeof(float);
}

template <typename T, int D, int DQ, int DKV>
static qy_status_t backward_with(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    QY_TRY(launch(dev, dkv_kernel<T, D, DKV>, a, DKV_OWN, a.n_kv, dkv_bytes<D, DKV>(), err));
    return launch(dev, dq_kernel<T, D, DQ>, a, DQ_OWN, a.h, tile_bytes<D>(2 * DQ_OWN + 4 * DQ),
                  err);
}

/* Compute capabilities 8.6, 8.9 and 12 have 99 KiB for a block: too little for 128 wide. */
template <typename T, int D>
static qy_status_t backward(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    if constexpr (D == 128)
        if (dkv_bytes<D, DKV_PASS>() > qy_impl(dev)->shared_most)
            return backward_with<T, D, DQ_PASS_SMALL, DKV_PASS_SMALL>(dev, a, err);
    return backward_with<T, D, DQ_PASS, DKV_PASS>(dev, a, err);
}

template <typename T>
static qy_status_t forward_any(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    return a.d <= 32   ? forward<T, 32>(dev, a, err)
           : a.d <= 64 ? forward<T, 64>(dev, a, err)
                       : forward<T, 128>(dev, a, err);
}

template <typename T>
static qy_status_t backward_any(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    return a.d <= 32   ? backward<T, 32>(dev, a, err)
           : a.d <= 64 ? backward<T, 64>(dev, a, err)
                       : backward<T, 128>(dev, a, err);
}

qy_status_t qy_attention_mma_fwd(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    return dev->compute == QY_F16 ? forward_any<__half>(dev, a, err)
                                  : forward_any<__nv_bfloat16>(dev, a, err);
}

qy_status_t qy_attention_mma_bwd(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    return dev->compute == QY_F16 ? backward_any<__half>(dev, a, err)
                                  : backward_any<__nv_bfloat16>(dev, a, err);
}
