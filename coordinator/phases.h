/*
 * The phases of a run: their order, the tasks of those that have tasks, and what shows that they
 * are done. Files and the ledger's evaluation values decide, never a flag: so what was torn is
 * redone, what is there is not.
 */
#ifndef QY_COORDINATOR_PHASES_H
#define QY_COORDINATOR_PHASES_H

#include <stdbool.h>

#include "coordinator/ledger.h"
#include "jobs/plan.h"

typedef enum {
    QY_RUN_TOKENS,
    QY_RUN_CAPTURE,
    QY_RUN_QUANTIZE,
    QY_RUN_STITCH,
    QY_RUN_FINAL_NORM,
    QY_RUN_E2E_QP,
    QY_RUN_EVALUATE,
    QY_RUN_EXPORT,
    QY_N_RUN_PHASES
} qy_run_phase_t;

typedef enum {
    QY_BY_COORDINATOR, /* done where the coordinator is */
    QY_BY_TASKS,       /* one task a worker at a time */
    QY_BY_ALL          /* every worker at once */
} qy_phase_by_t;

const char *qy_phase_name(qy_run_phase_t phase);
qy_phase_by_t qy_phase_by(qy_run_phase_t phase);

/* Of a phase without tasks: nothing is left to do. */
bool qy_phase_is_done(qy_run_phase_t phase, const qy_plan_t *plan);

typedef struct {
    int n;
    qy_task_t *task;
    bool *done;
    int64_t *n_values; /* that the task's result carries */
    int64_t *length;   /* evaluate: tokens of a window; 0 for a zero-shot task */
} qy_task_list_t;

/* All tasks of a phase with tasks, done ones included. */
qy_status_t qy_phase_tasks(qy_task_list_t *out, qy_run_phase_t phase, const qy_plan_t *plan,
                           const qy_ledger_t *ledger, qy_error_t *err);
void qy_task_list_free(qy_task_list_t *list);

/* A worker says that its task is done: is everything there that it should have made? IO names what
 * is not, NUMERIC a value that is no number. */
qy_status_t qy_phase_confirm(const qy_plan_t *plan, const qy_task_list_t *list,
                             const qy_result_t *result, qy_error_t *err);

/* What the coordinator writes into the ledger with a finished task: the evaluation's tag, or
 * nothing. */
void qy_phase_done_text(char *out, size_t size, const qy_plan_t *plan, const qy_task_list_t *list,
                        int32_t task_id);

#endif
