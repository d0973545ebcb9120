#include "kernels/norm.h"

#include "kernels/cuda/rows.cuh"

enum { COLUMN_THREADS = 128 };

/* Both norms; mean and b are NULL for RMSNorm. */
template <typename T> struct forward_t {
    T *y;
    float *mean, *rstd;
    const T *x;
    const float *w, *b;
    int64_t m, d;
    float eps;
};

/* A team owns a row; it reads it once for each statistic and once to write it. */
template <typename T, int V, int TEAM, bool CENTERED>
static __global__ void forward_kernel(forward_t<T> a)
{
    int64_t row = blockIdx.x * (int64_t)QY_TEAMS<TEAM> + threadIdx.x / TEAM;
    int lane = threadIdx.x % TEAM;
    if (row >= a.m)
        return;
    const T *x = a.x + row * a.d;
    float mu, r, v[V], w[V], b[V] = {};
    norm_stats<T, V, TEAM, CENTERED>(x, a.d, lane, a.eps, mu, r);
    for (int64_t i = lane * V; i < a.d; i += TEAM * V) {
        load<V>(v, x + i);
        load<V>(w, a.w + i);
        if (CENTERED)
            load<V>(b, a.b + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = norm_value<T, CENTERED>(v[j], mu, r, w[j], b[j]);
        store<V>(a.y + row * a.d + i, v);
    }
    if (lane == 0) {
        a.rstd[row] = r;
        if (CENTERED)
            a.mean[row] = mu;
    }
}

/* Launches kernel<T, V, TEAM, CENTERED>(a): one team a row. */
#define LAUNCH_ROWS(kernel, T, V)                                                                  \
    QY_WITH_TEAM(a.d, TEAM,                                                                        \
                 QY_LAUNCH(kernel<T, V, TEAM, CENTERED>                                            \
                           <<<qy_team_blocks<TEAM>(a.m), TEAM * QY_TEAMS<TEAM>, 0, stream>>>(a)))

template <typename T, bool CENTERED>
static qy_status_t run_forward(cudaStream_t stream, const forward_t<T> &a, qy_error_t *err)
{
    const int V = 16 / sizeof(T);
    if (a.d % V == 0 && qy_aligned(a.y, a.x, a.w, a.b))
        LAUNCH_ROWS(forward_kernel, T, V);
    else
        LAUNCH_ROWS(forward_kernel, T, 1);
    return QY_OK;
}

qy_status_t qy_cuda_rmsnorm_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *rstd,
                                const qy_tensor_t *x, const qy_tensor_t *w, float eps,
                                qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const forward_t<T> a = {qy_data<T>(y),     nullptr,           qy_data<float>(rstd),
                                qy_data<T>(x),     qy_data<float>(w), nullptr,
                                qy_tensor_rows(x), qy_tensor_cols(x), eps};
        return run_forward<T, false>(qy_stream(dev), a, err);
    });
}

qy_status_t qy_cuda_layernorm_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *mean,
                                  qy_tensor_t *rstd, const qy_tensor_t *x, const qy_tensor_t *w,
                                  const qy_tensor_t *b, float eps, qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const forward_t<T> a = {qy_data<T>(y),     qy_data<float>(mean), qy_data<float>(rstd),
                                qy_data<T>(x),     qy_data<float>(w),    qy_data<float>(b),
                                qy_tensor_rows(x), qy_tensor_cols(x),    eps};
        return run_forward<T, true>(qy_stream(dev), a, err);
    });
}

/* Gradients of one norm; mean is NULL for RMSNorm, dx or dw where they are not wanted. */
template <typename T> struct backward_t {
    T *dx;
    float *dw, *db;
    const T *dy, *x;
    const float *mean, *rstd, *w;
    int64_t m, d;
    int accumulate;
};

/* dx of a team's row: rstd (g − mean(g) − h mean(g h)), g = dy w; RMSNorm lacks the middle term. */
template <typename T, int V, int TEAM, bool CENTERED>
static __global__ void dx_kernel(backward_t<T> a)
{
    int64_t row = blockIdx.x * (int64_t)QY_TEAMS<TEAM> + threadIdx.x / TEAM;
    int lane = threadIdx.x % TEAM;
    if (row >= a.m)
        return;
    const T *x = a.x + row * a.d, *dy = a.dy + row * a.d;
    T *dx = a.dx + row * a.d;
    float r = a.rstd[row], mu = CENTERED ? a.mean[row] : 0.0f;
    float g_mean = 0.0f, gh_mean = 0.0f, v[V], g[V], w[V];
    for (int64_t i = lane * V; i < a.d; i += TEAM * V) {
        load<V>(v, x + i);
        load<V>(g, dy + i);
        load<V>(w, a.w + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            gh_mean += g[j] * w[j] * ((v[j] - mu) * r);
            if (CENTERED)
                g_mean += g[j] * w[j];
        }
    }
    gh_mean = team_sum<TEAM>(gh_mean) / (float)a.d;
    if (CENTERED)
        g_mean = team_sum<TEAM>(g_mean) / (float)a.d;
    for (int64_t i = lane * V; i < a.d; i += TEAM * V) {
        float old[V];
        load<V>(v, x + i);
        load<V>(g, dy + i);
        load<V>(w, a.w + i);
        if (a.accumulate)
            load<V>(old, dx + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float change = r * (g[j] * w[j] - g_mean - (v[j] - mu) * r * gh_mean);
            v[j] = a.accumulate ? old[j] + change : change;
        }
        store<V>(dx + i, v);
    }
}

/* A thread sums one column over QY_NORM_ROWS rows: parts (chunks, d) of dw, behind them of db. */
template <typename T, bool CENTERED>
static __global__ void __launch_bounds__(COLUMN_THREADS)
    dw_parts_kernel(float *parts, backward_t<T> a)
{
    int64_t col = blockIdx.x * (int64_t)COLUMN_THREADS + threadIdx.x, n_chunks = gridDim.y;
    if (col >= a.d)
        return;
    int64_t first = blockIdx.y * (int64_t)QY_NORM_ROWS;
    int64_t end = first + QY_NORM_ROWS < a.m ? first + QY_NORM_ROWS : a.m;
    float dw = 0.0f, db = 0.0f;
    for (int64_t row = first; row < end; row++) {
        float g = to_f32(a.dy[row * a.d + col]), mu = CENTERED ? a.mean[row] : 0.0f;
        dw += g * ((to_f32(a.x[row * a.d + col]) - mu) * a.rstd[row]);
        db += g;
    }
    parts[blockIdx.y * a.d + col] = dw;
    if (CENTERED)
        parts[(n_chunks + blockIdx.y) * a.d + col] = db;
}

/* A thread adds one column's chunks in order; blockIdx.y 0 is dw, 1 db. */
static __global__ void __launch_bounds__(COLUMN_THREADS)
    dw_sum_kernel(float *dw, float *db, const float *parts, int64_t n_chunks, int64_t d)
{
    int64_t col = blockIdx.x * (int64_t)COLUMN_THREADS + threadIdx.x;
    if (col >= d)
        return;
    const float *from = parts + blockIdx.y * n_chunks * d + col;
    float sum = 0.0f;
#pragma unroll 8
    for (int64_t c = 0; c < n_chunks; c++)
        sum += from[c * d];
    (blockIdx.y ? db : dw)[col] = sum;
}

/* Chunks ride on blockIdx.y, which counts to 65535: more rows are refused, not wrapped. */
static const int64_t MAX_CHUNKS = 65535;

template <typename T, bool CENTERED>
static qy_status_t run_backward(const qy_device_t *dev, const backward_t<T> &a, qy_error_t *err)
{
    const int V = 16 / sizeof(T);
    cudaStream_t stream = qy_stream(dev);
    if (a.dx && a.d % V == 0 && qy_aligned(a.dx, a.dy, a.x, a.w))
        LAUNCH_ROWS(dx_kernel, T, V);
    else if (a.dx)
        LAUNCH_ROWS(dx_kernel, T, 1);
    if (!a.dw)
        return QY_OK;
    int64_t n_chunks = qy_blocks(a.m, QY_NORM_ROWS), n_outputs = CENTERED ? 2 : 1;
    unsigned columns = (unsigned)qy_blocks(a.d, COLUMN_THREADS);
    void *parts;
    if (n_chunks > MAX_CHUNKS)
        return qy_fail(err, QY_ERR_SHAPE, "norm gradient: %lld rows, at most %lld", (long long)a.m,
                       (long long)(MAX_CHUNKS * QY_NORM_ROWS));
    QY_TRY(qy_cuda_scratch(dev, &parts, (size_t)(n_outputs * n_chunks * a.d) * sizeof(float), err));
    QY_LAUNCH(dw_parts_kernel<T, CENTERED>
              <<<dim3(columns, (unsigned)n_chunks), COLUMN_THREADS, 0, stream>>>(
                  static_cast<float *>(parts), a));
    QY_LAUNCH(dw_sum_kernel<<<dim3(columns, (unsigned)n_outputs), COLUMN_THREADS, 0, stream>>>(
        a.dw, a.db, static_cast<const float *>(parts), n_chunks, a.d));
    return QY_OK;
}

qy_status_t qy_cuda_rmsnorm_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dw,
                                const qy_tensor_t *dy, const qy_tensor_t *x,
                                const qy_tensor_t *rstd, const qy_tensor_t *w, int accumulate,
                                qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const backward_t<T> a = {qy_data<T>(dx),       qy_data<float>(dw), nullptr,
                                 qy_data<T>(dy),       qy_data<T>(x),      nullptr,
                                 qy_data<float>(rstd), qy_data<float>(w),  qy_tensor_rows(x),
                                 qy_tensor_cols(x),    accumulate};
        return run_backward<T, false>(dev, a, err);
    });
}

qy_status_t qy_cuda_layernorm_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dw,
                                  qy_tensor_t *db, const qy_tensor_t *dy, const qy_tensor_t *x,
                                  const qy_tensor_t *mean, const qy_tensor_t *rstd,
                                  const qy_tensor_t *w, int accumulate, qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const backward_t<T> a = {qy_data<T>(dx),       qy_data<float>(dw), qy_data<float>(db),
                                 qy_data<T>(dy),       qy_data<T>(x),      qy_data<float>(mean),
                                 qy_data<float>(rstd), qy_data<float>(w),  qy_tensor_rows(x),
                                 qy_tensor_cols(x),    accumulate};
        return run_backward<T, true>(dev, a, err);
    });
}
