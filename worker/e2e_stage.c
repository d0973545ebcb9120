#include "worker/e2e_stage.h"

#include <math.h>
#include <stdlib.h>

#include "base/quant_rule.h"
#include "kernels/fill.h"
#include "kernels/loss.h"
#include "kernels/optim.h"
#include "kernels/quant.h"
#include "worker/decorate.h"

/* Sites that linear layers read: the first ones. */
enum { LINEAR_SITES = QY_SITE_Q };

static double cost_of(const qy_plan_t *plan, int64_t first, int64_t end)
{
    const qy_arch_t *a = &plan->arch;
    double head =
        (double)(a->vocab * a->hidden) * (plan->spec.e2e_qp.loss == QY_LOSS_DISTILL ? 3 : 2);
    double blocks = 4.0 * (double)qy_arch_block_weights(a) * (double)(end - first);
    return blocks + (end == a->n_blocks ? head : 0);
}

/* Fills stages up to `limit` of cost each; 1 where that takes them all in. */
static int fill_stages(const qy_plan_t *plan, int n_stages, double limit, int64_t *first)
{
    int64_t n = plan->arch.n_blocks, at = 0;
    for (int k = 0; k < n_stages; k++) {
        int64_t left = n_stages - 1 - k; /* each later stage wants a block as well */
        first[k] = at;
        while (at < n &&
               (at == first[k] || (n - at > left && cost_of(plan, first[k], at + 1) <= limit)))
            at++;
    }
    first[n_stages] = at;
    return at == n;
}

void qy_e2e_split(const qy_plan_t *plan, int n_stages, int64_t *first)
{
    int64_t n = plan->arch.n_blocks;
    int used = n_stages < n ? n_stages : (int)n;
    double least = HUGE_VAL;
    /* The best limit is the cost of some run of blocks. */
    for (int64_t i = 0; i < n; i++)
        for (int64_t end = i + 1; end <= n; end++) {
            double limit = cost_of(plan, i, end);
            if (limit < least && fill_stages(plan, used, limit, first)) {
                double worst = 0;
                for (int k = 0; k < used; k++)
                    worst = fmax(worst, cost_of(plan, first[k], first[k + 1]));
                if (worst <= limit)
                    least = limit;
            }
        }
    fill_stages(plan, used, least, first);
    for (int k = used; k <= n_stages; k++)
        first[k] = n;
}

static qy_status_t take_layer(qy_e2e_stage_t *s, qy_e2e_layer_t *l, int id, qy_arena_t *arena,
                              qy_error_t *err)
{
    const qy_linear_desc_t *d = &s->model->arch.linear[id];
    qy_quant_form_t form = qy_plan_form(s->plan);
    int64_t groups = qy_quant_linear_groups(&form, &s->model->arch, id);
    qy_dtype_t zeros = qy_quant_clustered(&form) ? QY_I32 : QY_U8;
    qy_tensor_t *f32[] = {&l->s, &l->s_m, &l->s_v, &l->ds, &l->unit};
    int n = s->plan->spec.e2e_qp.lr_unit == QY_LR_UNIT_STEP ? 5 : 4;
    QY_TRY(qy_arena_2d(arena, &l->codes, QY_U32, d->out, (d->in * form.bits + 31) / 32, err));
    QY_TRY(qy_arena_2d(arena, &l->zeros, zeros, d->out, groups, err));
    for (int i = 0; i < n; i++)
        QY_TRY(qy_arena_2d(arena, f32[i], QY_F32, d->out, groups, err));
    return QY_OK;
}

static qy_status_t take_clusters(qy_e2e_stage_t *s, qy_e2e_block_t *b, qy_arena_t *arena,
                                 qy_error_t *err)
{
    qy_quant_form_t form = qy_plan_form(s->plan);
    for (int i = 0; i < LINEAR_SITES && qy_quant_clustered(&form); i++) {
        int64_t channels = qy_site_channels(&s->model->arch, (qy_site_t)i);
        QY_TRY(qy_arena_1d(arena, &b->group[i], QY_I32, channels, err));
        QY_TRY(qy_arena_1d(arena, &b->offsets[i], QY_I32, form.n_clusters[i] + 1, err));
    }
    return QY_OK;
}

/* Norms and biases of one block; its .w are the shared ones. */
static qy_status_t take_block(qy_e2e_stage_t *s, qy_e2e_block_t *b, qy_arena_t *arena,
                              qy_error_t *err)
{
    const qy_arch_t *a = &s->model->arch;
    qy_quant_form_t form = qy_plan_form(s->plan);
    b->params = s->shared;
    qy_decorate_quantizers(&b->params, &form);
    QY_TRY(qy_block_sites_take(&b->params, &s->block, arena, err));
    QY_TRY(take_clusters(s, b, arena, err));
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!a->linear[i].present)
            continue;
        QY_TRY(take_layer(s, &b->layer[i], i, arena, err));
        if (a->linear[i].bias)
            QY_TRY(qy_arena_tensor(arena, &b->params.bias[i], s->dev->compute, 1, &a->linear[i].out,
                                   err));
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        if (!a->norm[i].present)
            continue;
        QY_TRY(qy_arena_tensor(arena, &b->params.norm[i], QY_F32, 1, &a->norm[i].size, err));
        if (a->norm[i].bias)
            QY_TRY(
                qy_arena_tensor(arena, &b->params.norm_bias[i], QY_F32, 1, &a->norm[i].size, err));
    }
    return qy_arena_2d(arena, &b->x, s->dev->compute, s->n_slots * s->y.shape[0], a->hidden, err);
}

/* Work space as large as the largest layer, shared by all. */
static qy_status_t take_largest(qy_e2e_stage_t *s, qy_arena_t *arena, qy_error_t *err)
{
    const qy_arch_t *a = &s->model->arch;
    qy_quant_form_t form = qy_plan_form(s->plan);
    int64_t weights = 0, groups = 0, staging = QY_OUTER_STAGING;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!a->linear[i].present)
            continue;
        int64_t w = a->linear[i].out * a->linear[i].in;
        int64_t g = a->linear[i].out * qy_quant_linear_groups(&form, a, i);
        weights = w > weights ? w : weights;
        groups = g > groups ? g : groups;
    }
    QY_TRY(qy_arena_tensor(arena, &s->dw, QY_F32, 1, &weights, err));
    QY_TRY(qy_arena_tensor(arena, &s->scratch, QY_F32, 1, &groups, err));
    return qy_arena_tensor(arena, &s->staging, QY_F32, 1, &staging, err);
}

static qy_status_t take(qy_e2e_stage_t *s, qy_arena_t *arena, qy_error_t *err)
{
    const qy_spec_t *spec = &s->plan->spec;
    int64_t batch = spec->e2e_qp.micro_batch_size, length = s->plan->e2e_length;
    int64_t hidden = s->model->arch.hidden;
    int distill = spec->e2e_qp.loss == QY_LOSS_DISTILL;
    qy_quant_form_t form = qy_plan_form(s->plan);
    qy_decoration_t decoration = qy_quant_decoration(&form);
    QY_TRY(qy_block_init(&s->block, s->dev, &s->model->arch, &decoration, length, arena, err));
    QY_TRY(qy_block_params_take(&s->shared, &s->block, arena, err));
    QY_TRY(qy_block_acts_take(&s->acts, &s->block, batch, length, arena, err));
    QY_TRY(qy_block_grads_take(&s->grads, &s->block, batch, length, arena, err));
    QY_TRY(qy_arena_2d(arena, &s->y, s->dev->compute, batch * length, hidden, err));
    QY_TRY(qy_arena_2d(arena, &s->dy, s->dev->compute, batch * length, hidden, err));
    for (int64_t i = 0; i < s->n; i++)
        QY_TRY(take_block(s, &s->blocks[i], arena, err));
    QY_TRY(take_largest(s, arena, err));
    QY_TRY(qy_arena_tensor(arena, &s->hyper, QY_F32, 1, (int64_t[]){QY_N_HYPER}, err));
    QY_TRY(qy_arena_tensor(arena, &s->sum, QY_F32, 1, (int64_t[]){1}, err));
    int parts = (s->has_embedding ? QY_OUTER_EMBEDDING : 0) | (s->has_head ? QY_OUTER_HEAD : 0);
    QY_TRY(qy_outer_take(&s->outer, s->dev, &s->model->arch, parts, arena, err));
    if (s->has_embedding)
        QY_TRY(qy_ids_take(&s->ids, &s->outer, batch, length, arena, err));
    if (s->has_head && distill)
        QY_TRY(qy_arena_2d(arena, &s->teacher, s->dev->compute, batch * length, hidden, err));
    if (s->has_head)
        QY_TRY(qy_head_work_take(&s->head, &s->outer, batch * length, distill, arena, err));
    for (int64_t i = 0; i < s->n_kept * s->n_slots; i++)
        QY_TRY(qy_block_acts_take(&s->kept[i], &s->block, batch, length, arena, err));
    return QY_OK;
}

static qy_status_t load_layer(qy_e2e_stage_t *s, qy_e2e_layer_t *l, const qy_qblock_t *q, int id,
                              qy_error_t *err)
{
    const qy_device_t *dev = s->dev;
    qy_tensor_t half = qy_tensor_view(s->scratch.data, QY_F16, 2, q->scales[id].shape);
    QY_TRY(
        qy_device_upload(dev, l->codes.data, q->codes[id].data, qy_tensor_bytes(&l->codes), err));
    QY_TRY(
        qy_device_upload(dev, l->zeros.data, q->zeros[id].data, qy_tensor_bytes(&l->zeros), err));
    QY_TRY(qy_device_upload(dev, half.data, q->scales[id].data, qy_tensor_bytes(&half), err));
    QY_TRY(qy_convert(dev, &l->s, &half, err));
    if (l->unit.data)
        QY_TRY(qy_device_copy(dev, l->unit.data, l->s.data, qy_tensor_bytes(&l->s), err));
    QY_TRY(qy_fill(dev, &l->s_m, 0.0f, err));
    return qy_fill(dev, &l->s_v, 0.0f, err);
}

static qy_status_t load_clusters(qy_e2e_stage_t *s, qy_e2e_block_t *b, const qy_qblock_t *q,
                                 int site, qy_error_t *err)
{
    const int32_t *counts = q->site_counts[site].data;
    int64_t channels = qy_tensor_count(&b->group[site]), k = qy_tensor_count(&q->site_counts[site]);
    int32_t *group = malloc((size_t)(channels + k + 1) * sizeof *group),
            *offsets = group + channels;
    if (!group)
        return qy_fail(err, QY_ERR_MEMORY, "e2e: out of host memory");
    offsets[0] = 0;
    for (int64_t c = 0; c < k; c++) {
        offsets[c + 1] = offsets[c] + counts[c];
        for (int32_t i = offsets[c]; i < offsets[c + 1]; i++)
            group[i] = (int32_t)c;
    }
    qy_status_t status =
        qy_device_upload(s->dev, b->group[site].data, group, qy_tensor_bytes(&b->group[site]), err);
    if (status == QY_OK)
        status = qy_device_upload(s->dev, b->offsets[site].data, offsets,
                                  qy_tensor_bytes(&b->offsets[site]), err);
    if (status == QY_OK)
        status = qy_device_wait(s->dev, err);
    free(group);
    return status;
}

/* What stands at the sites. */
static qy_status_t load_sites(qy_e2e_stage_t *s, qy_e2e_block_t *b, const qy_qblock_t *q,
                              qy_error_t *err)
{
    if (!qy_quant_clustered(&q->form))
        return qy_decorate_maps(&b->params, s->dev, q, err);
    for (int i = 0; i < LINEAR_SITES; i++)
        QY_TRY(load_clusters(s, b, q, i, err));
    QY_TRY(qy_decorate_orders(&b->params, s->dev, &s->model->arch, q, err));
    return qy_decorate_clusters(&b->params, s->dev, q, err);
}

static qy_status_t load_block(qy_e2e_stage_t *s, int64_t i, qy_error_t *err)
{
    qy_e2e_block_t *b = &s->blocks[i];
    qy_block_weights_t rest = {0};
    qy_qblock_t q;
    qy_status_t status = QY_OK;
    QY_TRY(qy_finished_read_model(s->plan, s->first + i, 0, &q, err));
    QY_TRY_GOTO(load_sites(s, b, &q, err), free_q);
    for (int k = 0; k < QY_N_LINEARS; k++) {
        if (b->layer[k].codes.data)
            QY_TRY_GOTO(load_layer(s, &b->layer[k], &q, k, err), free_q);
        rest.bias[k] = q.bias[k];
    }
    for (int k = 0; k < QY_N_NORMS; k++) {
        rest.norm[k] = q.norm[k];
        rest.norm_bias[k] = q.norm_bias[k];
    }
    status = qy_block_params_load(&b->params, &s->block, &rest, &s->staging, 0, err);
free_q:
    qy_qblock_free(&q);
    return status;
}

static qy_status_t step_gradient(void *context, qy_linear_id_t linear, const qy_tensor_t *dw,
                                 qy_error_t *err)
{
    qy_e2e_stage_t *s = context;
    qy_e2e_block_t *b = &s->blocks[s->current];
    qy_e2e_layer_t *l = &b->layer[linear];
    int bits = (int)s->plan->spec.quantize.weights.bits;
    const qy_tensor_t *offsets = &b->offsets[qy_linear_site(linear)];
    if (offsets->data)
        return qy_cluster_dequant_bwd(s->dev, &l->ds, dw, &l->codes, &l->zeros, offsets, bits,
                                      !s->fresh, err);
    return qy_dequant_bwd(s->dev, &l->ds, dw, &l->codes, &l->zeros, bits, !s->fresh, err);
}

int64_t qy_e2e_slots(const qy_plan_t *plan, int n_stages, int rank)
{
    int64_t size = plan->spec.e2e_qp.micro_batch_size, slots = n_stages - rank;
    int64_t micros = (plan->spec.e2e_qp.batch_size + size - 1) / size;
    if (slots < 1)
        return 1;
    return slots < micros ? slots : micros;
}

/* The stage without its memory. */
static qy_status_t begin(qy_e2e_stage_t *s, const qy_plan_t *plan, qy_device_t *dev,
                         const qy_model_t *model, int64_t first, int64_t n, int64_t n_slots,
                         qy_error_t *err)
{
    *s = (qy_e2e_stage_t){.n_slots = n_slots,
                          .acts_block = -1,
                          .weights_block = -1,
                          .plan = plan,
                          .dev = dev,
                          .model = model,
                          .first = first,
                          .n = n,
                          .has_embedding = n > 0 && first == 0,
                          .has_head = n > 0 && first + n == model->arch.n_blocks};
    if (n <= 0) /* more ranks than blocks: this one only lends its ears */
        return QY_OK;
    s->blocks = calloc((size_t)n, sizeof *s->blocks);
    s->kept = calloc((size_t)(n * n_slots), sizeof *s->kept);
    if (!s->blocks || !s->kept) {
        qy_e2e_stage_close(s);
        return qy_fail(err, QY_ERR_MEMORY, "e2e: out of host memory");
    }
    return QY_OK;
}

static qy_status_t measure(qy_e2e_stage_t *s, int64_t n_kept, size_t *bytes, qy_error_t *err)
{
    qy_arena_t arena;
    qy_arena_init(&arena, "e2e", NULL, 0);
    s->n_kept = n_kept;
    QY_TRY(take(s, &arena, err));
    *bytes = arena.peak;
    return QY_OK;
}

qy_status_t qy_e2e_stage_bytes(size_t *bytes, const qy_plan_t *plan, qy_device_t *dev,
                               const qy_model_t *model, int64_t first, int64_t n, int64_t n_slots,
                               qy_error_t *err)
{
    qy_e2e_stage_t s;
    *bytes = 0;
    QY_TRY(begin(&s, plan, dev, model, first, n, n_slots, err));
    qy_status_t status = n > 0 ? measure(&s, 0, bytes, err) : QY_OK;
    qy_e2e_stage_close(&s);
    return status;
}

/* Memory for as many blocks' activations as there is room for. With one micro-batch at a time the
 * last block's need no place of their own. */
static qy_status_t take_memory(qy_e2e_stage_t *s, size_t room, qy_error_t *err)
{
    size_t none, one, bytes;
    int64_t most = s->n_slots == 1 ? s->n - 1 : s->n;
    QY_TRY(measure(s, 0, &none, err));
    QY_TRY(measure(s, 1, &one, err));
    size_t fit = room > none ? (room - none) / (one - none) : 0;
    QY_TRY(measure(s, fit < (size_t)most ? (int64_t)fit : most, &bytes, err));
    QY_TRY(qy_device_alloc(s->dev, &s->memory, bytes, err));
    qy_arena_init(&s->arena, "e2e", s->memory, bytes);
    return take(s, &s->arena, err);
}

qy_status_t qy_e2e_stage_open(qy_e2e_stage_t *s, const qy_plan_t *plan, qy_device_t *dev,
                              const qy_model_t *model, int64_t first, int64_t n, int64_t n_slots,
                              size_t room, qy_error_t *err)
{
    qy_status_t status;
    QY_TRY(begin(s, plan, dev, model, first, n, n_slots, err));
    if (n == 0)
        return QY_OK;
    QY_TRY_GOTO(take_memory(s, room, err), close);
    QY_TRY_GOTO(qy_outer_load(&s->outer, model, &s->staging, err), close);
    for (int64_t i = 0; i < n; i++)
        QY_TRY_GOTO(load_block(s, i, err), close);
    s->grads.after_dw = step_gradient;
    s->grads.context = s;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (model->arch.linear[i].present)
            s->grads.dw[i] = qy_tensor_2d(s->dw.data, QY_F32, model->arch.linear[i].out,
                                          model->arch.linear[i].in);
    return QY_OK;
close:
    qy_e2e_stage_close(s);
    return status;
}

void qy_e2e_stage_close(qy_e2e_stage_t *s)
{
    free(s->blocks);
    free(s->kept);
    s->blocks = NULL;
    s->kept = NULL;
    if (s->memory)
        qy_device_free(s->dev, &s->memory);
}

/* --- the update ------------------------------------------------------------------------------ */

qy_status_t qy_e2e_stage_norms(qy_e2e_stage_t *s, float *sums, qy_error_t *err)
{
    for (int64_t i = 0; i < s->n; i++) {
        int seen = 0;
        for (int k = 0; k < QY_N_LINEARS; k++) {
            qy_e2e_layer_t *l = &s->blocks[i].layer[k];
            if (!l->ds.data)
                continue;
            qy_tensor_t g = l->ds;
            if (l->unit.data) { /* the trained variable is s/unit */
                g = qy_tensor_view(s->scratch.data, QY_F32, 2, l->ds.shape);
                QY_TRY(qy_mul(s->dev, &g, &l->ds, &l->unit, err));
            }
            QY_TRY(qy_sum(s->dev, &s->sum, &g, 1, seen++ > 0, err));
        }
        QY_TRY(qy_device_download(s->dev, &sums[i], s->sum.data, sizeof(float), err));
    }
    return QY_OK;
}

qy_status_t qy_e2e_stage_update(qy_e2e_stage_t *s, int64_t k, double lr, float clip,
                                qy_error_t *err)
{
    double t = (double)(k + 1);
    float hyper[QY_N_HYPER] = {[QY_HYPER_LR_QUANT] = (float)lr,
                               [QY_HYPER_BIAS1] = (float)(1 - pow(QY_ADAM_BETA1, t)),
                               [QY_HYPER_BIAS2] = (float)sqrt(1 - pow(QY_ADAM_BETA2, t)),
                               [QY_HYPER_SCALE] = 1,
                               [QY_HYPER_INV_SCALE] = clip};
    QY_TRY(qy_device_upload(s->dev, s->hyper.data, hyper, sizeof hyper, err));
    for (int64_t i = 0; i < s->n; i++)
        for (int j = 0; j < QY_N_LINEARS; j++) {
            qy_e2e_layer_t *l = &s->blocks[i].layer[j];
            if (l->ds.data)
                QY_TRY(qy_adamw(s->dev, &l->s, &l->s_m, &l->s_v, &l->ds,
                                l->unit.data ? &l->unit : NULL, &s->hyper, QY_HYPER_LR_QUANT,
                                QY_STEP_F16_FLOOR, err));
        }
    s->fresh = 1;
    s->weights_block = -1; /* their steps have changed */
    return qy_device_wait(s->dev, err);
}
