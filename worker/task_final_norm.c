/*
 * The last norm's fit: a range of the training samples through the original model and through the
 * quantized one, and of both ends the sums that the norm's weights follow from (jobs/finished.h).
 *
 * Source: QLLM's official code, which trains the last norm to the same end by gradient steps.
 */
#include <stdlib.h>

#include "jobs/finished.h"
#include "kernels/fill.h"
#include "kernels/norm.h"
#include "worker/run_task.h"

typedef struct {
    const qy_work_t *work;
    const qy_task_t *task;
    qy_quant_form_t form;
    void *memory;
    qy_forward_t forward;
    qy_tensor_t h, y;                 /* compute (batch × length, H) */
    qy_tensor_t mean, rstd;           /* f32 (batch × length) */
    qy_tensor_t w, b, ones, zeros;    /* f32 (H) */
    qy_tensor_t part[QY_N_NORM_SUMS]; /* f32 (H): a batch's sums */
    qy_stream_t *target, *input;
    int32_t *tokens;          /* of all samples */
    int64_t first, n, length; /* of this range */
    double *sums;             /* (QY_N_NORM_SUMS, H) */
} norm_t;

static int has_bias(const norm_t *t)
{
    return t->work->model->arch.norm_kind != QY_NORM_RMS;
}

static qy_status_t take(void *context, qy_arena_t *arena, qy_error_t *err)
{
    norm_t *t = context;
    const qy_work_t *work = t->work;
    int64_t length = work->plan->spec.calibration.sequence_length, h = work->model->arch.hidden;
    int64_t rows = qy_forward_batch(length) * length;
    QY_TRY(qy_forward_take(&t->forward, work->dev, work->model, &t->form, qy_forward_batch(length),
                           length, arena, err));
    QY_TRY(qy_arena_2d(arena, &t->h, work->dev->compute, rows, h, err));
    QY_TRY(qy_arena_2d(arena, &t->y, work->dev->compute, rows, h, err));
    QY_TRY(qy_arena_1d(arena, &t->mean, QY_F32, rows, err));
    QY_TRY(qy_arena_1d(arena, &t->rstd, QY_F32, rows, err));
    qy_tensor_t *vectors[] = {&t->w, &t->b, &t->ones, &t->zeros};
    for (int i = 0; i < 4; i++)
        QY_TRY(qy_arena_1d(arena, vectors[i], QY_F32, h, err));
    for (int i = 0; i < QY_N_NORM_SUMS; i++)
        QY_TRY(qy_arena_1d(arena, &t->part[i], QY_F32, h, err));
    return QY_OK;
}

qy_status_t qy_task_final_norm_bytes(const qy_work_t *work, size_t *bytes, qy_error_t *err)
{
    norm_t t = {.work = work, .form = qy_plan_form(work->plan)};
    int64_t length = work->plan->spec.calibration.sequence_length;
    size_t walk;
    qy_arena_t arena, alone;
    *bytes = 0;
    if (qy_plan_norm_ranges(work->plan) == 0)
        return QY_OK;
    qy_arena_init(&arena, "last norm", NULL, 0);
    QY_TRY(take(&t, &arena, err));
    qy_arena_init(&alone, "forward", NULL, 0);
    QY_TRY(qy_forward_take(&t.forward, work->dev, work->model, &t.form, qy_forward_batch(length),
                           length, &alone, err));
    QY_TRY(qy_forward_bytes(&walk, work->dev, work->model, &t.form, qy_forward_batch(length),
                            length, QY_OUTER_EMBEDDING, err));
    *bytes = arena.peak + walk - alone.peak;
    return QY_OK;
}

/* --- both models ------------------------------------------------------------------------------ */

static qy_status_t load_quantized(norm_t *t, int64_t block, qy_error_t *err)
{
    qy_qblock_t q;
    QY_TRY(qy_finished_read_model(t->work->plan, block, 0, &q, err));
    qy_status_t status = qy_forward_load_quantized(&t->forward, &q, err);
    if (status == QY_OK)
        status = qy_device_wait(t->work->dev, err);
    qy_qblock_free(&q);
    return status;
}

static qy_status_t walk(norm_t *t, qy_error_t *err)
{
    const qy_work_t *work = t->work;
    int64_t blocks = work->plan->arch.n_blocks;
    qy_stream_t *both[] = {t->target, t->input};
    double last = 0;
    QY_TRY(qy_forward_embed(&t->forward, both, 2, t->tokens + t->first * t->length, err));
    qy_forward_read_ahead(&t->forward, blocks);
    for (int64_t b = 0; b < blocks; b++) {
        QY_TRY(qy_hooks_check(work->hooks, err));
        QY_TRY(qy_forward_load_original(&t->forward, b, err));
        QY_TRY(qy_forward_advance(&t->forward, t->target, b, work->hooks, err));
        QY_TRY(load_quantized(t, b, err));
        QY_TRY(qy_forward_advance(&t->forward, t->input, b, work->hooks, err));
        qy_hooks_progress(work->hooks, &last,
                          &(qy_progress_t){.task_id = t->task->id,
                                           .kind = QY_TASK_FINAL_NORM,
                                           .block = b,
                                           .step = b + 1,
                                           .n_steps = blocks});
    }
    return QY_OK;
}

/* --- sums ------------------------------------------------------------------------------------- */

static qy_status_t load_norm(norm_t *t, qy_error_t *err)
{
    const qy_device_t *dev = t->work->dev;
    qy_outer_weights_t outer;
    QY_TRY(qy_fill(dev, &t->ones, 1.0f, err));
    QY_TRY(qy_fill(dev, &t->zeros, 0.0f, err));
    QY_TRY(qy_fill(dev, &t->b, 0.0f, err));
    QY_TRY(qy_outer_weights_read(&outer, t->work->model, err));
    const qy_tensor_t *w = &outer.original_norm, *b = &outer.original_norm_bias;
    qy_status_t status = qy_device_upload(dev, t->w.data, w->data, qy_tensor_bytes(w), err);
    if (status == QY_OK && b->data)
        status = qy_device_upload(dev, t->b.data, b->data, qy_tensor_bytes(b), err);
    if (status == QY_OK)
        status = qy_device_wait(dev, err);
    qy_outer_weights_free(&outer);
    return status;
}

/* to = norm(x), with weights and biases. */
static qy_status_t norm(norm_t *t, qy_tensor_t *to, const qy_tensor_t *x, const qy_tensor_t *w,
                        const qy_tensor_t *b, qy_error_t *err)
{
    const qy_device_t *dev = t->work->dev;
    float eps = t->work->model->arch.norm_eps;
    qy_tensor_t mean = qy_tensor_1d(t->mean.data, QY_F32, qy_tensor_rows(x));
    qy_tensor_t rstd = qy_tensor_1d(t->rstd.data, QY_F32, qy_tensor_rows(x));
    if (!has_bias(t))
        return qy_rmsnorm_fwd(dev, to, &rstd, x, w, eps, err);
    return qy_layernorm_fwd(dev, to, &mean, &rstd, x, w, b, eps, err);
}

/* product = Σ g h and sum = Σ g over the rows of x, whose statistics the last norm left. */
static qy_status_t add_up(norm_t *t, qy_tensor_t *product, qy_tensor_t *sum, const qy_tensor_t *g,
                          const qy_tensor_t *x, qy_error_t *err)
{
    const qy_device_t *dev = t->work->dev;
    qy_tensor_t mean = qy_tensor_1d(t->mean.data, QY_F32, qy_tensor_rows(x));
    qy_tensor_t rstd = qy_tensor_1d(t->rstd.data, QY_F32, qy_tensor_rows(x));
    if (!has_bias(t))
        return qy_rmsnorm_bwd(dev, NULL, product, g, x, &rstd, &t->ones, 0, err);
    return qy_layernorm_bwd(dev, NULL, product, sum, g, x, &mean, &rstd, &t->ones, 0, err);
}

/* Samples [at, at + n) of both streams. */
static qy_status_t sum_batch(norm_t *t, int64_t at, int64_t n, float *host, qy_error_t *err)
{
    const qy_forward_t *f = &t->forward;
    int64_t rows = n * t->length, hidden = t->work->model->arch.hidden;
    qy_tensor_t x = qy_tensor_slice(&f->x, 0, rows), z = qy_tensor_slice(&f->y, 0, rows);
    qy_tensor_t h = qy_tensor_slice(&t->h, 0, rows), y = qy_tensor_slice(&t->y, 0, rows);
    QY_TRY(qy_stream_load_range(t->target, at, n, z.data, err));
    QY_TRY(qy_stream_load_range(t->input, at, n, x.data, err));
    QY_TRY(norm(t, &y, &z, &t->w, &t->b, err));
    QY_TRY(norm(t, &h, &x, &t->ones, &t->zeros, err));
    QY_TRY(add_up(t, &t->part[QY_NORM_SUM_YH], &t->part[QY_NORM_SUM_Y], &y, &x, err));
    QY_TRY(add_up(t, &t->part[QY_NORM_SUM_HH], &t->part[QY_NORM_SUM_H], &h, &x, err));
    for (int k = 0; k < QY_N_NORM_SUMS; k++) {
        QY_TRY(
            qy_device_download(f->dev, host, t->part[k].data, qy_tensor_bytes(&t->part[k]), err));
        for (int64_t c = 0; c < hidden; c++)
            t->sums[k * hidden + c] += (double)host[c];
    }
    return QY_OK;
}

static qy_status_t sum_all(norm_t *t, qy_error_t *err)
{
    int64_t batch = t->forward.batch, hidden = t->work->model->arch.hidden;
    float *host = malloc((size_t)hidden * sizeof *host);
    t->sums = calloc((size_t)(QY_N_NORM_SUMS * hidden), sizeof *t->sums);
    qy_status_t status = host && t->sums ? load_norm(t, err)
                                         : qy_fail(err, QY_ERR_MEMORY, "last norm: out of memory");
    for (int k = 0; k < QY_N_NORM_SUMS && status == QY_OK; k++)
        status = qy_fill(t->work->dev, &t->part[k], 0.0f, err);
    if (status == QY_OK)
        status = qy_stream_expect_range(t->target, 0, t->n, err);
    if (status == QY_OK)
        status = qy_stream_expect_range(t->input, 0, t->n, err);
    for (int64_t at = 0; at < t->n && status == QY_OK; at += batch)
        status = sum_batch(t, at, t->n - at < batch ? t->n - at : batch, host, err);
    free(host);
    return status;
}

static qy_status_t write(const norm_t *t, qy_error_t *err)
{
    const qy_plan_t *plan = t->work->plan;
    char path[QY_PATH_MAX];
    qy_h5_t *file = NULL;
    qy_tensor_t sums = qy_tensor_2d(t->sums, QY_F64, QY_N_NORM_SUMS, plan->arch.hidden);
    QY_TRY(qy_store_norm(path, plan, t->task->range, err));
    QY_TRY(qy_h5_create(&file, path, err));
    qy_status_t status = qy_store_mark(file, plan, "norm", err);
    if (status == QY_OK)
        status = qy_h5_set_i64(file, "rows", t->n * t->length, err);
    if (status == QY_OK)
        status = qy_h5_write(file, "sums", &sums, err);
    if (status == QY_OK)
        return qy_h5_commit(&file, err);
    qy_h5_close(&file);
    return status;
}

static qy_status_t run(norm_t *t, qy_error_t *err)
{
    const qy_plan_t *plan = t->work->plan;
    int64_t all, ranges = qy_plan_norm_ranges(plan);
    if (t->task->range >= ranges)
        return qy_fail(err, QY_ERR_ARG, "last norm: range %lld of %lld", (long long)t->task->range,
                       (long long)ranges);
    QY_TRY(qy_store_read_tokens(&t->tokens, &all, &t->length, plan, "calibration", err));
    qy_plan_range(plan->spec.calibration.samples, ranges, t->task->range, &t->first, &t->n);
    QY_TRY(qy_device_take(t->work->dev, &t->memory, "last norm", take, t, err));
    QY_TRY(qy_work_stream(t->work, t->n, t->length, 2, NULL, &t->target, err));
    QY_TRY(qy_work_stream(t->work, t->n, t->length, 2, NULL, &t->input, err));
    QY_TRY(walk(t, err));
    QY_TRY(sum_all(t, err));
    return write(t, err);
}

qy_status_t qy_task_final_norm(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                               qy_error_t *err)
{
    norm_t t = {.work = work, .task = task, .form = qy_plan_form(work->plan)};
    (void)result;
    qy_status_t status = run(&t, err);
    qy_stream_destroy(&t.target);
    qy_stream_destroy(&t.input);
    qy_forward_free(&t.forward);
    if (t.memory)
        qy_device_free(work->dev, &t.memory);
    free(t.tokens);
    free(t.sums);
    return status;
}
