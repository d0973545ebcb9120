/* How a run ends on request: nobody is given work any more, who has some saves it and answers, and
 * then the run is over. dispatch.c's. */
#ifndef QY_COORDINATOR_STOPPING_H
#define QY_COORDINATOR_STOPPING_H

#include "coordinator/dispatch_state.h"

/* A stop was asked for, of the launcher or of any rank: tells all workers to save. Once. */
void qy_stopping_begin(qy_dispatch_t *d);

/* OK while a task is still being saved; STOPPED, with what was at work, when all have answered or
 * have had their time. */
qy_status_t qy_stopping_wait(const qy_dispatch_t *d, qy_error_t *err);

#endif
