/*
 * Attention in f32 arithmetic, for f32 and for heads that the tensor cores' kernels do not take.
 * Rows are taken in tiles that live in shared memory; 256 threads as 16 × 16 hold a tile of scores
 * and of the result. Each output is summed by one block: keys, heads and queries in order.
 */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/reduce.cuh"

enum { SIDE = 16, THREADS = SIDE * SIDE };

/* Rows of a tile where the results are, and where they are streamed past; D is d rounded up. SMALL
 * halves them for GPUs whose blocks have less shared memory. */
template <int D, bool SMALL = false> struct tiles_t {
    static const int OWN = (D > 64 ? 32 : 64) / (SMALL ? 2 : 1), PASS = OWN;
    static const int STRIDE = D + 4; /* 16-byte rows whose starts fall into different banks */
};

/* rows [first, first + ROWS) of a head into to (ROWS, STRIDE); what is not there is 0. */
template <typename T, int D, int ROWS>
__device__ static void load_tile(float *to, const void *from, const attention_t &a, int sample,
                                 int first, int head, int heads)
{
    const T *x = static_cast<const T *>(from);
    for (int i = threadIdx.x; i < ROWS * D; i += THREADS) {
        int row = i / D, col = i % D;
        bool there = first + row < a.t && col < a.d;
        to[row * tiles_t<D>::STRIDE + col] =
            there ? to_f32(x[row_at(a, sample, first + row, head, heads) + col]) : 0.0f;
    }
}

/* s[i][j] = x row (ty M + i) · y row (tx + 16 j): M × N products for each thread. */
template <int D, int M, int N>
__device__ static void dot_rows(float (&s)[M][N], const float *x, const float *y, int tx, int ty)
{
    const int stride = tiles_t<D>::STRIDE;
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            s[i][j] = 0.0f;
#pragma unroll 4
    for (int c = 0; c < D; c += 4) {
        float p[M][4], q[N][4];
#pragma unroll
        for (int i = 0; i < M; i++)
            load<4>(p[i], x + (ty * M + i) * stride + c);
#pragma unroll
        for (int j = 0; j < N; j++)
            load<4>(q[j], y + (tx + SIDE * j) * stride + c);
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[i][j] += p[i][e] * q[j][e];
    }
}

/* sum[i][j] += Σ_k weight(ty M + i, k) y(k, tx + 16 j), weights (·, K + 1). */
template <int D, int M, int K>
__device__ static void add_rows(float (&sum)[M][D / SIDE], const float *weight, const float *y,
                                int tx, int ty)
{
    for (int k = 0; k < K; k++) {
        float p[M];
#pragma unroll
        for (int i = 0; i < M; i++)
            p[i] = weight[(ty * M + i) * (K + 1) + k];
#pragma unroll
        for (int j = 0; j < D / SIDE; j++) {
            float q = y[k * tiles_t<D>::STRIDE + tx + SIDE * j];
#pragma unroll
            for (int i = 0; i < M; i++)
                sum[i][j] += p[i] * q;
        }
    }
}

/* sum times factor[i] into rows first + ty M + i of a head. */
template <typename T, int D, int M>
__device__ static void store_rows(void *to, const float (&sum)[M][D / SIDE],
                                  const float (&factor)[M], const attention_t &a, int sample,
                                  int first, int head, int heads, int tx, int ty)
{
#pragma unroll
    for (int i = 0; i < M; i++) {
        int row = first + ty * M + i;
        if (row >= a.t)
            continue;
        T *at = static_cast<T *>(to) + row_at(a, sample, row, head, heads);
#pragma unroll
        for (int j = 0; j < D / SIDE; j++)
            if (tx + SIDE * j < a.d)
                at[tx + SIDE * j] = from_f32<T>(sum[i][j] * factor[i]);
    }
}

/* A block owns OWN queries of a head: softmax with a running maximum over tiles of keys. */
template <typename T, int D, bool SMALL>
static __global__ void __launch_bounds__(THREADS) forward_kernel(attention_t a)
{
    const int OWN = tiles_t<D, SMALL>::OWN, PASS = tiles_t<D, SMALL>::PASS;
    const int STRIDE = tiles_t<D>::STRIDE;
    const int M = OWN / SIDE, N = PASS / SIDE;
    extern __shared__ float shared[];
    float *q = shared, *k = q + OWN * STRIDE, *v = k + PASS * STRIDE, *p = v + PASS * STRIDE;
    int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
    int first = blockIdx.x * OWN, head = blockIdx.y, sample = blockIdx.z;
    int kv_head = head / (a.h / a.n_kv), end = first + OWN < a.t ? first + OWN : a.t;
    float max[M], sum[M], o[M][D / SIDE] = {}, inverse[M];
    for (int i = 0; i < M; i++) {
        max[i] = -INFINITY;
        sum[i] = 0.0f;
    }
    load_tile<T, D, OWN>(q, a.q, a, sample, first, head, a.h);
    for (int key = first_key(a, first) / PASS * PASS; key < end; key += PASS) {
        __syncthreads(); /* the last tile has been read */
        load_tile<T, D, PASS>(k, a.k, a, sample, key, kv_head, a.n_kv);
        load_tile<T, D, PASS>(v, a.v, a, sample, key, kv_head, a.n_kv);
        __syncthreads();
        float s[M][N];
        dot_rows<D, M, N>(s, q, k, tx, ty);
#pragma unroll
        for (int i = 0; i < M; i++) {
            int t = first + ty * M + i, lo = first_key(a, t);
            float top = max[i], part = 0.0f;
#pragma unroll
            for (int j = 0; j < N; j++) {
                int at = key + tx + SIDE * j;
                s[i][j] = at >= lo && at <= t ? s[i][j] * a.scale : -INFINITY;
                top = max_t::of(top, s[i][j]);
            }
            top = lanes_reduce<max_t, SIDE>(top);
            /* Where nothing has been seen yet, any shift will do. */
            float shift = top == -INFINITY ? 0.0f : top, keep = expf(max[i] - shift);
#pragma unroll
            for (int j = 0; j < N; j++) {
                float e = expf(s[i][j] - shift);
                part += e;
                p[(ty * M + i) * (PASS + 1) + tx + SIDE * j] = e;
            }
            sum[i] = sum[i] * keep + lanes_reduce<add_t, SIDE>(part);
            max[i] = top;
#pragma unroll
            for (int j = 0; j < D / SIDE; j++)
                o[i][j] *= keep;
        }
        __syncthreads();
        add_rows<D, M, PASS>(o, p, v, tx, ty);
    }
#pragma unroll
    for (int i = 0; i < M; i++) {
        int t = first + ty * M + i;
        inverse[i] = 1.0f / sum[i];
        if (tx == 0 && t < a.t)
            a.lse[((int64_t)sample * a.h + head) * a.t + t] = max[i] + logf(sum[i]);
    }
    store_rows<T, D, M>(a.o, o, inverse, a, sample, first, head, a.h, tx, ty);
}

/*
 * p and ds of a tile whose rows are queries (rows_are_queries) or keys, from its scores and
 * d_o · v, into shared memory; 0 where a query does not see a key.
 */
template <int M, int N, int COLS>
__device__ static void score_gradients(float *p, float *ds, const float (&s)[M][N],
                                       const float (&dp)[M][N], const attention_t &a, int sample,
                                       int head, int first_row, int first_col,
                                       bool rows_are_queries, int tx, int ty)
{
    const float *lse = a.lse + ((int64_t)sample * a.h + head) * a.t;
    const float *delta = a.delta + ((int64_t)sample * a.h + head) * a.t;
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
        for (int j = 0; j < N; j++) {
            int row = first_row + ty * M + i, col = first_col + tx + SIDE * j;
            int t = rows_are_queries ? row : col, key = rows_are_queries ? col : row;
            bool seen = t < a.t && key <= t && key >= first_key(a, t);
            float e = seen ? expf(s[i][j] * a.scale - lse[t]) : 0.0f;
            int at = (ty * M + i) * (COLS + 1) + tx + SIDE * j;
            if (p)
                p[at] = e;
            ds[at] = seen ? e * (dp[i][j] - delta[t]) : 0.0f;
        }
    }
}

/* A block owns OWN queries of a head: dq over tiles of keys. */
template <typename T, int D, bool SMALL>
static __global__ void __launch_bounds__(THREADS) dq_kernel(attention_t a)
{
    const int OWN = tiles_t<D, SMALL>::OWN, PASS = tiles_t<D, SMALL>::PASS;
    const int STRIDE = tiles_t<D>::STRIDE;
    const int M = OWN / SIDE, N = PASS / SIDE;
    extern __shared__ float shared[];
    float *q = shared, *d_o = q + OWN * STRIDE, *k = d_o + OWN * STRIDE, *v = k + PASS * STRIDE;
    float *ds = v + PASS * STRIDE;
    int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
    int first = blockIdx.x * OWN, head = blockIdx.y, sample = blockIdx.z;
    int kv_head = head / (a.h / a.n_kv), end = first + OWN < a.t ? first + OWN : a.t;
    float dq[M][D / SIDE] = {}, factor[M];
    load_tile<T, D, OWN>(q, a.q, a, sample, first, head, a.h);
    load_tile<T, D, OWN>(d_o, a.d_o, a, sample, first, head, a.h);
    for (int key = first_key(a, first) / PASS * PASS; key < end; key += PASS) {
        __syncthreads();
        load_tile<T, D, PASS>(k, a.k, a, sample, key, kv_head, a.n_kv);
        load_tile<T, D, PASS>(v, a.v, a, sample, key, kv_head, a.n_kv);
        __syncthreads();
        float s[M][N], dp[M][N];
        dot_rows<D, M, N>(s, q, k, tx, ty);
        dot_rows<D, M, N>(dp, d_o, v, tx, ty);
        score_gradients<M, N, PASS>(nullptr, ds, s, dp, a, sample, head, first, key, true, tx, ty);
        __syncthreads();
        add_rows<D, M, PASS>(dq, ds, k, tx, ty);
    }
    for (int i = 0; i < M; i++)
        factor[i] = a.scale;
    store_rows<T, D, M>(a.dq, dq, factor, a, sample, first, head, a.h, tx, ty);
}

/* A block owns OWN keys of a key head: dk and dv over its query heads and tiles of queries. */
template <typename T, int D, bool SMALL>
static __global__ void __launch_bounds__(THREADS) dkv_kernel(attention_t a)
{
    const int OWN = tiles_t<D, SMALL>::OWN, PASS = tiles_t<D, SMALL>::PASS;
    const int STRIDE = tiles_t<D>::STRIDE;
    const int M = OWN / SIDE, N = PASS / SIDE;
    extern __shared__ float shared[];
    float *k = shared, *v = k + OWN * STRIDE, *q = v + OWN * STRIDE, *d_o = q + PASS * STRIDE;
    float *p = d_o + PASS * STRIDE, *ds = p + OWN * (PASS + 1);
    int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
    int first = blockIdx.x * OWN, kv_head = blockIdx.y, sample = blockIdx.z;
    int group = a.h / a.n_kv, last = first + OWN < a.t ? first + OWN - 1 : a.t - 1;
    float dk[M][D / SIDE] = {}, dv[M][D / SIDE] = {}, one[M], factor[M];
    load_tile<T, D, OWN>(k, a.k, a, sample, first, kv_head, a.n_kv);
    load_tile<T, D, OWN>(v, a.v, a, sample, first, kv_head, a.n_kv);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int t = first / PASS * PASS; t < end_query(a, last); t += PASS) {
            __syncthreads();
            load_tile<T, D, PASS>(q, a.q, a, sample, t, head, a.h);
            load_tile<T, D, PASS>(d_o, a.d_o, a, sample, t, head, a.h);
            __syncthreads();
            float s[M][N], dp[M][N];
            dot_rows<D, M, N>(s, k, q, tx, ty);
            dot_rows<D, M, N>(dp, v, d_o, tx, ty);
            score_gradients<M, N, PASS>(p, ds, s, dp, a, sample, head, first, t, false, tx, ty);
            __syncthreads();
            add_rows<D, M, PASS>(dv, p, d_o, tx, ty);
            add_rows<D, M, PASS>(dk, ds, q, tx, ty);
        }
    }
    for (int i = 0; i < M; i++) {
        one[i] = 1.0f;
        factor[i] = a.scale;
    }
    store_rows<T, D, M>(a.dv, dv, one, a, sample, first, kv_head, a.n_kv, tx, ty);
    store_rows<T, D, M>(a.dk, dk, factor, a, sample, first, kv_head, a.n_kv, tx, ty);
}

/* n_own and n_pass tiles of rows, n_scores of scores. */
template <int D, bool SMALL> static size_t shared_bytes(int n_own, int n_pass, int n_scores)
{
    const int OWN = tiles_t<D, SMALL>::OWN, PASS = tiles_t<D, SMALL>::PASS;
    return sizeof(float) * (size_t)((n_own * OWN + n_pass * PASS) * tiles_t<D>::STRIDE +
                                    n_scores * OWN * (PASS + 1));
}

template <int D, bool SMALL, typename Kernel>
static qy_status_t launch(const qy_device_t *dev, Kernel kernel, const attention_t &a, int heads,
                          size_t shared, qy_error_t *err)
{
    const int own = tiles_t<D, SMALL>::OWN;
    const dim3 blocks((unsigned)qy_blocks(a.t, own), (unsigned)heads, (unsigned)a.b);
    QY_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    QY_LAUNCH(kernel<<<blocks, THREADS, shared, qy_stream(dev)>>>(a));
    return QY_OK;
}

/* Sizes whose usual tiles are more than the 99 KiB of compute capabilities 8.6, 8.9 and 12. */
template <int D> static constexpr bool has_small()
{
    return D == 64 || D == 256;
}

template <typename T, int D, bool SMALL = false>
static qy_status_t forward(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    size_t bytes = shared_bytes<D, SMALL>(1, 2, 1);
    if constexpr (!SMALL && has_small<D>())
        if (bytes > qy_impl(dev)->shared_most)
            return forward<T, D, true>(dev, a, err);
    return launch<D, SMALL>(dev, forward_kernel<T, D, SMALL>, a, a.h, bytes, err);
}

template <typename T, int D, bool SMALL = false>
static qy_status_t backward(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    size_t bytes = shared_bytes<D, SMALL>(2, 2, 2);
    if constexpr (!SMALL && has_small<D>())
        if (bytes > qy_impl(dev)->shared_most)
            return backward<T, D, true>(dev, a, err);
    QY_TRY((launch<D, SMALL>(dev, dkv_kernel<T, D, SMALL>, a, a.n_kv, bytes, err)));
    return launch<D, SMALL>(dev, dq_kernel<T, D, SMALL>, a, a.h, shared_bytes<D, SMALL>(2, 2, 1),
                            err);
}

qy_status_t qy_attention_plain_fwd(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    QY_WITH_TYPE(dev->compute, T, {
        if (a.d <= 32)
            return forward<T, 32>(dev, a, err);
        if (a.d <= 64)
            return forward<T, 64>(dev, a, err);
        if (a.d <= 128)
            return forward<T, 128>(dev, a, err);
        return forward<T, 256>(dev, a, err);
    });
}

qy_status_t qy_attention_plain_bwd(const qy_device_t *dev, const attention_t &a, qy_error_t *err)
{
    QY_WITH_TYPE(dev->compute, T, {
        if (a.d <= 32)
            return backward<T, 32>(dev, a, err);
        if (a.d <= 64)
            return backward<T, 64>(dev, a, err);
        if (a.d <= 128)
            return backward<T, 128>(dev, a, err);
        return backward<T, 256>(dev, a, err);
    });
}
