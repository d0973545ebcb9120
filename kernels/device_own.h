/*
 * What the CUDA device allocates for itself. Known without CUDA as well: a plan is made on machines
 * that have none.
 */
#ifndef QY_KERNELS_DEVICE_OWN_H
#define QY_KERNELS_DEVICE_OWN_H

#include <stddef.h>

#include "kernels/device.h"

/* Work space of the products. Part of the plan in the sense that the choice among algorithms
 * follows it. */
#define QY_CUDA_BLAS_WORKSPACE ((size_t)32 << 20)
/* Scratch of the ops from the start; it grows where an op asks for more. */
#define QY_CUDA_SCRATCH ((size_t)16 << 20)
/* Stages of a direction. */
enum { QY_CUDA_STAGES = 4 };

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of a stage: the largest piece that was announced by qy_device_stage. */
size_t qy_device_staged(const qy_device_t *dev);

#ifdef __cplusplus
}
#endif

#endif
