/*
 * What the CUDA device allocates for itself. Known without CUDA as well: a plan is made on machines
 * that have none.
 */
#ifndef QY_KERNELS_DEVICE_OWN_H
#define QY_KERNELS_DEVICE_OWN_H

#include <stddef.h>

/* Work space of the products. Part of the plan in the sense that the choice among algorithms
 * follows it. */
#define QY_CUDA_BLAS_WORKSPACE ((size_t)32 << 20)
/* Scratch of the ops from the start; it grows where an op asks for more. */
#define QY_CUDA_SCRATCH ((size_t)16 << 20)
/* Transfers of pinned memory up to this size go through a stage, larger ones wait their turn. */
#define QY_CUDA_STAGE_LARGEST ((size_t)64 << 20)
/* Stages of a direction. */
enum { QY_CUDA_STAGES = 4 };

#endif
