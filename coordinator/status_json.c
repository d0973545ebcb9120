#include "coordinator/status_json.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/evaluations.h"
#include "coordinator/outlook.h"
#include "jobs/plan_time.h"

enum { REAL_DIGITS = 10 };

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
        "segment", (json_int_t)qy_plan_segment_of(s->plan, b), "state", qy_status_block(s, b),
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
                                real(qy_status_perplexity(s, i, v)));
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
            if (qy_status_accuracy(s, i, v, &a))
                value = json_pack("{s:I, s:f, s:f, s:f, s:f}", "items", (json_int_t)a.n_items,
                                  "accuracy", a.accuracy, "error", a.error, "by_bytes", a.by_bytes,
                                  "by_bytes_error", a.by_bytes_error);
            json_object_set_new(object, qy_variant_name((qy_variant_t)v), value);
        }
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *running_array(const qy_run_state_t *s)
{
    json_t *array = json_array();
    for (int64_t i = 0; array && i < s->n_tasks_running; i++) {
        const qy_running_t *r = &s->running[i];
        const qy_progress_t none = {.block = -1, .loss = (double)NAN, .tokens_per_s = (double)NAN};
        const qy_progress_t *p = r->latest ? &r->latest->progress : &none;
        json_array_append_new(
            array, json_pack("{s:s, s:I, s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "task",
                             r->assigned->task, "worker", (json_int_t)r->assigned->rank, "host",
                             r->assigned->host, "attempt", (json_int_t)r->assigned->attempt,
                             "block", (json_int_t)p->block, "step", (json_int_t)p->step, "n_steps",
                             (json_int_t)p->n_steps, "loss", real(p->loss), "tokens_per_s",
                             real(p->tokens_per_s), "silent_s", real(r->silent_s)));
    }
    return array;
}

static json_t *phase_array(const qy_run_state_t *s)
{
    json_t *array = json_array();
    for (int i = 0; array && i < QY_N_RUN_PHASES; i++) {
        const qy_history_t *h = &s->history;
        const char *name = qy_phase_name((qy_run_phase_t)i);
        const char *state = h->done[i]                    ? "done"
                            : strcmp(s->phase, name) == 0 ? "running"
                            : h->begun[i]                 ? "interrupted"
                                                          : "waiting";
        json_array_append_new(array,
                              json_pack("{s:s, s:s, s:f, s:o}", "phase", name, "state", state,
                                        "seconds", h->took_s[i], "estimate_s",
                                        real(qy_outlook_expected(s->plan, (qy_run_phase_t)i))));
    }
    return array;
}

static json_t *estimate_object(const qy_run_state_t *s)
{
    const qy_plan_t *plan = s->plan;
    if (!plan->time.device[0])
        return json_null();
    return json_pack("{s:s, s:s, s:f}", "device", plan->time.device, "source", plan->time.source,
                     "total_s", qy_plan_total_s(plan));
}

static json_t *to_json(const qy_run_state_t *s)
{
    bool live = s->locked && s->holder.live;
    int64_t left = s->plan->arch.n_blocks - s->n_done - s->n_running;
    return json_pack(
        "{s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:{s:I, s:I, s:I, s:I}, "
        "s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:I, s:I, s:I, s:I, s:o, s:o, s:o}",
        "run_dir", text_or_null(s->plan->spec.run_dir), "plan_hash", s->plan->hash, "state",
        s->state, "error", text_or_null(s->error), "phase", text_or_null(s->phase), "host",
        text_or_null(live ? s->holder.host : ""), "pid",
        live ? json_integer((json_int_t)s->holder.pid) : json_null(), "slurm_job",
        text_or_null(live ? s->holder.slurm_job : ""), "workers",
        (json_int_t)(s->start ? s->start->workers : 0), "phase_s", real(s->phase_s), "last_event_s",
        real(s->last_event_s), "eta_s", real(s->eta_s), "latest", latest_object(s), "blocks",
        "total", (json_int_t)s->plan->arch.n_blocks, "done", (json_int_t)s->n_done, "running",
        (json_int_t)s->n_running, "left", (json_int_t)left, "block", block_array(s), "perplexity",
        perplexity_array(s), "accuracy", accuracy_array(s), "run_eta_s", real(s->run_eta_s),
        "tokens_per_s", real(s->tokens_per_s), "saved_s", real(s->saved_s), "stall_s", s->stall_s,
        "silent", (json_int_t)s->n_silent, "starts", (json_int_t)s->history.starts, "idle_starts",
        (json_int_t)s->history.idle_starts, "failed_attempts", (json_int_t)s->history.failed,
        "running", running_array(s), "phases", phase_array(s), "estimate", estimate_object(s));
}

qy_status_t qy_status_json(FILE *file, const qy_run_state_t *s, qy_error_t *err)
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
