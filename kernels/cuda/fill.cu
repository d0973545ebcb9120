#include "kernels/fill.h"

#include "kernels/cuda/cuda.cuh"

template <typename T> struct fill_t {
    T *y;
    T value;
    template <int V> __device__ void run(int64_t i) const
    {
        pack_t<T, V> pack;
#pragma unroll
        for (int j = 0; j < V; j++)
            pack.at[j] = value;
        *reinterpret_cast<pack_t<T, V> *>(y + i) = pack;
    }
};

template <typename T>
static qy_status_t fill_with(const qy_device_t *dev, qy_tensor_t *y, T value, qy_error_t *err)
{
    const fill_t<T> body = {qy_data<T>(y), value};
    return qy_each<16 / sizeof(T)>(dev, qy_tensor_count(y), qy_aligned(y->data), body, err);
}

qy_status_t qy_cuda_fill(const qy_device_t *dev, qy_tensor_t *y, float value, qy_error_t *err)
{
    switch (y->dtype) {
    case QY_F32:
        return fill_with<float>(dev, y, value, err);
    case QY_F16:
        return fill_with<__half>(dev, y, __float2half_rn(value), err);
    case QY_BF16:
        return fill_with<__nv_bfloat16>(dev, y, __float2bfloat16_rn(value), err);
    case QY_I32:
        return fill_with<int32_t>(dev, y, (int32_t)value, err);
    case QY_I64:
        return fill_with<int64_t>(dev, y, (int64_t)value, err);
    case QY_U32:
        return fill_with<uint32_t>(dev, y, (uint32_t)value, err);
    case QY_U8:
        return fill_with<uint8_t>(dev, y, (uint8_t)value, err);
    default:
        return qy_fail(err, QY_ERR_ARG, "fill: %s", qy_dtype_name(y->dtype));
    }
}

template <typename To, typename From> struct convert_t {
    To *y;
    const From *x;
    template <int V> __device__ void run(int64_t i) const
    {
        float v[V];
        load<V>(v, x + i);
        store<V>(y + i, v);
    }
};

qy_status_t qy_cuda_convert(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                            qy_error_t *err)
{
    if (x->dtype == y->dtype) {
        if (x->data != y->data)
            QY_CUDA(cudaMemcpyAsync(y->data, x->data, qy_tensor_bytes(x), cudaMemcpyDeviceToDevice,
                                    qy_stream(dev)));
        return QY_OK;
    }
    QY_WITH_TYPE(y->dtype, To, {
        QY_WITH_TYPE(x->dtype, From, {
            const convert_t<To, From> body = {qy_data<To>(y), qy_data<From>(x)};
            return qy_each<8>(dev, qy_tensor_count(y), qy_aligned(y->data, x->data), body, err);
        });
    });
}

template <typename T> struct add_pair_t {
    T *y;
    const T *a, *b;
    template <int V> __device__ void run(int64_t i) const
    {
        float p[V], q[V];
        load<V>(p, a + i);
        load<V>(q, b + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            p[j] += q[j];
        store<V>(y + i, p);
    }
};

qy_status_t qy_cuda_add(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *a,
                        const qy_tensor_t *b, qy_error_t *err)
{
    QY_WITH_TYPE(y->dtype, T, {
        const add_pair_t<T> body = {qy_data<T>(y), qy_data<T>(a), qy_data<T>(b)};
        return qy_each<16 / sizeof(T)>(dev, qy_tensor_count(y),
                                       qy_aligned(y->data, a->data, b->data), body, err);
    });
}

struct mul_pair_t {
    float *y;
    const float *a, *b;
    template <int V> __device__ void run(int64_t i) const
    {
        float p[V], q[V];
        load<V>(p, a + i);
        load<V>(q, b + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            p[j] *= q[j];
        store<V>(y + i, p);
    }
};

qy_status_t qy_cuda_mul(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *a,
                        const qy_tensor_t *b, qy_error_t *err)
{
    const mul_pair_t body = {qy_data<float>(y), qy_data<float>(a), qy_data<float>(b)};
    return qy_each<4>(dev, qy_tensor_count(y), qy_aligned(y->data, a->data, b->data), body, err);
}

/* A block copies, or adds, the table's row of one id. */
template <typename T, int V>
static __global__ void __launch_bounds__(QY_EACH_THREADS)
    embedding_kernel(T *y, const T *table, const int32_t *ids, int64_t d, int accumulate)
{
    T *to = y + blockIdx.x * d;
    const T *from = table + ids[blockIdx.x] * d;
    for (int64_t i = threadIdx.x * V; i < d; i += QY_EACH_THREADS * V) {
        float row[V], sum[V];
        load<V>(row, from + i);
        if (accumulate) {
            load<V>(sum, to + i);
#pragma unroll
            for (int j = 0; j < V; j++)
                row[j] += sum[j];
        }
        store<V>(to + i, row);
    }
}

qy_status_t qy_cuda_embedding_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *table,
                                  const qy_tensor_t *ids, int accumulate, qy_error_t *err)
{
    const int32_t *id = qy_data<int32_t>(ids);
    int64_t d = qy_tensor_cols(y);
    unsigned m = (unsigned)qy_tensor_rows(y);
    QY_WITH_TYPE(y->dtype, T, {
        const int V = 16 / sizeof(T);
        T *to = qy_data<T>(y);
        const T *from = qy_data<T>(table);
        if (d % V == 0 && qy_aligned(to, from))
            QY_LAUNCH(embedding_kernel<T, V>
                      <<<m, QY_EACH_THREADS, 0, qy_stream(dev)>>>(to, from, id, d, accumulate));
        else
            QY_LAUNCH(embedding_kernel<T, 1>
                      <<<m, QY_EACH_THREADS, 0, qy_stream(dev)>>>(to, from, id, d, accumulate));
    });
    return QY_OK;
}
