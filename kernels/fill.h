/* Filling, converting, adding and gathering rows: the ops that carry no mathematics of their own. */
#ifndef QY_KERNELS_FILL_H
#define QY_KERNELS_FILL_H

#include "kernels/device.h"

/*
 * y = value.   y  out  f32, f16, bf16 or an integer type (value is converted)
 * Errors: ARG; DEVICE. Returns once queued. This holds for every op below.
 */
qy_status_t qy_fill(const qy_device_t *dev, qy_tensor_t *y, float value, qy_error_t *err);

/*
 * y = x in y's type, rounded to nearest, ties to even.
 * y  out  f32, f16, bf16; same count as x.   x  in  f32, f16, bf16; may be y where types agree
 */
qy_status_t qy_convert(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                       qy_error_t *err);

/* y = a + b, all of one type and count; y may alias a or b. */
qy_status_t qy_add(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *a,
                   const qy_tensor_t *b, qy_error_t *err);

/* y = a b, element by element; all f32 and of one count; y may alias a or b. */
qy_status_t qy_mul(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *a,
                   const qy_tensor_t *b, qy_error_t *err);

/*
 * Rows of a table: y[m] = table[ids[m]], or += with accumulate (token and learned positions).
 * y  out  compute (M, D).   table  in  compute (V, D).   ids  in  i32 (M), each in [0, V) (the caller checks)
 */
qy_status_t qy_embedding_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *table,
                             const qy_tensor_t *ids, int accumulate, qy_error_t *err);

#endif
