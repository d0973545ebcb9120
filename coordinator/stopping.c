#include "coordinator/stopping.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"

/* For saving. A batch system that warns five minutes before it kills leaves a minute for the rest.
 */
static const double patience_s = 240;

/* What was at work: when a rank dies, the launcher asks all others to stop, and its own message
 * names the rank but not the task. */
static void note_work(qy_dispatch_t *d)
{
    char *text = d->at_work;
    size_t used = 0, size = sizeof d->at_work;
    for (int i = 0; d->schedule && i < qy_schedule_count(d->schedule); i++) {
        const qy_slot_task_t *slot = qy_schedule_at(d->schedule, i);
        char task[96];
        if (slot->state != QY_STATE_RUNNING || used + 192 > size)
            continue;
        qy_task_name(&slot->task, task);
        used += (size_t)snprintf(text + used, size - used, "%s%s by rank %d on %s",
                                 used ? ", " : "; at work: ", task, slot->worker,
                                 d->peer[slot->worker].hello.host);
    }
    if (d->phase == QY_RUN_E2E_QP)
        snprintf(text, size, "; at work: E2E-QP on all ranks");
}

void qy_stopping_begin(qy_dispatch_t *d)
{
    if (d->stopping)
        return;
    d->stopping = true;
    d->stop_began = qy_now_s();
    note_work(d);
    qy_log(QY_LOG_INFO, "asked to stop%s", d->at_work);
    for (int i = 0; i < d->link->n_peers; i++)
        if (d->peer[i].up && !d->peer[i].retired)
            qy_dispatch_send(d, i, QY_MSG_HALT, NULL, 0, NULL);
}

qy_status_t qy_stopping_wait(const qy_dispatch_t *d, qy_error_t *err)
{
    int running = 0;
    for (int i = 0; d->schedule && i < qy_schedule_count(d->schedule); i++)
        running += qy_schedule_at(d->schedule, i)->state == QY_STATE_RUNNING;
    if (running > 0 && qy_now_s() - d->stop_began < patience_s)
        return QY_OK;
    if (running > 0)
        return qy_fail(err, QY_ERR_STOPPED,
                       "stopped on request%s; %d not saved within %.0f s, their last checkpoints "
                       "stand",
                       d->at_work, running, patience_s);
    return qy_fail(err, QY_ERR_STOPPED, "stopped on request%s", d->at_work);
}
