#include "coordinator/history.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

double qy_history_time(const char *utc)
{
    struct tm t = {0};
    if (sscanf(utc, "%d-%d-%dT%d:%d:%dZ", &t.tm_year, &t.tm_mon, &t.tm_mday, &t.tm_hour, &t.tm_min,
               &t.tm_sec) != 6)
        return (double)NAN;
    t.tm_year -= 1900;
    t.tm_mon -= 1;
    return (double)timegm(&t);
}

qy_run_phase_t qy_history_phase(const char *name)
{
    int phase = 0;
    while (phase < QY_N_RUN_PHASES && strcmp(qy_phase_name((qy_run_phase_t)phase), name) != 0)
        phase++;
    return (qy_run_phase_t)phase;
}

/* The phase that is open ends here, without having been finished. */
static void interrupt(qy_history_t *h, qy_run_phase_t *open, double began, double end)
{
    if (*open < QY_N_RUN_PHASES && end > began)
        h->took_s[*open] += end - began;
    *open = QY_N_RUN_PHASES;
}

/* Something finished; the end of all too, where a finished run was started once more. */
static int brings(const qy_entry_t *e)
{
    return (e->kind == QY_LEDGER_STOP && e->status == QY_OK) || e->kind == QY_LEDGER_BLOCK ||
           e->kind == QY_LEDGER_DONE || (e->kind == QY_LEDGER_PHASE && e->seconds >= 0);
}

void qy_history_read(qy_history_t *out, const qy_ledger_t *ledger, double now)
{
    qy_run_phase_t open = QY_N_RUN_PHASES;
    double began = 0, last = 0;
    *out = (qy_history_t){0};
    for (int64_t i = 0; ledger && i < qy_ledger_count(ledger); i++) {
        const qy_entry_t *e = qy_ledger_at(ledger, i);
        double time = qy_history_time(e->time);
        qy_run_phase_t phase = qy_history_phase(e->phase);
        if (e->kind == QY_LEDGER_START || e->kind == QY_LEDGER_STOP)
            interrupt(out, &open, began, e->kind == QY_LEDGER_STOP ? time : last);
        if (e->kind == QY_LEDGER_START) {
            out->starts++;
            out->idle_starts++;
        }
        if (brings(e))
            out->idle_starts = 0;
        out->failed += e->kind == QY_LEDGER_FAILED;
        if (e->kind == QY_LEDGER_PHASE && phase < QY_N_RUN_PHASES && e->seconds < 0) {
            out->begun[phase] = true;
            out->done[phase] = false;
            open = phase;
            began = time;
        } else if (e->kind == QY_LEDGER_PHASE && phase < QY_N_RUN_PHASES) {
            out->took_s[phase] += e->seconds;
            out->done[phase] = true;
            open = QY_N_RUN_PHASES;
        }
        last = time;
    }
    interrupt(out, &open, began, isfinite(now) ? now : last);
}
