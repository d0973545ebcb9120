#include "coordinator/schedule.h"

#include <stdlib.h>
#include <string.h>

enum { NO_TASK = -1 };

typedef struct {
    qy_worker_state_t state;
    int task; /* BUSY: which; else NO_TASK */
} slot_worker_t;

struct qy_schedule {
    int n_tasks, n_workers, first_failed;
    qy_slot_task_t *task;
    slot_worker_t *worker;
};

qy_status_t qy_schedule_create(qy_schedule_t **out, const qy_task_t *tasks, const bool *done,
                               int n_tasks, int n_workers, qy_error_t *err)
{
    if (n_tasks < 0 || n_workers < 1)
        return qy_fail(err, QY_ERR_ARG, "a schedule of %d tasks for %d workers", n_tasks,
                       n_workers);
    for (int i = 0; i < n_tasks; i++)
        if (tasks[i].id != i)
            return qy_fail(err, QY_ERR_ARG, "task %d of the list has id %d", i, tasks[i].id);
    qy_schedule_t *s = calloc(1, sizeof *s);
    if (!s)
        goto no_memory;
    s->task = calloc((size_t)n_tasks + 1, sizeof *s->task);
    s->worker = calloc((size_t)n_workers, sizeof *s->worker);
    if (!s->task || !s->worker)
        goto no_memory;
    s->n_tasks = n_tasks;
    s->n_workers = n_workers;
    s->first_failed = NO_TASK;
    for (int i = 0; i < n_tasks; i++) {
        s->task[i].task = tasks[i];
        s->task[i].state = done && done[i] ? QY_STATE_DONE : QY_STATE_PENDING;
        s->task[i].worker = s->task[i].failed_on = -1;
    }
    for (int i = 0; i < n_workers; i++)
        s->worker[i].task = NO_TASK;
    *out = s;
    return QY_OK;

no_memory:
    qy_schedule_destroy(&s);
    return qy_fail(err, QY_ERR_MEMORY, "no memory for a schedule of %d tasks", n_tasks);
}

void qy_schedule_destroy(qy_schedule_t **schedule)
{
    if (!*schedule)
        return;
    free((*schedule)->task);
    free((*schedule)->worker);
    free(*schedule);
    *schedule = NULL;
}

/* The attempt that ran ended without a result: again, or that was the last one. */
static void attempt_failed(qy_schedule_t *s, int id, const qy_error_t *error, bool may_retry)
{
    qy_slot_task_t *slot = &s->task[id];
    slot->error = *error;
    slot->failed_on = slot->worker;
    slot->worker = -1;
    if (may_retry && slot->attempts < QY_MAX_ATTEMPTS) {
        slot->state = QY_STATE_PENDING;
        return;
    }
    slot->state = QY_STATE_FAILED;
    if (s->first_failed == NO_TASK)
        s->first_failed = id;
}

static void lose_worker(qy_schedule_t *s, const qy_event_t *event)
{
    slot_worker_t *worker = &s->worker[event->worker];
    if (worker->task != NO_TASK) {
        qy_error_t error = event->error;
        if (error.status == QY_OK)
            qy_fail(&error, QY_ERR_COMM, "worker %d was lost", event->worker);
        attempt_failed(s, worker->task, &error, true);
    }
    worker->task = NO_TASK;
    worker->state = QY_WORKER_RETIRED;
}

/* Events that end, or go on with, the task that the worker has. */
static qy_status_t task_event(qy_schedule_t *s, const qy_event_t *event, qy_error_t *err)
{
    slot_worker_t *worker = &s->worker[event->worker];
    if (event->task_id < 0 || event->task_id >= s->n_tasks)
        return qy_fail(err, QY_ERR_ARG, "task %d from worker %d: there are %d tasks",
                       event->task_id, event->worker, s->n_tasks);
    if (worker->task == NO_TASK)
        return qy_fail(err, QY_ERR_ARG, "task %d from worker %d, which has none", event->task_id,
                       event->worker);
    if (worker->task != event->task_id)
        return qy_fail(err, QY_ERR_ARG, "task %d from worker %d, which has task %d", event->task_id,
                       event->worker, worker->task);
    if (event->kind == QY_EVENT_PROGRESS) {
        s->task[event->task_id].attempts = 1; /* the one that runs is the first since */
        return QY_OK;
    }
    if (event->kind == QY_EVENT_TASK_FAILED && event->error.status == QY_OK)
        return qy_fail(err, QY_ERR_ARG, "task %d from worker %d failed without an error",
                       event->task_id, event->worker);
    worker->task = NO_TASK;
    worker->state = QY_WORKER_IDLE;
    if (event->kind == QY_EVENT_TASK_DONE) {
        s->task[event->task_id].state = QY_STATE_DONE;
        s->task[event->task_id].worker = -1;
        return QY_OK;
    }
    attempt_failed(s, event->task_id, &event->error, qy_status_retry(event->error.status));
    if (event->error.status == QY_ERR_DEVICE)
        worker->state = QY_WORKER_RETIRED;
    return QY_OK;
}

qy_status_t qy_schedule_event(qy_schedule_t *schedule, const qy_event_t *event, qy_error_t *err)
{
    if (event->worker < 0 || event->worker >= schedule->n_workers)
        return qy_fail(err, QY_ERR_ARG, "worker %d: there are %d workers", event->worker,
                       schedule->n_workers);
    slot_worker_t *worker = &schedule->worker[event->worker];
    switch (event->kind) {
    case QY_EVENT_WORKER_UP:
        if (worker->state != QY_WORKER_ABSENT)
            return qy_fail(err, QY_ERR_ARG, "worker %d came up twice", event->worker);
        worker->state = QY_WORKER_IDLE;
        return QY_OK;
    case QY_EVENT_WORKER_LOST:
        if (worker->state == QY_WORKER_RETIRED)
            return qy_fail(err, QY_ERR_ARG, "worker %d was lost before", event->worker);
        lose_worker(schedule, event);
        return QY_OK;
    case QY_EVENT_PROGRESS:
    case QY_EVENT_TASK_DONE:
    case QY_EVENT_TASK_FAILED:
        return task_event(schedule, event, err);
    }
    return qy_fail(err, QY_ERR_ARG, "event of kind %d", (int)event->kind);
}

/* Longest first; of equals the lowest id. */
static int longest_pending(const qy_schedule_t *s)
{
    int best = NO_TASK;
    for (int i = 0; i < s->n_tasks; i++)
        if (s->task[i].state == QY_STATE_PENDING &&
            (best == NO_TASK || s->task[i].task.cost > s->task[best].task.cost))
            best = i;
    return best;
}

/* The first that is idle, the one to avoid last; −1 where none is. */
static int idle_worker(const qy_schedule_t *s, int avoid)
{
    int found = -1;
    for (int i = 0; i < s->n_workers; i++)
        if (s->worker[i].state == QY_WORKER_IDLE && (found < 0 || found == avoid))
            found = i;
    return found;
}

bool qy_schedule_next(qy_schedule_t *schedule, qy_assign_t *out)
{
    int id = longest_pending(schedule);
    int worker = id == NO_TASK ? -1 : idle_worker(schedule, schedule->task[id].failed_on);
    if (worker < 0)
        return false;
    qy_slot_task_t *slot = &schedule->task[id];
    schedule->worker[worker] = (slot_worker_t){QY_WORKER_BUSY, id};
    slot->state = QY_STATE_RUNNING;
    slot->worker = worker;
    slot->task.attempt = ++slot->attempts;
    *out = (qy_assign_t){worker, slot->task};
    return true;
}

bool qy_schedule_finished(const qy_schedule_t *schedule)
{
    for (int i = 0; i < schedule->n_tasks; i++)
        if (schedule->task[i].state != QY_STATE_DONE && schedule->task[i].state != QY_STATE_FAILED)
            return false;
    return true;
}

int qy_schedule_failures(const qy_schedule_t *schedule, const qy_slot_task_t **first)
{
    int n = 0;
    for (int i = 0; i < schedule->n_tasks; i++)
        n += schedule->task[i].state == QY_STATE_FAILED;
    if (n > 0 && first)
        *first = &schedule->task[schedule->first_failed];
    return n;
}

bool qy_schedule_stuck(const qy_schedule_t *schedule)
{
    for (int i = 0; i < schedule->n_workers; i++)
        if (schedule->worker[i].state != QY_WORKER_RETIRED)
            return false;
    return longest_pending(schedule) != NO_TASK;
}

int qy_schedule_count(const qy_schedule_t *schedule)
{
    return schedule->n_tasks;
}

const qy_slot_task_t *qy_schedule_at(const qy_schedule_t *schedule, int i)
{
    return &schedule->task[i];
}

qy_worker_state_t qy_schedule_worker(const qy_schedule_t *schedule, int worker)
{
    return schedule->worker[worker].state;
}

const qy_slot_task_t *qy_schedule_running(const qy_schedule_t *schedule, int worker)
{
    int id = schedule->worker[worker].task;
    return id == NO_TASK ? NULL : &schedule->task[id];
}
