#include "kernels/fill.h"

#include <string.h>

#include "base/half.h"
#include "kernels/cpu/cpu.h"

static void fill_chunk(void *y, qy_dtype_t dtype, int64_t n, float value)
{
    switch (dtype) {
#define FILL(enumerator, type, converted)                                                          \
    case enumerator: {                                                                             \
        type *to = y, v = converted;                                                               \
        for (int64_t i = 0; i < n; i++)                                                            \
            to[i] = v;                                                                             \
        break;                                                                                     \
    }
        FILL(QY_F32, float, value)
        FILL(QY_F64, double, value)
        FILL(QY_F16, uint16_t, qy_f32_to_f16(value))
        FILL(QY_BF16, uint16_t, qy_f32_to_bf16(value))
        FILL(QY_I32, int32_t, (int32_t)value)
        FILL(QY_I64, int64_t, (int64_t)value)
        FILL(QY_U32, uint32_t, (uint32_t)value)
        FILL(QY_U8, uint8_t, (uint8_t)value)
#undef FILL
    case QY_N_DTYPES:
        break;
    }
}

static char *element(const qy_tensor_t *t, int64_t i)
{
    char *data = t->data;
    return data + (size_t)i * qy_dtype_bytes(t->dtype);
}

qy_status_t qy_cpu_fill(const qy_device_t *dev, qy_tensor_t *y, float value, qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_count(y), n_chunks = qy_chunks(n, QY_CPU_CHUNK);
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t first = c * QY_CPU_CHUNK;
        fill_chunk(element(y, first), y->dtype, qy_min(QY_CPU_CHUNK, n - first), value);
    }
    return QY_OK;
}

static void load(float *to, const void *from, qy_dtype_t dtype, int64_t n)
{
    const uint16_t *half = from;
    if (dtype == QY_F32)
        memcpy(to, from, (size_t)n * sizeof *to);
    else
        for (int64_t i = 0; i < n; i++)
            to[i] = dtype == QY_F16 ? qy_f16_to_f32(half[i]) : qy_bf16_to_f32(half[i]);
}

static void store(void *to, const float *from, qy_dtype_t dtype, int64_t n)
{
    uint16_t *half = to;
    if (dtype == QY_F32)
        memcpy(to, from, (size_t)n * sizeof *from);
    else
        for (int64_t i = 0; i < n; i++)
            half[i] = dtype == QY_F16 ? qy_f32_to_f16(from[i]) : qy_f32_to_bf16(from[i]);
}

qy_status_t qy_cpu_convert(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                           qy_error_t *err)
{
    (void)err;
    if (x->dtype == y->dtype) {
        memmove(y->data, x->data, qy_tensor_bytes(x));
        return QY_OK;
    }
    int64_t n = qy_tensor_count(y), n_chunks = qy_chunks(n, QY_CPU_CHUNK);
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t first = c * QY_CPU_CHUNK, count = qy_min(QY_CPU_CHUNK, n - first);
        float values[QY_CPU_CHUNK];
        load(values, element(x, first), x->dtype, count);
        store(element(y, first), values, y->dtype, count);
    }
    return QY_OK;
}

static QY_CLONES void add_f32(float *y, const float *a, const float *b, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

qy_status_t qy_cpu_mul(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *a,
                       const qy_tensor_t *b, qy_error_t *err)
{
    (void)err;
    float *to = qy_f32(y), *left = qy_f32(a), *right = qy_f32(b);
    int64_t n = qy_tensor_count(y);
#pragma omp parallel for num_threads(dev->threads) if (n > QY_CPU_CHUNK)
    for (int64_t i = 0; i < n; i++)
        to[i] = left[i] * right[i];
    return QY_OK;
}

qy_status_t qy_cpu_add(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *a,
                       const qy_tensor_t *b, qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_count(y), n_chunks = qy_chunks(n, QY_CPU_CHUNK);
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t first = c * QY_CPU_CHUNK, count = qy_min(QY_CPU_CHUNK, n - first);
        void *to = element(y, first), *x = element(a, first), *z = element(b, first);
        if (y->dtype == QY_F32) {
            add_f32(to, x, z, count);
        } else {
            float left[QY_CPU_CHUNK], right[QY_CPU_CHUNK];
            load(left, x, a->dtype, count);
            load(right, z, b->dtype, count);
            add_f32(left, left, right, count);
            store(to, left, y->dtype, count);
        }
    }
    return QY_OK;
}

qy_status_t qy_cpu_embedding_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *table,
                                 const qy_tensor_t *ids, int accumulate, qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(y), d = qy_tensor_cols(y);
    const int32_t *id = ids->data;
#pragma omp parallel for num_threads(dev->threads) if (m > 1)
    for (int64_t r = 0; r < m; r++) {
        float *to = qy_f32(y) + r * d;
        const float *from = qy_f32(table) + id[r] * d;
        if (accumulate)
            add_f32(to, to, from, d);
        else
            memcpy(to, from, (size_t)d * sizeof *to);
    }
    return QY_OK;
}
