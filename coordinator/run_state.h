/* The state of a run as its directory shows it from outside: for `status`. */
#ifndef QY_COORDINATOR_RUN_STATE_H
#define QY_COORDINATOR_RUN_STATE_H

#include "coordinator/history.h"
#include "coordinator/lock.h"
#include "coordinator/metrics.h"
#include "coordinator/results.h"

/* A task that a worker has, with the latest progress that is known of it. */
typedef struct {
    const qy_entry_t *assigned;
    const qy_metric_t *latest; /* NULL: none yet */
    double silent_s;           /* since it last said something */
} qy_running_t;

/* A task that has said nothing for so long is shown as silent, s. */
enum { QY_SILENT_S = 120 };

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
    double phase_s, last_event_s, eta_s; /* eta: of the phase. NAN: not known */
    double run_eta_s;                    /* of the whole run; NAN without an estimate */
    double saved_s;                      /* since the last file that a restart goes on from */
    double tokens_per_s;                 /* of all workers */
    double stall_s;                      /* that devices waited for disks, finished blocks */
    int64_t n_silent;                    /* of the running tasks */
    qy_history_t history;
    int64_t n_done, n_running;          /* blocks */
    qy_block_result_t *block;           /* plan->arch.n_blocks */
    const qy_running_t **block_running; /* of a block that is being worked on, else NULL */
    qy_running_t *running;
    int64_t n_tasks_running;
    const qy_metric_t *latest; /* of this phase since the start, or NULL */
} qy_run_state_t;

qy_status_t qy_run_state_read(qy_run_state_t *out, const char *run_dir, qy_error_t *err);
void qy_run_state_free(qy_run_state_t *state);

#endif
