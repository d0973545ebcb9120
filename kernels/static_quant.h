/*
 * Static quantization of activations: each column (channel) has a step and a zero point that were
 * found beforehand, equal within a cluster of channels. base/quant_rule.h holds the rule for both
 * devices.
 *
 * Source: RPTQ, arXiv:2304.01089, official code.
 */
#ifndef QY_KERNELS_STATIC_QUANT_H
#define QY_KERNELS_STATIC_QUANT_H

#include "kernels/device.h"

/*
 * y[m][c] = (clamp(rint(x[m][c]/s[c]) + z[c], 0, Q) − z[c]) s[c], Q = 2^bits − 1; z may lie outside
 * [0, Q]. A NaN stays.
 * y  out  compute (M, C), may alias x.   x  in  compute (M, C).   s, z  in  f32 (C), s > 0.   bits
 * 2…8
 */
qy_status_t qy_static_quant_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                                const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                                qy_error_t *err);

/* Straight-through gradient, steps and zero points frozen: dx = dy where 0 ≤ rint(x/s) + z ≤ Q,
 * else 0. dx may alias dy; x is what the forward pass read. */
qy_status_t qy_static_quant_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                                const qy_tensor_t *x, const qy_tensor_t *s, const qy_tensor_t *z,
                                int bits, qy_error_t *err);

/*
 * Attention whose probabilities are rounded: with lse of qy_attention_fwd for the same arguments,
 * p = rint(levels exp(scale q·k − lse))/levels over the keys that a query sees;  o = p v.
 * o  out  compute (B, T, H, d), may not alias an input.   k, v  (B, T, K, d).   lse  in  f32 (B, H,
 * T)
 */
qy_status_t qy_attention_levels_fwd(const qy_device_t *dev, qy_tensor_t *o, const qy_tensor_t *lse,
                                    const qy_tensor_t *q, const qy_tensor_t *k,
                                    const qy_tensor_t *v, float scale, int64_t window, int levels,
                                    qy_error_t *err);

#endif
