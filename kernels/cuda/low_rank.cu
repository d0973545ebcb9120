#include "kernels/low_rank.h"

#include "kernels/cuda/cuda.cuh"

enum { ROWS = 8, THREADS = 128 };

/* A thread owns V columns of ROWS rows: it reads a's columns once a rank for all of them. */
template <typename T, int V>
static __global__ void __launch_bounds__(THREADS)
    add_kernel(T *w, const T *w_hat, const float *a, const float *b, int64_t o, int64_t n,
               int64_t r, float scale)
{
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V, row = blockIdx.y * ROWS;
    float sum[ROWS][V] = {}, line[V], old[V];
    if (at >= n)
        return;
    for (int64_t k = 0; k < r; k++) {
        load<V>(line, a + k * n + at);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float factor = row + i < o ? b[(row + i) * r + k] : 0.0f;
#pragma unroll
            for (int j = 0; j < V; j++)
                sum[i][j] += factor * line[j];
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        if (row + i >= o)
            break;
        load<V>(old, w_hat + (row + i) * n + at);
#pragma unroll
        for (int j = 0; j < V; j++)
            old[j] = old[j] + scale * sum[i][j];
        store<V>(w + (row + i) * n + at, old);
    }
}

template <typename T> struct scaled_t {
    T *y;
    const float *x;
    float scale;
    template <int V> __device__ void run(int64_t i) const
    {
        float v[V];
        load<V>(v, x + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = scale * v[j];
        store<V>(y + i, v);
    }
};

template <typename T>
static qy_status_t scaled(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x, float scale,
                          qy_error_t *err)
{
    const scaled_t<T> body = {qy_data<T>(y), qy_data<float>(x), scale};
    return qy_each<4>(dev, qy_tensor_count(x), qy_aligned(y->data, x->data), body, err);
}

template <typename T>
static qy_status_t add(const qy_device_t *dev, qy_tensor_t *w, const qy_tensor_t *w_hat,
                       const qy_tensor_t *a, const qy_tensor_t *b, float scale, qy_error_t *err)
{
    int64_t o = qy_tensor_rows(w_hat), n = qy_tensor_cols(w_hat), r = qy_tensor_rows(a);
    if (qy_blocks(o, ROWS) > 65535)
        return qy_fail(err, QY_ERR_SHAPE, "low_rank_fwd: %lld rows are too many", (long long)o);
    unsigned rows = (unsigned)qy_blocks(o, ROWS);
    if (n % 4 == 0 && qy_aligned(w->data, w_hat->data, a->data))
        QY_LAUNCH(add_kernel<T, 4><<<dim3((unsigned)qy_blocks(n, 4 * THREADS), rows), THREADS, 0,
                                     qy_stream(dev)>>>(qy_data<T>(w), qy_data<T>(w_hat),
                                                       qy_data<float>(a), qy_data<float>(b), o, n,
                                                       r, scale));
    else
        QY_LAUNCH(add_kernel<T, 1><<<dim3((unsigned)qy_blocks(n, THREADS), rows), THREADS, 0,
                                     qy_stream(dev)>>>(qy_data<T>(w), qy_data<T>(w_hat),
                                                       qy_data<float>(a), qy_data<float>(b), o, n,
                                                       r, scale));
    return QY_OK;
}

qy_status_t qy_cuda_low_rank_fwd(const qy_device_t *dev, qy_tensor_t *w, qy_tensor_t *a_scaled,
                                 qy_tensor_t *b_scaled, const qy_tensor_t *w_hat,
                                 const qy_tensor_t *a, const qy_tensor_t *b, float scale,
                                 qy_error_t *err)
{
    if (a_scaled)
        QY_TRY([&]() -> qy_status_t {
            QY_WITH_TYPE(a_scaled->dtype, T, {
                QY_TRY(scaled<T>(dev, a_scaled, a, scale, err));
                return scaled<T>(dev, b_scaled, b, scale, err);
            });
        }());
    QY_WITH_TYPE(w->dtype, T, { return add<T>(dev, w, w_hat, a, b, scale, err); });
}
