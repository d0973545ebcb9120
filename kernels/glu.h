/* Activations of the MLP: SiLU-gated product and ReLU. All tensors compute type, one count. */
#ifndef QY_KERNELS_GLU_H
#define QY_KERNELS_GLU_H

#include "kernels/device.h"

/* y = gate σ(gate) up */
qy_status_t qy_silu_mul_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *gate,
                            const qy_tensor_t *up, qy_error_t *err);

/* dgate = dy up σ(1 + gate(1 − σ)), dup = dy gate σ, '='; dgate may alias gate, dup may alias up. */
qy_status_t qy_silu_mul_bwd(const qy_device_t *dev, qy_tensor_t *dgate, qy_tensor_t *dup,
                            const qy_tensor_t *dy, const qy_tensor_t *gate, const qy_tensor_t *up,
                            qy_error_t *err);

/* y = max(x, 0); y may alias x. NaN stays NaN. */
qy_status_t qy_relu_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                        qy_error_t *err);

/* dx = dy where y > 0, else 0; dx may alias dy. */
qy_status_t qy_relu_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                        const qy_tensor_t *y, qy_error_t *err);

#endif
