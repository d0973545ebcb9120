#include "worker/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/fill.h"
#include "kernels/loss.h"
#include "kernels/quant.h"
#include "worker/decorate.h"

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Losses of batches that are looked at together: each look waits for the device. */
enum { LOSSES = 256 };

static int64_t largest_linear(const qy_arch_t *arch)
{
    int64_t largest = QY_OUTER_STAGING;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (arch->linear[i].present && arch->linear[i].out * arch->linear[i].in > largest)
            largest = arch->linear[i].out * arch->linear[i].in;
    return largest;
}

/* Buffers that hold any one layer's codes, steps and zero points. */
static qy_status_t take_frozen(qy_forward_t *f, qy_arena_t *arena, qy_error_t *err)
{
    const qy_arch_t *a = &f->model->arch;
    int64_t words = 0, groups = 0;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!a->linear[i].present)
            continue;
        int64_t w = a->linear[i].out * ((a->linear[i].in * f->form.bits + 31) / 32);
        int64_t g = a->linear[i].out * qy_quant_n_groups(&f->form, a->linear[i].in);
        words = w > words ? w : words;
        groups = g > groups ? g : groups;
    }
    QY_TRY(qy_arena_tensor(arena, &f->codes, QY_U32, 1, &words, err));
    QY_TRY(qy_arena_tensor(arena, &f->scales, QY_F32, 1, &groups, err));
    return qy_arena_tensor(arena, &f->zeros, QY_U8, 1, &groups, err);
}

qy_status_t qy_forward_take(qy_forward_t *f, qy_device_t *dev, const qy_model_t *model,
                            const qy_quant_form_t *form, int64_t batch, int64_t length,
                            qy_arena_t *arena, qy_error_t *err)
{
    *f = (qy_forward_t){.dev = dev, .model = model, .batch = batch, .length = length};
    int64_t hidden = model->arch.hidden, staging = largest_linear(&model->arch), losses = LOSSES;
    qy_decoration_t decoration = form ? qy_quant_decoration(form) : (qy_decoration_t){0};
    QY_TRY(qy_block_init(&f->block, dev, &model->arch, &decoration, length, arena, err));
    QY_TRY(qy_block_params_take(&f->params, &f->block, arena, err));
    QY_TRY(qy_block_acts_take(&f->acts, &f->block, batch, length, arena, err));
    QY_TRY(
        qy_arena_tensor(arena, &f->x, dev->compute, 2, (int64_t[]){batch * length, hidden}, err));
    QY_TRY(
        qy_arena_tensor(arena, &f->y, dev->compute, 2, (int64_t[]){batch * length, hidden}, err));
    QY_TRY(qy_arena_tensor(arena, &f->staging, QY_F32, 1, &staging, err));
    QY_TRY(qy_arena_tensor(arena, &f->losses, QY_F32, 1, &losses, err));
    if (form) {
        f->form = *form;
        QY_TRY(take_frozen(f, arena, err));
    }
    return QY_OK;
}

/* Everything of take but where it points to. */
typedef struct {
    qy_forward_t *f;
    qy_device_t *dev;
    const qy_model_t *model;
    const qy_quant_form_t *form;
    int64_t batch, length;
} shape_t;

static qy_status_t take_shape(void *context, qy_arena_t *arena, qy_error_t *err)
{
    const shape_t *s = context;
    return qy_forward_take(s->f, s->dev, s->model, s->form, s->batch, s->length, arena, err);
}

qy_status_t qy_forward_create(qy_forward_t *f, qy_device_t *dev, const qy_model_t *model,
                              const qy_quant_form_t *form, int64_t batch, int64_t length,
                              qy_error_t *err)
{
    shape_t shape = {f, dev, model, form, batch, length};
    void *memory;
    QY_TRY(qy_device_take(dev, &memory, "forward", take_shape, &shape, err));
    f->memory = memory;
    return QY_OK;
}

void qy_forward_free(qy_forward_t *f)
{
    if (f->memory)
        qy_device_free(f->dev, &f->memory);
    f->memory = NULL;
    qy_weights_ahead_free(&f->ahead);
}

void qy_forward_reshape(qy_forward_t *f, int64_t batch, int64_t length)
{
    f->acts = qy_block_acts_reshape(&f->acts, batch, length);
    f->batch = batch;
    f->length = length;
}

void qy_forward_read_ahead(qy_forward_t *f, int64_t end)
{
    f->ahead_end = end;
}

qy_status_t qy_forward_load_original(qy_forward_t *f, int64_t block, qy_error_t *err)
{
    qy_block_weights_t w;
    qy_decorate_plain(&f->params);
    QY_TRY(f->ahead_end > 0
               ? qy_weights_ahead_take(&f->ahead, f->model, block, f->ahead_end, &w, err)
               : qy_block_weights_read(&w, f->model, block, err));
    qy_status_t status = qy_block_params_load(&f->params, &f->block, &w, &f->staging, 1, err);
    qy_block_weights_free(&w);
    return status;
}

/* The parts of a quantized block that are as the rows use them: norms and biases. */
static qy_status_t load_rest(qy_forward_t *f, const qy_qblock_t *q, qy_error_t *err)
{
    qy_block_weights_t rest = {0};
    for (int i = 0; i < QY_N_LINEARS; i++)
        rest.bias[i] = q->bias[i];
    for (int i = 0; i < QY_N_NORMS; i++) {
        rest.norm[i] = q->norm[i];
        rest.norm_bias[i] = q->norm_bias[i];
    }
    return qy_block_params_load(&f->params, &f->block, &rest, &f->staging, 0, err);
}

/* Finished weights by way of the host: their groups are of any size. */
static qy_status_t load_clustered(qy_forward_t *f, const qy_qblock_t *q, qy_error_t *err)
{
    const qy_arch_t *a = &f->model->arch;
    qy_status_t status = QY_OK;
    uint16_t *weight = malloc((size_t)largest_linear(a) * sizeof *weight);
    if (!weight)
        return qy_fail(err, QY_ERR_MEMORY, "weights: out of host memory");
    for (int i = 0; i < QY_N_LINEARS && status == QY_OK; i++) {
        const qy_linear_desc_t *d = &a->linear[i];
        if (!d->present)
            continue;
        qy_tensor_t half = qy_tensor_2d(f->staging.data, QY_F16, d->out, d->in);
        status = qy_qblock_dequantize(q, a, (qy_linear_id_t)i, weight, f->dev->threads, err);
        if (status == QY_OK)
            status = qy_device_upload(f->dev, half.data, weight, qy_tensor_bytes(&half), err);
        if (status == QY_OK)
            status = qy_convert(f->dev, &f->params.w[i], &half, err);
        if (status == QY_OK)
            status = qy_device_wait(f->dev, err);
    }
    free(weight);
    if (status == QY_OK)
        status = qy_decorate_orders(&f->params, f->dev, a, q, err);
    if (status == QY_OK)
        status = qy_decorate_clusters(&f->params, f->dev, q, err);
    return status == QY_OK ? load_rest(f, q, err) : status;
}

qy_status_t qy_forward_load_quantized(qy_forward_t *f, const qy_qblock_t *q, qy_error_t *err)
{
    const qy_arch_t *a = &f->model->arch;
    if (qy_quant_clustered(&f->form))
        return load_clustered(f, q, err);
    qy_decorate_quantizers(&f->params, &f->form);
    QY_TRY(qy_decorate_maps(&f->params, f->dev, q, err));
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!a->linear[i].present)
            continue;
        qy_tensor_t codes = qy_tensor_view(f->codes.data, QY_U32, 2, q->codes[i].shape);
        qy_tensor_t scales = qy_tensor_view(f->scales.data, QY_F32, 2, q->scales[i].shape);
        qy_tensor_t half = qy_tensor_view(f->staging.data, QY_F16, 2, q->scales[i].shape);
        qy_tensor_t zeros = qy_tensor_view(f->zeros.data, QY_U8, 2, q->zeros[i].shape);
        QY_TRY(
            qy_device_upload(f->dev, codes.data, q->codes[i].data, qy_tensor_bytes(&codes), err));
        QY_TRY(qy_device_upload(f->dev, half.data, q->scales[i].data, qy_tensor_bytes(&half), err));
        QY_TRY(
            qy_device_upload(f->dev, zeros.data, q->zeros[i].data, qy_tensor_bytes(&zeros), err));
        QY_TRY(qy_convert(f->dev, &scales, &half, err));
        QY_TRY(
            qy_dequant_fwd(f->dev, &f->params.w[i], &codes, &scales, &zeros, f->form.bits, 1, err));
    }
    return load_rest(f, q, err);
}

/* Runs n ≤ batch samples that are in f->x; the outcome is in f->y. */
static qy_status_t run_batch(qy_forward_t *f, int64_t n, qy_tensor_t *x, qy_tensor_t *y,
                             qy_error_t *err)
{
    qy_block_acts_t acts = qy_block_acts_narrow(&f->acts, n);
    *x = qy_tensor_slice(&f->x, 0, n * f->length);
    *y = qy_tensor_slice(&f->y, 0, n * f->length);
    return qy_block_forward(&f->block, &f->params, &acts, x, y, err);
}

/* Does any of samples [first, first + n) stand in front of this block? */
static int any_at(const qy_stream_t *stream, int64_t first, int64_t n, int64_t block)
{
    for (int64_t i = first; i < first + n; i++)
        if (qy_stream_block(stream, i) == block)
            return 1;
    return 0;
}

/* Those of samples [first, first + n) that stand in front of block `from` get their row of src and
 * stand in front of `to`. */
static qy_status_t store_batch(qy_stream_t *stream, int64_t first, int64_t n, int64_t from,
                               int64_t to, const void *src, qy_error_t *err)
{
    for (int64_t at = 0; at < n;) {
        int64_t run = 0;
        while (at + run < n && qy_stream_block(stream, first + at + run) == from)
            run++;
        if (run > 0)
            QY_TRY(qy_stream_store(stream, first + at, run, to,
                                   (const char *)src + (size_t)at * qy_stream_sample_bytes(stream),
                                   err));
        at += run > 0 ? run : 1;
    }
    return QY_OK;
}

qy_status_t qy_forward_advance(qy_forward_t *f, qy_stream_t *stream, int64_t block,
                               const qy_hooks_t *hooks, qy_error_t *err)
{
    int64_t n = qy_stream_count(stream);
    for (int64_t at = 0; at < n; at += f->batch)
        if (any_at(stream, at, min64(f->batch, n - at), block))
            QY_TRY(qy_stream_expect_range(stream, at, min64(f->batch, n - at), err));
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = min64(f->batch, n - at);
        qy_tensor_t x, y;
        if (!any_at(stream, at, count, block))
            continue;
        QY_TRY(qy_hooks_check(hooks, err));
        QY_TRY(qy_stream_load_range(stream, at, count, f->x.data, err));
        QY_TRY(run_batch(f, count, &x, &y, err));
        if (f->see) {
            qy_block_acts_t acts = qy_block_acts_narrow(&f->acts, count);
            QY_TRY(f->see(f->see_context, &acts, at, err));
        }
        QY_TRY(store_batch(stream, at, count, block, block + 1, y.data, err));
    }
    return QY_OK;
}

/* Adds the means of the batches from sample `first` on, times their samples, to *sum, in order. */
static qy_status_t add_losses(const qy_forward_t *f, int64_t n_losses, int64_t first, int64_t n,
                              double *sum, qy_error_t *err)
{
    float losses[LOSSES];
    QY_TRY(
        qy_device_download(f->dev, losses, f->losses.data, (size_t)n_losses * sizeof *losses, err));
    for (int64_t i = 0; i < n_losses; i++)
        *sum += (double)losses[i] * (double)min64(f->batch, n - first - i * f->batch);
    return QY_OK;
}

qy_status_t qy_forward_error(qy_forward_t *f, qy_stream_t *source, qy_stream_t *goal, int64_t first,
                             int64_t n, double *mse, qy_error_t *err)
{
    double sum = 0;
    int64_t waiting = 0; /* losses that are not in sum yet */
    QY_TRY(qy_stream_expect_range(source, first, n, err));
    QY_TRY(qy_stream_expect_range(goal, first, n, err));
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = min64(f->batch, n - at);
        qy_tensor_t x, y, loss = qy_tensor_1d((float *)f->losses.data + waiting++, QY_F32, 1);
        QY_TRY(qy_stream_load_range(source, first + at, count, f->x.data, err));
        QY_TRY(run_batch(f, count, &x, &y, err));
        QY_TRY(qy_stream_load_range(goal, first + at, count, f->x.data, err));
        QY_TRY(qy_mse(f->dev, &loss, NULL, &y, &x, NULL, err));
        if (waiting < LOSSES && at + count < n)
            continue;
        QY_TRY(add_losses(f, waiting, at - (waiting - 1) * f->batch, n, &sum, err));
        waiting = 0;
    }
    *mse = n > 0 ? sum / (double)n : (double)NAN;
    return QY_OK;
}

static qy_status_t rim_take(qy_rim_t *rim, const qy_forward_t *f, int parts, qy_arena_t *arena,
                            qy_error_t *err)
{
    QY_TRY(qy_outer_take(&rim->outer, f->dev, &f->model->arch, parts, arena, err));
    if (parts == QY_OUTER_EMBEDDING)
        return qy_ids_take(&rim->ids, &rim->outer, f->batch, f->length, arena, err);
    return qy_head_work_take(&rim->work, &rim->outer, f->batch * f->length, 0, arena, err);
}

typedef struct {
    qy_rim_t *rim;
    const qy_forward_t *f;
    int parts;
} rim_shape_t;

static qy_status_t rim_take_shape(void *context, qy_arena_t *arena, qy_error_t *err)
{
    const rim_shape_t *s = context;
    return rim_take(s->rim, s->f, s->parts, arena, err);
}

qy_status_t qy_rim_open(qy_rim_t *rim, const qy_forward_t *f, int parts, qy_error_t *err)
{
    rim_shape_t shape = {rim, f, parts};
    *rim = (qy_rim_t){0};
    QY_TRY(qy_device_take(f->dev, &rim->memory, "embedding and head", rim_take_shape, &shape, err));
    qy_status_t status = qy_outer_load(&rim->outer, f->model, &f->staging, err);
    if (status != QY_OK)
        qy_device_free(f->dev, &rim->memory);
    return status;
}

qy_status_t qy_forward_bytes(size_t *bytes, qy_device_t *dev, const qy_model_t *model,
                             const qy_quant_form_t *form, int64_t batch, int64_t length, int parts,
                             qy_error_t *err)
{
    static const int phases[] = {QY_OUTER_EMBEDDING, QY_OUTER_HEAD};
    size_t sample = (size_t)(length * model->arch.hidden) * qy_dtype_bytes(dev->compute);
    size_t way = qy_device_stage_bytes(dev->kind, sample), most = 2 * way;
    qy_forward_t f;
    qy_arena_t block;
    qy_arena_init(&block, "forward", NULL, 0);
    QY_TRY(qy_forward_take(&f, dev, model, form, batch, length, &block, err));
    for (int i = 0; i < 2; i++) {
        qy_rim_t rim;
        qy_arena_t arena;
        qy_arena_init(&arena, "embedding and head", NULL, 0);
        if (parts & phases[i])
            QY_TRY(rim_take(&rim, &f, phases[i], &arena, err));
        /* Embedding comes first, when nothing has gone up from a stream yet. */
        size_t here = arena.peak + (phases[i] == QY_OUTER_EMBEDDING ? way : 2 * way);
        most = here > most ? here : most;
    }
    *bytes = block.peak + most;
    return QY_OK;
}

void qy_rim_close(qy_rim_t *rim, const qy_forward_t *f)
{
    if (rim->memory)
        qy_device_free(f->dev, &rim->memory);
}

qy_status_t qy_rim_embed(qy_rim_t *rim, qy_forward_t *f, qy_stream_t *const *streams, int n_streams,
                         const int32_t *tokens, qy_error_t *err)
{
    int64_t n = qy_stream_count(streams[0]);
    if (rim->ids.length != f->length)
        QY_TRY(qy_ids_reshape(&rim->ids, &rim->outer, f->batch, f->length, err));
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = min64(f->batch, n - at);
        int wanted = 0;
        for (int k = 0; k < n_streams; k++)
            wanted |= any_at(streams[k], at, count, -1);
        if (!wanted)
            continue;
        qy_tensor_t x = qy_tensor_slice(&f->x, 0, count * f->length);
        QY_TRY(qy_embed(&rim->outer, &rim->ids, tokens + at * f->length, count, &x, err));
        for (int k = 0; k < n_streams; k++)
            QY_TRY(store_batch(streams[k], at, count, -1, 0, x.data, err));
    }
    return QY_OK;
}

qy_status_t qy_forward_embed(qy_forward_t *f, qy_stream_t *const *streams, int n_streams,
                             const int32_t *tokens, qy_error_t *err)
{
    qy_rim_t rim;
    QY_TRY(qy_rim_open(&rim, f, QY_OUTER_EMBEDDING, err));
    qy_status_t status = qy_rim_embed(&rim, f, streams, n_streams, tokens, err);
    qy_rim_close(&rim, f);
    return status;
}

/* Two batches' losses in pinned memory: one is taken out while the next is computed. */
typedef struct {
    float *rows; /* 2 × batch × length */
    void *mark[2];
    size_t bytes[2]; /* on the way; 0: none */
    float *to[2];
} pair_t;

/* What was queued for this slot, if anything, to where it belongs. */
static qy_status_t take_out(const qy_forward_t *f, pair_t *p, int slot, qy_error_t *err)
{
    QY_TRY(qy_device_mark_wait(f->dev, p->mark[slot], err));
    memcpy(p->to[slot], p->rows + slot * f->batch * f->length, p->bytes[slot]);
    p->bytes[slot] = 0;
    return QY_OK;
}

static qy_status_t losses_batch(qy_rim_t *rim, qy_forward_t *f, qy_stream_t *stream, int64_t at,
                                int64_t count, const int32_t *tokens, pair_t *p, int slot,
                                float *to, qy_error_t *err)
{
    qy_tensor_t x = qy_tensor_slice(&f->x, 0, count * f->length);
    QY_TRY(qy_stream_load_range(stream, at, count, x.data, err));
    QY_TRY(qy_head_next_token(&rim->outer, &rim->work, &x, tokens + at * f->length, count,
                              f->length, 1.0f, NULL, err));
    if (p->bytes[slot]) /* of the batch before the last one */
        QY_TRY(take_out(f, p, slot, err));
    p->bytes[slot] = (size_t)(count * f->length) * sizeof *to;
    p->to[slot] = to;
    QY_TRY(qy_device_download_queued(f->dev, p->rows + slot * f->batch * f->length,
                                     rim->work.loss.data, p->bytes[slot], err));
    return qy_device_mark(f->dev, &p->mark[slot], QY_DOWNLOADS, err);
}

static qy_status_t all_losses(qy_rim_t *rim, qy_forward_t *f, qy_stream_t *stream,
                              const int32_t *tokens, pair_t *p, float *losses, qy_error_t *err)
{
    int64_t n = qy_stream_count(stream);
    int slot = 0;
    QY_TRY(qy_stream_expect_range(stream, 0, n, err));
    for (int64_t at = 0; at < n; at += f->batch, slot = 1 - slot)
        QY_TRY(losses_batch(rim, f, stream, at, min64(f->batch, n - at), tokens, p, slot,
                            losses + at * f->length, err));
    for (slot = 0; slot < 2; slot++)
        if (p->bytes[slot])
            QY_TRY(take_out(f, p, slot, err));
    return QY_OK;
}

qy_status_t qy_rim_losses(qy_rim_t *rim, qy_forward_t *f, qy_stream_t *stream,
                          const int32_t *tokens, float *losses, qy_error_t *err)
{
    pair_t pair = {0};
    size_t bytes = 2 * (size_t)(f->batch * f->length) * sizeof *pair.rows;
    QY_TRY(qy_device_host_alloc(f->dev, (void **)&pair.rows, bytes, err));
    qy_status_t status = all_losses(rim, f, stream, tokens, &pair, losses, err);
    if (status != QY_OK)
        qy_device_wait(f->dev, NULL); /* a download may still be under way */
    qy_device_mark_free(f->dev, &pair.mark[0]);
    qy_device_mark_free(f->dev, &pair.mark[1]);
    qy_device_host_free(f->dev, (void **)&pair.rows);
    return status;
}

qy_status_t qy_forward_nll(qy_forward_t *f, qy_stream_t *stream, const int32_t *tokens, double *nll,
                           qy_error_t *err)
{
    qy_rim_t rim;
    int64_t n = qy_stream_count(stream);
    float *losses = malloc((size_t)(n * f->length) * sizeof *losses);
    if (!losses)
        return qy_fail(err, QY_ERR_MEMORY, "losses: out of host memory");
    qy_status_t status = qy_rim_open(&rim, f, QY_OUTER_HEAD, err);
    if (status == QY_OK) {
        status = qy_rim_losses(&rim, f, stream, tokens, losses, err);
        qy_rim_close(&rim, f);
    }
    for (int64_t i = 0; i < n && status == QY_OK; i++) {
        nll[i] = 0;
        for (int64_t t = 0; t + 1 < f->length; t++)
            nll[i] += (double)losses[i * f->length + t];
    }
    free(losses);
    return status;
}
