/*
 * Measures what a device does in a second (jobs/speed.h), in well under a minute: the worker's own
 * calls on the job's first block, its batch and its windows, so that what is estimated from them is
 * estimated from what will run.
 */
#ifndef QY_WORKER_CALIBRATE_H
#define QY_WORKER_CALIBRATE_H

#include "jobs/plan.h"
#include "jobs/speed.h"

/* program: of this process, for the time that starting one takes. Nothing is left behind. */
qy_status_t qy_calibrate(qy_speed_t *out, const qy_plan_t *plan, const char *program,
                         qy_error_t *err);

#endif
