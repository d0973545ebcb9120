/*
 * Rotary positions and causal attention with grouped key/value heads.
 * Shapes: q, o (B, T, H, d); k, v (B, T, K, d) with K dividing H: query head h reads key head h / (H/K).
 */
#ifndef QY_KERNELS_ATTENTION_H
#define QY_KERNELS_ATTENTION_H

#include "kernels/device.h"

/*
 * Half rotation of every head at its position:
 *   y[i] = x[i] c[t,i] − x[i+d/2] s[t,i];   y[i+d/2] = x[i+d/2] c[t,i] + x[i] s[t,i],  i < d/2
 * With backward, y = the gradient of that for x = the incoming gradient (the inverse rotation).
 * y  out  compute (B, T, H, d), may alias x.   cosine, sine  in  f32 (≥ T, d/2)
 * Source: Su et al., arXiv:2104.09864, in the layout of transformers.
 */
qy_status_t qy_rope(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                    const qy_tensor_t *cosine, const qy_tensor_t *sine, int backward,
                    qy_error_t *err);

/*
 * p = softmax_j(scale q·k) over j ≤ t (and j > t − window where window > 0);  o = p v.
 * o  out  compute (B, T, H, d).   lse  out  f32 (B, H, T): log Σ exp of the scaled scores.
 * Never holds a T × T matrix: query rows are taken in tiles.
 */
qy_status_t qy_attention_fwd(const qy_device_t *dev, qy_tensor_t *o, qy_tensor_t *lse,
                             const qy_tensor_t *q, const qy_tensor_t *k, const qy_tensor_t *v,
                             float scale, int64_t window, qy_error_t *err);

/*
 * dp = d_o vᵀ;  ds = p (dp − Σ_d d_o o);  dq = scale ds k;  dk = scale dsᵀ q;  dv = pᵀ d_o, all '='.
 * dk and dv sum over the query heads of their group in head order, over query tiles in order.
 */
qy_status_t qy_attention_bwd(const qy_device_t *dev, qy_tensor_t *dq, qy_tensor_t *dk,
                             qy_tensor_t *dv, const qy_tensor_t *d_o, const qy_tensor_t *o,
                             const qy_tensor_t *lse, const qy_tensor_t *q, const qy_tensor_t *k,
                             const qy_tensor_t *v, float scale, int64_t window, qy_error_t *err);

#endif
