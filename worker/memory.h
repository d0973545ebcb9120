/*
 * Device memory that the work of a plan takes, measured by the same calls that take it, and whether
 * a device has it. A GPU's context and what libraries keep to themselves (about QY_CONTEXT_BYTES)
 * come on top.
 */
#ifndef QY_WORKER_MEMORY_H
#define QY_WORKER_MEMORY_H

#include "jobs/plan.h"
#include "kernels/device.h"

/* A CUDA context with the kernels of cuBLASLt and ours, as measured on an H200. */
#define QY_CONTEXT_BYTES ((size_t)640 << 20)

/* Peak bytes of one task of each kind (evaluate: or of the last norm's) and of E2E-QP's largest
 * stage, the device's own included. */
typedef struct {
    size_t capture, segment, evaluate, e2e, most;
} qy_memory_t;

/* For a device of this kind ("cpu", "cuda") and compute type. ARG where sizes are beyond all
 * measure. */
qy_status_t qy_memory_measure(qy_memory_t *out, const qy_plan_t *plan, const char *kind,
                              qy_dtype_t compute, qy_error_t *err);

/* Fills the plan's device bytes. ARG where they exceed resources.gpu_memory. */
qy_status_t qy_memory_plan(qy_plan_t *plan, qy_error_t *err);

/* Holds an open device to resources.gpu_memory. MEMORY where it, or what is free on a GPU, is too
 * little for the plan. */
qy_status_t qy_memory_check(const qy_plan_t *plan, const qy_device_t *dev, qy_error_t *err);

/* Bytes that E2E-QP may fill: what resources.gpu_memory leaves, else what is free on a GPU but for
 * a reserve; 0 (no more than it must) on the CPU without a limit. */
size_t qy_memory_room(const qy_plan_t *plan, const qy_device_t *dev, int n_ranks);

#endif
