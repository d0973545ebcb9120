/* The state of a run as its directory shows it from outside: for `status`. */
#ifndef QY_COORDINATOR_RUN_STATE_H
#define QY_COORDINATOR_RUN_STATE_H

#include "coordinator/lock.h"
#include "coordinator/metrics.h"
#include "coordinator/results.h"

/* A task that a worker has, with the latest progress that is known of it. */
typedef struct {
    const qy_entry_t *assigned;
    const qy_metric_t *latest; /* NULL: none yet */
} qy_running_t;

typedef struct {
    qy_plan_t *plan;
    qy_ledger_t *ledger;  /* NULL: there is none yet */
    qy_metric_t *metrics; /* the latest lines */
    int64_t n_metrics;
    bool locked;
    qy_lock_holder_t holder;

    const char *state; /* "not started", "starting", "running", "interrupted", "stopped", "failed",
                          "done" */
    const char *error; /* failed: why; else "" */
    const qy_entry_t *start;             /* latest START, or NULL */
    const char *phase;                   /* where it is or ended; "" outside of any */
    double phase_s, last_event_s, eta_s; /* NAN: not known */
    int64_t n_done, n_running;           /* blocks */
    qy_block_result_t *block;            /* plan->arch.n_blocks */
    const qy_running_t **block_running;  /* of a block that is being worked on, else NULL */
    qy_running_t *running;
    int64_t n_tasks_running;
    const qy_metric_t *latest; /* of this phase since the start, or NULL */
} qy_run_state_t;

qy_status_t qy_run_state_read(qy_run_state_t *out, const char *run_dir, qy_error_t *err);
void qy_run_state_free(qy_run_state_t *state);

#endif
