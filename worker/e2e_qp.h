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
#include "worker/pipe.h"

/* What one rank's part of the phase cost. */
typedef struct {
    int64_t device_bytes; /* device memory that was allocated at most */
    double busy_s;        /* in forward and backward passes */
    double wall_s;        /* from the first batch on */
    double total_s;       /* loading and saving included */
    double ideal; /* largest share of wall_s that the schedule lets a rank be busy: M/(M + S − 1) */
    int alone;    /* this rank failed in the midst of it and the others wait for it */
} qy_e2e_share_t;

/*
 * Runs or resumes the phase, on all ranks of the pipe at once (NULL: this process alone), and
 * writes e2e/step-NNNNN for the last step. Rank 0 tells the loss of each update as progress (block
 * −1). A stop request on any rank saves after the update at hand and ends with STOPPED on all.
 */
qy_status_t qy_e2e_run(const qy_plan_t *plan, qy_pipe_t *pipe, const qy_hooks_t *hooks,
                       qy_e2e_share_t *share, qy_error_t *err);

#endif
