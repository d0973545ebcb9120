#include "worker/forward.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/fill.h"
#include "kernels/loss.h"
#include "kernels/quant.h"
#include "worker/decorate.h"

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

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
    int64_t hidden = model->arch.hidden, staging = largest_linear(&model->arch), one = 1;
    qy_decoration_t decoration = form ? qy_quant_decoration(form) : (qy_decoration_t){0};
    QY_TRY(qy_block_init(&f->block, dev, &model->arch, &decoration, length, arena, err));
    QY_TRY(qy_block_params_take(&f->params, &f->block, arena, err));
    QY_TRY(qy_block_acts_take(&f->acts, &f->block, batch, length, arena, err));
    QY_TRY(
        qy_arena_tensor(arena, &f->x, dev->compute, 2, (int64_t[]){batch * length, hidden}, err));
    QY_TRY(
        qy_arena_tensor(arena, &f->y, dev->compute, 2, (int64_t[]){batch * length, hidden}, err));
    QY_TRY(qy_arena_tensor(arena, &f->staging, QY_F32, 1, &staging, err));
    QY_TRY(qy_arena_tensor(arena, &f->loss, QY_F32, 1, &one, err));
    if (form) {
        f->form = *form;
        QY_TRY(take_frozen(f, arena, err));
    }
    return QY_OK;
}

qy_status_t qy_forward_create(qy_forward_t *f, qy_device_t *dev, const qy_model_t *model,
                              const qy_quant_form_t *form, int64_t batch, int64_t length,
                              qy_error_t *err)
{
    qy_arena_t measure, arena;
    void *memory;
    qy_arena_init(&measure, "forward", NULL, 0);
    QY_TRY(qy_forward_take(f, dev, model, form, batch, length, &measure, err));
    QY_TRY(qy_device_alloc(dev, &memory, measure.peak, err));
    qy_arena_init(&arena, "forward", memory, measure.peak);
    qy_status_t status = qy_forward_take(f, dev, model, form, batch, length, &arena, err);
    f->memory = memory;
    f->arena = arena;
    if (status != QY_OK)
        qy_forward_free(f);
    return status;
}

void qy_forward_free(qy_forward_t *f)
{
    if (f->memory)
        qy_device_free(f->dev, &f->memory);
    f->memory = NULL;
}

void qy_forward_reshape(qy_forward_t *f, int64_t batch, int64_t length)
{
    f->acts = qy_block_acts_reshape(&f->acts, batch, length);
    f->batch = batch;
    f->length = length;
}

qy_status_t qy_forward_load_original(qy_forward_t *f, int64_t block, qy_error_t *err)
{
    qy_block_weights_t w;
    qy_decorate_plain(&f->params);
    QY_TRY(qy_block_weights_read(&w, f->model, block, err));
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

qy_status_t qy_forward_load_quantized(qy_forward_t *f, const qy_qblock_t *q, qy_error_t *err)
{
    const qy_arch_t *a = &f->model->arch;
    qy_decorate_quantizers(&f->params, &f->form);
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

static qy_status_t load_batch(qy_stream_t *stream, int64_t first, int64_t n, void *dst,
                              qy_error_t *err)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t sample = first + i;
        QY_TRY(qy_stream_load(stream, &sample, 1,
                              (char *)dst + (size_t)i * qy_stream_sample_bytes(stream), err));
    }
    return QY_OK;
}

qy_status_t qy_forward_advance(qy_forward_t *f, qy_stream_t *stream, int64_t first, int64_t n,
                               qy_error_t *err)
{
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = min64(f->batch, n - at);
        qy_tensor_t x, y;
        QY_TRY(load_batch(stream, first + at, count, f->x.data, err));
        QY_TRY(run_batch(f, count, &x, &y, err));
        QY_TRY(qy_stream_store(stream, first + at, count, y.data, err));
    }
    return QY_OK;
}

qy_status_t qy_forward_error(qy_forward_t *f, qy_stream_t *source, qy_stream_t *goal, int64_t first,
                             int64_t n, double *mse, qy_error_t *err)
{
    double sum = 0;
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = min64(f->batch, n - at);
        qy_tensor_t x, y;
        QY_TRY(load_batch(source, first + at, count, f->x.data, err));
        QY_TRY(run_batch(f, count, &x, &y, err));
        QY_TRY(load_batch(goal, first + at, count, f->x.data, err));
        float loss;
        QY_TRY(qy_mse(f->dev, &f->loss, NULL, &y, &x, NULL, err));
        QY_TRY(qy_device_download(f->dev, &loss, f->loss.data, sizeof loss, err));
        sum += (double)loss * (double)count;
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

qy_status_t qy_rim_open(qy_rim_t *rim, const qy_forward_t *f, int parts, qy_error_t *err)
{
    qy_arena_t measure, arena;
    *rim = (qy_rim_t){0};
    qy_arena_init(&measure, "embedding and head", NULL, 0);
    QY_TRY(rim_take(rim, f, parts, &measure, err));
    QY_TRY(qy_device_alloc(f->dev, &rim->memory, measure.peak, err));
    qy_arena_init(&arena, "embedding and head", rim->memory, measure.peak);
    qy_status_t status = rim_take(rim, f, parts, &arena, err);
    if (status == QY_OK)
        status = qy_outer_load(&rim->outer, f->model, &f->staging, err);
    if (status != QY_OK)
        qy_device_free(f->dev, &rim->memory);
    return status;
}

qy_status_t qy_forward_bytes(size_t *bytes, qy_device_t *dev, const qy_model_t *model,
                             const qy_quant_form_t *form, int64_t batch, int64_t length, int parts,
                             qy_error_t *err)
{
    static const int phases[] = {QY_OUTER_EMBEDDING, QY_OUTER_HEAD};
    qy_forward_t f;
    qy_arena_t block, rims = {0};
    qy_arena_init(&block, "forward", NULL, 0);
    QY_TRY(qy_forward_take(&f, dev, model, form, batch, length, &block, err));
    for (int i = 0; i < 2; i++) {
        qy_rim_t rim;
        rims.used = 0;
        if (parts & phases[i])
            QY_TRY(rim_take(&rim, &f, phases[i], &rims, err));
    }
    *bytes = block.peak + rims.peak;
    return QY_OK;
}

void qy_rim_close(qy_rim_t *rim, const qy_forward_t *f)
{
    if (rim->memory)
        qy_device_free(f->dev, &rim->memory);
}

qy_status_t qy_rim_embed(qy_rim_t *rim, qy_forward_t *f, qy_stream_t *stream, int64_t first,
                         int64_t n, const int32_t *tokens, qy_error_t *err)
{
    if (rim->ids.length != f->length)
        QY_TRY(qy_ids_reshape(&rim->ids, &rim->outer, f->batch, f->length, err));
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = min64(f->batch, n - at);
        qy_tensor_t x = qy_tensor_slice(&f->x, 0, count * f->length);
        QY_TRY(qy_embed(&rim->outer, &rim->ids, tokens + at * f->length, count, &x, err));
        QY_TRY(qy_stream_store(stream, first + at, count, x.data, err));
    }
    return QY_OK;
}

qy_status_t qy_forward_embed(qy_forward_t *f, qy_stream_t *stream, int64_t first, int64_t n,
                             const int32_t *tokens, qy_error_t *err)
{
    qy_rim_t rim;
    QY_TRY(qy_rim_open(&rim, f, QY_OUTER_EMBEDDING, err));
    qy_status_t status = qy_rim_embed(&rim, f, stream, first, n, tokens, err);
    qy_rim_close(&rim, f);
    return status;
}

qy_status_t qy_rim_losses(qy_rim_t *rim, qy_forward_t *f, qy_stream_t *stream, int64_t first,
                          int64_t n, const int32_t *tokens, float *losses, qy_error_t *err)
{
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = min64(f->batch, n - at), rows = count * f->length;
        qy_tensor_t x = qy_tensor_slice(&f->x, 0, rows);
        QY_TRY(load_batch(stream, first + at, count, x.data, err));
        QY_TRY(qy_head_next_token(&rim->outer, &rim->work, &x, tokens + at * f->length, count,
                                  f->length, 1.0f, NULL, err));
        QY_TRY(qy_device_download(f->dev, losses + at * f->length, rim->work.loss.data,
                                  (size_t)rows * sizeof *losses, err));
    }
    return QY_OK;
}

qy_status_t qy_forward_nll(qy_forward_t *f, qy_stream_t *stream, int64_t first, int64_t n,
                           const int32_t *tokens, double *nll, qy_error_t *err)
{
    qy_rim_t rim;
    float *losses = malloc((size_t)(n * f->length) * sizeof *losses);
    if (!losses)
        return qy_fail(err, QY_ERR_MEMORY, "losses: out of host memory");
    qy_status_t status = qy_rim_open(&rim, f, QY_OUTER_HEAD, err);
    if (status == QY_OK) {
        status = qy_rim_losses(&rim, f, stream, first, n, tokens, losses, err);
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
