#include "worker/e2e_qp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "kernels/loss.h"
#include "worker/e2e_stage.h"

/* Largest norm of all gradients together; larger ones are scaled down to it. */
static const float max_norm = 0.3f;

typedef struct {
    const qy_plan_t *plan;
    const qy_hooks_t *hooks;
    qy_e2e_stage_t stage;
    int32_t *tokens; /* (samples, length) */
    int64_t *order;  /* of the epoch at hand */
    int64_t epoch;   /* whose order it is; −1: none yet */
    float *row_loss; /* (micro-batch × length) */
    void *teacher;   /* host: one sample's final states */
    double last_save, last_progress, began;
} e2e_t;

static qy_status_t set_order(e2e_t *e, int64_t epoch)
{
    int64_t n = e->plan->e2e_samples;
    if (epoch == e->epoch)
        return QY_OK;
    for (int64_t i = 0; i < n; i++)
        e->order[i] = i;
    if (e->plan->spec.e2e_qp.shuffle)
        qy_random_permutation(e->order, n, (uint32_t)e->plan->spec.seed, QY_PHASE_SHUFFLE_E2E,
                              (uint64_t)epoch);
    e->epoch = epoch;
    return QY_OK;
}

/* The teacher's final states of the given samples, from the capture files into the stage. */
static qy_status_t load_teacher(e2e_t *e, const int64_t *samples, int64_t n, qy_error_t *err)
{
    const qy_plan_t *plan = e->plan;
    size_t bytes =
        (size_t)(plan->e2e_length * plan->arch.hidden) * qy_dtype_bytes(e->stage.dev->compute);
    for (int64_t i = 0; i < n; i++) {
        int64_t range = 0, first, count;
        for (;; range++) {
            qy_plan_range(plan->e2e_samples, plan->n_e2e_ranges, range, &first, &count);
            if (samples[i] < first + count)
                break;
        }
        char path[QY_PATH_MAX];
        qy_h5_t *file = NULL;
        QY_TRY(qy_store_teacher(path, plan, range, err));
        QY_TRY(qy_store_open(&file, path, plan, "teacher", err));
        qy_status_t status = qy_h5_read_rows(file, "x", samples[i] - first, 1, e->teacher, err);
        qy_h5_close(&file);
        QY_TRY(status);
        QY_TRY(qy_device_upload(e->stage.dev, (char *)e->stage.teacher.data + (size_t)i * bytes,
                                e->teacher, bytes, err));
        QY_TRY(qy_device_wait(e->stage.dev, err));
    }
    return QY_OK;
}

/* Positions of a batch that the loss is averaged over. */
static double positions(const qy_plan_t *plan)
{
    int64_t t = plan->e2e_length - (plan->spec.e2e_qp.loss == QY_LOSS_NEXT_TOKEN);
    return (double)(t * plan->spec.e2e_qp.batch_size);
}

/* Loss of n sequences at the head and its gradient into the stage's dy; adds the losses to *sum. */
static qy_status_t head(e2e_t *e, const int64_t *samples, const int32_t *tokens, int64_t n,
                        double *sum, qy_error_t *err)
{
    qy_e2e_stage_t *s = &e->stage;
    int64_t length = e->plan->e2e_length, n_rows = n * length;
    float scale = (float)(1.0 / positions(e->plan));
    qy_tensor_t y = qy_tensor_slice(&s->y, 0, n_rows), dy = qy_tensor_slice(&s->dy, 0, n_rows);
    if (e->plan->spec.e2e_qp.loss == QY_LOSS_DISTILL) {
        QY_TRY(load_teacher(e, samples, n, err));
        qy_tensor_t teacher = qy_tensor_slice(&s->teacher, 0, n_rows);
        QY_TRY(qy_head_distill(&s->outer, &s->head, &y, &teacher, scale, &dy, err));
    } else {
        QY_TRY(qy_head_next_token(&s->outer, &s->head, &y, tokens, n, length, scale, &dy, err));
    }
    QY_TRY(qy_device_download(s->dev, e->row_loss, s->head.loss.data,
                              (size_t)n_rows * sizeof(float), err));
    for (int64_t i = 0; i < n_rows; i++)
        *sum += (double)e->row_loss[i];
    return QY_OK;
}

static qy_status_t micro_batch(e2e_t *e, const int64_t *samples, int64_t n, double *sum,
                               qy_error_t *err)
{
    qy_e2e_stage_t *s = &e->stage;
    int64_t length = e->plan->e2e_length;
    int32_t *tokens = malloc((size_t)(n * length) * sizeof *tokens);
    if (!tokens)
        return qy_fail(err, QY_ERR_MEMORY, "e2e: out of host memory");
    for (int64_t i = 0; i < n; i++)
        memcpy(tokens + i * length, e->tokens + samples[i] * length,
               (size_t)length * sizeof *tokens);
    qy_tensor_t x = qy_tensor_slice(&s->blocks[0].x, 0, n * length);
    qy_status_t status = qy_embed(&s->outer, &s->ids, tokens, n, &x, err);
    if (status == QY_OK)
        status = qy_e2e_stage_forward(s, n, err);
    if (status == QY_OK)
        status = head(e, samples, tokens, n, sum, err);
    if (status == QY_OK)
        status = qy_e2e_stage_backward(s, n, err);
    free(tokens);
    return status;
}

/* Scale that brings the global norm down to max_norm; sums are added in block order. */
static qy_status_t clip_factor(e2e_t *e, int64_t step, float *clip, qy_error_t *err)
{
    int64_t n = e->stage.n;
    float *sums = malloc((size_t)n * sizeof *sums), total = 0;
    if (!sums)
        return qy_fail(err, QY_ERR_MEMORY, "e2e: out of host memory");
    qy_status_t status = qy_e2e_stage_norms(&e->stage, sums, err);
    for (int64_t i = 0; i < n && status == QY_OK; i++)
        total += sums[i];
    free(sums);
    QY_TRY(status);
    float norm = sqrtf(total);
    if (!isfinite(norm))
        return qy_fail(err, QY_ERR_NUMERIC, "e2e step %lld: the gradient's norm is %g",
                       (long long)step + 1, (double)norm);
    *clip = norm > max_norm ? max_norm / (norm + 1e-6f) : 1.0f;
    return QY_OK;
}

/* Keeps the newest two saved steps. */
static void drop_older(const e2e_t *e, int64_t saved, int64_t *previous)
{
    char path[QY_PATH_MAX], *slash;
    if (previous[1] >= 0 && qy_store_e2e(path, e->plan, previous[1], 0, NULL) == QY_OK &&
        (slash = strrchr(path, '/')) != NULL) {
        *slash = 0;
        qy_remove_tree(path, NULL);
    }
    previous[1] = previous[0];
    previous[0] = saved;
}

static qy_status_t one_update(e2e_t *e, int64_t step, double *loss, qy_error_t *err)
{
    const qy_plan_t *plan = e->plan;
    int64_t batch = plan->spec.e2e_qp.batch_size, micro = plan->spec.e2e_qp.micro_batch_size;
    int64_t at = step % plan->e2e.steps_per_epoch * batch;
    double sum = 0;
    float clip = 1;
    QY_TRY(set_order(e, step / plan->e2e.steps_per_epoch));
    for (int64_t i = 0; i < batch; i += micro) {
        int64_t n = batch - i < micro ? batch - i : micro;
        QY_TRY(micro_batch(e, e->order + at + i, n, &sum, err));
        QY_TRY(qy_hooks_check(e->hooks, err));
    }
    *loss = sum / positions(plan);
    if (!isfinite(*loss))
        return qy_fail(err, QY_ERR_NUMERIC, "e2e step %lld of %lld: the loss is %g",
                       (long long)step + 1, (long long)plan->e2e.steps, *loss);
    QY_TRY(clip_factor(e, step, &clip, err));
    return qy_e2e_stage_update(&e->stage, step, qy_e2e_rate(plan, step), clip, err);
}

static qy_status_t train(e2e_t *e, int64_t step, qy_error_t *err)
{
    const qy_plan_t *plan = e->plan;
    int64_t previous[2] = {step > 0 ? step : -1, -1}, first = step;
    double minutes = plan->spec.checkpoint.minutes;
    e->began = e->last_save = qy_now_s();
    e->stage.fresh = 1;
    for (; step < plan->e2e.steps; step++) {
        double loss;
        QY_TRY(one_update(e, step, &loss, err));
        int64_t tokens = (step + 1 - first) * plan->spec.e2e_qp.batch_size * plan->e2e_length;
        double now = qy_now_s();
        if (e->hooks->progress) /* every update: they are few and the curve is wanted */
            e->hooks->progress(e->hooks->context,
                               &(qy_progress_t){.task_id = -1,
                                                .block = -1,
                                                .step = step + 1,
                                                .n_steps = plan->e2e.steps,
                                                .loss = loss,
                                                .tokens_per_s = (double)tokens / (now - e->began)});
        if (step + 1 < plan->e2e.steps && now - e->last_save < minutes * 60)
            continue;
        QY_TRY(qy_e2e_stage_save(&e->stage, step + 1, err));
        drop_older(e, step + 1, previous);
        e->last_save = qy_now_s();
    }
    return QY_OK;
}

static qy_status_t run(e2e_t *e, qy_device_t *dev, const qy_model_t *model, qy_error_t *err)
{
    const qy_plan_t *plan = e->plan;
    int64_t n, length, step = qy_store_e2e_last(plan, err);
    qy_status_t status;
    if (step == plan->e2e.steps)
        return QY_OK;
    QY_TRY(qy_store_read_tokens(&e->tokens, &n, &length, plan, "e2e", err));
    e->order = malloc((size_t)n * sizeof *e->order);
    e->row_loss = malloc((size_t)(plan->spec.e2e_qp.micro_batch_size * length) * sizeof(float));
    e->teacher = malloc((size_t)(length * plan->arch.hidden) * qy_dtype_bytes(dev->compute));
    e->epoch = -1;
    if (!e->order || !e->row_loss || !e->teacher)
        return qy_fail(err, QY_ERR_MEMORY, "e2e: out of host memory");
    QY_TRY(qy_e2e_stage_open(&e->stage, plan, dev, model, 0, plan->arch.n_blocks, err));
    status = step > 0 ? qy_e2e_stage_load(&e->stage, step, err) : QY_OK;
    if (status == QY_OK)
        status = train(e, step > 0 ? step : 0, err);
    qy_e2e_stage_close(&e->stage);
    return status;
}

qy_status_t qy_e2e_run(const qy_plan_t *plan, const qy_hooks_t *hooks, qy_error_t *err)
{
    const qy_spec_t *spec = &plan->spec;
    e2e_t e = {.plan = plan, .hooks = hooks};
    qy_device_t *dev = NULL;
    qy_model_t *model = NULL;
    QY_TRY(qy_device_open(&dev, spec->resources.device, spec->resources.compute,
                          (int)spec->resources.threads, err));
    qy_status_t status = qy_model_open(&model, spec->model, err);
    if (status == QY_OK)
        status = run(&e, dev, model, err);
    free(e.tokens);
    free(e.order);
    free(e.row_loss);
    free(e.teacher);
    qy_model_close(&model);
    qy_device_close(&dev);
    return status;
}
