#include "base/tensor.h"

#include <assert.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[QY_N_DTYPES] = {
    [QY_F32] = {"f32", 4}, [QY_F16] = {"f16", 2}, [QY_BF16] = {"bf16", 2}, [QY_F64] = {"f64", 8},
    [QY_I32] = {"i32", 4}, [QY_I64] = {"i64", 8}, [QY_U32] = {"u32", 4},   [QY_U8] = {"u8", 1},
};

size_t qy_dtype_bytes(qy_dtype_t dtype)
{
    return (unsigned)dtype < QY_N_DTYPES ? dtypes[dtype].bytes : 0;
}

const char *qy_dtype_name(qy_dtype_t dtype)
{
    return (unsigned)dtype < QY_N_DTYPES ? dtypes[dtype].name : "?";
}

qy_tensor_t qy_tensor_view(void *data, qy_dtype_t dtype, int n_dims, const int64_t *shape)
{
    assert(n_dims >= 0 && n_dims <= QY_MAX_DIMS);
    qy_tensor_t t = {.data = data, .dtype = dtype, .n_dims = n_dims};
    for (int i = 0; i < n_dims; i++)
        t.shape[i] = shape[i];
    return t;
}

qy_tensor_t qy_tensor_1d(void *data, qy_dtype_t dtype, int64_t n)
{
    return qy_tensor_view(data, dtype, 1, &n);
}

qy_tensor_t qy_tensor_2d(void *data, qy_dtype_t dtype, int64_t rows, int64_t cols)
{
    return qy_tensor_view(data, dtype, 2, (int64_t[]){rows, cols});
}

int64_t qy_tensor_count(const qy_tensor_t *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

size_t qy_tensor_bytes(const qy_tensor_t *t)
{
    return (size_t)qy_tensor_count(t) * qy_dtype_bytes(t->dtype);
}

int64_t qy_tensor_rows(const qy_tensor_t *t)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

int64_t qy_tensor_cols(const qy_tensor_t *t)
{
    return t->n_dims ? t->shape[t->n_dims - 1] : 1;
}

qy_tensor_t qy_tensor_slice(const qy_tensor_t *t, int64_t row, int64_t n)
{
    int64_t cols = qy_tensor_cols(t);
    assert(row >= 0 && n >= 0 && row + n <= qy_tensor_rows(t));
    char *data = t->data;
    return qy_tensor_2d(data + (size_t)(row * cols) * qy_dtype_bytes(t->dtype), t->dtype, n, cols);
}

qy_tensor_t qy_tensor_reshape(const qy_tensor_t *t, int n_dims, const int64_t *shape)
{
    qy_tensor_t out = qy_tensor_view(t->data, t->dtype, n_dims, shape);
    assert(qy_tensor_count(&out) == qy_tensor_count(t));
    return out;
}

int qy_tensor_same_shape(const qy_tensor_t *a, const qy_tensor_t *b)
{
    if (a->n_dims != b->n_dims)
        return 0;
    for (int i = 0; i < a->n_dims; i++)
        if (a->shape[i] != b->shape[i])
            return 0;
    return 1;
}
