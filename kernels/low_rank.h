/* Low-rank corrections of frozen weights: what training changes when the weights themselves stay.
 */
#ifndef QY_KERNELS_LOW_RANK_H
#define QY_KERNELS_LOW_RANK_H

#include "kernels/device.h"

/*
 * w = w_hat + scale b a, the sum over the rank in f32 in order, rounded once; a_scaled = scale a
 * and b_scaled = scale b rounded. With these gradients are products of linear.h, t = x a_scaledᵀ
 * (linear_fwd) and u = dy b_scaled (linear_bwd_x):  db = dyᵀ t,  da = uᵀ x  (linear_bwd_w). w  out
 * compute (O, I), or f32; may alias w_hat.   w_hat  in  as w a_scaled, b_scaled  out  compute (R,
 * I), (O, R); NULL, both, where only w is wanted a, b  in  f32 (R, I), (O, R)
 */
qy_status_t qy_low_rank_fwd(const qy_device_t *dev, qy_tensor_t *w, qy_tensor_t *a_scaled,
                            qy_tensor_t *b_scaled, const qy_tensor_t *w_hat, const qy_tensor_t *a,
                            const qy_tensor_t *b, float scale, qy_error_t *err);

#endif
