/* Evaluation: negative log likelihood of windows of a text, or of the sequences of a zero-shot
 * task, under one variant of the model. */
#include <math.h>
#include <stdlib.h>

#include "jobs/finished.h"
#include "worker/block_ap.h"
#include "worker/decorate.h"
#include "worker/run_task.h"

const qy_quant_form_t *qy_variant_form(const qy_variant_source_t *source)
{
    return source->read_block || source->maps ? &source->form : NULL;
}

/* The checkpoint's weights as they are, with what is done to activations beside them. */
static qy_status_t load_mapped(qy_forward_t *f, const qy_variant_source_t *source, int64_t block,
                               qy_error_t *err)
{
    QY_TRY(qy_forward_load_original(f, block, err));
    if (!source->maps)
        return QY_OK;
    qy_decorate_quantizers(&f->params, &source->form);
    return qy_decorate_maps(&f->params, f->dev, &source->maps[block], err);
}

qy_status_t qy_variant_load(qy_forward_t *f, const qy_variant_source_t *source, int64_t block,
                            qy_error_t *err)
{
    qy_qblock_t q;
    if (!source->read_block)
        return load_mapped(f, source, block, err);
    QY_TRY(source->read_block(source->context, block, &q, err));
    qy_status_t status = qy_forward_load_quantized(f, &q, err);
    if (status == QY_OK)
        status = qy_device_wait(f->dev, err);
    qy_qblock_free(&q);
    return status;
}

static qy_status_t walk(qy_forward_t *f, const qy_variant_source_t *source, qy_stream_t *stream,
                        const int32_t *tokens, const qy_hooks_t *hooks, double *nll,
                        qy_error_t *err)
{
    int64_t blocks = f->model->arch.n_blocks;
    double last = 0;
    QY_TRY(qy_forward_embed(f, &stream, 1, tokens, err));
    qy_forward_read_ahead(f, blocks);
    for (int64_t b = 0; b < blocks; b++) {
        QY_TRY(qy_hooks_check(hooks, err));
        QY_TRY(qy_variant_load(f, source, b, err));
        QY_TRY(qy_forward_advance(f, stream, b, hooks, err));
        qy_hooks_progress(hooks, &last,
                          &(qy_progress_t){.kind = QY_TASK_EVALUATE,
                                           .block = b,
                                           .step = b + 1,
                                           .n_steps = blocks,
                                           .loss = (double)NAN});
    }
    return qy_forward_nll(f, stream, tokens, nll, err);
}

qy_status_t qy_evaluate_windows(qy_device_t *dev, const qy_model_t *model,
                                const qy_variant_source_t *source, qy_stream_t *stream,
                                const int32_t *tokens, int64_t n, int64_t length,
                                const qy_hooks_t *hooks, double *nll, qy_error_t *err)
{
    qy_forward_t f;
    QY_TRY(qy_forward_create(&f, dev, model, qy_variant_form(source), qy_forward_batch(length),
                             length, err));
    qy_status_t status = walk(&f, source, stream, tokens, hooks, nll, err);
    qy_forward_free(&f);
    for (int64_t i = 0; i < n && status == QY_OK; i++)
        if (!isfinite(nll[i]))
            status = qy_fail(err, QY_ERR_NUMERIC, "window %lld: the log likelihood is %g",
                             (long long)i, nll[i]);
    return status;
}

typedef struct {
    const qy_plan_t *plan;
    int final;
} run_blocks_t;

static qy_status_t read_run_block(void *context, int64_t block, qy_qblock_t *out, qy_error_t *err)
{
    const run_blocks_t *run = context;
    return qy_finished_read_model(run->plan, block, run->final, out, err);
}

/* Rounds the checkpoint's blocks as they are asked for. */
typedef struct {
    const qy_work_t *work;
    void *memory;
    qy_forward_t forward; /* only its tensors for one layer are used */
    qy_block_ap_t start;
} rounder_t;

static qy_status_t rounder_take(void *context, qy_arena_t *arena, qy_error_t *err)
{
    rounder_t *r = context;
    qy_quant_form_t form = qy_plan_rounded_form(r->work->plan);
    QY_TRY(qy_forward_take(&r->forward, r->work->dev, r->work->model, &form, 1, 1, arena, err));
    QY_TRY(qy_block_ap_take(&r->start, r->work->plan, &r->forward, 0, arena, err));
    r->start.init = QY_INIT_MIN_MAX;
    return QY_OK;
}

static qy_status_t rounder_open(rounder_t *r, const qy_work_t *work, qy_error_t *err)
{
    *r = (rounder_t){.work = work};
    return qy_device_take(work->dev, &r->memory, "rounding", rounder_take, r, err);
}

static qy_status_t read_rounded(void *context, int64_t block, qy_qblock_t *out, qy_error_t *err)
{
    rounder_t *r = context;
    qy_quant_form_t form = qy_plan_rounded_form(r->work->plan);
    qy_block_weights_t weights;
    QY_TRY(qy_block_weights_read(&weights, r->work->model, block, err));
    qy_status_t status = qy_block_ap_start(&r->start, &weights, err);
    if (status == QY_OK)
        status = qy_qblock_create(out, &r->work->plan->arch, &form, err);
    if (status == QY_OK) {
        status = qy_block_ap_freeze(&r->start, &weights, out, err);
        if (status != QY_OK)
            qy_qblock_free(out);
    }
    qy_block_weights_free(&weights);
    return status;
}

qy_status_t qy_task_evaluate_bytes(const qy_work_t *work, size_t *bytes, qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    const qy_spec_t *spec = &plan->spec;
    const qy_quant_form_t form = qy_plan_form(plan);
    const int64_t longest_choice = 2048;
    rounder_t rounder = {.work = work};
    qy_arena_t rounding;
    *bytes = 0;
    qy_arena_init(&rounding, "rounding", NULL, 0);
    QY_TRY(rounder_take(&rounder, &rounding, err));
    for (int i = 0; i < spec->n_evaluate; i++) {
        /* A task's sequences go side by side up to so many tokens; few are longer. */
        int64_t length = spec->evaluate[i].sequence_length;
        if (spec->evaluate[i].task[0])
            length = longest_choice < plan->arch.max_positions ? longest_choice
                                                               : plan->arch.max_positions;
        size_t one;
        QY_TRY(qy_forward_bytes(&one, work->dev, work->model, &form, qy_forward_batch(length),
                                length, QY_OUTER_EMBEDDING | QY_OUTER_HEAD, err));
        *bytes = rounding.peak + one > *bytes ? rounding.peak + one : *bytes;
    }
    return QY_OK;
}

/* What a task evaluates: windows of a text, or sequences of a zero-shot task. */
typedef struct {
    int32_t *tokens; /* owned; NULL for a zero-shot task */
    int64_t length;
    qy_choices_t choices;
    int64_t first, n; /* the task's range */
} subject_t;

static void subject_free(subject_t *s)
{
    free(s->tokens);
    qy_choices_free(&s->choices);
}

static qy_status_t subject_read(subject_t *s, const qy_plan_t *plan, const qy_task_t *task,
                                qy_error_t *err)
{
    const qy_evaluate_spec_t *e = &plan->spec.evaluate[task->text];
    int64_t all, starts[QY_CHOICES_RANGES + 1];
    *s = (subject_t){0};
    if (!e->task[0]) {
        QY_TRY(qy_store_read_tokens(&s->tokens, &all, &s->length, plan, e->name, err));
        qy_plan_range(all, qy_plan_evaluate_ranges(plan, all, s->length), task->range, &s->first,
                      &s->n);
        return QY_OK;
    }
    QY_TRY(qy_store_read_choices(&s->choices, plan, e->name, err));
    if (task->range < qy_choices_cut(&s->choices, plan->arch.max_positions, starts)) {
        s->first = starts[task->range];
        s->n = starts[task->range + 1] - s->first;
    }
    return QY_OK;
}

static qy_status_t evaluate_windows(const qy_work_t *work, const subject_t *s,
                                    const qy_variant_source_t *source, double *nll, qy_error_t *err)
{
    qy_stream_t *stream = NULL;
    QY_TRY(qy_work_stream(work, s->n, s->length, 1, NULL, &stream, err));
    qy_status_t status = qy_evaluate_windows(work->dev, work->model, source, stream,
                                             s->tokens + s->first * s->length, s->n, s->length,
                                             work->hooks, nll, err);
    qy_stream_destroy(&stream);
    return status;
}

/* The task's range under its variant, into result->values. */
static qy_status_t evaluate_range(const qy_work_t *work, const qy_task_t *task, const subject_t *s,
                                  qy_result_t *result, qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    run_blocks_t run = {.plan = plan, .final = task->variant == QY_VARIANT_FINAL};
    rounder_t rounder = {0};
    qy_variant_source_t source = {.form = qy_plan_form(plan), .context = &run};
    qy_status_t status = QY_OK;
    if (task->variant == QY_VARIANT_ROUNDED) {
        source.form = qy_plan_rounded_form(plan);
        source.context = &rounder;
        source.read_block = read_rounded;
        QY_TRY(rounder_open(&rounder, work, err));
    } else if (task->variant != QY_VARIANT_ORIGINAL) {
        source.read_block = read_run_block;
        QY_TRY(qy_finished_final_norm(plan, work->model, err));
    }
    result->values = malloc((size_t)(s->n + 1) * sizeof *result->values);
    if (!result->values)
        status = qy_fail(err, QY_ERR_MEMORY, "evaluation: out of host memory");
    else if (s->tokens)
        status = evaluate_windows(work, s, &source, result->values, err);
    else
        status = qy_evaluate_choices(work->dev, work->model, &source, &s->choices, s->first, s->n,
                                     qy_work_host_cache(plan), plan->spec.resources.scratch,
                                     work->hooks, result->values, err);
    if (status == QY_OK)
        result->n_values = s->n;
    if (rounder.memory)
        qy_device_free(work->dev, &rounder.memory);
    qy_model_set_final_norm(work->model, NULL, NULL, NULL); /* for whoever uses it next */
    return status;
}

qy_status_t qy_task_evaluate(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                             qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    subject_t subject;
    if (task->text < 0 || task->text >= plan->spec.n_evaluate)
        return qy_fail(err, QY_ERR_ARG, "evaluation text %d of %d", (int)task->text,
                       plan->spec.n_evaluate);
    qy_status_t status = subject_read(&subject, plan, task, err);
    if (status == QY_OK)
        status = evaluate_range(work, task, &subject, result, err);
    subject_free(&subject);
    return status;
}
