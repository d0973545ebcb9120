/* Columns of activations and of weights: mixed by an integer plan, and their ranges. */
#ifndef QY_KERNELS_COLUMNS_H
#define QY_KERNELS_COLUMNS_H

#include "kernels/device.h"

/*
 * y[m][j] = Σ weights[k] x[m][items[k]] for k = offsets[j] … offsets[j+1] − 1, in that order in
 * f32, rounded once. An empty range gives 0. Permutations, splits and means of channels are such
 * plans, and so are their transposes: the backward pass is this op with the transposed plan. y  out
 * compute or f32 (M, J).   x  in  as y (M, C), may not alias y. offsets  in  i32 (J + 1), rising
 * from 0;  items  i32 (K ≥ offsets[J]), in [0, C);  weights  f32 (K) What the plan holds is the
 * caller's to check: on a device nobody looks.
 */
qy_status_t qy_column_mix(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                          const qy_tensor_t *offsets, const qy_tensor_t *items,
                          const qy_tensor_t *weights, qy_error_t *err);

/*
 * lo[c], hi[c] = least and largest x[m][c] over m; with accumulate also of what is there. NaNs are
 * passed over.   lo, hi  out  f32 (C).   x  in  compute or f32 (M, C)
 */
qy_status_t qy_column_range(const qy_device_t *dev, qy_tensor_t *lo, qy_tensor_t *hi,
                            const qy_tensor_t *x, int accumulate, qy_error_t *err);

#endif
