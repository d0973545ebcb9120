/* Evaluation: negative log likelihood of windows of a text under one variant of the model. */
#include <math.h>
#include <stdlib.h>

#include "jobs/finished.h"
#include "worker/block_ap.h"
#include "worker/run_task.h"

static qy_status_t load_block(qy_forward_t *f, const qy_variant_source_t *source, int64_t block,
                              qy_error_t *err)
{
    qy_qblock_t q;
    if (!source->read_block)
        return qy_forward_load_original(f, block, err);
    QY_TRY(source->read_block(source->context, block, &q, err));
    qy_status_t status = qy_forward_load_quantized(f, &q, err);
    if (status == QY_OK)
        status = qy_device_wait(f->dev, err);
    qy_qblock_free(&q);
    return status;
}

static qy_status_t walk(qy_forward_t *f, const qy_variant_source_t *source, qy_stream_t *stream,
                        const int32_t *tokens, int64_t n, const qy_hooks_t *hooks, double *nll,
                        qy_error_t *err)
{
    int64_t blocks = f->model->arch.n_blocks;
    double last = 0;
    QY_TRY(qy_forward_embed(f, stream, 0, n, tokens, err));
    for (int64_t b = 0; b < blocks; b++) {
        QY_TRY(qy_hooks_check(hooks, err));
        QY_TRY(load_block(f, source, b, err));
        QY_TRY(qy_forward_advance(f, stream, 0, n, err));
        qy_hooks_progress(hooks, &last,
                          &(qy_progress_t){.kind = QY_TASK_EVALUATE,
                                           .block = b,
                                           .step = b + 1,
                                           .n_steps = blocks,
                                           .loss = (double)NAN});
    }
    return qy_forward_nll(f, stream, 0, n, tokens, nll, err);
}

qy_status_t qy_evaluate_windows(qy_device_t *dev, const qy_model_t *model,
                                const qy_variant_source_t *source, qy_stream_t *stream,
                                const int32_t *tokens, int64_t n, int64_t length,
                                const qy_hooks_t *hooks, double *nll, qy_error_t *err)
{
    qy_forward_t f;
    QY_TRY(qy_forward_create(&f, dev, model, source->read_block ? &source->form : NULL,
                             qy_forward_batch(length), length, err));
    qy_status_t status = walk(&f, source, stream, tokens, n, hooks, nll, err);
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
    qy_arena_t arena;
    qy_forward_t forward; /* only its tensors for one layer are used */
    qy_block_ap_t start;
} rounder_t;

static qy_status_t rounder_take(rounder_t *r, qy_arena_t *arena, qy_error_t *err)
{
    qy_quant_form_t form = qy_plan_form(r->work->plan);
    QY_TRY(qy_forward_take(&r->forward, r->work->dev, r->work->model, &form, 1, 1, arena, err));
    QY_TRY(qy_block_ap_take(&r->start, r->work->plan, &r->forward, 0, arena, err));
    r->start.init = QY_INIT_MIN_MAX;
    return QY_OK;
}

static qy_status_t rounder_open(rounder_t *r, const qy_work_t *work, qy_error_t *err)
{
    qy_arena_t measure;
    *r = (rounder_t){.work = work};
    qy_arena_init(&measure, "rounding", NULL, 0);
    QY_TRY(rounder_take(r, &measure, err));
    QY_TRY(qy_device_alloc(work->dev, &r->memory, measure.peak, err));
    qy_arena_init(&r->arena, "rounding", r->memory, measure.peak);
    qy_status_t status = rounder_take(r, &r->arena, err);
    if (status != QY_OK)
        qy_device_free(work->dev, &r->memory);
    return status;
}

static qy_status_t read_rounded(void *context, int64_t block, qy_qblock_t *out, qy_error_t *err)
{
    rounder_t *r = context;
    qy_quant_form_t form = qy_plan_form(r->work->plan);
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

/* The windows of the task's range under its variant, into result->values. */
static qy_status_t evaluate_range(const qy_work_t *work, const qy_task_t *task,
                                  const int32_t *tokens, int64_t n, int64_t length,
                                  qy_result_t *result, qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    run_blocks_t run = {.plan = plan, .final = task->variant == QY_VARIANT_FINAL};
    rounder_t rounder = {0};
    qy_variant_source_t source = {.form = qy_plan_form(plan), .context = &run};
    qy_stream_t *stream = NULL;
    qy_status_t status = QY_OK;
    if (task->variant == QY_VARIANT_ROUNDED) {
        source.context = &rounder;
        source.read_block = read_rounded;
        QY_TRY(rounder_open(&rounder, work, err));
    } else if (task->variant != QY_VARIANT_ORIGINAL) {
        source.read_block = read_run_block;
    }
    result->values = malloc((size_t)n * sizeof *result->values);
    if (!result->values)
        status = qy_fail(err, QY_ERR_MEMORY, "evaluation: out of host memory");
    if (status == QY_OK)
        status = qy_work_stream(work, n, length, 1, &stream, err);
    if (status == QY_OK)
        status = qy_evaluate_windows(work->dev, work->model, &source, stream, tokens, n, length,
                                     work->hooks, result->values, err);
    if (status == QY_OK)
        result->n_values = n;
    qy_stream_destroy(&stream);
    if (rounder.memory)
        qy_device_free(work->dev, &rounder.memory);
    return status;
}

qy_status_t qy_task_evaluate(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                             qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    int32_t *tokens = NULL;
    int64_t all, length, first, n;
    if (task->text < 0 || task->text >= plan->spec.n_evaluate)
        return qy_fail(err, QY_ERR_ARG, "evaluation text %d of %d", (int)task->text,
                       plan->spec.n_evaluate);
    QY_TRY(qy_store_read_tokens(&tokens, &all, &length, plan, plan->spec.evaluate[task->text].name,
                                err));
    qy_plan_range(all, qy_plan_evaluate_ranges(all, length), task->range, &first, &n);
    qy_status_t status =
        evaluate_range(work, task, tokens + first * length, n, length, result, err);
    free(tokens);
    return status;
}
