/*
 * E2E-QP: trains the steps of all groups end to end, codes and zero points frozen. A phase of all
 * ranks at once and not a task: each rank holds a stage of consecutive blocks.
 *
 * Source: EfficientQAT, arXiv:2407.11062, section 3.3; losses, rates and order as in the plan.
 */
#ifndef QY_WORKER_E2E_QP_H
#define QY_WORKER_E2E_QP_H

#include "jobs/plan.h"
#include "worker/hooks.h"

/* Runs or resumes the phase and writes e2e/step-NNNNN for the last step. The loss of each update
 * goes to hooks as progress (block −1). */
qy_status_t qy_e2e_run(const qy_plan_t *plan, const qy_hooks_t *hooks, qy_error_t *err);

#endif
