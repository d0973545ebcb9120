#include "worker/outer.h"

#include <stdlib.h>

#include "kernels/fill.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

qy_status_t qy_outer_take(qy_outer_t *outer, const qy_device_t *dev, const qy_arch_t *arch,
                          int parts, qy_arena_t *arena, qy_error_t *err)
{
    *outer = (qy_outer_t){.dev = dev, .arch = arch};
    int64_t v = arch->vocab, h = arch->hidden;
    int embedding = (parts & QY_OUTER_EMBEDDING) || ((parts & QY_OUTER_HEAD) && arch->tied_head);
    if (embedding)
        QY_TRY(qy_arena_2d(arena, &outer->embedding, dev->compute, v, h, err));
    if ((parts & QY_OUTER_EMBEDDING) && arch->learned_positions)
        QY_TRY(qy_arena_2d(arena, &outer->positions, dev->compute,
                           arch->max_positions + arch->position_offset, h, err));
    if (!(parts & QY_OUTER_HEAD))
        return QY_OK;
    outer->head = outer->embedding;
    if (!arch->tied_head)
        QY_TRY(qy_arena_2d(arena, &outer->head, dev->compute, v, h, err));
    QY_TRY(qy_arena_1d(arena, &outer->final_norm, QY_F32, h, err));
    QY_TRY(qy_arena_1d(arena, &outer->teacher_norm, QY_F32, h, err));
    if (!arch->final_norm.bias)
        return QY_OK;
    QY_TRY(qy_arena_1d(arena, &outer->final_norm_bias, QY_F32, h, err));
    return qy_arena_1d(arena, &outer->teacher_norm_bias, QY_F32, h, err);
}

/* Host f32 into device memory of any float type, in pieces as large as the staging tensor. */
static qy_status_t load_large(const qy_device_t *dev, const qy_tensor_t *dst,
                              const qy_tensor_t *src, const qy_tensor_t *staging, qy_error_t *err)
{
    if (!dst->data)
        return QY_OK;
    int64_t n = qy_tensor_count(src), piece = qy_tensor_count(staging);
    for (int64_t at = 0; at < n; at += piece) {
        int64_t count = min64(piece, n - at);
        qy_tensor_t f32 = qy_tensor_1d(staging->data, QY_F32, count);
        qy_tensor_t out = qy_tensor_1d((char *)dst->data + (size_t)at * qy_dtype_bytes(dst->dtype),
                                       dst->dtype, count);
        QY_TRY(qy_device_upload(dev, f32.data, (const float *)src->data + at,
                                (size_t)count * sizeof(float), err));
        QY_TRY(qy_convert(dev, &out, &f32, err));
    }
    return QY_OK;
}

qy_status_t qy_outer_load(const qy_outer_t *outer, const qy_model_t *model,
                          const qy_tensor_t *staging, qy_error_t *err)
{
    qy_outer_weights_t w;
    QY_TRY(qy_outer_weights_read(&w, model, err));
    int own_head = outer->head.data != outer->embedding.data;
    const struct {
        const qy_tensor_t *to, *from;
    } parts[] = {{&outer->embedding, &w.embedding},
                 {&outer->positions, &w.positions},
                 {&outer->final_norm, &w.final_norm},
                 {&outer->final_norm_bias, &w.final_norm_bias},
                 {&outer->teacher_norm, &w.original_norm},
                 {&outer->teacher_norm_bias, &w.original_norm_bias},
                 {&outer->head, &w.head}};
    size_t n = sizeof parts / sizeof *parts - !own_head;
    qy_status_t status = QY_OK;
    for (size_t i = 0; i < n && status == QY_OK; i++)
        status = load_large(outer->dev, parts[i].to, parts[i].from, staging, err);
    if (status == QY_OK)
        status = qy_device_wait(outer->dev, err);
    qy_outer_weights_free(&w);
    return status;
}

/* Learned positions of every token of the batch. */
static qy_status_t load_positions(const qy_ids_t *ids, const qy_outer_t *outer, qy_error_t *err)
{
    int64_t n = ids->batch * ids->length;
    size_t bytes = (size_t)n * sizeof(int32_t);
    int32_t *host = malloc(bytes);
    if (!host)
        return qy_fail(err, QY_ERR_MEMORY, "position ids: %zu bytes of host memory", bytes);
    for (int64_t i = 0; i < n; i++)
        host[i] = (int32_t)(i % ids->length + outer->arch->position_offset);
    qy_status_t status = qy_device_upload(outer->dev, ids->positions.data, host, bytes, err);
    if (status == QY_OK)
        status = qy_device_wait(outer->dev, err);
    free(host);
    return status;
}

qy_status_t qy_ids_take(qy_ids_t *ids, const qy_outer_t *outer, int64_t batch, int64_t length,
                        qy_arena_t *arena, qy_error_t *err)
{
    *ids = (qy_ids_t){.batch = batch, .length = length};
    QY_TRY(qy_arena_1d(arena, &ids->tokens, QY_I32, batch * length, err));
    QY_TRY(qy_arena_1d(arena, &ids->positions, QY_I32, batch * length, err));
    if (!arena->base || !outer->arch->learned_positions)
        return QY_OK;
    return load_positions(ids, outer, err);
}

qy_status_t qy_ids_reshape(qy_ids_t *ids, const qy_outer_t *outer, int64_t batch, int64_t length,
                           qy_error_t *err)
{
    if (batch * length > qy_tensor_count(&ids->tokens))
        return qy_fail(err, QY_ERR_ARG, "token ids of %lld sequences of %lld, %lld fit",
                       (long long)batch, (long long)length,
                       (long long)qy_tensor_count(&ids->tokens));
    ids->batch = batch;
    ids->length = length;
    return outer->arch->learned_positions ? load_positions(ids, outer, err) : QY_OK;
}

qy_status_t qy_embed(const qy_outer_t *outer, qy_ids_t *ids, const int32_t *tokens, int64_t n,
                     qy_tensor_t *x, qy_error_t *err)
{
    int64_t count = n * ids->length;
    if (n > ids->batch)
        return qy_fail(err, QY_ERR_ARG, "embedding %lld sequences, %lld fit", (long long)n,
                       (long long)ids->batch);
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= outer->arch->vocab)
            return qy_fail(err, QY_ERR_FORMAT, "token id %d is not in the vocabulary of %lld",
                           (int)tokens[i], (long long)outer->arch->vocab);
    qy_tensor_t t = qy_tensor_1d(ids->tokens.data, QY_I32, count);
    qy_tensor_t p = qy_tensor_1d(ids->positions.data, QY_I32, count);
    QY_TRY(qy_device_upload(outer->dev, t.data, tokens, (size_t)count * sizeof *tokens, err));
    QY_TRY(qy_embedding_fwd(outer->dev, x, &outer->embedding, &t, 0, err));
    if (outer->arch->learned_positions)
        QY_TRY(qy_embedding_fwd(outer->dev, x, &outer->positions, &p, 1, err));
    return QY_OK;
}

qy_status_t qy_head_work_take(qy_head_work_t *work, const qy_outer_t *outer, int64_t max_rows,
                              int distill, qy_arena_t *arena, qy_error_t *err)
{
    qy_dtype_t compute = outer->dev->compute;
    int64_t h = outer->arch->hidden, r = min64(max_rows, QY_HEAD_ROWS);
    int64_t c = min64(outer->arch->vocab, QY_HEAD_COLS);
    *work = (qy_head_work_t){.max_rows = max_rows, .distill = distill};
    QY_TRY(qy_arena_2d(arena, &work->normed, compute, r, h, err));
    QY_TRY(qy_arena_2d(arena, &work->dnormed, compute, r, h, err));
    QY_TRY(qy_arena_1d(arena, &work->mean, QY_F32, r, err));
    QY_TRY(qy_arena_1d(arena, &work->rstd, QY_F32, r, err));
    QY_TRY(qy_arena_2d(arena, &work->logits, QY_F32, r, c, err));
    QY_TRY(qy_arena_2d(arena, &work->dlogits, compute, r, c, err));
    QY_TRY(qy_arena_2d(arena, &work->stats, QY_F32, r, 2, err));
    QY_TRY(qy_arena_1d(arena, &work->picked, QY_F32, r, err));
    QY_TRY(qy_arena_1d(arena, &work->loss, QY_F32, max_rows, err));
    QY_TRY(qy_arena_1d(arena, &work->targets, QY_I32, max_rows, err));
    if (!distill)
        return QY_OK;
    QY_TRY(qy_arena_2d(arena, &work->t_normed, compute, r, h, err));
    QY_TRY(qy_arena_2d(arena, &work->t_logits, QY_F32, r, c, err));
    return qy_arena_2d(arena, &work->t_stats, QY_F32, r, 2, err);
}

static qy_status_t final_norm(const qy_outer_t *o, qy_head_work_t *work, qy_tensor_t *y,
                              const qy_tensor_t *x, int teacher, qy_error_t *err)
{
    const qy_tensor_t *w = teacher ? &o->teacher_norm : &o->final_norm;
    const qy_tensor_t *b = teacher ? &o->teacher_norm_bias : &o->final_norm_bias;
    int64_t rows = qy_tensor_rows(x);
    qy_tensor_t rstd = qy_tensor_1d(work->rstd.data, QY_F32, rows);
    qy_tensor_t mean = qy_tensor_1d(work->mean.data, QY_F32, rows);
    if (o->arch->norm_kind == QY_NORM_RMS)
        return qy_rmsnorm_fwd(o->dev, y, &rstd, x, w, o->arch->norm_eps, err);
    return qy_layernorm_fwd(o->dev, y, &mean, &rstd, x, w, b, o->arch->norm_eps, err);
}

static qy_status_t final_norm_bwd(const qy_outer_t *o, qy_head_work_t *work, qy_tensor_t *dx,
                                  const qy_tensor_t *dy, const qy_tensor_t *x, qy_error_t *err)
{
    int64_t rows = qy_tensor_rows(x);
    qy_tensor_t rstd = qy_tensor_1d(work->rstd.data, QY_F32, rows);
    qy_tensor_t mean = qy_tensor_1d(work->mean.data, QY_F32, rows);
    if (o->arch->norm_kind == QY_NORM_RMS)
        return qy_rmsnorm_bwd(o->dev, dx, NULL, dy, x, &rstd, &o->final_norm, 0, err);
    return qy_layernorm_bwd(o->dev, dx, NULL, NULL, dy, x, &mean, &rstd, &o->final_norm, 0, err);
}

/* One chunk of rows on its way through the head. */
typedef struct {
    const qy_outer_t *outer;
    qy_head_work_t *work;
    int64_t rows;
    qy_tensor_t normed, stats, picked, loss, targets;
    qy_tensor_t t_normed, t_stats; /* .data NULL: next-token */
    float scale;
} chunk_t;

static qy_tensor_t columns(const qy_tensor_t *buffer, int64_t rows, int64_t cols)
{
    return qy_tensor_2d(buffer->data, buffer->dtype, rows, cols);
}

/* Logits of columns [first, first + n) for student and, with distill, teacher. */
static qy_status_t chunk_logits(const chunk_t *c, int64_t first, int64_t n, qy_tensor_t *logits,
                                qy_tensor_t *t_logits, qy_error_t *err)
{
    qy_tensor_t w = qy_tensor_slice(&c->outer->head, first, n);
    *logits = columns(&c->work->logits, c->rows, n);
    QY_TRY(qy_linear_fwd(c->outer->dev, logits, &c->normed, &w, NULL, err));
    if (!c->t_normed.data)
        return QY_OK;
    *t_logits = columns(&c->work->t_logits, c->rows, n);
    return qy_linear_fwd(c->outer->dev, t_logits, &c->t_normed, &w, NULL, err);
}

static qy_status_t chunk_stats(chunk_t *c, qy_error_t *err)
{
    const qy_device_t *dev = c->outer->dev;
    int64_t vocab = c->outer->arch->vocab;
    for (int64_t v = 0; v < vocab; v += QY_HEAD_COLS) {
        qy_tensor_t logits, t_logits;
        QY_TRY(chunk_logits(c, v, min64(QY_HEAD_COLS, vocab - v), &logits, &t_logits, err));
        if (c->t_normed.data) {
            QY_TRY(qy_softmax_stats(dev, &c->stats, NULL, &logits, NULL, v, err));
            QY_TRY(qy_softmax_stats(dev, &c->t_stats, NULL, &t_logits, NULL, v, err));
        } else {
            QY_TRY(qy_softmax_stats(dev, &c->stats, &c->picked, &logits, &c->targets, v, err));
        }
    }
    return c->t_normed.data
               ? QY_OK
               : qy_cross_entropy_loss(dev, &c->loss, &c->stats, &c->picked, &c->targets, err);
}

/* Losses that need a second look at the logits, and the gradient of the normed rows. */
static qy_status_t chunk_second(chunk_t *c, qy_tensor_t *dnormed, qy_error_t *err)
{
    const qy_device_t *dev = c->outer->dev;
    int64_t vocab = c->outer->arch->vocab;
    qy_tensor_t logits = {0}, t_logits = {0};
    for (int64_t v = 0; v < vocab; v += QY_HEAD_COLS) {
        int64_t n = min64(QY_HEAD_COLS, vocab - v);
        if (vocab > QY_HEAD_COLS) {
            QY_TRY(chunk_logits(c, v, n, &logits, &t_logits, err));
        } else { /* the one chunk still holds the logits */
            logits = columns(&c->work->logits, c->rows, n);
            t_logits = columns(&c->work->t_logits, c->rows, n);
        }
        if (c->t_normed.data)
            QY_TRY(
                qy_kl_loss(dev, &c->loss, &logits, &c->stats, &t_logits, &c->t_stats, v > 0, err));
        if (!dnormed)
            continue;
        qy_tensor_t dlogits = columns(&c->work->dlogits, c->rows, n);
        if (c->t_normed.data)
            QY_TRY(qy_kl_bwd(dev, &dlogits, &logits, &c->stats, &t_logits, &c->t_stats, c->scale,
                             err));
        else
            QY_TRY(qy_cross_entropy_bwd(dev, &dlogits, &logits, &c->stats, &c->targets, v, c->scale,
                                        err));
        qy_tensor_t w = qy_tensor_slice(&c->outer->head, v, n);
        QY_TRY(qy_linear_bwd_x(dev, dnormed, &dlogits, &w, v > 0, err));
    }
    return QY_OK;
}

/* teacher NULL: next-token, with work->targets filled. */
static qy_status_t head(const qy_outer_t *o, qy_head_work_t *work, const qy_tensor_t *x,
                        const qy_tensor_t *teacher, float scale, qy_tensor_t *dx, qy_error_t *err)
{
    int64_t all = qy_tensor_rows(x), h = o->arch->hidden;
    if (all > work->max_rows)
        return qy_fail(err, QY_ERR_SHAPE, "head: %lld rows, %lld fit", (long long)all,
                       (long long)work->max_rows);
    for (int64_t at = 0; at < all; at += QY_HEAD_ROWS) {
        int64_t rows = min64(QY_HEAD_ROWS, all - at);
        qy_tensor_t xc = qy_tensor_slice(x, at, rows);
        chunk_t c = {.outer = o, .work = work, .rows = rows, .scale = scale};
        c.normed = columns(&work->normed, rows, h);
        c.stats = columns(&work->stats, rows, 2);
        c.picked = qy_tensor_1d(work->picked.data, QY_F32, rows);
        c.loss = qy_tensor_1d((float *)work->loss.data + at, QY_F32, rows);
        c.targets = qy_tensor_1d((int32_t *)work->targets.data + at, QY_I32, rows);
        if (teacher) { /* first, so that rstd and mean end up the student's */
            qy_tensor_t tc = qy_tensor_slice(teacher, at, rows);
            c.t_normed = columns(&work->t_normed, rows, h);
            c.t_stats = columns(&work->t_stats, rows, 2);
            QY_TRY(final_norm(o, work, &c.t_normed, &tc, 1, err));
        }
        QY_TRY(final_norm(o, work, &c.normed, &xc, 0, err));
        QY_TRY(chunk_stats(&c, err));
        if (!dx && !teacher)
            continue;
        qy_tensor_t dn = columns(&work->dnormed, rows, h);
        QY_TRY(chunk_second(&c, dx ? &dn : NULL, err));
        if (dx) {
            qy_tensor_t dxc = qy_tensor_slice(dx, at, rows);
            QY_TRY(final_norm_bwd(o, work, &dxc, &dn, &xc, err));
        }
    }
    return QY_OK;
}

qy_status_t qy_head_next_token(const qy_outer_t *outer, qy_head_work_t *work, const qy_tensor_t *x,
                               const int32_t *tokens, int64_t n, int64_t length, float scale,
                               qy_tensor_t *dx, qy_error_t *err)
{
    int64_t rows = n * length;
    int32_t *targets = malloc((size_t)rows * sizeof *targets);
    if (!targets)
        return qy_fail(err, QY_ERR_MEMORY, "targets: out of host memory");
    for (int64_t i = 0; i < rows; i++)
        targets[i] = (i + 1) % length ? tokens[i + 1] : -1;
    qy_status_t status = qy_device_upload(outer->dev, work->targets.data, targets,
                                          (size_t)rows * sizeof *targets, err);
    if (status == QY_OK)
        status = qy_device_wait(outer->dev, err);
    free(targets);
    return status == QY_OK ? head(outer, work, x, NULL, scale, dx, err) : status;
}

qy_status_t qy_head_distill(const qy_outer_t *outer, qy_head_work_t *work, const qy_tensor_t *x,
                            const qy_tensor_t *teacher, float scale, qy_tensor_t *dx,
                            qy_error_t *err)
{
    return head(outer, work, x, teacher, scale, dx, err);
}
