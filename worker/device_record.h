/*
 * device.json: what the bytes of a run depend on beside its plan: device kind and model, libraries,
 * compute type, build. Written at the first start; a later start that differs is refused.
 */
#ifndef QY_WORKER_DEVICE_RECORD_H
#define QY_WORKER_DEVICE_RECORD_H

#include "jobs/plan.h"
#include "kernels/device.h"

/* At the start of a run. build: version of this program. ARG with what differs; DEVICE where the
 * device cannot be opened. */
qy_status_t qy_device_record(const qy_plan_t *plan, const char *build, qy_error_t *err);

/* Opens the plan's device for a task or a stage, and checks that it is the one of the record: a
 * worker with another GPU model, or with none, is a DEVICE error that names its host; one with too
 * little memory a MEMORY error. */
qy_status_t qy_device_open_recorded(qy_device_t **out, const qy_plan_t *plan, qy_error_t *err);

/* One GPU for each process of a node: of those that CUDA_VISIBLE_DEVICES lists (where it is unset,
 * all), the one at this process's place among so many on the node. A list of one is left as it is.
 * Also notes how many share the node's memory, in QY_NODE_WORKERS of the environment. To be called
 * before the first use of a device; children inherit it. */
#define QY_NODE_WORKERS "QUARRY_NODE_WORKERS"
void qy_device_bind(int place, int n_places);

#endif
