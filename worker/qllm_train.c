/* The training of a round: all its blocks forward, the error at its end, all of them backward. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/random.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/low_rank.h"
#include "worker/block_save.h"
#include "worker/qllm.h"

/* Steps between looks at the losses: each look waits for the device. */
enum { LOSS_CHECK = 16 };

/* Gradients of a layer's factors, from its output's gradient and its input. */
static qy_status_t pair_gradients(void *context, qy_linear_id_t linear, const qy_tensor_t *dy,
                                  const qy_tensor_t *x, qy_error_t *err)
{
    qy_qllm_t *q = context;
    const qy_device_t *dev = q->f->dev;
    qy_qllm_layer_t *l = &q->blocks[q->current].layer[linear];
    if (!l->a.data)
        return QY_OK;
    QY_TRY(qy_linear_fwd(dev, &q->t, x, &l->a_scaled, NULL, err));
    QY_TRY(qy_linear_bwd_w(dev, &l->db, dy, &q->t, err));
    QY_TRY(qy_linear_bwd_x(dev, &q->u, dy, &l->b_scaled, 0, err));
    return qy_linear_bwd_w(dev, &l->da, &q->u, x, err);
}

static qy_status_t forward(qy_qllm_t *q, qy_error_t *err)
{
    const qy_forward_t *f = q->f;
    for (int64_t i = 0; i < q->n; i++)
        QY_TRY(qy_block_forward(&f->block, &q->blocks[i].params, &q->blocks[i].acts,
                                i > 0 ? &q->blocks[i - 1].y : &f->x, &q->blocks[i].y, err));
    return QY_OK;
}

static qy_status_t backward(qy_qllm_t *q, qy_error_t *err)
{
    const qy_forward_t *f = q->f;
    for (int64_t i = q->n - 1; i >= 0; i--) {
        qy_qllm_block_t *b = &q->blocks[i];
        q->current = i;
        for (int k = 0; k < QY_N_NORMS; k++) {
            q->grads.dnorm[k] = b->dnorm[k];
            q->grads.dnorm_bias[k] = b->dbias[k];
        }
        QY_TRY(qy_block_backward(&f->block, &b->params, &b->acts, &q->grads, &q->dy, i > 0, err));
    }
    return QY_OK;
}

/* One trained tensor with its moments and gradient. */
typedef struct {
    qy_tensor_t *p, *m, *v, *g;
} variable_t;

enum { MOST_VARIABLES = 2 * QY_N_LINEARS + 2 * QY_N_NORMS };

static int list_variables(qy_qllm_block_t *b, variable_t out[MOST_VARIABLES])
{
    int n = 0;
    for (int k = 0; k < QY_N_LINEARS; k++) {
        qy_qllm_layer_t *l = &b->layer[k];
        if (!l->a.data)
            continue;
        out[n++] = (variable_t){&l->a, &l->a_m, &l->a_v, &l->da};
        out[n++] = (variable_t){&l->b, &l->b_m, &l->b_v, &l->db};
    }
    for (int k = 0; k < QY_N_NORMS; k++) {
        if (b->dnorm[k].data)
            out[n++] = (variable_t){&b->params.norm[k], &b->norm_m[k], &b->norm_v[k], &b->dnorm[k]};
        if (b->dbias[k].data)
            out[n++] =
                (variable_t){&b->params.norm_bias[k], &b->bias_m[k], &b->bias_v[k], &b->dbias[k]};
    }
    return n;
}

/* Its weights, with the corrections as they are. */
static qy_status_t correct_block(const qy_qllm_t *q, qy_qllm_block_t *b, qy_error_t *err)
{
    for (int k = 0; k < QY_N_LINEARS; k++)
        if (b->layer[k].a.data)
            QY_TRY(qy_low_rank_fwd(q->f->dev, &b->params.w[k], &b->layer[k].a_scaled,
                                   &b->layer[k].b_scaled, &b->layer[k].w_hat, &b->layer[k].a,
                                   &b->layer[k].b, (float)q->plan->spec.qllm.scaling, err));
    return QY_OK;
}

static qy_status_t update(qy_qllm_t *q, qy_error_t *err)
{
    const qy_device_t *dev = q->f->dev;
    variable_t list[MOST_VARIABLES];
    int seen = 0;
    /* all gradients are looked at before the first parameter moves */
    for (int64_t i = 0; i < q->n && q->scaled; i++)
        for (int k = 0, n = list_variables(&q->blocks[i], list); k < n; k++)
            QY_TRY(qy_nonfinite(dev, &q->flag, list[k].g, seen++ > 0, err));
    QY_TRY(qy_step_begin(dev, &q->hyper, &q->state, q->scaled ? &q->flag : NULL, err));
    for (int64_t i = 0; i < q->n; i++) {
        qy_qllm_block_t *b = &q->blocks[i];
        for (int k = 0, n = list_variables(b, list); k < n; k++)
            QY_TRY(qy_adamw(dev, list[k].p, list[k].m, list[k].v, list[k].g, NULL, &q->hyper,
                            QY_HYPER_LR_WEIGHT, -INFINITY, err));
        QY_TRY(correct_block(q, b, err));
    }
    return QY_OK;
}

static qy_status_t one_step(qy_qllm_t *q, int64_t step, const int64_t *samples, qy_stream_t *source,
                            qy_stream_t *goal, float *rate, qy_error_t *err)
{
    const qy_forward_t *f = q->f;
    qy_tensor_t loss = qy_tensor_1d((float *)q->losses.data + step, QY_F32, 1);
    *rate = (float)qy_qllm_rate(q->plan, step);
    QY_TRY(qy_device_upload(f->dev, (float *)q->hyper.data + QY_HYPER_LR_WEIGHT, rate, sizeof *rate,
                            err));
    QY_TRY(qy_stream_load(source, samples, f->batch, f->x.data, err));
    QY_TRY(qy_stream_load(goal, samples, f->batch, q->goal.data, err));
    QY_TRY(forward(q, err));
    QY_TRY(qy_mse(f->dev, &loss, &q->dy, &q->blocks[q->n - 1].y, &q->goal, &q->hyper, err));
    QY_TRY(backward(q, err));
    return update(q, err);
}

/* Losses of steps [*seen, done) from the device; NUMERIC at the first that is not finite. */
static qy_status_t look_at_losses(const qy_qllm_t *q, int64_t first, float *losses, int64_t *seen,
                                  int64_t done, qy_error_t *err)
{
    QY_TRY(qy_device_download(q->f->dev, losses + *seen, (float *)q->losses.data + *seen,
                              (size_t)(done - *seen) * sizeof *losses, err));
    for (int64_t i = *seen; i < done; i++)
        if (!isfinite(losses[i]))
            return qy_fail(err, QY_ERR_NUMERIC,
                           "blocks %lld to %lld, step %lld of %lld: the loss is %g; last good loss "
                           "%g",
                           (long long)first, (long long)(first + q->n - 1), (long long)i + 1,
                           (long long)q->plan->qllm.steps, (double)losses[i],
                           i > 0 ? (double)losses[i - 1] : (double)NAN);
    *seen = done;
    return QY_OK;
}

qy_status_t qy_qllm_error(qy_qllm_t *q, int64_t n_blocks, qy_stream_t *source, qy_stream_t *goal,
                          int64_t first, int64_t n, double *mse, qy_error_t *err)
{
    const qy_forward_t *f = q->f;
    double sum = 0;
    if (q->training) {
        QY_TRY(qy_stream_expect_range(source, first, n, err));
        QY_TRY(qy_stream_expect_range(goal, first, n, err));
    }
    for (int64_t at = 0; q->training && at < n; at += f->batch) {
        int64_t count = f->batch < n - at ? f->batch : n - at, rows = count * f->length;
        qy_tensor_t x = qy_tensor_slice(&f->x, 0, rows), y = x;
        qy_tensor_t want = qy_tensor_slice(&q->goal, 0, rows);
        qy_tensor_t loss = qy_tensor_1d(f->losses.data, QY_F32, 1);
        float value;
        QY_TRY(qy_stream_load_range(source, first + at, count, x.data, err));
        QY_TRY(qy_stream_load_range(goal, first + at, count, want.data, err));
        for (int64_t i = 0; i < n_blocks; i++, x = y) {
            qy_block_acts_t acts = qy_block_acts_narrow(&q->blocks[i].acts, count);
            y = qy_tensor_slice(&q->blocks[i].y, 0, rows);
            QY_TRY(qy_block_forward(&f->block, &q->blocks[i].params, &acts, &x, &y, err));
        }
        QY_TRY(qy_mse(f->dev, &loss, NULL, &y, &want, NULL, err));
        QY_TRY(qy_device_download(f->dev, &value, loss.data, sizeof value, err));
        sum += (double)value * (double)count;
    }
    *mse = q->training && n > 0 ? sum / (double)n : (double)NAN;
    return QY_OK;
}

/* --- checkpoints ------------------------------------------------------------------------------ */

static qy_status_t list_saved(void *trainer, qy_block_save_t *save, qy_error_t *err)
{
    qy_qllm_t *q = trainer;
    for (int64_t i = 0; i < q->n; i++) {
        variable_t list[MOST_VARIABLES];
        for (int k = 0, n = list_variables(&q->blocks[i], list); k < n; k++) {
            const qy_tensor_t *parts[] = {list[k].p, list[k].m, list[k].v};
            static const char *const names[] = {"p", "m", "v"};
            char of[48];
            snprintf(of, sizeof of, "%02d/%02d", (int)i, k);
            for (int j = 0; j < 3; j++)
                QY_TRY(qy_block_save_add(save, of, names[j], parts[j], err));
        }
    }
    QY_TRY(qy_block_save_add(save, "", "state", &q->state, err));
    return qy_block_save_add(save, "", "hyper", &q->hyper, err);
}

static qy_status_t correct_loaded(void *trainer, qy_error_t *err)
{
    qy_qllm_t *q = trainer;
    for (int64_t i = 0; i < q->n; i++)
        QY_TRY(correct_block(q, &q->blocks[i], err));
    return QY_OK;
}

/* --- the steps -------------------------------------------------------------------------------- */

typedef struct {
    int64_t *order;
    float *losses;
    float rates[LOSS_CHECK]; /* one per queued step: uploads may still be on their way */
    qy_block_save_t *save;
} train_host_t;

/* The samples' order in this epoch, and the streams told of it from place `at` on. */
static qy_status_t begin_epoch(const qy_qllm_t *q, int64_t first, int64_t epoch, int64_t at,
                               qy_stream_t *source, qy_stream_t *goal, int64_t *order,
                               qy_error_t *err)
{
    const qy_plan_t *plan = q->plan;
    int64_t n = plan->qllm.steps_per_epoch * q->f->batch - at;
    qy_random_permutation(order, plan->spec.calibration.samples, (uint32_t)plan->spec.seed,
                          QY_PHASE_SHUFFLE_BLOCK, ((uint64_t)first << 32) + (uint64_t)epoch);
    QY_TRY(qy_stream_expect(source, order + at, n, err));
    return qy_stream_expect(goal, order + at, n, err);
}

static qy_status_t train_steps(qy_qllm_t *q, int64_t first, qy_stream_t *source, qy_stream_t *goal,
                               const qy_hooks_t *hooks, train_host_t *host, qy_error_t *err)
{
    int64_t per_epoch = q->plan->qllm.steps_per_epoch, steps = q->plan->qllm.steps;
    int64_t seen = 0, batch = q->f->batch, ordered = -1;
    double last = 0, began = qy_now_s();
    QY_TRY(qy_block_save_load(host->save, first, host->losses, &seen, err));
    int64_t from = seen;
    for (int64_t step = from; step < steps; step++) {
        int64_t epoch = step / per_epoch, at = step % per_epoch * batch;
        if (epoch != ordered)
            QY_TRY(begin_epoch(q, first, epoch, at, source, goal, host->order, err));
        ordered = epoch;
        QY_TRY(one_step(q, step, host->order + at, source, goal, &host->rates[step % LOSS_CHECK],
                        err));
        int due = qy_hooks_asked(hooks) || qy_block_save_due(host->save);
        if ((step + 1) % LOSS_CHECK && step + 1 < steps && !due)
            continue;
        QY_TRY(look_at_losses(q, first, host->losses, &seen, step + 1, err));
        QY_TRY(qy_block_save_or_stop(host->save, hooks, host->losses, step + 1, err));
        double tokens = (double)((step + 1 - from) * batch * q->f->length);
        qy_hooks_progress(hooks, &last,
                          &(qy_progress_t){.kind = QY_TASK_SEGMENT,
                                           .block = first,
                                           .step = step + 1,
                                           .n_steps = steps,
                                           .loss = (double)host->losses[step],
                                           .tokens_per_s = tokens / (qy_now_s() - began)});
    }
    return QY_OK;
}

static qy_status_t begin(qy_qllm_t *q, qy_error_t *err)
{
    const qy_device_t *dev = q->f->dev;
    double state[QY_N_STATE] = {
        [QY_STATE_SCALE] = q->scaled ? QY_LOSS_SCALE_START : 1, [QY_STATE_DYNAMIC] = q->scaled};
    float hyper[QY_N_HYPER] = {[QY_HYPER_SCALE] = (float)state[QY_STATE_SCALE]};
    q->grads.at_linear = pair_gradients;
    q->grads.context = q;
    QY_TRY(qy_device_upload(dev, q->state.data, state, sizeof state, err));
    QY_TRY(qy_device_upload(dev, q->hyper.data, hyper, sizeof hyper, err));
    return qy_device_wait(dev, err);
}

static double mean(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    return n > 0 ? sum / (double)n : (double)NAN;
}

qy_status_t qy_qllm_train(qy_qllm_t *q, int64_t first, int64_t n, qy_stream_t *source,
                          qy_stream_t *goal, const qy_hooks_t *hooks, double losses[2],
                          qy_error_t *err)
{
    int64_t steps = q->plan->qllm.steps, eighth = steps / 8 > 0 ? steps / 8 : steps;
    losses[0] = losses[1] = (double)NAN;
    if (!q->training)
        return QY_OK;
    q->n = n;
    QY_TRY(begin(q, err));
    train_host_t host = {.order =
                             malloc((size_t)q->plan->spec.calibration.samples * sizeof(int64_t)),
                         .losses = calloc((size_t)steps + 1, sizeof(float))};
    qy_status_t status = qy_block_save_create(&host.save,
                                              &(qy_saved_t){.plan = q->plan,
                                                            .dev = q->f->dev,
                                                            .steps = steps,
                                                            .list = list_saved,
                                                            .loaded = correct_loaded,
                                                            .trainer = q},
                                              err);
    if (status == QY_OK)
        status = host.order && host.losses
                     ? train_steps(q, first, source, goal, hooks, &host, err)
                     : qy_fail(err, QY_ERR_MEMORY, "qllm: out of host memory");
    qy_block_save_destroy(&host.save);
    if (status == QY_OK) {
        losses[0] = mean(host.losses, eighth);
        losses[1] = mean(host.losses + steps - eighth, eighth);
    }
    free(host.order);
    free(host.losses);
    return status;
}
