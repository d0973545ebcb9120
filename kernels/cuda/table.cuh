/* The CUDA device's table of kernels. */
#ifndef QY_KERNELS_CUDA_TABLE_CUH
#define QY_KERNELS_CUDA_TABLE_CUH

#include "kernels/ops.h"

extern const qy_ops_t qy_cuda_ops;

#endif
