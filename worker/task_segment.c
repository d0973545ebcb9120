/*
 * A segment: its blocks one after the other, from the first unfinished one. Two streams go along:
 * the target stream through full-precision blocks, the input stream through the finished quantized
 * ones.
 */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "jobs/finished.h"
#include "worker/block_save.h"
#include "worker/decorate.h"
#include "worker/gptq.h"
#include "worker/run_task.h"

typedef struct {
    const qy_work_t *work;
    const qy_task_t *task;
    const qy_plan_t *plan;
    int64_t first, end; /* blocks of the segment */
    int training;       /* the method looks at activations */
    void *memory;
    qy_arena_t arena;
    qy_forward_t forward;
    qy_block_ap_t trainer;
    qy_gptq_t gptq;
    qy_stream_t *target, *input; /* NULL where no activations are needed (rtn) */
} segment_t;

static int is_gptq(const segment_t *s)
{
    return s->plan->spec.quantize.method == QY_METHOD_GPTQ;
}

static qy_status_t take(segment_t *s, qy_arena_t *arena, qy_error_t *err)
{
    qy_quant_form_t form = qy_plan_form(s->plan);
    const qy_spec_t *spec = &s->plan->spec;
    int64_t length = s->training ? spec->calibration.sequence_length : 2;
    int64_t batch = !s->training ? 1
                    : is_gptq(s) ? qy_forward_batch(length)
                                 : spec->block_ap.batch_size;
    QY_TRY(qy_forward_take(&s->forward, s->work->dev, s->work->model, &form, batch, length, arena,
                           err));
    QY_TRY(qy_block_ap_take(&s->trainer, s->plan, &s->forward, s->training && !is_gptq(s), arena,
                            err));
    return is_gptq(s) ? qy_gptq_take(&s->gptq, s->plan, &s->trainer, arena, err) : QY_OK;
}

static segment_t segment_of(const qy_work_t *work)
{
    const qy_plan_t *plan = work->plan;
    return (segment_t){
        .work = work,
        .plan = plan,
        .training = plan->n_samples > 0 &&
                    (plan->spec.quantize.method != QY_METHOD_BLOCK_AP || plan->block_ap.steps > 0)};
}

qy_status_t qy_task_segment_bytes(const qy_work_t *work, size_t *bytes, qy_error_t *err)
{
    segment_t s = segment_of(work);
    size_t bare, embedding;
    qy_arena_t measure;
    qy_arena_init(&measure, "segment", NULL, 0);
    QY_TRY(take(&s, &measure, err));
    *bytes = measure.peak;
    if (is_gptq(&s)) /* and what making a factor may take */
        *bytes += qy_tensor_bytes(&s.gptq.u);
    if (!s.training)
        return QY_OK;
    /* The first segment begins at the embedding. */
    const qy_forward_t *f = &s.forward;
    QY_TRY(qy_forward_bytes(&bare, work->dev, work->model, NULL, f->batch, f->length, 0, err));
    QY_TRY(qy_forward_bytes(&embedding, work->dev, work->model, NULL, f->batch, f->length,
                            QY_OUTER_EMBEDDING, err));
    *bytes += embedding - bare;
    return QY_OK;
}

static qy_status_t open_memory(segment_t *s, qy_error_t *err)
{
    qy_arena_t measure;
    qy_arena_init(&measure, "segment", NULL, 0);
    QY_TRY(take(s, &measure, err));
    QY_TRY(qy_device_alloc(s->work->dev, &s->memory, measure.peak, err));
    qy_arena_init(&s->arena, "segment", s->memory, measure.peak);
    QY_TRY(take(s, &s->arena, err));
    return s->training && !is_gptq(s) ? qy_block_save_create(&s->trainer.save, &s->trainer, err)
                                      : QY_OK;
}

/* Both streams from a capture's files, range by range. */
static qy_status_t fill_from_capture(segment_t *s, qy_error_t *err)
{
    const qy_plan_t *plan = s->plan;
    qy_status_t status = QY_OK;
    void *row = malloc(qy_stream_sample_bytes(s->target));
    if (!row)
        return qy_fail(err, QY_ERR_MEMORY, "streams: out of host memory");
    for (int64_t r = 0; r < plan->n_ranges && status == QY_OK; r++) {
        char path[QY_PATH_MAX];
        qy_h5_t *file = NULL;
        int64_t first, n;
        qy_plan_range(plan->n_samples, plan->n_ranges, r, &first, &n);
        QY_TRY_GOTO(qy_store_capture(path, plan, s->task->range, r, err), free_row);
        QY_TRY_GOTO(qy_store_open(&file, path, plan, "capture", err), free_row);
        for (int64_t i = 0; i < n && status == QY_OK; i++) {
            status = qy_h5_read_rows(file, "x", i, 1, row, err);
            if (status == QY_OK)
                status = qy_stream_write(s->target, first + i, 1, row, err);
            if (status == QY_OK)
                status = qy_stream_write(s->input, first + i, 1, row, err);
        }
        qy_h5_close(&file);
    }
free_row:
    free(row);
    return status;
}

static qy_status_t fill_from_tokens(segment_t *s, qy_error_t *err)
{
    int32_t *tokens = NULL;
    int64_t n, length;
    QY_TRY(qy_store_read_tokens(&tokens, &n, &length, s->plan, "calibration", err));
    qy_status_t status = qy_forward_embed(&s->forward, s->target, 0, n, tokens, err);
    if (status == QY_OK) /* the same rows again: cheaper than a second read of the embedding's */
        status = qy_forward_embed(&s->forward, s->input, 0, n, tokens, err);
    free(tokens);
    return status;
}

static qy_status_t open_streams(segment_t *s, qy_error_t *err)
{
    int64_t n = s->plan->n_samples, length = s->plan->spec.calibration.sequence_length;
    QY_TRY(qy_work_stream(s->work, n, length, 2, &s->target, err));
    QY_TRY(qy_work_stream(s->work, n, length, 2, &s->input, err));
    return s->first == 0 ? fill_from_tokens(s, err) : fill_from_capture(s, err);
}

static int is_done(const segment_t *s, int64_t block)
{
    char path[QY_PATH_MAX];
    return qy_store_block(path, s->plan, block, NULL) == QY_OK &&
           qy_store_has(path, s->plan, "block", NULL);
}

/* Through a block that an earlier attempt finished. */
static qy_status_t pass_block(segment_t *s, int64_t block, qy_error_t *err)
{
    qy_qblock_t q;
    if (!s->target)
        return QY_OK;
    QY_TRY(qy_forward_load_original(&s->forward, block, err));
    QY_TRY(qy_forward_advance(&s->forward, s->target, 0, s->plan->n_samples, err));
    QY_TRY(qy_finished_read(s->plan, block, &q, err));
    qy_status_t status = qy_forward_load_quantized(&s->forward, &q, err);
    if (status == QY_OK)
        status = qy_forward_advance(&s->forward, s->input, 0, s->plan->n_samples, err);
    qy_qblock_free(&q);
    return status;
}

typedef struct {
    qy_block_ap_losses_t training;
    double validation_before, validation_after;
} losses_t;

static qy_status_t write_block(const segment_t *s, int64_t block, const qy_qblock_t *q,
                               const losses_t *losses, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_h5_t *file = NULL;
    qy_status_t status;
    QY_TRY(qy_store_block(path, s->plan, block, err));
    QY_TRY(qy_h5_create(&file, path, err));
    QY_TRY_GOTO(qy_store_mark(file, s->plan, "block", err), close);
    QY_TRY_GOTO(qy_h5_set_i64(file, "block", block, err), close);
    QY_TRY_GOTO(qy_h5_set_i64(file, "bits", s->forward.form.bits, err), close);
    QY_TRY_GOTO(qy_h5_set_i64(file, "group_size", s->forward.form.group, err), close);
    QY_TRY_GOTO(qy_h5_set_i64(file, "symmetric", s->forward.form.symmetric, err), close);
    QY_TRY_GOTO(qy_h5_set_f64(file, "loss_first", losses->training.first, err), close);
    QY_TRY_GOTO(qy_h5_set_f64(file, "loss_last", losses->training.last, err), close);
    QY_TRY_GOTO(qy_h5_set_f64(file, "validation_before", losses->validation_before, err), close);
    QY_TRY_GOTO(qy_h5_set_f64(file, "validation_after", losses->validation_after, err), close);
    QY_TRY_GOTO(qy_qblock_write(q, &s->plan->arch, file, "", err), close);
    return qy_h5_commit(&file, err);
close:
    qy_h5_close(&file);
    return status;
}

/* Rounding's error on the training samples and GPTQ's stand for the training's. */
static qy_status_t run_gptq(segment_t *s, int64_t block, const qy_block_weights_t *weights,
                            losses_t *losses, qy_error_t *err)
{
    int64_t n_train = s->plan->spec.calibration.samples;
    QY_TRY(qy_forward_error(&s->forward, s->input, s->target, 0, n_train, &losses->training.first,
                            err));
    QY_TRY(qy_gptq_run(&s->gptq, block, weights, s->input, s->work->hooks, err));
    return qy_forward_error(&s->forward, s->input, s->target, 0, n_train, &losses->training.last,
                            err);
}

/* The part of a block's work that needs activations; leaves the trained weights in the trainer. */
static qy_status_t train(segment_t *s, int64_t block, const qy_block_weights_t *weights,
                         losses_t *losses, qy_error_t *err)
{
    int64_t n = s->plan->n_samples, n_train = s->plan->spec.calibration.samples;
    qy_decorate_plain(&s->forward.params);
    QY_TRY(qy_block_params_load(&s->forward.params, &s->forward.block, weights, &s->forward.staging,
                                1, err));
    QY_TRY(qy_forward_advance(&s->forward, s->target, 0, n, err));
    QY_TRY(qy_block_ap_start(&s->trainer, weights, err));
    QY_TRY(qy_forward_error(&s->forward, s->input, s->target, n_train, n - n_train,
                            &losses->validation_before, err));
    if (is_gptq(s))
        return run_gptq(s, block, weights, losses, err);
    return qy_block_ap_train(&s->trainer, block, s->input, s->target, s->work->hooks,
                             &losses->training, err);
}

/* The finished weights' validation error, and the input stream through them for the next block. */
static qy_status_t settle(segment_t *s, int64_t block, const qy_qblock_t *q, losses_t *losses,
                          qy_error_t *err)
{
    int64_t n = s->plan->n_samples, n_train = s->plan->spec.calibration.samples;
    QY_TRY(qy_forward_load_quantized(&s->forward, q, err));
    QY_TRY(qy_forward_error(&s->forward, s->input, s->target, n_train, n - n_train,
                            &losses->validation_after, err));
    return block + 1 < s->end ? qy_forward_advance(&s->forward, s->input, 0, n, err) : QY_OK;
}

static qy_status_t quantize_block(segment_t *s, int64_t block, const qy_block_weights_t *weights,
                                  qy_qblock_t *q, losses_t *losses, qy_error_t *err)
{
    *losses = (losses_t){{(double)NAN, (double)NAN}, (double)NAN, (double)NAN};
    if (s->training)
        QY_TRY(train(s, block, weights, losses, err));
    else
        QY_TRY(qy_block_ap_start(&s->trainer, weights, err));
    QY_TRY(qy_block_ap_freeze(&s->trainer, weights, q, err));
    if (s->training)
        QY_TRY(settle(s, block, q, losses, err));
    return write_block(s, block, q, losses, err);
}

static qy_status_t do_block(segment_t *s, int64_t block, qy_error_t *err)
{
    double began = qy_now_s(), last = 0;
    qy_quant_form_t form = qy_plan_form(s->plan);
    qy_block_weights_t weights;
    qy_qblock_t q;
    losses_t losses;
    qy_status_t status;
    QY_TRY(qy_block_weights_read(&weights, s->work->model, block, err));
    QY_TRY_GOTO(qy_qblock_create(&q, &s->plan->arch, &form, err), free_weights);
    status = quantize_block(s, block, &weights, &q, &losses, err);
    qy_qblock_free(&q);
    if (status == QY_OK)
        qy_block_save_drop(s->plan, block);
    if (status == QY_OK)
        qy_hooks_progress(s->work->hooks, &last,
                          &(qy_progress_t){.task_id = s->task->id,
                                           .kind = QY_TASK_SEGMENT,
                                           .block = block,
                                           .block_done = 1,
                                           .step = s->plan->block_ap.steps,
                                           .n_steps = s->plan->block_ap.steps,
                                           .loss = losses.training.last,
                                           .loss_before = losses.training.first,
                                           .loss_after = losses.training.last,
                                           .validation_before = losses.validation_before,
                                           .validation_after = losses.validation_after,
                                           .seconds = qy_now_s() - began});
free_weights:
    qy_block_weights_free(&weights);
    return status;
}

static qy_status_t walk(segment_t *s, qy_error_t *err)
{
    int64_t block = s->first;
    while (block < s->end && is_done(s, block))
        block++;
    if (block == s->end)
        return QY_OK;
    QY_TRY(open_memory(s, err));
    if (s->training)
        QY_TRY(open_streams(s, err));
    for (int64_t b = s->first; b < s->end; b++) {
        QY_TRY(qy_hooks_check(s->work->hooks, err));
        QY_TRY(b < block ? pass_block(s, b, err) : do_block(s, b, err));
    }
    return QY_OK;
}

qy_status_t qy_task_segment(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                            qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    (void)result;
    if (task->range < 0 || task->range >= plan->n_segments)
        return qy_fail(err, QY_ERR_ARG, "segment %lld of %lld", (long long)task->range,
                       (long long)plan->n_segments);
    segment_t s = segment_of(work);
    s.task = task;
    s.first = plan->segment_start[task->range];
    s.end = plan->segment_start[task->range + 1];
    qy_status_t status = walk(&s, err);
    qy_block_save_destroy(&s.trainer.save);
    qy_stream_destroy(&s.input);
    qy_stream_destroy(&s.target);
    qy_forward_free(&s.forward);
    if (s.memory)
        qy_device_free(work->dev, &s.memory);
    return status;
}
