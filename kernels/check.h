/*
 * What the wrappers check before any kernel runs: that a tensor is there, its type, its shape, and
 * that it holds something (every size is at least 1).
 */
#ifndef QY_KERNELS_CHECK_H
#define QY_KERNELS_CHECK_H

#include "base/status.h"
#include "base/tensor.h"

/* Sets of types. */
#define QY_TYPE(dtype) (1u << (dtype))
#define QY_FLOATS      (QY_TYPE(QY_F32) | QY_TYPE(QY_F16) | QY_TYPE(QY_BF16))

/* t is seen as (rows, cols): all but the last dimension together, and the last. ARG or SHAPE. */
qy_status_t qy_check_matrix(const char *op, const char *name, const qy_tensor_t *t, unsigned types,
                            int64_t rows, int64_t cols, qy_error_t *err);

/* t has exactly these dimensions. */
qy_status_t qy_check_shape(const char *op, const char *name, const qy_tensor_t *t, unsigned types,
                           int n_dims, const int64_t *shape, qy_error_t *err);

/* t has n elements in any shape. */
qy_status_t qy_check_count(const char *op, const char *name, const qy_tensor_t *t, unsigned types,
                           int64_t n, qy_error_t *err);

/* t is there, with a type of the set, and not empty: for the tensor whose sizes the others follow.
 */
qy_status_t qy_check_given(const char *op, const char *name, const qy_tensor_t *t, unsigned types,
                           qy_error_t *err);

/* s, the steps of an (o, i) weight, is f32 (o, G) with G dividing i, and bits is 2…8. */
qy_status_t qy_check_groups(const char *op, int64_t o, int64_t i, const char *s_name,
                            const qy_tensor_t *s, int bits, qy_error_t *err);

/* a and b do not start at the same place. */
qy_status_t qy_check_apart(const char *op, const char *a_name, const qy_tensor_t *a,
                           const char *b_name, const qy_tensor_t *b, qy_error_t *err);

#endif
