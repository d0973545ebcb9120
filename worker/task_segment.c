/*
 * A segment: its blocks one after the other, from the first unfinished one. Two streams go along
 * (worker/segment_streams.h).
 */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "jobs/finished.h"
#include "worker/block_save.h"
#include "worker/decorate.h"
#include "worker/gptq.h"
#include "worker/qllm.h"
#include "worker/rptq.h"
#include "worker/segment_streams.h"

typedef struct {
    const qy_work_t *work;
    const qy_task_t *task;
    const qy_plan_t *plan;
    int64_t first, end; /* blocks of the segment */
    int training;       /* the method looks at activations */
    double train_s;     /* spent training or fitting, in all */
    void *memory;
    qy_forward_t forward;
    qy_block_ap_t trainer;
    qy_gptq_t gptq;
    qy_rptq_t rptq;
    qy_qllm_t qllm;
    qy_segment_streams_t streams; /* only where activations are needed: not by rtn */
} segment_t;

static int is_gptq(const segment_t *s)
{
    return s->plan->spec.quantize.method == QY_METHOD_GPTQ;
}

static int is_rptq(const segment_t *s)
{
    return s->plan->spec.quantize.method == QY_METHOD_RPTQ;
}

/* Blocks are rounded by what their inputs look like; nothing is trained. */
static int is_rounded(const segment_t *s)
{
    return is_gptq(s) || is_rptq(s);
}

/* Blocks go in rounds, not one by one. */
static int is_qllm(const segment_t *s)
{
    return s->plan->spec.quantize.method == QY_METHOD_QLLM;
}

static qy_status_t take(void *context, qy_arena_t *arena, qy_error_t *err)
{
    segment_t *s = context;
    qy_quant_form_t form = qy_plan_form(s->plan);
    const qy_spec_t *spec = &s->plan->spec;
    int64_t length = s->training ? spec->calibration.sequence_length : 2;
    int64_t batch = !s->training    ? 1
                    : is_rounded(s) ? qy_forward_batch(length)
                    : is_qllm(s)    ? spec->qllm.batch_size
                                    : spec->block_ap.batch_size;
    QY_TRY(qy_forward_take(&s->forward, s->work->dev, s->work->model, &form, batch, length, arena,
                           err));
    if (is_qllm(s))
        return qy_qllm_take(&s->qllm, s->plan, &s->forward, arena, err);
    QY_TRY(qy_block_ap_take(&s->trainer, s->plan, &s->forward, s->training && !is_rounded(s), arena,
                            err));
    if (is_rptq(s))
        return qy_rptq_take(&s->rptq, s->plan, &s->trainer, arena, err);
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
    size_t walk;
    qy_arena_t measure;
    qy_arena_init(&measure, "segment", NULL, 0);
    qy_status_t status = take(&s, &measure, err);
    qy_qllm_free(&s.qllm);
    QY_TRY(status);
    *bytes = measure.peak;
    if (is_rounded(&s)) /* and what making a factor may take */
        *bytes += qy_tensor_bytes(is_rptq(&s) ? &s.rptq.gptq.u : &s.gptq.u);
    if (!s.training)
        return QY_OK;
    /* The first segment begins at the embedding. */
    const qy_forward_t *f = &s.forward;
    qy_arena_init(&measure, "segment", NULL, 0);
    QY_TRY(qy_forward_take(&s.forward, work->dev, work->model, NULL, f->batch, f->length, &measure,
                           err));
    QY_TRY(qy_forward_bytes(&walk, work->dev, work->model, NULL, f->batch, f->length,
                            QY_OUTER_EMBEDDING, err));
    *bytes += walk - measure.peak;
    return QY_OK;
}

static int is_done(const segment_t *s, int64_t block)
{
    char path[QY_PATH_MAX];
    return qy_store_block(path, s->plan, block, NULL) == QY_OK &&
           qy_store_has(path, s->plan, "block", NULL);
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
    QY_TRY(qy_forward_error(&s->forward, s->streams.input, s->streams.target, 0, n_train,
                            &losses->training.first, err));
    QY_TRY(qy_gptq_run(&s->gptq, block, weights, s->streams.input, s->work->hooks, err));
    return qy_forward_error(&s->forward, s->streams.input, s->streams.target, 0, n_train,
                            &losses->training.last, err);
}

/* The part of a block's work that needs activations; leaves the trained weights in the trainer. */
static qy_status_t train(segment_t *s, int64_t block, const qy_block_weights_t *weights,
                         losses_t *losses, qy_error_t *err)
{
    int64_t n = s->plan->n_samples, n_train = s->plan->spec.calibration.samples;
    qy_stream_t *input = s->streams.input, *target = s->streams.target;
    QY_TRY(qy_segment_streams_bring(&s->streams, block, err));
    qy_decorate_plain(&s->forward.params);
    QY_TRY(qy_block_params_load(&s->forward.params, &s->forward.block, weights, &s->forward.staging,
                                1, err));
    QY_TRY(qy_segment_streams_pass(&s->streams, target, block, err));
    qy_segment_streams_save(&s->streams, block);
    QY_TRY(qy_block_ap_start(&s->trainer, weights, err));
    QY_TRY(qy_forward_error(&s->forward, input, target, n_train, n - n_train,
                            &losses->validation_before, err));
    double began = qy_now_s();
    qy_status_t status = is_gptq(s) ? run_gptq(s, block, weights, losses, err)
                                    : qy_block_ap_train(&s->trainer, block, input, target,
                                                        s->work->hooks, &losses->training, err);
    s->train_s += qy_now_s() - began;
    return status;
}

/* The finished weights' validation error; leaves them in forward. */
static qy_status_t settle(segment_t *s, const qy_qblock_t *q, losses_t *losses, qy_error_t *err)
{
    int64_t n = s->plan->n_samples, n_train = s->plan->spec.calibration.samples;
    QY_TRY(qy_forward_load_quantized(&s->forward, q, err));
    return qy_forward_error(&s->forward, s->streams.input, s->streams.target, n_train, n - n_train,
                            &losses->validation_after, err);
}

/* The whole of a block that RPTQ quantizes; its weights are put into another order. */
static qy_status_t run_rptq(segment_t *s, int64_t block, qy_block_weights_t *weights,
                            qy_qblock_t *q, losses_t *losses, qy_error_t *err)
{
    qy_forward_t *f = &s->forward;
    int64_t n_train = s->plan->spec.calibration.samples;
    QY_TRY(qy_segment_streams_bring(&s->streams, block, err));
    QY_TRY(qy_rptq_bring(&s->rptq, s->first, block, err));
    qy_decorate_plain(&f->params);
    QY_TRY(qy_block_params_load(&f->params, &f->block, weights, &f->staging, 1, err));
    QY_TRY(qy_segment_streams_pass(&s->streams, s->streams.target, block, err));
    qy_segment_streams_save(&s->streams, block);
    double began = qy_now_s();
    QY_TRY(qy_rptq_run(&s->rptq, block, weights, s->streams.input, s->work->hooks, q, err));
    s->train_s += qy_now_s() - began;
    QY_TRY(settle(s, q, losses, err));
    return qy_forward_error(f, s->streams.input, s->streams.target, 0, n_train,
                            &losses->training.last, err);
}

/* Where nothing is trained, NaN would pass into a finished block unseen. */
static qy_status_t check_finite(const losses_t *losses, int has_training, int has_validation,
                                int64_t block, qy_error_t *err)
{
    double training = losses->training.last, validation = losses->validation_after;
    if ((has_training && !isfinite(training)) || (has_validation && !isfinite(validation)))
        return qy_fail(err, QY_ERR_NUMERIC,
                       "block %lld: its quantized outputs are %g from the original's, %g on "
                       "validation samples",
                       (long long)block, training, validation);
    return QY_OK;
}

static qy_status_t quantize_block(segment_t *s, int64_t block, qy_block_weights_t *weights,
                                  qy_qblock_t *q, losses_t *losses, qy_error_t *err)
{
    *losses = (losses_t){{(double)NAN, (double)NAN}, (double)NAN, (double)NAN};
    if (is_rptq(s)) {
        QY_TRY(run_rptq(s, block, weights, q, losses, err));
    } else {
        if (s->training)
            QY_TRY(train(s, block, weights, losses, err));
        else
            QY_TRY(qy_block_ap_start(&s->trainer, weights, err));
        QY_TRY(qy_block_ap_freeze(&s->trainer, weights, q, err));
        if (s->training)
            QY_TRY(settle(s, q, losses, err));
    }
    QY_TRY(check_finite(losses, s->training,
                        s->training && s->plan->n_samples > s->plan->spec.calibration.samples,
                        block, err));
    QY_TRY(write_block(s, block, q, losses, err));
    qy_block_save_drop(s->plan, block);
    if (!s->training || block + 1 == s->end)
        return QY_OK;
    /* Only now, that the block is safe: a restart must not find the stream ahead of it. */
    return qy_segment_streams_pass(&s->streams, s->streams.input, block, err);
}

typedef struct {
    double seconds, train_s, advance_s, stall_s;
} times_t;

static times_t times_of(const segment_t *s)
{
    return (times_t){qy_now_s(), s->train_s, s->streams.advance_s,
                     qy_segment_streams_stall_s(&s->streams)};
}

/* Per block, over the n of them that were made since then. */
static times_t times_since(const segment_t *s, const times_t *then, int64_t n)
{
    const times_t now = times_of(s);
    return (times_t){
        (now.seconds - then->seconds) / (double)n, (now.train_s - then->train_s) / (double)n,
        (now.advance_s - then->advance_s) / (double)n, (now.stall_s - then->stall_s) / (double)n};
}

/* Tells that a block is finished: after so many steps, with what was taken for it. */
static void say_done(const segment_t *s, int64_t block, int64_t steps, const losses_t *losses,
                     const times_t *spent)
{
    double last = 0;
    qy_hooks_progress(s->work->hooks, &last,
                      &(qy_progress_t){.task_id = s->task->id,
                                       .kind = QY_TASK_SEGMENT,
                                       .block = block,
                                       .block_done = 1,
                                       .step = steps,
                                       .n_steps = steps,
                                       .loss = losses->training.last,
                                       .loss_before = losses->training.first,
                                       .loss_after = losses->training.last,
                                       .validation_before = losses->validation_before,
                                       .validation_after = losses->validation_after,
                                       .seconds = spent->seconds,
                                       .train_s = spent->train_s,
                                       .advance_s = spent->advance_s,
                                       .stall_s = spent->stall_s});
}

static qy_status_t do_block(segment_t *s, int64_t block, qy_error_t *err)
{
    const times_t began = times_of(s);
    qy_quant_form_t form = qy_plan_form(s->plan);
    qy_block_weights_t weights;
    qy_qblock_t q;
    losses_t losses;
    qy_status_t status;
    QY_TRY(qy_block_weights_read(&weights, s->work->model, block, err));
    QY_TRY_GOTO(qy_qblock_create(&q, &s->plan->arch, &form, err), free_weights);
    status = quantize_block(s, block, &weights, &q, &losses, err);
    qy_qblock_free(&q);
    const times_t spent = times_since(s, &began, 1);
    if (status == QY_OK)
        say_done(s, block, s->plan->block_ap.steps, &losses, &spent);
free_weights:
    qy_block_weights_free(&weights);
    return status;
}

/* --- rounds of blocks (qllm) ------------------------------------------------------------------ */

/* Blocks [first, first + n) set up one by one: full-precision pass, channel maps, quantized
 * weights.
 */
static qy_status_t start_round(segment_t *s, int64_t first, int64_t n, qy_qblock_t *q,
                               qy_error_t *err)
{
    qy_quant_form_t form = qy_plan_form(s->plan);
    for (int64_t i = 0; i < n; i++) {
        qy_block_weights_t weights;
        QY_TRY(qy_hooks_check(s->work->hooks, err));
        QY_TRY(qy_qblock_create(&q[i], &s->plan->arch, &form, err));
        QY_TRY(qy_block_weights_read(&weights, s->work->model, first + i, err));
        qy_status_t status = qy_qllm_look(&s->qllm, first + i, &weights, &s->streams, &q[i], err);
        if (status == QY_OK)
            status = qy_qllm_start(&s->qllm, i, first + i, &weights, &q[i], err);
        qy_block_weights_free(&weights);
        QY_TRY(status);
    }
    return QY_OK;
}

static qy_status_t freeze_round(segment_t *s, int64_t first, int64_t n, qy_qblock_t *q,
                                qy_error_t *err)
{
    for (int64_t i = 0; i < n; i++) {
        qy_block_weights_t weights;
        QY_TRY(qy_block_weights_read(&weights, s->work->model, first + i, err));
        qy_status_t status = qy_qllm_freeze(&s->qllm, i, &weights, &q[i], err);
        qy_block_weights_free(&weights);
        QY_TRY(status);
    }
    return QY_OK;
}

static qy_status_t quantize_round(segment_t *s, int64_t first, int64_t n, qy_qblock_t *q,
                                  losses_t *losses, qy_error_t *err)
{
    int64_t samples = s->plan->n_samples, n_train = s->plan->spec.calibration.samples;
    qy_stream_t *input = s->streams.input, *target = s->streams.target;
    double training[2];
    QY_TRY(qy_segment_streams_bring(&s->streams, first, err));
    qy_segment_streams_save(&s->streams, first);
    QY_TRY(start_round(s, first, n, q, err));
    QY_TRY(qy_qllm_error(&s->qllm, n, input, target, n_train, samples - n_train,
                         &losses->validation_before, err));
    double began = qy_now_s();
    QY_TRY(qy_qllm_train(&s->qllm, first, n, input, target, s->work->hooks, training, err));
    s->train_s += qy_now_s() - began;
    losses->training = (qy_block_ap_losses_t){training[0], training[1]};
    QY_TRY(freeze_round(s, first, n, q, err));
    QY_TRY(qy_qllm_error(&s->qllm, n, input, target, n_train, samples - n_train,
                         &losses->validation_after, err));
    QY_TRY(check_finite(losses, 0, s->qllm.training && samples > n_train, first, err));
    for (int64_t i = 0; i < n; i++)
        QY_TRY(write_block(s, first + i, &q[i], losses, err));
    qy_block_save_drop(s->plan, first);
    /* Only now, that all its blocks are safe. */
    for (int64_t i = 0; i < n && first + n < s->end; i++) {
        QY_TRY(qy_forward_load_quantized(&s->forward, &q[i], err));
        QY_TRY(qy_segment_streams_pass(&s->streams, input, first + i, err));
    }
    return QY_OK;
}

/* All blocks of a round carry its losses. */
static qy_status_t do_round(segment_t *s, int64_t first, int64_t n, qy_error_t *err)
{
    const times_t began = times_of(s);
    losses_t losses = {{(double)NAN, (double)NAN}, (double)NAN, (double)NAN};
    qy_qblock_t *q = calloc((size_t)n, sizeof *q);
    if (!q)
        return qy_fail(err, QY_ERR_MEMORY, "segment: out of host memory");
    qy_status_t status = quantize_round(s, first, n, q, &losses, err);
    const times_t spent = times_since(s, &began, n);
    for (int64_t i = 0; i < n; i++) {
        qy_qblock_free(&q[i]);
        if (status == QY_OK)
            say_done(s, first + i, s->plan->qllm.steps, &losses, &spent);
    }
    free(q);
    return status;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static qy_status_t walk(segment_t *s, qy_error_t *err)
{
    int64_t block = s->first, together = is_qllm(s) ? s->plan->spec.qllm.blocks_per_round : 1, n;
    while (block < s->end && is_done(s, block))
        block++;
    if (block < s->end) /* a round is made as a whole, from its checkpoint */
        block -= (block - s->first) % together;
    for (int64_t b = s->first; b < block; b++)
        qy_block_save_drop(s->plan, b); /* a kill may have come between */
    if (block == s->end)
        return QY_OK;
    QY_TRY(qy_device_take(s->work->dev, &s->memory, "segment", take, s, err));
    if (s->training) {
        if (!is_rounded(s) && !is_qllm(s))
            QY_TRY(qy_block_ap_save(&s->trainer, err));
        QY_TRY(
            qy_segment_streams_open(&s->streams, s->work, &s->forward, s->task->range, block, err));
    }
    for (; block < s->end; block += n) {
        n = least(together, s->end - block);
        QY_TRY(qy_hooks_check(s->work->hooks, err));
        QY_TRY(is_qllm(s) ? do_round(s, block, n, err) : do_block(s, block, err));
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
    qy_qllm_free(&s.qllm);
    qy_block_save_destroy(&s.trainer.save);
    qy_segment_streams_close(&s.streams, status == QY_OK || status == QY_ERR_NUMERIC);
    if (s.memory)
        qy_device_free(work->dev, &s.memory);
    return status;
}
