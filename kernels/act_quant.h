/*
 * Fake quantization of activations: every row has a step and a zero point of its own, found from
 * the row as it comes (per token, dynamic, asymmetric). Rows are (M, D); heads are rows of
 * head_dim. Q = 2^bits − 1; rounding half to even; base/quant_rule.h holds the rule for both
 * devices.
 *
 * Source: QLLM, arXiv:2310.08041, official code; rows that are all equal are passed as they are
 * (the official code divides by zero there).
 */
#ifndef QY_KERNELS_ACT_QUANT_H
#define QY_KERNELS_ACT_QUANT_H

#include "kernels/device.h"

/*
 *   lo, hi = min, max of the row;  s = (hi − lo)/Q;  z = rint(clamp(−lo/s, ±1e4))
 *   s' = clamp(s, 1e-5, 1e4);  u = rint(x/s') + z;  y = (clamp(u, 0, Q) − z) s'
 * hi = lo: y = x. A row whose range is not finite becomes NaN; a NaN in a row stays there.
 * y  out  compute (M, D), may alias x.   x  in  compute (M, D).   bits  2…8
 */
qy_status_t qy_act_quant_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x, int bits,
                             qy_error_t *err);

/*
 * Straight-through gradient, exact through the step, zero through z; M = [0 ≤ u ≤ Q]:
 *   h = rint(x/s') − x/s' where M, else clamp(u, 0, Q) − z;   G = Σ_row dy h, 0 where s was clamped
 *   dx = dy M + (G/Q)/n_hi at the n_hi places of hi − (G/Q)/n_lo at the n_lo places of lo      '='
 * hi = lo: dx = dy.   dx may alias dy; x is what the forward pass read.
 */
qy_status_t qy_act_quant_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                             const qy_tensor_t *x, int bits, qy_error_t *err);

#endif
