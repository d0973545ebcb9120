#include "worker/reassemble.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/columns.h"
#include "kernels/loss.h"
#include "worker/decorate.h"

/* A site: where it is, who reads it, and where its error is looked at. */
typedef struct {
    qy_site_t site;
    qy_slot_t from, upto;
    qy_linear_id_t first, last; /* readers, one after the other in qy_linear_id_t */
} site_t;

static const site_t sites[QY_REASSEMBLED] = {
    {QY_SITE_ATTENTION_IN, QY_SLOT_N1, QY_SLOT_A, QY_LINEAR_Q, QY_LINEAR_V},
    {QY_SITE_MLP_IN, QY_SLOT_N2, QY_SLOT_M, QY_LINEAR_GATE, QY_LINEAR_UP},
    {QY_SITE_DOWN_IN, QY_SLOT_M, QY_SLOT_D, QY_LINEAR_DOWN, QY_LINEAR_DOWN},
};

/* Outputs of a site's readers together. */
static int64_t outputs_of(const qy_arch_t *a, const site_t *site)
{
    int64_t sum = 0;
    for (int k = (int)site->first; k <= (int)site->last; k++)
        if (a->linear[k].present)
            sum += a->linear[k].out;
    return sum;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

qy_status_t qy_reassemble_take(qy_reassemble_t *r, const qy_plan_t *plan, qy_forward_t *f,
                               qy_arena_t *arena, qy_error_t *err)
{
    const qy_arch_t *a = &f->model->arch;
    const qy_quant_form_t *form = &f->form;
    int64_t n = plan->qllm.search_samples, rows = n * f->length;
    int64_t channels = 0, outputs = 0, weights = 0, groups = 0, goal = 0;
    *r = (qy_reassemble_t){.plan = plan, .f = f, .n_samples = n};
    for (int i = 0; i < QY_REASSEMBLED; i++) {
        int64_t c = qy_site_channels(a, sites[i].site), o = outputs_of(a, &sites[i]);
        QY_TRY(qy_arena_1d(arena, &r->lo[i], QY_F32, c, err));
        QY_TRY(qy_arena_1d(arena, &r->hi[i], QY_F32, c, err));
        QY_TRY(qy_arena_2d(arena, &r->x[i], f->dev->compute, rows, c, err));
        channels = larger(channels, c);
        outputs = larger(outputs, o);
        weights = larger(weights, o * c);
        groups = larger(groups, o * qy_quant_n_groups(form, c));
        goal = larger(goal, rows * qy_program_cols(&f->block.program, sites[i].upto));
    }
    QY_TRY(qy_block_acts_take(&r->acts, &f->block, n, f->length, arena, err));
    QY_TRY(qy_arena_1d(arena, &r->w, QY_F32, weights, err));
    QY_TRY(qy_arena_1d(arena, &r->w_hat, f->dev->compute, weights, err));
    QY_TRY(qy_arena_1d(arena, &r->goal, f->dev->compute, goal, err));
    return qy_site_search_take(&r->search, f->dev, channels, outputs, weights, groups, arena, err);
}

void qy_reassemble_begin(qy_reassemble_t *r)
{
    r->seen = 0;
}

qy_status_t qy_reassemble_see(qy_reassemble_t *r, const qy_block_acts_t *acts, qy_error_t *err)
{
    const qy_device_t *dev = r->f->dev;
    int64_t wanted = r->n_samples - r->seen, n = acts->batch < wanted ? acts->batch : wanted;
    for (int i = 0; i < QY_REASSEMBLED; i++) {
        const qy_tensor_t *x = &acts->slot[sites[i].from];
        QY_TRY(qy_column_range(dev, &r->lo[i], &r->hi[i], x, r->seen > 0, err));
        if (n <= 0)
            continue;
        qy_tensor_t to = qy_tensor_slice(&r->x[i], r->seen * acts->length, n * acts->length);
        QY_TRY(qy_device_copy(dev, to.data, x->data, qy_tensor_bytes(&to), err));
    }
    r->seen += acts->batch;
    return QY_OK;
}

/* What the loss of a site runs on. */
typedef struct {
    qy_reassemble_t *r;
    const site_t *site;
    qy_block_params_t params; /* w: the candidate's */
    qy_tensor_t goal;
} judge_t;

static qy_status_t site_loss(void *context, double *loss, qy_error_t *err)
{
    judge_t *j = context;
    qy_forward_t *f = j->r->f;
    qy_tensor_t value_of = qy_tensor_1d(f->losses.data, QY_F32, 1);
    float value;
    QY_TRY(qy_block_forward_part(&f->block, &j->params, &j->r->acts, j->site->from, j->site->upto,
                                 err));
    QY_TRY(qy_mse(f->dev, &value_of, NULL, &j->r->acts.slot[j->site->upto], &j->goal, NULL, err));
    QY_TRY(qy_device_download(f->dev, &value, value_of.data, sizeof value, err));
    *loss = (double)value;
    return QY_OK;
}

/* The readers' weights into r->w, and the candidate's place in params. */
static qy_status_t gather_weights(judge_t *j, const qy_block_weights_t *weights, qy_error_t *err)
{
    qy_reassemble_t *r = j->r;
    const qy_arch_t *a = &r->f->model->arch;
    int64_t at = 0;
    for (int k = (int)j->site->first; k <= (int)j->site->last; k++) {
        if (!a->linear[k].present)
            continue;
        const qy_tensor_t *w = &weights->linear[k];
        QY_TRY(
            qy_device_upload(r->f->dev, (float *)r->w.data + at, w->data, qy_tensor_bytes(w), err));
        j->params.w[k] =
            qy_tensor_2d((char *)r->w_hat.data + (size_t)at * qy_dtype_bytes(r->w_hat.dtype),
                         r->w_hat.dtype, a->linear[k].out, a->linear[k].in);
        at += qy_tensor_count(w);
    }
    return QY_OK;
}

/* What the readers give in full precision, kept as the goal. */
static qy_status_t set_goal(judge_t *j, int i, qy_error_t *err)
{
    qy_reassemble_t *r = j->r;
    qy_forward_t *f = r->f;
    qy_tensor_t *from = &r->acts.slot[j->site->from], *upto = &r->acts.slot[j->site->upto];
    QY_TRY(qy_device_copy(f->dev, from->data, r->x[i].data, qy_tensor_bytes(from), err));
    QY_TRY(
        qy_block_forward_part(&f->block, &f->params, &r->acts, j->site->from, j->site->upto, err));
    j->goal = qy_tensor_view(r->goal.data, upto->dtype, 2, upto->shape);
    return qy_device_copy(f->dev, j->goal.data, upto->data, qy_tensor_bytes(upto), err);
}

static qy_status_t sizes_of(qy_reassemble_t *r, int i, float *size, float *other, qy_error_t *err)
{
    int64_t c = qy_tensor_count(&r->lo[i]);
    size_t bytes = (size_t)c * sizeof *size;
    QY_TRY(qy_device_download(r->f->dev, size, r->hi[i].data, bytes, err));
    QY_TRY(qy_device_download(r->f->dev, other, r->lo[i].data, bytes, err));
    for (int64_t k = 0; k < c; k++)
        size[k] = fabsf(other[k]) > size[k] ? fabsf(other[k]) : size[k];
    return QY_OK;
}

static qy_status_t search_site(qy_reassemble_t *r, int64_t block, int i,
                               const qy_block_weights_t *weights, float *size, qy_qblock_t *q,
                               qy_error_t *err)
{
    const qy_forward_t *f = r->f;
    const qy_spec_t *spec = &r->plan->spec;
    int64_t c = qy_site_channels(&f->model->arch, sites[i].site), n_split, n_merged;
    qy_tensor_t w = qy_tensor_2d(r->w.data, QY_F32, outputs_of(&f->model->arch, &sites[i]), c);
    qy_tensor_t w_hat = qy_tensor_2d(r->w_hat.data, r->w_hat.dtype, w.shape[0], c);
    int32_t *offsets = q->map_offsets[sites[i].site].data,
            *items = q->map_items[sites[i].site].data;
    qy_site_found_t found;
    judge_t judge = {.r = r, .site = &sites[i], .params = f->params};
    double began = qy_now_s();
    QY_TRY(gather_weights(&judge, weights, err));
    QY_TRY(sizes_of(r, i, size, size + c, err));
    QY_TRY(set_goal(&judge, i, err));
    const qy_site_case_t site = {
        .x = &r->x[i],
        .w = &w,
        .x_hat = &r->acts.slot[sites[i].from],
        .w_hat = &w_hat,
        .size = size,
        .bits = f->form.bits,
        .activation_bits = qy_quant_site_bits(&f->form, sites[i].site),
        .n_groups = qy_quant_n_groups(&f->form, c),
        .symmetric = f->form.symmetric,
        .least_squares = qy_spec_init(&r->plan->spec) == QY_INIT_LEAST_SQUARES,
        .compat = spec->qllm.compat,
        .compat_score = spec->qllm.compat || spec->qllm.merge_score == QY_MERGE_COMPAT,
        .channel_ratio = spec->qllm.channel_ratio,
        .least_gain = spec->qllm.least_gain,
        .loss = site_loss,
        .context = &judge};
    QY_TRY(qy_site_search(&r->search, &site, offsets, items, &found, err));
    QY_TRY(qy_channels_count(offsets, items, c, &n_split, &n_merged, err));
    qy_log(QY_LOG_INFO,
           "block %lld, %s: %lld of %lld channels split, %lld merged into; loss %.4g, alone %.4g, "
           "%lld tried, %.2f s",
           (long long)block, qy_site_name(sites[i].site), (long long)n_split, (long long)c,
           (long long)n_merged, found.loss, found.loss_alone, (long long)found.n_tried,
           qy_now_s() - began);
    return QY_OK;
}

qy_status_t qy_reassemble_search(qy_reassemble_t *r, int64_t block,
                                 const qy_block_weights_t *weights, qy_qblock_t *q, qy_error_t *err)
{
    int64_t most = 0;
    for (int i = 0; i < QY_REASSEMBLED; i++)
        most = larger(most, qy_site_channels(&r->f->model->arch, sites[i].site));
    float *size = malloc((size_t)(2 * most) * sizeof *size);
    if (!size)
        return qy_fail(err, QY_ERR_MEMORY, "reassembly: out of host memory");
    qy_status_t status = QY_OK;
    for (int i = 0; i < QY_REASSEMBLED && status == QY_OK; i++)
        status = search_site(r, block, i, weights, size, q, err);
    free(size);
    return status;
}
