#include "worker/qllm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/random.h"
#include "kernels/columns.h"
#include "kernels/fill.h"
#include "kernels/low_rank.h"
#include "kernels/quant.h"
#include "worker/decorate.h"

/* Ranks are rounded up to this, so that products of half precision are aligned. */
enum { RANK_STEP = 8 };

static int64_t padded_rank(const qy_plan_t *plan)
{
    return (plan->spec.qllm.rank + RANK_STEP - 1) / RANK_STEP * RANK_STEP;
}

/* The site that a layer reads; QY_N_SITES where it is never reassembled. */
static qy_site_t site_of(int linear)
{
    static const qy_site_t sites[QY_N_LINEARS] = {
        QY_SITE_ATTENTION_IN, QY_SITE_ATTENTION_IN, QY_SITE_ATTENTION_IN, QY_N_SITES,
        QY_SITE_MLP_IN,       QY_SITE_MLP_IN,       QY_SITE_DOWN_IN};
    return sites[linear];
}

/* --- memory ----------------------------------------------------------------------------------- */

static qy_status_t take_pair(qy_tensor_t *p, qy_tensor_t *m, qy_tensor_t *v, qy_tensor_t *g,
                             int64_t rows, int64_t cols, qy_arena_t *arena, qy_error_t *err)
{
    QY_TRY(qy_arena_2d(arena, p, QY_F32, rows, cols, err));
    QY_TRY(qy_arena_2d(arena, m, QY_F32, rows, cols, err));
    QY_TRY(qy_arena_2d(arena, v, QY_F32, rows, cols, err));
    return qy_arena_2d(arena, g, QY_F32, rows, cols, err);
}

static qy_status_t take_layer(const qy_qllm_t *q, qy_qllm_layer_t *l, const qy_linear_desc_t *d,
                              qy_arena_t *arena, qy_error_t *err)
{
    int64_t r = padded_rank(q->plan);
    qy_dtype_t compute = q->f->dev->compute;
    if (r == 0)
        return QY_OK;
    QY_TRY(qy_arena_2d(arena, &l->w_hat, compute, d->out, d->in, err));
    QY_TRY(take_pair(&l->a, &l->a_m, &l->a_v, &l->da, r, d->in, arena, err));
    QY_TRY(take_pair(&l->b, &l->b_m, &l->b_v, &l->db, d->out, r, arena, err));
    QY_TRY(qy_arena_2d(arena, &l->a_scaled, compute, r, d->in, err));
    return qy_arena_2d(arena, &l->b_scaled, compute, d->out, r, err);
}

static qy_status_t take_norms(qy_qllm_block_t *b, const qy_arch_t *a, qy_arena_t *arena,
                              qy_error_t *err)
{
    for (int i = 0; i < QY_N_NORMS; i++) {
        if (!a->norm[i].present)
            continue;
        qy_tensor_t *all[] = {&b->dnorm[i], &b->norm_m[i], &b->norm_v[i],
                              &b->dbias[i], &b->bias_m[i], &b->bias_v[i]};
        for (int k = 0; k < (a->norm[i].bias ? 6 : 3); k++)
            QY_TRY(qy_arena_1d(arena, all[k], QY_F32, a->norm[i].size, err));
    }
    return QY_OK;
}

static qy_status_t take_block(const qy_qllm_t *q, qy_qllm_block_t *b, qy_arena_t *arena,
                              qy_error_t *err)
{
    const qy_forward_t *f = q->f;
    const qy_arch_t *a = &f->model->arch;
    *b = (qy_qllm_block_t){0};
    QY_TRY(qy_block_params_take(&b->params, &f->block, arena, err));
    QY_TRY(qy_block_acts_take(&b->acts, &f->block, f->batch, f->length, arena, err));
    QY_TRY(qy_arena_2d(arena, &b->y, f->dev->compute, f->batch * f->length, a->hidden, err));
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (a->linear[i].present)
            QY_TRY(take_layer(q, &b->layer[i], &a->linear[i], arena, err));
    return q->plan->spec.qllm.block_norms ? take_norms(b, a, arena, err) : QY_OK;
}

static qy_status_t take_training(qy_qllm_t *q, qy_arena_t *arena, qy_error_t *err)
{
    const qy_forward_t *f = q->f;
    int64_t rows = f->batch * f->length, r = padded_rank(q->plan);
    for (int64_t i = 0; i < q->plan->spec.qllm.blocks_per_round; i++)
        QY_TRY(take_block(q, &q->blocks[i], arena, err));
    QY_TRY(qy_block_grads_take(&q->grads, &f->block, f->batch, f->length, arena, err));
    QY_TRY(qy_arena_2d(arena, &q->goal, f->dev->compute, rows, f->model->arch.hidden, err));
    QY_TRY(qy_arena_2d(arena, &q->dy, f->dev->compute, rows, f->model->arch.hidden, err));
    if (r > 0) {
        QY_TRY(qy_arena_2d(arena, &q->t, f->dev->compute, rows, r, err));
        QY_TRY(qy_arena_2d(arena, &q->u, f->dev->compute, rows, r, err));
    }
    QY_TRY(qy_arena_1d(arena, &q->hyper, QY_F32, QY_N_HYPER, err));
    QY_TRY(qy_arena_1d(arena, &q->state, QY_F64, QY_N_STATE, err));
    QY_TRY(qy_arena_1d(arena, &q->flag, QY_F32, 1, err));
    return qy_arena_1d(arena, &q->losses, QY_F32, q->plan->qllm.steps, err);
}

qy_status_t qy_qllm_take(qy_qllm_t *q, const qy_plan_t *plan, qy_forward_t *f, qy_arena_t *arena,
                         qy_error_t *err)
{
    const qy_arch_t *a = &f->model->arch;
    const qy_spec_t *spec = &plan->spec;
    int64_t weights = 0, groups = 0, channels = 0;
    qy_qllm_block_t *blocks = q->blocks; /* of an earlier, measuring call */
    *q = (qy_qllm_t){.plan = plan,
                     .f = f,
                     .blocks = blocks,
                     .training =
                         plan->qllm.steps > 0 && (spec->qllm.rank > 0 || spec->qllm.block_norms),
                     .reassembling = spec->qllm.reassembly,
                     .scaled = f->dev->compute == QY_F16};
    if (!q->blocks)
        q->blocks = calloc((size_t)spec->qllm.blocks_per_round, sizeof *q->blocks);
    if (!q->blocks)
        return qy_fail(err, QY_ERR_MEMORY, "qllm: out of host memory");
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &a->linear[i];
        if (!d->present)
            continue;
        int64_t g = d->out * qy_quant_n_groups(&f->form, d->in);
        weights = d->out * d->in > weights ? d->out * d->in : weights;
        groups = g > groups ? g : groups;
        channels = d->in > channels ? d->in : channels;
    }
    QY_TRY(qy_arena_1d(arena, &q->w, QY_F32, weights, err));
    QY_TRY(qy_arena_1d(arena, &q->mixed, QY_F32, weights, err));
    QY_TRY(qy_arena_1d(arena, &q->s, QY_F32, groups, err));
    QY_TRY(qy_arena_1d(arena, &q->z, QY_F32, groups, err));
    QY_TRY(qy_arena_1d(arena, &q->ones, QY_F32, QY_MAP_ITEMS * channels, err));
    if (q->reassembling)
        QY_TRY(qy_reassemble_take(&q->sites, plan, f, arena, err));
    return q->training ? take_training(q, arena, err) : QY_OK;
}

void qy_qllm_free(qy_qllm_t *q)
{
    free(q->blocks);
    q->blocks = NULL;
}

/* --- the full-precision pass ------------------------------------------------------------------ */

/* Validation windows stay unseen, also those that share a batch with the last training windows. */
static qy_status_t see(void *context, const qy_block_acts_t *acts, int64_t first, qy_error_t *err)
{
    qy_qllm_t *q = context;
    int64_t left = q->plan->spec.calibration.samples - first;
    if (left <= 0)
        return QY_OK;
    qy_block_acts_t seen = qy_block_acts_narrow(acts, left < acts->batch ? left : acts->batch);
    return qy_reassemble_see(&q->sites, &seen, err);
}

qy_status_t qy_qllm_look(qy_qllm_t *q, int64_t block, const qy_block_weights_t *weights,
                         qy_segment_streams_t *streams, qy_qblock_t *out, qy_error_t *err)
{
    qy_forward_t *f = q->f;
    qy_decorate_plain(&f->params);
    QY_TRY(qy_block_params_load(&f->params, &f->block, weights, &f->staging, 1, err));
    if (!q->reassembling)
        return qy_segment_streams_pass(streams, streams->target, block, err);
    qy_reassemble_begin(&q->sites);
    f->see = see;
    f->see_context = q;
    qy_status_t status = qy_segment_streams_pass(streams, streams->target, block, err);
    f->see = NULL;
    QY_TRY(status);
    return qy_reassemble_search(&q->sites, block, weights, out, err);
}

/* --- quantized weights ------------------------------------------------------------------------ */

/* A layer's f32 weights behind its site's map, in q->w or q->mixed; map NULL: the site has none. */
static qy_status_t load_weights(qy_qllm_t *q, int id, const qy_tensor_t *w,
                                const qy_channel_map_t *map, qy_tensor_t *out, qy_error_t *err)
{
    const qy_device_t *dev = q->f->dev;
    qy_tensor_t plain = qy_tensor_view(q->w.data, QY_F32, 2, w->shape);
    QY_TRY(qy_device_upload(dev, plain.data, w->data, qy_tensor_bytes(w), err));
    *out = plain;
    if (site_of(id) == QY_N_SITES || !map[site_of(id)].active)
        return QY_OK;
    const qy_channel_map_t *m = &map[site_of(id)];
    qy_tensor_t ones = qy_tensor_1d(q->ones.data, QY_F32, qy_tensor_count(&m->items));
    *out = qy_tensor_view(q->mixed.data, QY_F32, 2, w->shape);
    QY_TRY(qy_fill(dev, &ones, 1.0f, err));
    return qy_column_mix(dev, out, &plain, &m->offsets, &m->items, &ones, err);
}

static qy_status_t find_steps(qy_qllm_t *q, const qy_tensor_t *w, qy_tensor_t *s, qy_tensor_t *z,
                              qy_error_t *err)
{
    const qy_quant_form_t *form = &q->f->form;
    int64_t o = w->shape[0], groups = qy_quant_n_groups(form, w->shape[1]);
    *s = qy_tensor_2d(q->s.data, QY_F32, o, groups);
    *z = qy_tensor_2d(q->z.data, QY_F32, o, groups);
    return qy_quant_start(q->f->dev, s, z, w, form->bits, form->symmetric,
                          qy_spec_init(&q->plan->spec) == QY_INIT_LEAST_SQUARES, err);
}

static qy_status_t zero(const qy_device_t *dev, qy_tensor_t *t, qy_error_t *err)
{
    return t->data ? qy_fill(dev, t, 0.0f, err) : QY_OK;
}

/* a uniform in ±1/sqrt(I), rows beyond the rank 0; b 0. */
static qy_status_t start_pair(qy_qllm_t *q, qy_qllm_layer_t *l, int64_t block, int id,
                              qy_error_t *err)
{
    const qy_device_t *dev = q->f->dev;
    int64_t in = l->a.shape[1], n = q->plan->spec.qllm.rank * in;
    float *a = calloc(1, qy_tensor_bytes(&l->a));
    if (!a)
        return qy_fail(err, QY_ERR_MEMORY, "qllm: out of host memory");
    double bound = 1.0 / sqrt((double)in);
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = qy_random_u64((uint32_t)q->plan->spec.seed, QY_PHASE_LOW_RANK, (uint64_t)i,
                                      (uint64_t)block * QY_N_LINEARS + (uint64_t)id);
        a[i] = (float)(bound * ((double)(bits >> 11) * 0x1p-52 - 1.0));
    }
    qy_status_t status = qy_device_upload(dev, l->a.data, a, qy_tensor_bytes(&l->a), err);
    if (status == QY_OK)
        status = qy_device_wait(dev, err);
    free(a);
    QY_TRY(status);
    qy_tensor_t *cleared[] = {&l->a_m, &l->a_v, &l->b, &l->b_m, &l->b_v};
    for (int i = 0; i < 5; i++)
        QY_TRY(zero(dev, cleared[i], err));
    return QY_OK;
}

/* The corrected weight, and the factors that gradients are taken with. */
static qy_status_t correct(qy_qllm_t *q, qy_qllm_block_t *b, int id, qy_error_t *err)
{
    qy_qllm_layer_t *l = &b->layer[id];
    return qy_low_rank_fwd(q->f->dev, &b->params.w[id], &l->a_scaled, &l->b_scaled, &l->w_hat,
                           &l->a, &l->b, (float)q->plan->spec.qllm.scaling, err);
}

static qy_status_t start_layer(qy_qllm_t *q, qy_qllm_block_t *b, int64_t block, int id,
                               const qy_tensor_t *weight, qy_error_t *err)
{
    qy_tensor_t w, s, z, *w_hat = b->layer[id].w_hat.data ? &b->layer[id].w_hat : &b->params.w[id];
    QY_TRY(load_weights(q, id, weight, b->params.map, &w, err));
    QY_TRY(find_steps(q, &w, &s, &z, err));
    QY_TRY(qy_fake_quant_fwd(q->f->dev, w_hat, &w, &s, &z, q->f->form.bits, err));
    if (w_hat == &b->params.w[id])
        return QY_OK;
    QY_TRY(start_pair(q, &b->layer[id], block, id, err));
    return correct(q, b, id, err);
}

qy_status_t qy_qllm_start(qy_qllm_t *q, int64_t i, int64_t block, const qy_block_weights_t *weights,
                          const qy_qblock_t *out, qy_error_t *err)
{
    qy_forward_t *f = q->f;
    qy_qllm_block_t *b = &q->blocks[i];
    if (!q->training)
        return QY_OK;
    qy_decorate_quantizers(&b->params, &f->form);
    QY_TRY(qy_decorate_maps(&b->params, f->dev, out, err));
    for (int k = 0; k < QY_N_LINEARS; k++)
        if (weights->linear[k].data)
            QY_TRY(start_layer(q, b, block, k, &weights->linear[k], err));
    for (int k = 0; k < QY_N_NORMS; k++) {
        qy_tensor_t *cleared[] = {&b->norm_m[k], &b->norm_v[k], &b->bias_m[k], &b->bias_v[k]};
        for (int j = 0; j < 4; j++)
            QY_TRY(zero(f->dev, cleared[j], err));
    }
    return qy_block_params_load(&b->params, &f->block, weights, &f->staging, 0, err);
}

/* --- finished weights ------------------------------------------------------------------------- */

static qy_status_t freeze_layer(qy_qllm_t *q, int64_t i, int id, const qy_tensor_t *weight,
                                const qy_channel_map_t *map, qy_qblock_t *out, qy_error_t *err)
{
    const qy_forward_t *f = q->f;
    const qy_qllm_layer_t *l = &q->blocks[i].layer[id];
    qy_tensor_t codes = qy_tensor_view(f->codes.data, QY_U32, 2, out->codes[id].shape);
    qy_tensor_t scales = qy_tensor_view(f->scales.data, QY_F32, 2, out->scales[id].shape);
    qy_tensor_t zeros = qy_tensor_view(f->zeros.data, QY_U8, 2, out->zeros[id].shape);
    qy_tensor_t half = qy_tensor_view(f->staging.data, QY_F16, 2, out->scales[id].shape);
    qy_tensor_t w, s, z;
    QY_TRY(load_weights(q, id, weight, map, &w, err));
    if (q->training && l->a.data)
        QY_TRY(qy_low_rank_fwd(f->dev, &w, NULL, NULL, &w, &l->a, &l->b,
                               (float)q->plan->spec.qllm.scaling, err));
    QY_TRY(find_steps(q, &w, &s, &z, err));
    QY_TRY(qy_quant_freeze(f->dev, &codes, &scales, &zeros, &w, &s, &z, f->form.bits, err));
    QY_TRY(qy_convert(f->dev, &half, &scales, err)); /* exact: the values are f16's */
    QY_TRY(
        qy_device_download(f->dev, out->codes[id].data, codes.data, qy_tensor_bytes(&codes), err));
    QY_TRY(
        qy_device_download(f->dev, out->scales[id].data, half.data, qy_tensor_bytes(&half), err));
    return qy_device_download(f->dev, out->zeros[id].data, zeros.data, qy_tensor_bytes(&zeros),
                              err);
}

/* The checkpoint's vector, or the trained one in numbers that f16 has. */
static qy_status_t freeze_vector(const qy_qllm_t *q, qy_tensor_t *to, const qy_tensor_t *checkpoint,
                                 const qy_tensor_t *trained, qy_error_t *err)
{
    if (!checkpoint->data)
        return QY_OK;
    memcpy(to->data, checkpoint->data, qy_tensor_bytes(to));
    if (!trained)
        return QY_OK;
    float *values = to->data;
    QY_TRY(qy_device_download(q->f->dev, values, trained->data, qy_tensor_bytes(to), err));
    for (int64_t k = 0; k < qy_tensor_count(to); k++)
        values[k] = qy_round_f16(values[k]);
    QY_TRY(qy_device_upload(q->f->dev, trained->data, values, qy_tensor_bytes(to), err));
    return qy_device_wait(q->f->dev, err);
}

qy_status_t qy_qllm_freeze(qy_qllm_t *q, int64_t i, const qy_block_weights_t *weights,
                           qy_qblock_t *out, qy_error_t *err)
{
    const qy_qllm_block_t *b = &q->blocks[i];
    const qy_tensor_t *none = NULL;
    /* Without training nothing has put the maps on the device yet. */
    if (!q->training)
        QY_TRY(qy_decorate_maps(&q->f->params, q->f->dev, out, err));
    const qy_channel_map_t *map = q->training ? b->params.map : q->f->params.map;
    for (int k = 0; k < QY_N_LINEARS; k++) {
        if (weights->linear[k].data)
            QY_TRY(freeze_layer(q, i, k, &weights->linear[k], map, out, err));
        QY_TRY(freeze_vector(q, &out->bias[k], &weights->bias[k], none, err));
    }
    for (int k = 0; k < QY_N_NORMS; k++) {
        int trained = q->training && b->dnorm[k].data;
        QY_TRY(freeze_vector(q, &out->norm[k], &weights->norm[k],
                             trained ? &b->params.norm[k] : none, err));
        QY_TRY(freeze_vector(q, &out->norm_bias[k], &weights->norm_bias[k],
                             trained ? &b->params.norm_bias[k] : none, err));
    }
    return QY_OK;
}
