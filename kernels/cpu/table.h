/* The CPU device's table of kernels. */
#ifndef QY_KERNELS_CPU_TABLE_H
#define QY_KERNELS_CPU_TABLE_H

#include "kernels/ops.h"

extern const qy_ops_t qy_cpu_ops;

#endif
