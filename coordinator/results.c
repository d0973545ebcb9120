#include "coordinator/results.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "coordinator/evaluations.h"
#include "coordinator/run_state.h"

enum { REAL_DIGITS = 10 };

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

static void print_head(FILE *file, const qy_run_state_t *s)
{
    char a[32], b[32];
    const qy_plan_t *plan = s->plan;
    fprintf(file, "run      %s, plan %.12s: %lld blocks in %lld segments\n", plan->spec.run_dir,
            plan->hash, (long long)plan->arch.n_blocks, (long long)plan->n_segments);
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
    for (int64_t i = 0; i < s->n_tasks_running; i++) {
        const qy_running_t *r = &s->running[i];
        fprintf(file, "worker   %d on %s: %s", r->assigned->rank, r->assigned->host,
                r->assigned->task);
        if (r->latest)
            print_progress(file, &r->latest->progress);
        fprintf(file, "\n");
    }
    if (s->n_tasks_running == 0 && s->latest) {
        fprintf(file, "latest   %s", s->latest->task);
        print_progress(file, &s->latest->progress);
        fprintf(file, "\n");
    }
}

static const char *block_state(const qy_run_state_t *s, int64_t block)
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
                block_state(s, b));
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

static double perplexity(const qy_run_state_t *s, int text, int variant)
{
    return s->ledger ? qy_results_perplexity(s->ledger, s->plan, text, (qy_variant_t)variant)
                     : (double)NAN;
}

static bool accuracy(const qy_run_state_t *s, int text, int variant, qy_accuracy_t *out)
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
            double x = perplexity(s, i, v);
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
            if (accuracy(s, i, v, &a))
                fprintf(file, "  %6.2f %6.2f", 100 * a.accuracy, 100 * a.by_bytes);
            else
                fprintf(file, " %14s", "-");
        fprintf(file, "\n");
    }
}

/* --- for machines ----------------------------------------------------------------------------- */

static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *text_or_null(const char *text)
{
    return text[0] ? json_string(text) : json_null();
}

static json_t *block_object(const qy_run_state_t *s, int64_t b)
{
    const qy_block_result_t *r = &s->block[b];
    const qy_metric_t *latest = s->block_running[b] ? s->block_running[b]->latest : NULL;
    const qy_progress_t none = {.loss = (double)NAN, .tokens_per_s = (double)NAN};
    const qy_progress_t *p = latest && latest->progress.block == b ? &latest->progress : &none;
    return json_pack(
        "{s:I, s:I, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:o}", "block", (json_int_t)b,
        "segment", (json_int_t)qy_plan_segment_of(s->plan, b), "state", block_state(s, b),
        "loss_before", real(r->loss_before), "loss_after", real(r->loss_after), "validation_before",
        real(r->validation_before), "validation_after", real(r->validation_after), "seconds",
        real(r->seconds), "stall_s", real(r->stall_s), "step", (json_int_t)p->step, "n_steps",
        (json_int_t)p->n_steps, "loss", real(p->loss), "tokens_per_s", real(p->tokens_per_s));
}

static json_t *latest_object(const qy_run_state_t *s)
{
    if (!s->latest)
        return json_null();
    const qy_progress_t *p = &s->latest->progress;
    return json_pack("{s:s, s:I, s:I, s:I, s:o, s:o}", "task", s->latest->task, "block",
                     (json_int_t)p->block, "step", (json_int_t)p->step, "n_steps",
                     (json_int_t)p->n_steps, "loss", real(p->loss), "tokens_per_s",
                     real(p->tokens_per_s));
}

static json_t *block_array(const qy_run_state_t *s)
{
    json_t *array = json_array();
    for (int64_t b = 0; array && b < s->plan->arch.n_blocks; b++)
        json_array_append_new(array, block_object(s, b));
    return array;
}

static json_t *perplexity_array(const qy_run_state_t *s)
{
    json_t *array = json_array();
    for (int i = 0; array && i < s->plan->spec.n_evaluate; i++) {
        if (s->plan->spec.evaluate[i].task[0])
            continue;
        json_t *object = json_pack("{s:s}", "text", s->plan->spec.evaluate[i].name);
        for (int v = 0; object && v < QY_N_VARIANTS; v++)
            json_object_set_new(object, qy_variant_name((qy_variant_t)v),
                                real(perplexity(s, i, v)));
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *accuracy_array(const qy_run_state_t *s)
{
    json_t *array = json_array();
    for (int i = 0; array && i < s->plan->spec.n_evaluate; i++) {
        if (!s->plan->spec.evaluate[i].task[0])
            continue;
        json_t *object = json_pack("{s:s}", "task", s->plan->spec.evaluate[i].name);
        for (int v = 0; object && v < QY_N_VARIANTS; v++) {
            qy_accuracy_t a;
            json_t *value = json_null();
            if (accuracy(s, i, v, &a))
                value = json_pack("{s:I, s:f, s:f, s:f, s:f}", "items", (json_int_t)a.n_items,
                                  "accuracy", a.accuracy, "error", a.error, "by_bytes", a.by_bytes,
                                  "by_bytes_error", a.by_bytes_error);
            json_object_set_new(object, qy_variant_name((qy_variant_t)v), value);
        }
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *to_json(const qy_run_state_t *s)
{
    bool live = s->locked && s->holder.live;
    int64_t left = s->plan->arch.n_blocks - s->n_done - s->n_running;
    return json_pack(
        "{s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:{s:I, s:I, s:I, s:I}, "
        "s:o, s:o, s:o}",
        "run_dir", text_or_null(s->plan->spec.run_dir), "plan_hash", s->plan->hash, "state",
        s->state, "error", text_or_null(s->error), "phase", text_or_null(s->phase), "host",
        text_or_null(live ? s->holder.host : ""), "pid",
        live ? json_integer((json_int_t)s->holder.pid) : json_null(), "slurm_job",
        text_or_null(live ? s->holder.slurm_job : ""), "workers",
        (json_int_t)(s->start ? s->start->workers : 0), "phase_s", real(s->phase_s), "last_event_s",
        real(s->last_event_s), "eta_s", real(s->eta_s), "latest", latest_object(s), "blocks",
        "total", (json_int_t)s->plan->arch.n_blocks, "done", (json_int_t)s->n_done, "running",
        (json_int_t)s->n_running, "left", (json_int_t)left, "block", block_array(s), "perplexity",
        perplexity_array(s), "accuracy", accuracy_array(s));
}

static qy_status_t print_json(FILE *file, const qy_run_state_t *s, qy_error_t *err)
{
    json_t *object = to_json(s);
    char *text =
        object ? json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(REAL_DIGITS)) : NULL;
    json_decref(object);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: its status cannot be written as JSON",
                       s->plan->spec.run_dir);
    fprintf(file, "%s\n", text);
    free(text);
    return QY_OK;
}

qy_status_t qy_results_print_status(const char *run_dir, int json, FILE *file, qy_error_t *err)
{
    qy_run_state_t s;
    QY_TRY(qy_run_state_read(&s, run_dir, err));
    qy_status_t status = QY_OK;
    if (json) {
        status = print_json(file, &s, err);
    } else {
        print_head(file, &s);
        print_running(file, &s);
        print_blocks(file, &s);
        print_perplexities(file, &s);
        print_accuracies(file, &s);
    }
    qy_run_state_free(&s);
    return status;
}
