#include "coordinator/spans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Still open: to is not known yet. */
static bool is_open(const qy_span_t *span)
{
    return !isfinite(span->to);
}

static void close_all(qy_spans_t *s, double time)
{
    for (int64_t i = 0; i < s->n; i++)
        if (is_open(&s->span[i])) {
            s->span[i].to = fmax(time, s->span[i].from);
            s->span[i].end = QY_SPAN_CUT;
        }
}

static void close_task(qy_spans_t *s, const qy_entry_t *e, double time)
{
    for (int64_t i = s->n - 1; i >= 0; i--) {
        qy_span_t *span = &s->span[i];
        if (!is_open(span) || span->rank != e->rank || strcmp(span->task, e->task) != 0)
            continue;
        span->to = time;
        span->end = e->kind == QY_LEDGER_DONE ? QY_SPAN_DONE : QY_SPAN_FAILED;
        return;
    }
}

/* Phases without tasks are spans of their own: the coordinator's rank's, or all ranks'. */
static void take_phase(qy_spans_t *s, const qy_entry_t *e, double time)
{
    qy_run_phase_t phase = qy_history_phase(e->phase);
    if (phase == QY_N_RUN_PHASES || qy_phase_by(phase) == QY_BY_TASKS)
        return;
    if (e->seconds < 0)
        s->span[s->n++] = (qy_span_t){.rank = qy_phase_by(phase) == QY_BY_ALL ? -1 : 0,
                                      .phase = phase,
                                      .task = e->phase,
                                      .host = "",
                                      .from = time,
                                      .to = (double)NAN};
    for (int64_t i = s->n - 1; i >= 0 && e->seconds >= 0; i--)
        if (is_open(&s->span[i]) && s->span[i].phase == phase) {
            s->span[i].to = time;
            break;
        }
}

static void take_event(qy_spans_t *s, const qy_entry_t *e, double time)
{
    switch (e->kind) {
    case QY_LEDGER_START:
        close_all(s, s->to);
        if (e->workers > s->n_ranks && e->workers <= INT32_MAX)
            s->n_ranks = (int32_t)e->workers;
        break;
    case QY_LEDGER_ASSIGN:
        s->span[s->n++] = (qy_span_t){.rank = e->rank,
                                      .phase = qy_history_phase(e->phase),
                                      .task = e->task,
                                      .host = e->host,
                                      .from = time,
                                      .to = (double)NAN};
        break;
    case QY_LEDGER_DONE:
    case QY_LEDGER_FAILED:
        close_task(s, e, time);
        break;
    case QY_LEDGER_PHASE:
        take_phase(s, e, time);
        break;
    case QY_LEDGER_STOP:
        close_all(s, time);
        break;
    default:
        break;
    }
}

qy_status_t qy_spans_read(qy_spans_t *out, const qy_ledger_t *ledger, qy_error_t *err)
{
    int64_t n = ledger ? qy_ledger_count(ledger) : 0;
    qy_spans_t s = {.span = calloc((size_t)n + 1, sizeof *s.span)};
    if (!s.span)
        return qy_fail(err, QY_ERR_MEMORY, "timeline: out of memory");
    for (int64_t i = 0; i < n; i++) {
        const qy_entry_t *e = qy_ledger_at(ledger, i);
        double time = qy_history_time(e->time);
        if (!isfinite(time))
            continue;
        if (s.from == 0)
            s.from = s.to = time;
        take_event(&s, e, time);
        s.to = fmax(s.to, time);
    }
    close_all(&s, s.to);
    *out = s;
    return QY_OK;
}

void qy_spans_free(qy_spans_t *spans)
{
    free(spans->span);
    *spans = (qy_spans_t){0};
}
