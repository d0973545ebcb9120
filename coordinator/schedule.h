/*
 * Who does what next: a pure function from (state, event) to (new state, actions). No MPI, no
 * clock, no files: replaying the same events gives the same state, which is how a run resumes and
 * how it is tested.
 *
 * A run is a list of phases; a phase is a list of tasks (or none: then the coordinator does it
 * itself, or all workers do it at once). Tasks go out longest first; a failed one is pending again
 * until it has had QY_MAX_ATTEMPTS attempts since it last made progress, on another worker where
 * one is idle; a failure that would
 * repeat (NUMERIC, FORMAT, …) is final at once. A failed task does not stop the others; the phase
 * then fails when they are done.
 */
#ifndef QY_COORDINATOR_SCHEDULE_H
#define QY_COORDINATOR_SCHEDULE_H

#include <stdbool.h>

#include "jobs/task.h"

enum { QY_MAX_ATTEMPTS = 3 };

typedef enum { QY_STATE_PENDING, QY_STATE_RUNNING, QY_STATE_DONE, QY_STATE_FAILED } qy_task_state_t;

typedef struct {
    qy_task_t task;
    qy_task_state_t state;
    int attempts;  /* since progress */
    int worker;    /* RUNNING: who has it */
    int failed_on; /* who had it when it last failed; −1: nobody */
    qy_error_t error;
} qy_slot_task_t;

typedef enum {
    QY_WORKER_ABSENT,
    QY_WORKER_IDLE,
    QY_WORKER_BUSY,
    QY_WORKER_RETIRED
} qy_worker_state_t;

typedef struct qy_schedule qy_schedule_t;

typedef enum {
    QY_EVENT_WORKER_UP, /* said HELLO */
    QY_EVENT_PROGRESS,  /* a block was committed: attempts count from here */
    QY_EVENT_TASK_DONE,
    QY_EVENT_TASK_FAILED, /* with error; a DEVICE error retires the worker */
    QY_EVENT_WORKER_LOST  /* silent or gone: its task is pending again */
} qy_event_kind_t;

typedef struct {
    qy_event_kind_t kind;
    int worker;
    int32_t task_id; /* task events */
    qy_error_t error;
} qy_event_t;

typedef struct {
    int worker;
    qy_task_t task; /* send it; attempt is filled in */
} qy_assign_t;

/* tasks is copied. done[i] ≠ 0: already finished (found on disk or in the ledger); done may be
 * NULL. */
qy_status_t qy_schedule_create(qy_schedule_t **out, const qy_task_t *tasks, const bool *done,
                               int n_tasks, int n_workers, qy_error_t *err);
void qy_schedule_destroy(qy_schedule_t **schedule);

/* Takes an event in. ARG where it does not fit the state (a result for a task that this worker does
 * not have, an unknown task or worker): the state is unchanged and the caller names the sender. */
qy_status_t qy_schedule_event(qy_schedule_t *schedule, const qy_event_t *event, qy_error_t *err);

/* Next assignment for an idle worker, or false. Applying it is part of the call. */
bool qy_schedule_next(qy_schedule_t *schedule, qy_assign_t *out);

/* Every task done or failed; number of failed ones and the first failure. */
bool qy_schedule_finished(const qy_schedule_t *schedule);
int qy_schedule_failures(const qy_schedule_t *schedule, const qy_slot_task_t **first);
/* No worker is left that could take a pending task. */
bool qy_schedule_stuck(const qy_schedule_t *schedule);

int qy_schedule_count(const qy_schedule_t *schedule);
const qy_slot_task_t *qy_schedule_at(const qy_schedule_t *schedule, int i);
qy_worker_state_t qy_schedule_worker(const qy_schedule_t *schedule, int worker);
/* What the worker has, or NULL. */
const qy_slot_task_t *qy_schedule_running(const qy_schedule_t *schedule, int worker);

#endif
