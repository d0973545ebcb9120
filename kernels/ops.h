/* The table of kernels that a device brings, and the prototypes of both devices' kernels. */
#ifndef QY_KERNELS_OPS_H
#define QY_KERNELS_OPS_H

#include "base/status.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qy_device qy_device_t;
typedef struct qy_activation qy_activation_t; /* activation.h */

/* Trained variables of one quantized weight and their Adam moments; shapes as in quant.h. */
typedef struct {
    qy_tensor_t w, w_m, w_v; /* f32 (O, I) */
    qy_tensor_t s, s_m, s_v; /* f32 (O, G) */
    qy_tensor_t z, z_m, z_v; /* f32 (O, G) */
} qy_quant_vars_t;

typedef struct {
#define QY_OP(name, args) qy_status_t(*name) args;
#include "kernels/ops.def"
#undef QY_OP
} qy_ops_t;

#define QY_OP(name, args) qy_status_t qy_cpu_##name args;
#include "kernels/ops.def"
#undef QY_OP

#define QY_OP(name, args) qy_status_t qy_cuda_##name args;
#include "kernels/ops.def"
#undef QY_OP

#ifdef __cplusplus
}
#endif
#endif
