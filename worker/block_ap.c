#include "worker/block_ap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/half.h"
#include "kernels/fill.h"
#include "kernels/loss.h"
#include "kernels/quant.h"
#include "worker/decorate.h"

/* Steps between looks at the losses: each look waits for the device. */
enum { LOSS_CHECK = 16 };

static int unit_is_step(const qy_plan_t *plan)
{
    return plan->spec.block_ap.lr_unit == QY_LR_UNIT_STEP;
}

static qy_status_t take_vars(qy_block_ap_t *t, int id, qy_arena_t *arena, qy_error_t *err)
{
    const qy_linear_desc_t *d = &t->f->model->arch.linear[id];
    qy_quant_vars_t *v = &t->vars[id];
    int64_t groups = qy_quant_linear_groups(&t->f->form, &t->f->model->arch, id);
    QY_TRY(qy_arena_2d(arena, &v->w, QY_F32, d->out, d->in, err));
    QY_TRY(qy_arena_2d(arena, &v->s, QY_F32, d->out, groups, err));
    QY_TRY(qy_arena_2d(arena, &v->z, QY_F32, d->out, groups, err));
    if (!t->training)
        return QY_OK;
    QY_TRY(qy_arena_2d(arena, &v->w_m, QY_F32, d->out, d->in, err));
    QY_TRY(qy_arena_2d(arena, &v->w_v, QY_F32, d->out, d->in, err));
    QY_TRY(qy_arena_2d(arena, &v->s_m, QY_F32, d->out, groups, err));
    QY_TRY(qy_arena_2d(arena, &v->s_v, QY_F32, d->out, groups, err));
    QY_TRY(qy_arena_2d(arena, &v->z_m, QY_F32, d->out, groups, err));
    QY_TRY(qy_arena_2d(arena, &v->z_v, QY_F32, d->out, groups, err));
    if (unit_is_step(t->plan))
        QY_TRY(qy_arena_2d(arena, &t->unit[id], QY_F32, d->out, groups, err));
    return qy_arena_2d(arena, &t->grads.dw[id], t->f->dev->compute, d->out, d->in, err);
}

static qy_status_t take_norm(qy_block_ap_t *t, int id, qy_arena_t *arena, qy_error_t *err)
{
    int64_t n = t->f->model->arch.norm[id].size;
    QY_TRY(qy_arena_tensor(arena, &t->grads.dnorm[id], QY_F32, 1, &n, err));
    QY_TRY(qy_arena_tensor(arena, &t->norm_m[id], QY_F32, 1, &n, err));
    return qy_arena_tensor(arena, &t->norm_v[id], QY_F32, 1, &n, err);
}

static int norms_trained(const qy_plan_t *plan)
{
    return plan->block_ap.norm_lr > 0;
}

qy_status_t qy_block_ap_take(qy_block_ap_t *t, const qy_plan_t *plan, qy_forward_t *f, int training,
                             qy_arena_t *arena, qy_error_t *err)
{
    *t = (qy_block_ap_t){
        .plan = plan, .f = f, .training = training, .scaled = f->dev->compute == QY_F16};
    t->init = qy_spec_init(&plan->spec);
    const qy_arch_t *a = &f->model->arch;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (a->linear[i].present)
            QY_TRY(take_vars(t, i, arena, err));
    if (!training)
        return QY_OK;
    for (int i = 0; i < QY_N_NORMS && norms_trained(plan); i++)
        if (a->norm[i].present)
            QY_TRY(take_norm(t, i, arena, err));
    QY_TRY(qy_block_grads_take(&t->grads, &f->block, f->batch, f->length, arena, err));
    int64_t shape[] = {f->batch * f->length, a->hidden};
    QY_TRY(qy_arena_tensor(arena, &t->goal, f->dev->compute, 2, shape, err));
    QY_TRY(qy_arena_tensor(arena, &t->dy, f->dev->compute, 2, shape, err));
    QY_TRY(qy_arena_tensor(arena, &t->hyper, QY_F32, 1, (int64_t[]){QY_N_HYPER}, err));
    QY_TRY(qy_arena_tensor(arena, &t->state, QY_F64, 1, (int64_t[]){QY_N_STATE}, err));
    QY_TRY(qy_arena_tensor(arena, &t->flag, QY_F32, 1, (int64_t[]){1}, err));
    QY_TRY(qy_arena_tensor(arena, &t->loss, QY_F32, 1, (int64_t[]){1}, err));
    return qy_arena_tensor(arena, &t->losses, QY_F32, 1, &plan->block_ap.steps, err);
}

static qy_status_t zero(const qy_device_t *dev, qy_tensor_t *t, qy_error_t *err)
{
    return t->data ? qy_fill(dev, t, 0.0f, err) : QY_OK;
}

static qy_status_t start_linear(qy_block_ap_t *t, int id, const qy_tensor_t *weight,
                                qy_error_t *err)
{
    const qy_device_t *dev = t->f->dev;
    qy_quant_vars_t *v = &t->vars[id];
    qy_quant_form_t form = t->f->form;
    QY_TRY(qy_device_upload(dev, v->w.data, weight->data, qy_tensor_bytes(weight), err));
    QY_TRY(qy_quant_start(dev, &v->s, &v->z, &v->w, form.bits, form.symmetric,
                          t->init == QY_INIT_LEAST_SQUARES, err));
    QY_TRY(qy_fake_quant_fwd(dev, &t->f->params.w[id], &v->w, &v->s, &v->z, form.bits, err));
    if (!t->training)
        return QY_OK;
    if (t->unit[id].data)
        QY_TRY(qy_device_copy(dev, t->unit[id].data, v->s.data, qy_tensor_bytes(&v->s), err));
    qy_tensor_t *moments[] = {&v->w_m, &v->w_v, &v->s_m, &v->s_v, &v->z_m, &v->z_v};
    for (int i = 0; i < 6; i++)
        QY_TRY(zero(dev, moments[i], err));
    return QY_OK;
}

qy_status_t qy_block_ap_start(qy_block_ap_t *t, const qy_block_weights_t *weights, qy_error_t *err)
{
    const qy_device_t *dev = t->f->dev;
    qy_decorate_quantizers(&t->f->params, &t->f->form);
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (t->vars[i].w.data)
            QY_TRY(start_linear(t, i, &weights->linear[i], err));
    QY_TRY(qy_block_params_load(&t->f->params, &t->f->block, weights, &t->f->staging, 0, err));
    if (!t->training)
        return QY_OK;
    for (int i = 0; i < QY_N_NORMS; i++) {
        QY_TRY(zero(dev, &t->norm_m[i], err));
        QY_TRY(zero(dev, &t->norm_v[i], err));
    }
    double state[QY_N_STATE] = {
        [QY_STATE_SCALE] = t->scaled ? QY_LOSS_SCALE_START : 1, [QY_STATE_DYNAMIC] = t->scaled};
    float hyper[QY_N_HYPER] = {[QY_HYPER_SCALE] = (float)state[QY_STATE_SCALE]};
    QY_TRY(qy_device_upload(dev, t->state.data, state, sizeof state, err));
    QY_TRY(qy_device_upload(dev, t->hyper.data, hyper, sizeof hyper, err));
    return qy_device_wait(dev, err);
}

/* The step's learning rates into hyper; rates is the host's copy and must live until the next wait.
 */
static qy_status_t set_rates(qy_block_ap_t *t, int64_t step, float rates[3], qy_error_t *err)
{
    const qy_plan_t *plan = t->plan;
    rates[QY_HYPER_LR_WEIGHT] = (float)qy_block_ap_rate(plan, plan->block_ap.weight_lr, step);
    rates[QY_HYPER_LR_QUANT] = (float)qy_block_ap_rate(plan, plan->block_ap.quant_lr, step);
    rates[QY_HYPER_LR_NORM] = (float)qy_block_ap_rate(plan, plan->block_ap.norm_lr, step);
    return qy_device_upload(t->f->dev, t->hyper.data, rates, 3 * sizeof *rates, err);
}

/* Sets the flag where a gradient is not finite: all are looked at before a parameter moves. */
static qy_status_t look_at_gradients(qy_block_ap_t *t, qy_error_t *err)
{
    const qy_device_t *dev = t->f->dev;
    int seen = 0;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (t->grads.dw[i].data)
            QY_TRY(qy_nonfinite(dev, &t->flag, &t->grads.dw[i], seen++ > 0, err));
    for (int i = 0; i < QY_N_NORMS; i++)
        if (t->grads.dnorm[i].data)
            QY_TRY(qy_nonfinite(dev, &t->flag, &t->grads.dnorm[i], seen++ > 0, err));
    return QY_OK;
}

static qy_status_t update(qy_block_ap_t *t, qy_error_t *err)
{
    const qy_device_t *dev = t->f->dev;
    int bits = (int)t->plan->spec.quantize.weights.bits;
    int train_zero = !t->plan->spec.quantize.weights.symmetric;
    if (t->scaled)
        QY_TRY(look_at_gradients(t, err));
    QY_TRY(qy_step_begin(dev, &t->hyper, &t->state, t->scaled ? &t->flag : NULL, err));
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (t->vars[i].w.data)
            QY_TRY(qy_quant_update(dev, &t->f->params.w[i], &t->vars[i], &t->grads.dw[i],
                                   t->unit[i].data ? &t->unit[i] : NULL, &t->hyper, bits,
                                   train_zero, err));
    for (int i = 0; i < QY_N_NORMS; i++)
        if (t->grads.dnorm[i].data)
            QY_TRY(qy_adamw(dev, &t->f->params.norm[i], &t->norm_m[i], &t->norm_v[i],
                            &t->grads.dnorm[i], NULL, &t->hyper, QY_HYPER_LR_NORM, -INFINITY, err));
    return QY_OK;
}

/* A step's ops, its inputs being there: the same each time, on the same memory. */
static qy_status_t queue_step(void *context, qy_error_t *err)
{
    qy_block_ap_t *t = context;
    qy_forward_t *f = t->f;
    QY_TRY(qy_block_forward(&f->block, &f->params, &f->acts, &f->x, &f->y, err));
    QY_TRY(qy_mse(f->dev, &t->loss, &t->dy, &f->y, &t->goal, &t->hyper, err));
    QY_TRY(qy_block_backward(&f->block, &f->params, &f->acts, &t->grads, &t->dy, 0, err));
    return update(t, err);
}

static qy_status_t one_step(qy_block_ap_t *t, int64_t step, const int64_t *samples,
                            qy_stream_t *source, qy_stream_t *goal, float rates[3], qy_error_t *err)
{
    qy_forward_t *f = t->f;
    QY_TRY(set_rates(t, step, rates, err));
    QY_TRY(qy_stream_load(source, samples, f->batch, f->x.data, err));
    QY_TRY(qy_stream_load(goal, samples, f->batch, t->goal.data, err));
    QY_TRY(qy_device_repeat(f->dev, &t->graph, queue_step, t, err));
    return qy_device_copy(f->dev, (float *)t->losses.data + step, t->loss.data, sizeof(float), err);
}

/* Losses of steps [*seen, done) from the device; NUMERIC at the first that is not finite. */
static qy_status_t look_at_losses(qy_block_ap_t *t, int64_t block, float *losses, int64_t *seen,
                                  int64_t done, qy_error_t *err)
{
    QY_TRY(qy_device_download(t->f->dev, losses + *seen, (float *)t->losses.data + *seen,
                              (size_t)(done - *seen) * sizeof *losses, err));
    for (int64_t i = *seen; i < done; i++)
        if (!isfinite(losses[i]))
            return qy_fail(err, QY_ERR_NUMERIC,
                           "block %lld, step %lld of %lld: the loss is %g; last good loss %g",
                           (long long)block, (long long)i + 1, (long long)t->plan->block_ap.steps,
                           (double)losses[i], i > 0 ? (double)losses[i - 1] : (double)NAN);
    *seen = done;
    return QY_OK;
}

static double mean(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    return n > 0 ? sum / (double)n : (double)NAN;
}

typedef struct {
    int64_t *order;
    float *losses;
    float rates[LOSS_CHECK][3]; /* one per queued step: uploads may still be on their way */
} train_host_t;

/* --- checkpoints ------------------------------------------------------------------------------ */

static qy_status_t list_saved(void *trainer, qy_block_save_t *save, qy_error_t *err)
{
    qy_block_ap_t *t = trainer;
    const qy_arch_t *a = &t->f->model->arch;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_quant_vars_t *v = &t->vars[i];
        const struct {
            const char *what;
            const qy_tensor_t *t;
        } items[] = {{"w", &v->w},     {"s", &v->s},         {"z", &v->z},     {"w_m", &v->w_m},
                     {"w_v", &v->w_v}, {"s_m", &v->s_m},     {"s_v", &v->s_v}, {"z_m", &v->z_m},
                     {"z_v", &v->z_v}, {"unit", &t->unit[i]}};
        for (size_t k = 0; v->w.data && k < sizeof items / sizeof *items; k++)
            QY_TRY(qy_block_save_add(save, a->linear[i].name, items[k].what, items[k].t, err));
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        const char *name = a->norm[i].name;
        if (!t->norm_m[i].data)
            continue;
        QY_TRY(qy_block_save_add(save, name, "norm", &t->f->params.norm[i], err));
        QY_TRY(qy_block_save_add(save, name, "norm_m", &t->norm_m[i], err));
        QY_TRY(qy_block_save_add(save, name, "norm_v", &t->norm_v[i], err));
    }
    QY_TRY(qy_block_save_add(save, "", "state", &t->state, err));
    return qy_block_save_add(save, "", "hyper", &t->hyper, err);
}

static qy_status_t quantize_loaded(void *trainer, qy_error_t *err)
{
    qy_block_ap_t *t = trainer;
    int bits = (int)t->plan->spec.quantize.weights.bits;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (t->vars[i].w.data)
            QY_TRY(qy_fake_quant_fwd(t->f->dev, &t->f->params.w[i], &t->vars[i].w, &t->vars[i].s,
                                     &t->vars[i].z, bits, err));
    return QY_OK;
}

qy_status_t qy_block_ap_save(qy_block_ap_t *t, qy_error_t *err)
{
    return qy_block_save_create(&t->save,
                                &(qy_saved_t){.plan = t->plan,
                                              .dev = t->f->dev,
                                              .steps = t->plan->block_ap.steps,
                                              .list = list_saved,
                                              .loaded = quantize_loaded,
                                              .trainer = t},
                                err);
}

/* The samples' order in the epoch that step belongs to. */
static void set_order(const qy_block_ap_t *t, int64_t block, int64_t epoch, int64_t *order)
{
    int64_t n = t->plan->spec.calibration.samples;
    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    if (t->plan->spec.block_ap.shuffle)
        qy_random_permutation(order, n, (uint32_t)t->plan->spec.seed, QY_PHASE_SHUFFLE_BLOCK,
                              ((uint64_t)block << 32) + (uint64_t)epoch);
}

/* Tells both streams the order of all steps from this one on. */
static qy_status_t expect_steps(const qy_block_ap_t *t, int64_t block, int64_t step, int64_t *order,
                                qy_stream_t *source, qy_stream_t *goal, qy_error_t *err)
{
    int64_t per_epoch = t->plan->block_ap.steps_per_epoch, batch = t->f->batch;
    for (; step < t->plan->block_ap.steps; step += per_epoch - step % per_epoch) {
        int64_t at = step % per_epoch * batch, n = per_epoch * batch - at;
        set_order(t, block, step / per_epoch, order);
        QY_TRY(qy_stream_expect(source, order + at, n, err));
        QY_TRY(qy_stream_expect(goal, order + at, n, err));
    }
    return QY_OK;
}

static qy_status_t train_steps(qy_block_ap_t *t, int64_t block, qy_stream_t *source,
                               qy_stream_t *goal, const qy_hooks_t *hooks, train_host_t *host,
                               qy_error_t *err)
{
    const qy_plan_t *plan = t->plan;
    int64_t per_epoch = plan->block_ap.steps_per_epoch, steps = plan->block_ap.steps;
    int64_t seen = 0, batch = t->f->batch, ordered = -1;
    double last = 0, began = qy_now_s();
    if (t->save)
        QY_TRY(qy_block_save_load(t->save, block, host->losses, &seen, err));
    int64_t first = seen;
    QY_TRY(expect_steps(t, block, first, host->order, source, goal, err));
    for (int64_t step = first; step < steps; step++) {
        int64_t epoch = step / per_epoch, at = step % per_epoch * batch;
        if (epoch != ordered)
            set_order(t, block, ordered = epoch, host->order);
        QY_TRY(
            one_step(t, step, host->order + at, source, goal, host->rates[step % LOSS_CHECK], err));
        int due = qy_hooks_asked(hooks) || (t->save && qy_block_save_due(t->save));
        if ((step + 1) % LOSS_CHECK && step + 1 < steps && !due)
            continue;
        QY_TRY(look_at_losses(t, block, host->losses, &seen, step + 1, err));
        QY_TRY(qy_block_save_or_stop(t->save, hooks, host->losses, step + 1, err));
        double tokens = (double)((step + 1 - first) * batch * t->f->length);
        qy_hooks_progress(hooks, &last,
                          &(qy_progress_t){.kind = QY_TASK_SEGMENT,
                                           .block = block,
                                           .step = step + 1,
                                           .n_steps = steps,
                                           .loss = (double)host->losses[step],
                                           .tokens_per_s = tokens / (qy_now_s() - began)});
    }
    return QY_OK;
}

qy_status_t qy_block_ap_train(qy_block_ap_t *t, int64_t block, qy_stream_t *source,
                              qy_stream_t *goal, const qy_hooks_t *hooks,
                              qy_block_ap_losses_t *losses, qy_error_t *err)
{
    int64_t steps = t->plan->block_ap.steps, eighth = steps / 8 > 0 ? steps / 8 : steps;
    train_host_t host = {.order =
                             malloc((size_t)t->plan->spec.calibration.samples * sizeof(int64_t)),
                         .losses = calloc((size_t)steps + 1, sizeof(float))};
    qy_status_t status;
    if (host.order && host.losses)
        status = train_steps(t, block, source, goal, hooks, &host, err);
    else
        status = qy_fail(err, QY_ERR_MEMORY, "block %lld: out of host memory", (long long)block);
    qy_graph_free(t->f->dev, &t->graph);
    if (t->save)
        qy_block_save_settle(t->save);
    if (status == QY_OK)
        *losses = (qy_block_ap_losses_t){.first = mean(host.losses, eighth),
                                         .last = mean(host.losses + steps - eighth, eighth)};
    free(host.order);
    free(host.losses);
    return status;
}

static qy_status_t freeze_linear(qy_block_ap_t *t, int id, qy_qblock_t *out, qy_error_t *err)
{
    const qy_device_t *dev = t->f->dev;
    const qy_forward_t *f = t->f;
    qy_quant_vars_t *v = &t->vars[id];
    qy_tensor_t codes = qy_tensor_view(f->codes.data, QY_U32, 2, out->codes[id].shape);
    qy_tensor_t scales = qy_tensor_view(f->scales.data, QY_F32, 2, out->scales[id].shape);
    qy_tensor_t zeros = qy_tensor_view(f->zeros.data, QY_U8, 2, out->zeros[id].shape);
    qy_tensor_t half = qy_tensor_view(f->staging.data, QY_F16, 2, out->scales[id].shape);
    QY_TRY(qy_quant_freeze(dev, &codes, &scales, &zeros, &v->w, &v->s, &v->z, f->form.bits, err));
    QY_TRY(qy_convert(dev, &half, &scales, err)); /* exact: the values are f16's */
    QY_TRY(qy_device_download(dev, out->codes[id].data, codes.data, qy_tensor_bytes(&codes), err));
    QY_TRY(qy_device_download(dev, out->scales[id].data, half.data, qy_tensor_bytes(&half), err));
    return qy_device_download(dev, out->zeros[id].data, zeros.data, qy_tensor_bytes(&zeros), err);
}

qy_status_t qy_block_ap_freeze(qy_block_ap_t *t, const qy_block_weights_t *weights,
                               qy_qblock_t *out, qy_error_t *err)
{
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (t->vars[i].w.data)
            QY_TRY(freeze_linear(t, i, out, err));
        if (weights->bias[i].data)
            memcpy(out->bias[i].data, weights->bias[i].data, qy_tensor_bytes(&weights->bias[i]));
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        if (!weights->norm[i].data)
            continue;
        size_t bytes = qy_tensor_bytes(&weights->norm[i]);
        memcpy(out->norm[i].data, weights->norm[i].data, bytes);
        if (weights->norm_bias[i].data)
            memcpy(out->norm_bias[i].data, weights->norm_bias[i].data, bytes);
        if (!t->grads.dnorm[i].data)
            continue;
        float *norm = out->norm[i].data;
        QY_TRY(qy_device_download(t->f->dev, norm, t->f->params.norm[i].data, bytes, err));
        for (int64_t j = 0; j < qy_tensor_count(&out->norm[i]); j++)
            norm[j] = qy_round_f16(norm[j]);
    }
    return QY_OK;
}
