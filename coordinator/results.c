#include "coordinator/results.h"

#include <math.h>
#include <string.h>

#include "coordinator/evaluations.h"
#include "coordinator/outlook.h"
#include "coordinator/status_json.h"
#include "jobs/plan_time.h"

/* --- for people ------------------------------------------------------------------------------- */

/* "1:02:03", "2:03"; "?" where it is not known. */
static const char *clock_text(double seconds, char out[32])
{
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e9) {
        snprintf(out, 32, "?");
        return out;
    }
    long long s = llround(seconds);
    if (s >= 3600)
        snprintf(out, 32, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, 32, "%lld:%02lld", s / 60, s % 60);
    return out;
}

static void print_number(FILE *file, int width, double x)
{
    if (isfinite(x))
        fprintf(file, " %*.4g", width, x);
    else
        fprintf(file, " %*s", width, "-");
}

/* What a night wants to know: what is left, what would be lost, whether it moves. */
static void print_outlook(FILE *file, const qy_run_state_t *s)
{
    char a[32], b[32];
    const qy_history_t *h = &s->history;
    if (isfinite(s->run_eta_s))
        fprintf(file, "left     about %s of an estimated %s\n", clock_text(s->run_eta_s, a),
                clock_text(qy_plan_total_s(s->plan), b));
    if (isfinite(s->tokens_per_s))
        fprintf(file, "speed    %.0f tokens/s\n", s->tokens_per_s);
    if (isfinite(s->saved_s))
        fprintf(file, "saved    %s ago\n", clock_text(s->saved_s, a));
    if (h->starts > 1 || h->failed > 0)
        fprintf(file,
                "starts   %lld, the latest %lld without anything finished; %lld attempts of "
                "tasks failed\n",
                (long long)h->starts, (long long)h->idle_starts, (long long)h->failed);
    if (s->n_silent > 0 || s->stall_s >= 1)
        fprintf(file, "stalls   %lld tasks silent for over %d s; devices waited %.0f s for disks\n",
                (long long)s->n_silent, QY_SILENT_S, s->stall_s);
}

static void print_phases(FILE *file, const qy_run_state_t *s)
{
    char text[32];
    if (s->history.starts == 0)
        return;
    fprintf(file, "\nphase         took  estimate\n");
    for (int i = 0; i < QY_N_RUN_PHASES; i++) {
        double expected = qy_outlook_expected(s->plan, (qy_run_phase_t)i);
        if (!s->history.begun[i] && !(expected > 0))
            continue;
        fprintf(file, "%-9s %8s", qy_phase_name((qy_run_phase_t)i),
                s->history.begun[i] ? clock_text(s->history.took_s[i], text) : "-");
        fprintf(file, "  %8s\n", isfinite(expected) ? clock_text(expected, text) : "-");
    }
}

static void print_head(FILE *file, const qy_run_state_t *s)
{
    char a[32], b[32];
    const qy_plan_t *plan = s->plan;
    fprintf(file, "run      %s, plan %.12s: %lld blocks in %lld segment%s\n", plan->spec.run_dir,
            plan->hash, (long long)plan->arch.n_blocks, (long long)plan->n_segments,
            plan->n_segments == 1 ? "" : "s");
    fprintf(file, "state    %s", s->state);
    if (s->locked && s->holder.live)
        fprintf(file, " on host %s, pid %lld%s%s", s->holder.host, (long long)s->holder.pid,
                s->holder.slurm_job[0] ? ", Slurm job " : "", s->holder.slurm_job);
    if (isfinite(s->last_event_s))
        fprintf(file, ", last event %s ago", clock_text(s->last_event_s, a));
    fprintf(file, "\n");
    if (s->error[0])
        fprintf(file, "error    %s\n", s->error);
    if (s->phase[0])
        fprintf(file, "phase    %s", s->phase);
    if (s->phase[0] && isfinite(s->phase_s))
        fprintf(file, " for %s", clock_text(s->phase_s, a));
    if (s->phase[0] && isfinite(s->eta_s))
        fprintf(file, ", about %s left", clock_text(s->eta_s, b));
    if (s->phase[0])
        fprintf(file, "\n");
    print_outlook(file, s);
    fprintf(file, "blocks   %lld done, %lld running, %lld left\n", (long long)s->n_done,
            (long long)s->n_running,
            (long long)(s->plan->arch.n_blocks - s->n_done - s->n_running));
}

static void print_progress(FILE *file, const qy_progress_t *p)
{
    if (p->block >= 0)
        fprintf(file, ", block %lld", (long long)p->block);
    fprintf(file, ", step %lld of %lld", (long long)p->step, (long long)p->n_steps);
    if (isfinite(p->loss))
        fprintf(file, ", loss %.4g", p->loss);
    if (isfinite(p->tokens_per_s) && p->tokens_per_s > 0)
        fprintf(file, ", %.0f tokens/s", p->tokens_per_s);
}

static void print_running(FILE *file, const qy_run_state_t *s)
{
    char silent[32];
    for (int64_t i = 0; i < s->n_tasks_running; i++) {
        const qy_running_t *r = &s->running[i];
        fprintf(file, "worker   %d on %s: %s", r->assigned->rank, r->assigned->host,
                r->assigned->task);
        if (r->latest)
            print_progress(file, &r->latest->progress);
        if (r->silent_s > QY_SILENT_S)
            fprintf(file, ", silent for %s", clock_text(r->silent_s, silent));
        fprintf(file, "\n");
    }
    if (s->n_tasks_running == 0 && s->latest) {
        fprintf(file, "latest   %s", s->latest->task);
        print_progress(file, &s->latest->progress);
        fprintf(file, "\n");
    }
}

const char *qy_status_block(const qy_run_state_t *s, int64_t block)
{
    return s->block[block].done ? "done" : s->block_running[block] ? "running" : "waiting";
}

static void print_blocks(FILE *file, const qy_run_state_t *s)
{
    char text[32];
    fprintf(file, "\nblock segment state    loss before      after valid before      after     "
                  "time    stall\n");
    for (int64_t b = 0; b < s->plan->arch.n_blocks; b++) {
        const qy_block_result_t *r = &s->block[b];
        fprintf(file, "%5lld %7lld %-8s", (long long)b, (long long)qy_plan_segment_of(s->plan, b),
                qy_status_block(s, b));
        print_number(file, 11, r->loss_before);
        print_number(file, 10, r->loss_after);
        print_number(file, 12, r->validation_before);
        print_number(file, 10, r->validation_after);
        fprintf(file, " %8s", r->done ? clock_text(r->seconds, text) : "-");
        if (isfinite(r->stall_s) && r->seconds > 0)
            fprintf(file, " %7.1f%%\n", 100 * r->stall_s / r->seconds);
        else
            fprintf(file, " %8s\n", "-");
    }
}

double qy_status_perplexity(const qy_run_state_t *s, int text, int variant)
{
    return s->ledger ? qy_results_perplexity(s->ledger, s->plan, text, (qy_variant_t)variant)
                     : (double)NAN;
}

bool qy_status_accuracy(const qy_run_state_t *s, int text, int variant, qy_accuracy_t *out)
{
    return s->ledger && qy_results_accuracy(s->ledger, s->plan, text, (qy_variant_t)variant, out);
}

static void print_variants(FILE *file, const char *title, int width)
{
    fprintf(file, "\n%-20s", title);
    for (int v = 0; v < QY_N_VARIANTS; v++)
        fprintf(file, " %*s", width, qy_variant_name((qy_variant_t)v));
    fprintf(file, "\n");
}

static void print_perplexities(FILE *file, const qy_run_state_t *s)
{
    bool first = true;
    for (int i = 0; i < s->plan->spec.n_evaluate; i++) {
        if (s->plan->spec.evaluate[i].task[0])
            continue;
        if (first)
            print_variants(file, "perplexity", 10);
        first = false;
        fprintf(file, "%-20s", s->plan->spec.evaluate[i].name);
        for (int v = 0; v < QY_N_VARIANTS; v++) {
            double x = qy_status_perplexity(s, i, v);
            if (isfinite(x))
                fprintf(file, " %10.3f", x);
            else
                fprintf(file, " %10s", "-");
        }
        fprintf(file, "\n");
    }
}

/* In percent: plain, then by bytes. */
static void print_accuracies(FILE *file, const qy_run_state_t *s)
{
    bool first = true;
    for (int i = 0; i < s->plan->spec.n_evaluate; i++) {
        qy_accuracy_t a;
        if (!s->plan->spec.evaluate[i].task[0])
            continue;
        if (first)
            print_variants(file, "accuracy, by bytes %", 14);
        first = false;
        fprintf(file, "%-20s", s->plan->spec.evaluate[i].name);
        for (int v = 0; v < QY_N_VARIANTS; v++)
            if (qy_status_accuracy(s, i, v, &a))
                fprintf(file, "  %6.2f %6.2f", 100 * a.accuracy, 100 * a.by_bytes);
            else
                fprintf(file, " %14s", "-");
        fprintf(file, "\n");
    }
}

qy_status_t qy_results_print_status(const char *run_dir, int json, FILE *file, qy_error_t *err)
{
    qy_run_state_t s;
    QY_TRY(qy_run_state_read(&s, run_dir, err));
    qy_status_t status = QY_OK;
    if (json) {
        status = qy_status_json(file, &s, err);
    } else {
        print_head(file, &s);
        print_running(file, &s);
        print_phases(file, &s);
        print_blocks(file, &s);
        print_perplexities(file, &s);
        print_accuracies(file, &s);
    }
    qy_run_state_free(&s);
    return status;
}
