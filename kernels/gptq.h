/*
 * GPTQ: rounding a weight matrix column by column, each column's error made good by the columns
 * that are still free, as the inputs' second moments H = Σ xᵀx weigh it.
 *
 * Source: GPTQ, arXiv:2210.17323, algorithm 1, as the official code of RPTQ (arXiv:2304.01089)
 * computes it. The factor is taken without inverting: with J the reversal of an order and
 * J H J = L Lᵀ, U = J L⁻¹ J is upper and H⁻¹ = Uᵀ U.
 */
#ifndef QY_KERNELS_GPTQ_H
#define QY_KERNELS_GPTQ_H

#include "kernels/device.h"

/*
 * h (= or +=) scale xᵀ x; sums in f32.
 * h  out  f32 (I, I), symmetric: both triangles.   x  in  compute (M, I)
 * Errors: ARG, SHAPE before any write; DEVICE. This holds for every op below.
 */
qy_status_t qy_gram(const qy_device_t *dev, qy_tensor_t *h, const qy_tensor_t *x, float scale,
                    int accumulate, qy_error_t *err);

/* d[i] = h[i][i].   d  out  f32 (I).   h  in  f32 (I, I) */
qy_status_t qy_diagonal(const qy_device_t *dev, qy_tensor_t *d, const qy_tensor_t *h,
                        qy_error_t *err);

/*
 * y[r][c] = x[r][index[c]], 0 where index[c] is negative.
 * y  out  f32 (R, C), may not alias x.   x  in  f32 (R, D).   index  in  i32 (C), below D (the
 * caller checks)
 */
qy_status_t qy_gather_columns(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                              const qy_tensor_t *index, qy_error_t *err);

/* y[r][to + j] = x[r][from + j] for j < n.   y, x  f32 with the same number of rows, not the same
 * memory */
qy_status_t qy_copy_columns(const qy_device_t *dev, qy_tensor_t *y, int64_t to,
                            const qy_tensor_t *x, int64_t from, int64_t n, qy_error_t *err);

/*
 * With A[i][j] = h[order[i]][order[j]] + [i = j] shift[order[i]]: the upper u with uᵀ u = A⁻¹.
 * *definite is 0 where A, which is finite (the caller checks), is not positive definite; u is then
 * of no use. Waits for the device. u  out  f32 (I, I), 0 below the diagonal.   h  in  f32 (I, I).
 * order  in  i32 (I), a permutation (the caller checks).   shift  in  f32 (I)
 */
qy_status_t qy_inverse_factor(const qy_device_t *dev, qy_tensor_t *u, int *definite,
                              const qy_tensor_t *h, const qy_tensor_t *order,
                              const qy_tensor_t *shift, qy_error_t *err);

enum { QY_GPTQ_BLOCK_MAX = 128 };

/*
 * Columns c = first…first + n − 1 of w one after the other, with g = group[c] and Q = 2^bits − 1:
 *   code = clamp(rint(w/s) + z, 0, Q);  ŵ = (code − z) s;  e = (w − ŵ)/u[c][c]
 *   w[c'] −= e u[c][c'] for every later column c';  w[c] = ŵ
 * s and z are taken as they are; z may lie outside [0, Q].
 * w  in out  f32 (O, I).   e  out  f32 (O, n): the errors; their Σ e²/2 is the loss.   n  1…128
 * u  in  f32 (I, I), of qy_inverse_factor.   s, z  in  f32 (O, G).
 * group  in  i32 (I), each in [0, G) (the caller checks)
 */
qy_status_t qy_gptq_columns(const qy_device_t *dev, qy_tensor_t *w, qy_tensor_t *e,
                            const qy_tensor_t *u, const qy_tensor_t *s, const qy_tensor_t *z,
                            const qy_tensor_t *group, int64_t first, int bits, qy_error_t *err);

#endif
