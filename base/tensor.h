/* A view of numbers somewhere in memory: type, shape, pointer. It never owns and never frees. */
#ifndef QY_BASE_TENSOR_H
#define QY_BASE_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    QY_F32,
    QY_F16,
    QY_BF16,
    QY_F64,
    QY_I32,
    QY_I64,
    QY_U32,
    QY_U8,
    QY_N_DTYPES
} qy_dtype_t;

enum { QY_MAX_DIMS = 4 };

/* Row-major and contiguous. data may be device memory. */
typedef struct {
    void *data;
    qy_dtype_t dtype;
    int n_dims;
    int64_t shape[QY_MAX_DIMS];
} qy_tensor_t;

size_t qy_dtype_bytes(qy_dtype_t dtype);
const char *qy_dtype_name(qy_dtype_t dtype);

/* Views over data; the shape is n_dims numbers. */
qy_tensor_t qy_tensor_view(void *data, qy_dtype_t dtype, int n_dims, const int64_t *shape);
qy_tensor_t qy_tensor_1d(void *data, qy_dtype_t dtype, int64_t n);
qy_tensor_t qy_tensor_2d(void *data, qy_dtype_t dtype, int64_t rows, int64_t cols);

int64_t qy_tensor_count(const qy_tensor_t *t);
size_t qy_tensor_bytes(const qy_tensor_t *t);

/* Number of rows when all but the last dimension are taken together, and the last dimension. */
int64_t qy_tensor_rows(const qy_tensor_t *t);
int64_t qy_tensor_cols(const qy_tensor_t *t);

/* Rows [row, row + n) of t seen as (rows, cols). */
qy_tensor_t qy_tensor_slice(const qy_tensor_t *t, int64_t row, int64_t n);

/* The same data with another shape of the same count. */
qy_tensor_t qy_tensor_reshape(const qy_tensor_t *t, int n_dims, const int64_t *shape);

int qy_tensor_same_shape(const qy_tensor_t *a, const qy_tensor_t *b);

#ifdef __cplusplus
}
#endif
#endif
