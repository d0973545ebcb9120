/*
 * Linear layers: the GEMMs. Sums run in an order that is a function of the shapes alone: on the CPU
 * every product is cut into fixed tiles, each one CBLAS call on one thread. Products accumulate in
 * f32 whatever the types.
 */
#ifndef QY_KERNELS_LINEAR_H
#define QY_KERNELS_LINEAR_H

#include "kernels/device.h"

/*
 * y = x wᵀ + bias.
 * y  out  compute or f32 (M, O).   x  in  compute (M, I).   w  in  compute (O, I).
 * bias  in  compute (O), or NULL
 * Errors: ARG, SHAPE before any write; DEVICE.
 */
qy_status_t qy_linear_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                          const qy_tensor_t *w, const qy_tensor_t *bias, qy_error_t *err);

/* dx = dy w  (dL/dx of y = x wᵀ), or += with accumulate.   dx (M, I), dy (M, O), w (O, I) */
qy_status_t qy_linear_bwd_x(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                            const qy_tensor_t *w, int accumulate, qy_error_t *err);

/* dw = dyᵀ x  (dL/dw of y = x wᵀ).   dw  out  f32 or compute (O, I), dy (M, O), x (M, I) */
qy_status_t qy_linear_bwd_w(const qy_device_t *dev, qy_tensor_t *dw, const qy_tensor_t *dy,
                            const qy_tensor_t *x, qy_error_t *err);

#endif
