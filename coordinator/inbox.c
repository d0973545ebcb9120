/*
 * What workers say. A message that does not fit is refused and put into the ledger, its sender
 * named. Who has a task then takes no more part: whether it still works on it cannot be known, and
 * another worker will.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/dispatch_state.h"

enum { MAX_REFUSED = 3 };

static const double metrics_interval_s = 0.5;

/* An event of the ledger about a task of this worker (NULL: about the worker itself). */
static qy_entry_t entry_about(const qy_dispatch_t *d, qy_ledger_kind_t kind, int peer,
                              const qy_task_t *task)
{
    qy_entry_t entry = {.kind = kind, .task_id = -1, .rank = d->peer[peer].hello.rank};
    snprintf(entry.phase, sizeof entry.phase, "%s", qy_phase_name(d->phase));
    memcpy(entry.host, d->peer[peer].hello.host, sizeof entry.host);
    if (!d->peer[peer].up)
        entry.rank = peer;
    if (task) {
        qy_task_name(task, entry.task);
        entry.task_id = task->id;
        entry.attempt = task->attempt;
    }
    return entry;
}

static const qy_slot_task_t *task_of(const qy_dispatch_t *d, int peer)
{
    return d->schedule ? qy_schedule_running(d->schedule, peer) : NULL;
}

static qy_status_t log_failure(qy_dispatch_t *d, int peer, const qy_error_t *error, qy_error_t *err)
{
    const qy_slot_task_t *slot = task_of(d, peer);
    qy_entry_t entry = entry_about(d, QY_LEDGER_FAILED, peer, slot ? &slot->task : NULL);
    entry.status = error->status;
    memcpy(entry.text, error->text, sizeof entry.text);
    qy_log(QY_LOG_WARN, "%s%s%s", entry.task, entry.task[0] ? ": " : "", error->text);
    return qy_ledger_append(d->ledger, &entry, err);
}

void qy_dispatch_peer_name(const qy_dispatch_t *d, int peer, char out[128])
{
    const qy_hello_t *hello = &d->peer[peer].hello;
    if (d->peer[peer].up)
        snprintf(out, 128, "worker %d (host %s, pid %lld)", peer, hello->host,
                 (long long)hello->pid);
    else
        snprintf(out, 128, "worker %d", peer);
}

qy_status_t qy_dispatch_retire(qy_dispatch_t *d, int peer, const qy_error_t *reason,
                               qy_error_t *err)
{
    QY_TRY(log_failure(d, peer, reason, err));
    if (d->schedule)
        QY_TRY(qy_schedule_event(
            d->schedule,
            &(qy_event_t){.kind = QY_EVENT_WORKER_LOST, .worker = peer, .error = *reason}, err));
    d->peer[peer].retired = true;
    d->peer[peer].reason = *reason;
    qy_dispatch_send(d, peer, QY_MSG_STOP, NULL, 0, NULL); /* where it still listens */
    return QY_OK;
}

/* why->text says what did not fit; harmless: the worker's task is not touched by it. */
static qy_status_t refuse(qy_dispatch_t *d, int peer, const qy_error_t *why, bool harmless,
                          qy_error_t *err)
{
    char name[128];
    qy_error_t error;
    qy_dispatch_peer_name(d, peer, name);
    qy_fail(&error, QY_ERR_COMM, "%s: refused: %s", name, why->text);
    if (++d->peer[peer].n_refused < MAX_REFUSED && !d->called && (harmless || !task_of(d, peer)))
        return log_failure(d, peer, &error, err);
    return qy_dispatch_retire(d, peer, &error, err);
}

static qy_status_t refuse_text(qy_dispatch_t *d, int peer, const char *text, qy_error_t *err)
{
    qy_error_t why;
    qy_fail(&why, QY_ERR_COMM, "%s", text);
    return refuse(d, peer, &why, false, err);
}

static qy_status_t take_hello(qy_dispatch_t *d, int peer, const qy_message_t *message,
                              qy_error_t *err)
{
    qy_hello_t hello;
    qy_error_t why;
    qy_peer_t *p = &d->peer[peer];
    if (qy_hello_decode(&hello, message->payload, message->bytes, &why) != QY_OK)
        return refuse(d, peer, &why, false, err);
    if (p->up)
        return refuse_text(d, peer, "a second hello", err);
    p->hello = hello;
    p->up = true;
    if (strcmp(hello.plan_hash, d->plan->hash) != 0) {
        char name[128];
        qy_dispatch_peer_name(d, peer, name);
        qy_fail(&why, QY_ERR_COMM, "%s: its plan has hash %.12s, this run %.12s", name,
                hello.plan_hash, d->plan->hash);
        return qy_dispatch_retire(d, peer, &why, err);
    }
    if (!d->schedule)
        return QY_OK;
    return qy_schedule_event(d->schedule, &(qy_event_t){.kind = QY_EVENT_WORKER_UP, .worker = peer},
                             err);
}

/* --- progress --------------------------------------------------------------------------------- */

/* Metrics are for looking at: a failure to write them is said once and costs the run nothing. */
static void append_metric(qy_dispatch_t *d, const qy_metric_t *numbers, const char *task)
{
    qy_error_t err;
    qy_metric_t metric = *numbers;
    if (!d->metrics)
        return;
    snprintf(metric.phase, sizeof metric.phase, "%s", qy_phase_name(d->phase));
    snprintf(metric.task, sizeof metric.task, "%s", task);
    if (qy_metrics_append(d->metrics, &metric, &err) != QY_OK) {
        qy_log(QY_LOG_WARN, "metrics stop here: %s", err.text);
        qy_metrics_close(&d->metrics);
    }
}

static void measure(qy_dispatch_t *d, int peer, const char *task, const qy_progress_t *progress)
{
    double now = qy_now_s();
    bool rare =
        progress->block_done || d->called; /* updates of e2e_qp are few, the curve is wanted */
    if (!rare && now - d->peer[peer].measured < metrics_interval_s)
        return;
    d->peer[peer].measured = now;
    append_metric(d, &(qy_metric_t){.worker = peer, .progress = *progress}, task);
}

/* What a finished task, or a stage of E2E-QP, took of its device. */
static void measure_memory(qy_dispatch_t *d, int peer, const char *task, int64_t device_bytes)
{
    qy_metric_t metric = {.worker = peer, .device_bytes = device_bytes};
    if (device_bytes > 0)
        append_metric(d, &metric, task);
}

static qy_status_t take_block(qy_dispatch_t *d, int peer, const qy_slot_task_t *slot,
                              const qy_progress_t *progress, qy_error_t *err)
{
    qy_event_t event = {.kind = QY_EVENT_PROGRESS, .worker = peer, .task_id = slot->task.id};
    qy_entry_t entry = entry_about(d, QY_LEDGER_BLOCK, peer, &slot->task);
    entry.block = progress->block;
    entry.seconds = progress->seconds;
    entry.stall_s = progress->stall_s;
    entry.loss_before = progress->loss_before;
    entry.loss_after = progress->loss_after;
    entry.validation_before = progress->validation_before;
    entry.validation_after = progress->validation_after;
    QY_TRY(qy_schedule_event(d->schedule, &event, err));
    return qy_ledger_append(d->ledger, &entry, err);
}

static bool is_block_of(const qy_plan_t *plan, const qy_task_t *task, int64_t block)
{
    return task->kind == QY_TASK_SEGMENT && block >= plan->segment_start[task->range] &&
           block < plan->segment_start[task->range + 1];
}

static qy_status_t take_progress(qy_dispatch_t *d, int peer, const qy_message_t *message,
                                 qy_error_t *err)
{
    qy_progress_t progress;
    qy_error_t why;
    char name[96] = "e2e_qp";
    const qy_slot_task_t *slot = task_of(d, peer);
    if (qy_progress_decode(&progress, message->payload, message->bytes, &why) != QY_OK)
        return refuse(d, peer, &why, false, err);
    if (d->called) {
        if (progress.task_id != -1 || d->peer[peer].answered)
            return refuse_text(d, peer, "progress that is not of e2e_qp", err);
    } else {
        if (!slot || slot->task.id != progress.task_id || slot->task.kind != progress.kind)
            return refuse_text(d, peer, "progress of a task that it does not have", err);
        if (progress.block_done && !is_block_of(d->plan, &slot->task, progress.block))
            return refuse_text(d, peer, "a finished block that is not its task's", err);
        qy_task_name(&slot->task, name);
        if (progress.block_done)
            QY_TRY(take_block(d, peer, slot, &progress, err));
    }
    measure(d, peer, name, &progress);
    if (d->hooks.on_progress)
        d->hooks.on_progress(d->hooks.context, peer, name, &progress);
    return QY_OK;
}

/* --- results ---------------------------------------------------------------------------------- */

static qy_status_t task_done(qy_dispatch_t *d, int peer, const qy_task_t *task,
                             const qy_result_t *result, qy_error_t *err)
{
    char name[96];
    qy_event_t event = {.kind = QY_EVENT_TASK_DONE, .worker = peer, .task_id = task->id};
    qy_entry_t entry = entry_about(d, QY_LEDGER_DONE, peer, task);
    entry.seconds = result->seconds;
    entry.n_values = result->n_values;
    entry.values = result->values;
    qy_phase_done_text(entry.text, sizeof entry.text, d->plan, &d->tasks, task->id);
    qy_task_name(task, name);
    measure_memory(d, peer, name, result->device_bytes);
    QY_TRY(qy_ledger_append(d->ledger, &entry, err)); /* an evaluation's values live only there */
    return qy_schedule_event(d->schedule, &event, err);
}

static qy_status_t task_failed(qy_dispatch_t *d, int peer, const qy_task_t *task,
                               const qy_error_t *error, qy_error_t *err)
{
    char name[128];
    qy_event_t event = {
        .kind = QY_EVENT_TASK_FAILED, .worker = peer, .task_id = task->id, .error = *error};
    QY_TRY(log_failure(d, peer, error, err));
    QY_TRY(qy_schedule_event(d->schedule, &event, err));
    if (qy_schedule_worker(d->schedule, peer) != QY_WORKER_RETIRED)
        return QY_OK;
    qy_dispatch_peer_name(d, peer, name);
    d->peer[peer].retired = true;
    d->peer[peer].reason = *error;
    qy_fail_in(&d->peer[peer].reason, "%s", name);
    return QY_OK;
}

/* A result for a task that is done already can only be a repetition. */
static bool is_repeated(const qy_dispatch_t *d, const qy_result_t *result)
{
    if (!d->schedule || result->task_id < 0 || result->task_id >= qy_schedule_count(d->schedule))
        return false;
    const qy_slot_task_t *slot = qy_schedule_at(d->schedule, result->task_id);
    return slot->task.kind == result->kind && slot->state == QY_STATE_DONE;
}

static qy_status_t judge_result(qy_dispatch_t *d, int peer, const qy_result_t *result,
                                qy_error_t *err)
{
    qy_error_t why;
    const qy_slot_task_t *slot = task_of(d, peer);
    if (!slot || slot->task.id != result->task_id || slot->task.kind != result->kind) {
        qy_fail(&why, QY_ERR_COMM, "a result for task %d, which it does not have", result->task_id);
        return refuse(d, peer, &why, is_repeated(d, result), err);
    }
    if (result->error.status ==
        QY_ERR_STOPPED) { /* saved; who was not told by us was by a signal */
        d->asked = true;
        return qy_schedule_event(d->schedule,
                                 &(qy_event_t){.kind = QY_EVENT_TASK_FAILED,
                                               .worker = peer,
                                               .task_id = result->task_id,
                                               .error = result->error},
                                 err);
    }
    qy_task_t task = slot->task;
    if (result->error.status != QY_OK)
        return task_failed(d, peer, &task, &result->error, err);
    if (qy_phase_confirm(d->plan, &d->tasks, result, &why) != QY_OK) {
        qy_fail_in(&why, "said to be done, but");
        return task_failed(d, peer, &task, &why, err);
    }
    return task_done(d, peer, &task, result, err);
}

static qy_status_t take_result(qy_dispatch_t *d, int peer, const qy_message_t *message,
                               qy_error_t *err)
{
    qy_result_t result;
    qy_error_t why;
    if (qy_result_decode(&result, message->payload, message->bytes, &why) != QY_OK)
        return refuse(d, peer, &why, false, err);
    qy_status_t status = judge_result(d, peer, &result, err);
    qy_result_free(&result);
    return status;
}

/* How busy a rank was in E2E-QP, beside what the schedule allows: values of PHASE_DONE are seconds
 * in forward and backward passes, seconds from the first batch on, and the ideal share. */
static qy_status_t log_share(qy_dispatch_t *d, int peer, const qy_result_t *result, qy_error_t *err)
{
    measure_memory(d, peer, "e2e_qp stage", result->device_bytes);
    if (result->n_values != 3 || !(result->values[1] > 0))
        return QY_OK; /* it had nothing to do */
    qy_entry_t entry = entry_about(d, QY_LEDGER_DONE, peer, NULL);
    entry.task_id = -1;
    entry.seconds = result->seconds;
    entry.n_values = result->n_values;
    entry.values = result->values;
    snprintf(entry.task, sizeof entry.task, "e2e_qp stage");
    snprintf(entry.text, sizeof entry.text, "busy %.1f %% of %.1f s, at most %.1f %%",
             100 * result->values[0] / result->values[1], result->values[1],
             100 * result->values[2]);
    return qy_ledger_append(d->ledger, &entry, err);
}

static qy_status_t take_phase_done(qy_dispatch_t *d, int peer, const qy_message_t *message,
                                   qy_error_t *err)
{
    qy_result_t result;
    qy_error_t why;
    char name[128];
    if (qy_result_decode(&result, message->payload, message->bytes, &why) != QY_OK)
        return refuse(d, peer, &why, false, err);
    qy_error_t error = result.error;
    bool fits = d->called && !d->peer[peer].answered && result.task_id == -1;
    qy_status_t status = fits ? log_share(d, peer, &result, err) : QY_OK;
    qy_result_free(&result);
    QY_TRY(status);
    if (!fits)
        return refuse_text(d, peer, "the end of a phase that it is not in", err);
    d->peer[peer].answered = true;
    if (error.status == QY_OK)
        return QY_OK;
    if (error.status == QY_ERR_DAMAGED) { /* all have ended for it, and will all say so */
        d->damaged = error;
        return QY_OK;
    }
    if (error.status != QY_ERR_STOPPED)
        QY_TRY(log_failure(d, peer, &error, err));
    qy_dispatch_peer_name(d, peer, name);
    qy_fail(err, error.status, "%s: %s", name, error.text);
    return error.status;
}

qy_status_t qy_dispatch_receive(qy_dispatch_t *d, int peer, const void *bytes, size_t n,
                                qy_error_t *err)
{
    qy_message_t message;
    qy_error_t why;
    qy_status_t status = QY_OK;
    if (d->peer[peer].retired)
        return QY_OK; /* it was told to leave; what it still says is late */
    d->peer[peer].heard = qy_now_s();
    if (qy_message_decode(&message, bytes, n, &why) != QY_OK)
        return refuse(d, peer, &why, false, err);
    bool known = d->peer[peer].up;
    if (!known && message.kind != QY_MSG_HELLO) {
        status = refuse_text(d, peer, "a message before its hello", err);
        goto free_message;
    }
    switch (message.kind) {
    case QY_MSG_HELLO:
        status = take_hello(d, peer, &message, err);
        break;
    case QY_MSG_PROGRESS:
        status = take_progress(d, peer, &message, err);
        break;
    case QY_MSG_RESULT:
        status = take_result(d, peer, &message, err);
        break;
    case QY_MSG_PHASE_DONE:
        status = take_phase_done(d, peer, &message, err);
        break;
    case QY_MSG_ALIVE:
        break;
    case QY_MSG_ASKED:
        d->asked = true;
        break;
    default:
        status = refuse_text(d, peer, "a message that only the coordinator sends", err);
    }
free_message:
    qy_message_free(&message);
    return status;
}
