#include "coordinator/dispatch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "coordinator/dispatch_state.h"
#include "coordinator/stitch.h"
#include "coordinator/stopping.h"
#include "jobs/store.h"

/* Messages taken in at one poll, so that a flood does not keep the door waiting. */
enum { MESSAGES_A_POLL = 256 };

/* Times that a run goes back because of files that cannot be read. */
enum { MAX_BACK = 3 };

/* Where polls are further apart, the coordinator was away (stitching, or its rank was training). */
static const double away_s = 1.0;

qy_status_t qy_dispatch_send(qy_dispatch_t *d, int peer, qy_msg_kind_t kind, const void *payload,
                             size_t bytes, qy_error_t *err)
{
    void *message = NULL;
    size_t n = 0;
    QY_TRY(qy_message_encode(kind, payload, bytes, &message, &n, err));
    qy_status_t status = d->link->send(d->link, peer, message, n, err);
    free(message);
    return status;
}

static qy_status_t open_files(qy_dispatch_t *d, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_store_prepare(d->plan, err));
    qy_sweep_temps(d->plan->spec.run_dir);
    QY_TRY(qy_store_ledger(path, d->plan, err));
    QY_TRY(qy_ledger_open(&d->ledger, path, err));
    QY_TRY(qy_store_metrics(path, d->plan, err));
    return qy_metrics_open(&d->metrics, path, err);
}

static qy_status_t note_start(qy_dispatch_t *d, qy_error_t *err)
{
    qy_entry_t entry = {.kind = QY_LEDGER_START, .pid = getpid(), .workers = d->link->n_peers};
    gethostname(entry.host, sizeof entry.host - 1);
    return qy_ledger_append(d->ledger, &entry, err);
}

qy_status_t qy_dispatch_create(qy_dispatch_t **out, const qy_plan_t *plan, qy_link_t *link,
                               const qy_dispatch_hooks_t *hooks, qy_error_t *err)
{
    if (link->n_peers < 1 || (plan->spec.n_export > 0 && !hooks->run_export))
        return qy_fail(err, QY_ERR_ARG, "a run of %d workers, %d exports%s", link->n_peers,
                       plan->spec.n_export, hooks->run_export ? "" : " without a function");
    qy_dispatch_t *d = calloc(1, sizeof *d);
    qy_peer_t *peers = calloc((size_t)link->n_peers, sizeof *peers);
    if (!d || !peers) {
        free(d);
        free(peers);
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %d workers", link->n_peers);
    }
    d->plan = plan;
    d->link = link;
    d->hooks = *hooks;
    d->peer = peers;
    d->polled = qy_now_s();
    for (int i = 0; i < link->n_peers; i++)
        peers[i].heard = d->polled;
    qy_status_t status = open_files(d, err);
    if (status == QY_OK)
        status = note_start(d, err);
    if (status != QY_OK) {
        qy_dispatch_destroy(&d);
        return status;
    }
    *out = d;
    return QY_OK;
}

void qy_dispatch_destroy(qy_dispatch_t **dispatch)
{
    qy_dispatch_t *d = *dispatch;
    if (!d)
        return;
    qy_schedule_destroy(&d->schedule);
    qy_task_list_free(&d->tasks);
    qy_metrics_close(&d->metrics);
    qy_ledger_close(&d->ledger);
    free(d->peer);
    free(d);
    *dispatch = NULL;
}

/* --- tasks ------------------------------------------------------------------------------------ */

/* The workers as they are now, made known to the phase's schedule. */
static qy_status_t introduce_workers(qy_dispatch_t *d, qy_error_t *err)
{
    for (int i = 0; i < d->link->n_peers; i++) {
        qy_event_t event = {.kind = QY_EVENT_WORKER_UP, .worker = i};
        if (d->peer[i].retired)
            event.kind = QY_EVENT_WORKER_LOST;
        if (d->peer[i].up || d->peer[i].retired)
            QY_TRY(qy_schedule_event(d->schedule, &event, err));
    }
    return QY_OK;
}

static qy_status_t send_task(qy_dispatch_t *d, const qy_assign_t *assign, qy_error_t *err)
{
    void *bytes = NULL;
    size_t n = 0;
    const qy_peer_t *peer = &d->peer[assign->worker];
    qy_entry_t entry = {.kind = QY_LEDGER_ASSIGN,
                        .task_id = assign->task.id,
                        .attempt = assign->task.attempt,
                        .rank = peer->hello.rank};
    snprintf(entry.phase, sizeof entry.phase, "%s", qy_phase_name(d->phase));
    memcpy(entry.host, peer->hello.host, sizeof entry.host);
    qy_task_name(&assign->task, entry.task);
    QY_TRY(qy_ledger_append(d->ledger, &entry, err));
    QY_TRY(qy_task_encode(&assign->task, &bytes, &n, err));
    qy_error_t error;
    qy_status_t status = qy_dispatch_send(d, assign->worker, QY_MSG_TASK, bytes, n, &error);
    free(bytes);
    return status == QY_OK ? QY_OK : qy_dispatch_retire(d, assign->worker, &error, err);
}

static qy_status_t fail_stuck(const qy_dispatch_t *d, qy_error_t *err)
{
    const qy_error_t *reason = &d->peer[0].reason;
    return qy_fail(err, reason->status, "%s: no worker is left of %d: %s", qy_phase_name(d->phase),
                   d->link->n_peers, reason->text);
}

static qy_status_t work_on_tasks(qy_dispatch_t *d, bool *finished, qy_error_t *err)
{
    qy_assign_t assign;
    while (qy_schedule_next(d->schedule, &assign))
        QY_TRY(send_task(d, &assign, err));
    *finished = qy_schedule_finished(d->schedule);
    if (!*finished)
        return qy_schedule_stuck(d->schedule) ? fail_stuck(d, err) : QY_OK;
    const qy_slot_task_t *first;
    if (qy_schedule_failures(d->schedule, &first) == 0)
        return QY_OK;
    char name[96];
    qy_task_name(&first->task, name);
    if (err)
        *err = first->error;
    qy_fail_in(err, "%s", name);
    return first->error.status;
}

/* --- all workers at once ---------------------------------------------------------------------- */

/* Every worker is there: true once all have said hello. */
static qy_status_t all_there(const qy_dispatch_t *d, bool *there, qy_error_t *err)
{
    *there = true;
    for (int i = 0; i < d->link->n_peers; i++) {
        const qy_peer_t *peer = &d->peer[i];
        if (peer->retired)
            return qy_fail(err, peer->reason.status, "%s needs all %d workers: %s",
                           qy_phase_name(d->phase), d->link->n_peers, peer->reason.text);
        *there = *there && peer->up;
    }
    return QY_OK;
}

/* The kind says nothing here; run_dir and plan_hash do. */
static qy_status_t call_all(qy_dispatch_t *d, qy_error_t *err)
{
    qy_task_t task = {.kind = QY_TASK_SEGMENT, .attempt = 1};
    void *bytes = NULL;
    size_t n = 0;
    memcpy(task.plan_hash, d->plan->hash, sizeof task.plan_hash);
    memcpy(task.run_dir, d->plan->spec.run_dir, sizeof task.run_dir);
    QY_TRY(qy_task_encode(&task, &bytes, &n, err));
    qy_status_t status = QY_OK;
    d->called = true;
    for (int i = 0; i < d->link->n_peers && status == QY_OK; i++) {
        d->peer[i].answered = false;
        status = qy_dispatch_send(d, i, QY_MSG_E2E, bytes, n, err);
        if (status != QY_OK)
            qy_fail_in(err, "worker %d", i);
    }
    free(bytes);
    return status;
}

static qy_status_t work_with_all(qy_dispatch_t *d, bool *finished, qy_error_t *err)
{
    bool there;
    *finished = false;
    QY_TRY(all_there(d, &there, err));
    if (!there)
        return QY_OK;
    if (!d->called)
        return call_all(d, err);
    for (int i = 0; i < d->link->n_peers; i++)
        if (!d->peer[i].answered)
            return QY_OK;
    if (d->damaged.status != QY_OK) {
        if (err)
            *err = d->damaged;
        return d->damaged.status;
    }
    *finished = true;
    if (qy_phase_is_done(d->phase, d->plan))
        return QY_OK;
    return qy_fail(err, QY_ERR_IO, "%s: said to be done, but the last step %lld is not there whole",
                   qy_phase_name(d->phase), (long long)d->plan->e2e.steps);
}

/* --- the coordinator's own phases ------------------------------------------------------------- */

static qy_status_t export_all(qy_dispatch_t *d, qy_error_t *err)
{
    const qy_spec_t *spec = &d->plan->spec;
    for (int i = 0; i < spec->n_export; i++)
        QY_TRY(d->hooks.run_export(d->hooks.context, d->plan, spec->export_format[i], err));
    return QY_OK;
}

static qy_status_t work_alone(qy_dispatch_t *d, qy_error_t *err)
{
    switch (d->phase) {
    case QY_RUN_TOKENS:
        return qy_store_make_tokens(d->plan, err);
    case QY_RUN_STITCH:
        return qy_stitch(d->plan, err);
    case QY_RUN_EXPORT:
        return export_all(d, err);
    default:
        return qy_fail(err, QY_ERR_ARG, "phase %s is not the coordinator's",
                       qy_phase_name(d->phase));
    }
}

/* --- the walk --------------------------------------------------------------------------------- */

static qy_status_t note_phase(qy_dispatch_t *d, double seconds, qy_error_t *err)
{
    qy_entry_t entry = {.kind = QY_LEDGER_PHASE, .seconds = seconds};
    const char *name = qy_phase_name(d->phase);
    snprintf(entry.phase, sizeof entry.phase, "%s", name);
    QY_TRY(qy_ledger_append(d->ledger, &entry, err));
    if (d->hooks.on_phase)
        d->hooks.on_phase(d->hooks.context, name, seconds);
    return QY_OK;
}

static bool all_done(const qy_task_list_t *list)
{
    for (int i = 0; i < list->n; i++)
        if (!list->done[i])
            return false;
    return true;
}

/* *needed: something is left to do in this phase; then it has begun. */
static qy_status_t enter_phase(qy_dispatch_t *d, bool *needed, qy_error_t *err)
{
    if (qy_phase_by(d->phase) == QY_BY_TASKS) {
        QY_TRY(qy_phase_tasks(&d->tasks, d->phase, d->plan, d->ledger, err));
        *needed = !all_done(&d->tasks);
    } else {
        *needed = !qy_phase_is_done(d->phase, d->plan);
    }
    if (!*needed) {
        qy_task_list_free(&d->tasks);
        return QY_OK;
    }
    d->entered = true;
    d->phase_began = qy_now_s();
    QY_TRY(note_phase(d, -1.0, err));
    if (qy_phase_by(d->phase) != QY_BY_TASKS)
        return QY_OK;
    QY_TRY(qy_schedule_create(&d->schedule, d->tasks.task, d->tasks.done, d->tasks.n,
                              d->link->n_peers, err));
    return introduce_workers(d, err);
}

static qy_status_t leave_phase(qy_dispatch_t *d, qy_error_t *err)
{
    qy_schedule_destroy(&d->schedule);
    qy_task_list_free(&d->tasks);
    QY_TRY(note_phase(d, qy_now_s() - d->phase_began, err));
    d->entered = d->called = false;
    d->phase++;
    return QY_OK;
}

/* Goes on in the phase, or to the next one that has something to do. */
static qy_status_t advance(qy_dispatch_t *d, qy_error_t *err)
{
    bool finished = true;
    while (!d->entered && d->phase < QY_N_RUN_PHASES) {
        bool needed;
        QY_TRY(enter_phase(d, &needed, err));
        d->phase += needed ? 0 : 1;
    }
    if (d->phase == QY_N_RUN_PHASES)
        return QY_OK;
    switch (qy_phase_by(d->phase)) {
    case QY_BY_COORDINATOR:
        QY_TRY(work_alone(d, err));
        break;
    case QY_BY_TASKS:
        QY_TRY(work_on_tasks(d, &finished, err));
        break;
    case QY_BY_ALL:
        QY_TRY(work_with_all(d, &finished, err));
        break;
    }
    return finished ? leave_phase(d, err) : QY_OK;
}

/* A file of the run was there by its marks, but not whole when it was read, and is set aside: the
 * phases that lead to it are gone through again, and do what is missing. */
static qy_status_t go_back(qy_dispatch_t *d, const qy_error_t *error, qy_error_t *err)
{
    qy_entry_t entry = {.kind = QY_LEDGER_FAILED, .task_id = -1, .status = error->status};
    snprintf(entry.phase, sizeof entry.phase, "%s", qy_phase_name(d->phase));
    memcpy(entry.text, error->text, sizeof entry.text);
    QY_TRY(qy_ledger_append(d->ledger, &entry, err));
    qy_schedule_destroy(&d->schedule);
    qy_task_list_free(&d->tasks);
    d->n_back++;
    d->phase = QY_RUN_TOKENS;
    d->entered = d->called = false;
    d->damaged = (qy_error_t){QY_OK, ""};
    return QY_OK;
}

/* --- polling ---------------------------------------------------------------------------------- */

static qy_status_t take_messages(qy_dispatch_t *d, qy_error_t *err)
{
    for (int i = 0; i < MESSAGES_A_POLL; i++) {
        int peer = 0;
        void *bytes = NULL;
        size_t n = 0;
        QY_TRY(d->link->poll(d->link, &peer, &bytes, &n, err));
        if (!bytes)
            break;
        d->messages[0]++;
        qy_status_t status = peer < 0 || peer >= d->link->n_peers
                                 ? qy_fail(err, QY_ERR_COMM, "a message from worker %d of %d", peer,
                                           d->link->n_peers)
                                 : qy_dispatch_receive(d, peer, bytes, n, err);
        free(bytes);
        QY_TRY(status);
    }
    return QY_OK;
}

/* A worker that has said nothing for resources.worker_timeout is lost. Time in which nobody
 * listened does not count. */
static qy_status_t watch_silence(qy_dispatch_t *d, qy_error_t *err)
{
    double now = qy_now_s(), gap = now - d->polled;
    double timeout = (double)d->plan->spec.resources.worker_timeout;
    d->polled = now;
    for (int i = 0; i < d->link->n_peers; i++) {
        qy_peer_t *peer = &d->peer[i];
        if (gap > away_s)
            peer->heard = peer->heard + gap < now ? peer->heard + gap : now;
        /* Called to E2E-QP the ranks themselves work, and may say nothing; the death of one ends
         * the launch. */
        if (d->called)
            peer->heard = now;
        if (peer->retired || timeout <= 0 || now - peer->heard <= timeout)
            continue;
        char name[128];
        qy_error_t error;
        qy_dispatch_peer_name(d, i, name);
        qy_fail(&error, QY_ERR_COMM, "%s: silent for %.0f s (resources.worker_timeout)", name,
                timeout);
        QY_TRY(qy_dispatch_retire(d, i, &error, err));
    }
    return QY_OK;
}

static qy_status_t turn(qy_dispatch_t *d, const atomic_int *stop, qy_error_t *err)
{
    if (d->asked || (stop && *stop))
        qy_stopping_begin(d);
    double before = d->messages[0], began = qy_now_s();
    qy_run_phase_t phase = d->phase;
    QY_TRY(take_messages(d, err));
    QY_TRY(watch_silence(d, err));
    if (d->stopping)
        return qy_stopping_wait(d, err);
    qy_error_t error = {QY_OK, ""};
    qy_status_t status = advance(d, &error);
    if (status == QY_ERR_DAMAGED && d->n_back < MAX_BACK)
        status = go_back(d, &error, &error);
    if (status != QY_OK && err)
        *err = error;
    if (d->messages[0] > before && d->phase == phase) /* a phase of its own is other work */
        d->messages[1] += qy_now_s() - began;
    return status;
}

/* Says how it ended, and lets the workers go. A ledger that cannot be written any more is why it
 * ended. */
static void end_run(qy_dispatch_t *d)
{
    qy_entry_t entry = {
        .kind = QY_LEDGER_STOP, .status = d->end.status, .n_values = 2, .values = d->messages};
    snprintf(entry.text, sizeof entry.text, "%s",
             d->end.status == QY_OK            ? "done"
             : d->end.status == QY_ERR_STOPPED ? "stopped"
                                               : d->end.text);
    qy_ledger_append(d->ledger, &entry, NULL);
    for (int i = 0; i < d->link->n_peers; i++)
        qy_dispatch_send(d, i, QY_MSG_STOP, NULL, 0, NULL);
    if (d->end.status == QY_OK) /* of tasks that were killed; nobody writes any more */
        qy_sweep_temps(d->plan->spec.run_dir);
    d->over = true;
}

qy_status_t qy_dispatch_poll(qy_dispatch_t *dispatch, const atomic_int *stop, int *done,
                             qy_error_t *err)
{
    qy_dispatch_t *d = dispatch;
    if (!d->over) {
        bool failed = turn(d, stop, &d->end) != QY_OK;
        if (!failed)
            d->end = (qy_error_t){QY_OK, ""}; /* of a failure that was dealt with */
        if (failed || d->phase == QY_N_RUN_PHASES)
            end_run(d);
    }
    *done = d->over;
    if (d->end.status != QY_OK && err)
        *err = d->end;
    return d->end.status;
}
