#include "worker/hooks.h"

#include "base/clock.h"

static const double progress_interval_s = 0.5;

void qy_hooks_progress(const qy_hooks_t *hooks, double *last, const qy_progress_t *progress)
{
    double now = qy_now_s();
    if (!hooks->progress || (!progress->block_done && now - *last < progress_interval_s))
        return;
    *last = now;
    hooks->progress(hooks->context, progress);
}

int qy_hooks_asked(const qy_hooks_t *hooks)
{
    return hooks->stop && *hooks->stop;
}

qy_status_t qy_hooks_check(const qy_hooks_t *hooks, qy_error_t *err)
{
    if (hooks->fault)
        QY_TRY(qy_fault_look(hooks->fault, err));
    if (qy_hooks_asked(hooks))
        return qy_fail(err, QY_ERR_STOPPED, "stopped on request");
    return QY_OK;
}
