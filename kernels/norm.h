/*
 * RMSNorm and LayerNorm over the last dimension D. Statistics and sums in f32.
 * Parameter gradients are '=' and sum rows in chunks of QY_NORM_ROWS, the chunks in order: the order
 * is the same for any number of threads.
 */
#ifndef QY_KERNELS_NORM_H
#define QY_KERNELS_NORM_H

#include "kernels/device.h"

enum { QY_NORM_ROWS = 64 };

/*
 * rstd = 1 / sqrt(mean(x²) + eps);  y = (x rstd) w, the product x rstd rounded to the compute type first
 * y, x  compute (M, D).   rstd  out  f32 (M).   w  in  f32 (D)
 * Source: transformers 5.17 LlamaRMSNorm.
 */
qy_status_t qy_rmsnorm_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *rstd,
                           const qy_tensor_t *x, const qy_tensor_t *w, float eps, qy_error_t *err);

/*
 * h = x rstd;  dx (= or +=) rstd (dy w − h mean(dy w h));  dw = Σ_rows dy h, skipped where dw is NULL;
 * dx may be NULL where only dw is wanted.   dx may not alias dy.
 */
qy_status_t qy_rmsnorm_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dw,
                           const qy_tensor_t *dy, const qy_tensor_t *x, const qy_tensor_t *rstd,
                           const qy_tensor_t *w, int accumulate, qy_error_t *err);

/*
 * mean, rstd = 1 / sqrt(var + eps) (biased variance, two passes);  y = (x − mean) rstd w + b
 * mean, rstd  out  f32 (M).   w, b  in  f32 (D)
 */
qy_status_t qy_layernorm_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *mean,
                             qy_tensor_t *rstd, const qy_tensor_t *x, const qy_tensor_t *w,
                             const qy_tensor_t *b, float eps, qy_error_t *err);

/*
 * h = (x − mean) rstd;  dx (= or +=) rstd (g − mean(g) − h mean(g h)), g = dy w;
 * dw = Σ_rows dy h, db = Σ_rows dy, both skipped where dw is NULL (then db must be NULL as well);
 * dx may be NULL.
 */
qy_status_t qy_layernorm_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dw,
                             qy_tensor_t *db, const qy_tensor_t *dy, const qy_tensor_t *x,
                             const qy_tensor_t *mean, const qy_tensor_t *rstd, const qy_tensor_t *w,
                             int accumulate, qy_error_t *err);

#endif
