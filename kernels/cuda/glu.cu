#include "kernels/glu.h"

#include "kernels/cuda/rows.cuh"

template <typename T> struct silu_fwd_t {
    T *y;
    const T *gate, *up;
    template <int V> __device__ void run(int64_t i) const
    {
        float g[V], u[V];
        load<V>(g, gate + i);
        load<V>(u, up + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            g[j] = silu_mul(g[j], u[j]);
        store<V>(y + i, g);
    }
};

template <typename T> struct silu_bwd_t {
    T *dgate, *dup;
    const T *dy, *gate, *up;
    template <int V> __device__ void run(int64_t i) const
    {
        float g[V], u[V], d[V];
        load<V>(g, gate + i);
        load<V>(u, up + i);
        load<V>(d, dy + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            silu_mul_back(g[j], u[j], d[j]);
        store<V>(dgate + i, g);
        store<V>(dup + i, u);
    }
};

/* y = max(x, 0), and NaN stays NaN. */
template <typename T> struct relu_fwd_t {
    T *y;
    const T *x;
    template <int V> __device__ void run(int64_t i) const
    {
        float v[V];
        load<V>(v, x + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = relu(v[j]);
        store<V>(y + i, v);
    }
};

template <typename T> struct relu_bwd_t {
    T *dx;
    const T *dy, *y;
    template <int V> __device__ void run(int64_t i) const
    {
        float d[V], v[V];
        load<V>(d, dy + i);
        load<V>(v, y + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            d[j] = v[j] > 0.0f ? d[j] : 0.0f;
        store<V>(dx + i, d);
    }
};

qy_status_t qy_cuda_silu_mul_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *gate,
                                 const qy_tensor_t *up, qy_error_t *err)
{
    QY_WITH_TYPE(y->dtype, T, {
        const silu_fwd_t<T> body = {qy_data<T>(y), qy_data<T>(gate), qy_data<T>(up)};
        return qy_each<16 / sizeof(T)>(dev, qy_tensor_count(y),
                                       qy_aligned(y->data, gate->data, up->data), body, err);
    });
}

qy_status_t qy_cuda_silu_mul_bwd(const qy_device_t *dev, qy_tensor_t *dgate, qy_tensor_t *dup,
                                 const qy_tensor_t *dy, const qy_tensor_t *gate,
                                 const qy_tensor_t *up, qy_error_t *err)
{
    QY_WITH_TYPE(dy->dtype, T, {
        const silu_bwd_t<T> body = {qy_data<T>(dgate), qy_data<T>(dup), qy_data<T>(dy),
                                    qy_data<T>(gate), qy_data<T>(up)};
        return qy_each<16 / sizeof(T)>(
            dev, qy_tensor_count(dy),
            qy_aligned(dgate->data, dup->data, dy->data, gate->data, up->data), body, err);
    });
}

qy_status_t qy_cuda_relu_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                             qy_error_t *err)
{
    QY_WITH_TYPE(y->dtype, T, {
        const relu_fwd_t<T> body = {qy_data<T>(y), qy_data<T>(x)};
        return qy_each<16 / sizeof(T)>(dev, qy_tensor_count(y), qy_aligned(y->data, x->data), body,
                                       err);
    });
}

qy_status_t qy_cuda_relu_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                             const qy_tensor_t *y, qy_error_t *err)
{
    QY_WITH_TYPE(dx->dtype, T, {
        const relu_bwd_t<T> body = {qy_data<T>(dx), qy_data<T>(dy), qy_data<T>(y)};
        return qy_each<16 / sizeof(T)>(dev, qy_tensor_count(dx),
                                       qy_aligned(dx->data, dy->data, y->data), body, err);
    });
}
