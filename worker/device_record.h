/*
 * device.json: what the bytes of a run depend on beside its plan: device kind and model, libraries,
 * compute type, build. Written at the first start; a later start that differs is refused.
 */
#ifndef QY_WORKER_DEVICE_RECORD_H
#define QY_WORKER_DEVICE_RECORD_H

#include "jobs/plan.h"

/* build: version of this program. ARG with what differs; DEVICE where the device cannot be opened.
 */
qy_status_t qy_device_record(const qy_plan_t *plan, const char *build, qy_error_t *err);

#endif
