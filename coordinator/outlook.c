#include "coordinator/outlook.h"

#include <math.h>
#include <string.h>

#include "jobs/plan_time.h"

static double mean_block_s(const qy_run_state_t *s)
{
    double sum = 0.0, n = 0.0;
    for (int64_t b = 0; b < s->plan->arch.n_blocks; b++)
        if (s->block[b].done && isfinite(s->block[b].seconds)) {
            sum += s->block[b].seconds;
            n += 1.0;
        }
    return sum / n; /* NAN: none yet */
}

/* Of a block in work, the part that is left. */
static double part_left(const qy_run_state_t *s, int64_t block)
{
    const qy_running_t *running = s->block_running[block];
    const qy_metric_t *latest = running ? running->latest : NULL;
    if (!latest || latest->progress.block != block || latest->progress.n_steps <= 0)
        return 1.0;
    return 1.0 - (double)latest->progress.step / (double)latest->progress.n_steps;
}

/* The phase cannot end before its longest segment, nor before the workers have done the sum of all.
 */
static double quantize_eta(const qy_run_state_t *s)
{
    double longest = 0.0, sum = 0.0, busy = 0.0;
    for (int64_t k = 0; k < s->plan->n_segments; k++) {
        double left = 0.0;
        for (int64_t b = s->plan->segment_start[k]; b < s->plan->segment_start[k + 1]; b++)
            left += s->block[b].done ? 0.0 : part_left(s, b);
        longest = fmax(longest, left);
        sum += left;
        busy += left > 0.0;
    }
    busy = fmin(busy, (double)s->start->workers);
    return mean_block_s(s) * fmax(longest, busy > 0.0 ? sum / busy : 0.0);
}

/* By the speed of the phase as it last said. */
static double e2e_eta(const qy_run_state_t *s)
{
    const qy_plan_t *plan = s->plan;
    const qy_progress_t *p = s->latest ? &s->latest->progress : NULL;
    if (!p || !(p->tokens_per_s > 0))
        return (double)NAN;
    double tokens = (double)(plan->spec.e2e_qp.batch_size * plan->e2e_length);
    return (double)(p->n_steps - p->step) * tokens / p->tokens_per_s;
}

double qy_outlook_expected(const qy_plan_t *plan, qy_run_phase_t phase)
{
    if (!plan->time.device[0])
        return (double)NAN;
    for (int i = 0; i < QY_N_TIME_PHASES; i++)
        if (strcmp(qy_time_phase_name((qy_time_phase_t)i), qy_phase_name(phase)) == 0)
            return plan->time.phase_s[i];
    return (double)NAN;
}

/* How much slower the finished phases were than expected; phases of seconds say nothing. */
static double pace(const qy_run_state_t *s)
{
    double took = 0, expected = 0;
    for (int i = 0; i < QY_N_RUN_PHASES; i++)
        if (s->history.done[i]) {
            took += s->history.took_s[i];
            expected += qy_outlook_expected(s->plan, (qy_run_phase_t)i);
        }
    return expected > 10 && took > 0 ? took / expected : 1;
}

void qy_outlook(qy_run_state_t *s)
{
    qy_run_phase_t phase = qy_history_phase(s->phase);
    if (phase == QY_RUN_QUANTIZE)
        s->eta_s = quantize_eta(s);
    else if (phase == QY_RUN_E2E_QP)
        s->eta_s = e2e_eta(s);
    if (phase == QY_N_RUN_PHASES || !s->plan->time.device[0])
        return;
    if (!isfinite(s->eta_s))
        s->eta_s =
            fmax(pace(s) * qy_outlook_expected(s->plan, phase) - s->history.took_s[phase], 0);
    s->run_eta_s = s->eta_s;
    for (int i = (int)phase + 1; i < QY_N_RUN_PHASES; i++)
        s->run_eta_s += pace(s) * qy_outlook_expected(s->plan, (qy_run_phase_t)i);
}
