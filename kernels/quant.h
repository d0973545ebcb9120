/*
 * Uniform affine quantization of a weight matrix (O, I): one step s and one zero point z for each
 * group of I/G consecutive columns of a row (G groups a row, G divides I).
 * Q = 2^bits − 1; rounding half to even; see base/quant_rule.h, which both devices use.
 *
 * Source: EfficientQAT, arXiv:2407.11062, section 3.2, as its official code computes it.
 */
#ifndef QY_KERNELS_QUANT_H
#define QY_KERNELS_QUANT_H

#include "kernels/device.h"

/*
 * Starting step and zero point of every group. Ranges are widened to hold 0, so z lies in [0, Q].
 *   lo = min(w, 0), hi = max(w, 0)
 *   min-max:        s = max((hi − lo)/Q, 1e-4),  z = clamp(rint(−lo/s), 0, Q)
 *   least squares:  for i = 0…59, f = 1 − 0.7 i/60: s = max((hi − lo) f/Q, 1e-4),
 *                   z = clamp(rint(−lo f/s), 0, Q); the (s, z) of the least Σ (ŵ − w)², on ties the
 * first (ŵ and ŵ − w in f32, squares and sum in f64) symmetric:      z = 2^(bits−1);  s =
 * max(max|w| f / (2^(bits−1) − ½), 1e-4), f = 1 or the same 60 s, z  out  f32 (O, G).   w  in  f32
 * (O, I).   bits  2…8
 */
qy_status_t qy_quant_start(const qy_device_t *dev, qy_tensor_t *s, qy_tensor_t *z,
                           const qy_tensor_t *w, int bits, int symmetric, int least_squares,
                           qy_error_t *err);

/*
 *   s' = clamp(s, 1e-4, 1e4);  z' = clamp(rint(z), 0, Q)
 *   u = rint(w/s') + z';  c = clamp(u, 0, Q);  w_hat = (c − z') s'
 * w_hat  out  compute (O, I), may not alias w.   w  in  f32 (O, I).   s, z  in  f32 (O, G)
 */
qy_status_t qy_fake_quant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat, const qy_tensor_t *w,
                              const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                              qy_error_t *err);

/*
 * Straight-through gradients, M = [0 ≤ u ≤ Q], g = dw_hat:
 *   dw = g M;   ds = Σ_group g ((c − z') − M w/s');   dz = −s' Σ_group g (1 − M)      all '='
 * dw  out  f32 (O, I), may alias dw_hat.   ds, dz  out  f32 (O, G).   dw_hat  in  f32 or compute
 * (O, I)
 */
qy_status_t qy_fake_quant_bwd(const qy_device_t *dev, qy_tensor_t *dw, qy_tensor_t *ds,
                              qy_tensor_t *dz, const qy_tensor_t *dw_hat, const qy_tensor_t *w,
                              const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                              qy_error_t *err);

/*
 * Finishes a weight: the step is clamped to ≥ 2^-14 and rounded to f16 first, then the codes are
 * taken from the rounded step: c = clamp(rint(w/s16) + z', 0, Q). codes  out  u32 (O, ⌈I bits/32⌉):
 * dense little-endian bit stream along the row (base/pack.h) s16    out  f32 (O, G): the values of
 * f16(s); NaN where a weight of the group is not finite, which the codes could not show.   zeros
 * out  u8 (O, G): z'
 */
qy_status_t qy_quant_freeze(const qy_device_t *dev, qy_tensor_t *codes, qy_tensor_t *s16,
                            qy_tensor_t *zeros, const qy_tensor_t *w, const qy_tensor_t *s,
                            const qy_tensor_t *z, int bits, qy_error_t *err);

/*
 * w_hat = (c − z) s, and with round_f16 rounded once to f16 (then to w_hat's type): a finished
 * weight. w_hat  out  compute (O, I).   codes, zeros as above.   s  in  f32 (O, G)
 */
qy_status_t qy_dequant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat, const qy_tensor_t *codes,
                           const qy_tensor_t *s, const qy_tensor_t *zeros, int bits, int round_f16,
                           qy_error_t *err);

/* ds (= or +=) Σ_group dw_hat (c − z): w_hat is linear in s once the codes are frozen. ds f32 (O,
 * G) */
qy_status_t qy_dequant_bwd(const qy_device_t *dev, qy_tensor_t *ds, const qy_tensor_t *dw_hat,
                           const qy_tensor_t *codes, const qy_tensor_t *zeros, int bits,
                           int accumulate, qy_error_t *err);

/*
 * The same for groups of any size, each of columns side by side, with zero points of any size
 * (RPTQ's clusters): w_hat = (c − z) s with the s and z of the column's group, not rounded; ds (=
 * or +=) Σ_group dw_hat (c − z), 0 for a group without columns. s, ds  f32 (O, G).   zeros  i32 (O,
 * G).   group  i32 (I): the group of each column, in [0, G). offsets  i32 (G + 1): group g has
 * columns [offsets[g], offsets[g + 1]); from 0 to I, rising (the caller checks both)
 */
qy_status_t qy_cluster_dequant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat,
                                   const qy_tensor_t *codes, const qy_tensor_t *s,
                                   const qy_tensor_t *zeros, const qy_tensor_t *group, int bits,
                                   qy_error_t *err);
qy_status_t qy_cluster_dequant_bwd(const qy_device_t *dev, qy_tensor_t *ds,
                                   const qy_tensor_t *dw_hat, const qy_tensor_t *codes,
                                   const qy_tensor_t *zeros, const qy_tensor_t *offsets, int bits,
                                   int accumulate, qy_error_t *err);

#endif
