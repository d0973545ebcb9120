/* A block's passes over its rows; block.c has its memory. */
#include <math.h>

#include "kernels/act_quant.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/columns.h"
#include "kernels/fill.h"
#include "kernels/glu.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/static_quant.h"
#include "worker/block.h"

/* One pass over the rows: the tensors it works on, found by slot. */
typedef struct {
    const qy_block_t *block;
    const qy_block_params_t *params;
    const qy_block_acts_t *acts;
    qy_block_grads_t *grads;
    qy_tensor_t dy;        /* gradient of the residual stream */
    bool idle[QY_N_SLOTS]; /* decorated slots that are left out: they are their sources */
    bool written[QY_N_SLOTS];
    int want_dx;
} pass_t;

static pass_t begin_pass(const qy_block_t *block, const qy_block_params_t *params,
                         const qy_block_acts_t *acts)
{
    pass_t pass = {.block = block, .params = params, .acts = acts};
    for (int i = 0; i < QY_N_SITES; i++) {
        pass.idle[QY_SLOT_MAPPED + i] = !params->map[i].active;
        pass.idle[QY_SLOT_QUANTIZED + i] = params->quantizer[i].kind == QY_ACT_NONE;
    }
    return pass;
}

/* The quantizer per row that ends what this row begins as one op; NULL where it is one by itself.
 * Only a map may stand between them. */
static const qy_row_t *fused_with(const pass_t *pass, const qy_row_t *row)
{
    const qy_program_t *p = &pass->block->program;
    const qy_row_t *end = p->row + p->n_rows, *next = row + 1;
    if (!pass->block->fused ||
        (row->kind != QY_ROW_NORM && row->kind != QY_ROW_SILU_MUL && row->kind != QY_ROW_RELU))
        return NULL;
    if (next < end && next->kind == QY_ROW_MAP && next->in == row->out)
        next++;
    int found = next < end && next->kind == QY_ROW_QUANTIZE && next[-1].out == next->in;
    return found && pass->params->quantizer[next->id].kind == QY_ACT_PER_ROW ? next : NULL;
}

static int is_left_out(const pass_t *pass, const qy_row_t *row)
{
    return pass->idle[row->out];
}

/* A slot's values. */
static const qy_tensor_t *value_of(const pass_t *pass, qy_slot_t slot)
{
    while (pass->idle[slot])
        slot = pass->block->program.source[slot];
    return &pass->acts->slot[slot];
}

/* A slot seen as (batch, length, heads, head_dim). */
static qy_tensor_t as_heads(const pass_t *pass, const qy_tensor_t *t, qy_slot_t slot)
{
    const qy_program_t *p = &pass->block->program;
    int64_t d = p->arch.head_dim;
    return qy_tensor_reshape(
        t, 4, (int64_t[]){pass->acts->batch, pass->acts->length, qy_program_cols(p, slot) / d, d});
}

static qy_tensor_t as_head_rows(const pass_t *pass, const qy_tensor_t *t)
{
    int64_t d = pass->block->program.arch.head_dim;
    return qy_tensor_reshape(t, 2, (int64_t[]){qy_tensor_count(t) / d, d});
}

static qy_status_t norm_fwd(const pass_t *pass, const qy_row_t *row, qy_tensor_t *y,
                            const qy_tensor_t *x, qy_error_t *err)
{
    const qy_block_t *b = pass->block;
    const qy_arch_t *a = &b->program.arch;
    qy_tensor_t rstd = pass->acts->rstd[row->id], mean = pass->acts->mean[row->id];
    const qy_tensor_t *w = &pass->params->norm[row->id];
    if (a->norm_kind == QY_NORM_RMS)
        return qy_rmsnorm_fwd(b->dev, y, &rstd, x, w, a->norm_eps, err);
    return qy_layernorm_fwd(b->dev, y, &mean, &rstd, x, w, &pass->params->norm_bias[row->id],
                            a->norm_eps, err);
}

/* The plan's first items, as many as it has room for: its offsets say which are used. */
static qy_status_t mix(const pass_t *pass, const qy_row_t *row, qy_tensor_t *y,
                       const qy_tensor_t *x, int backward, qy_error_t *err)
{
    const qy_channel_map_t *map = &pass->params->map[row->id];
    if (backward)
        return qy_column_mix(pass->block->dev, y, x, &map->back_offsets, &map->back_items,
                             &map->back_weights, err);
    return qy_column_mix(pass->block->dev, y, x, &map->offsets, &map->items, &map->weights, err);
}

/* Q, K and V are quantized head by head, the rest token by token. */
static qy_tensor_t as_quantizer_rows(const pass_t *pass, const qy_tensor_t *t, int site)
{
    return site == QY_SITE_Q || site == QY_SITE_K || site == QY_SITE_V ? as_head_rows(pass, t) : *t;
}

static float attention_scale(const qy_arch_t *a)
{
    return 1.0f / sqrtf((float)a->head_dim);
}

static qy_status_t row_forward(const pass_t *pass, const qy_row_t *row, qy_error_t *err)
{
    const qy_device_t *dev = pass->block->dev;
    const qy_arch_t *a = &pass->block->program.arch;
    qy_tensor_t out = pass->acts->slot[row->out];
    const qy_tensor_t *in = value_of(pass, row->in);
    switch (row->kind) {
    case QY_ROW_NORM:
        return norm_fwd(pass, row, &out, in, err);
    case QY_ROW_HEAD_NORM: {
        qy_tensor_t y = as_head_rows(pass, &out), x = as_head_rows(pass, in);
        return norm_fwd(pass, row, &y, &x, err);
    }
    case QY_ROW_LINEAR: {
        const qy_tensor_t *bias = &pass->params->bias[row->id];
        return qy_linear_fwd(dev, &out, in, &pass->params->w[row->id], bias->data ? bias : NULL,
                             err);
    }
    case QY_ROW_ROPE: {
        qy_tensor_t y = as_heads(pass, &out, row->out), x = as_heads(pass, in, row->in);
        return qy_rope(dev, &y, &x, &pass->block->cosine, &pass->block->sine, 0, err);
    }
    case QY_ROW_ATTENTION: {
        qy_tensor_t o = as_heads(pass, &out, row->out), q = as_heads(pass, in, row->in);
        qy_tensor_t k = as_heads(pass, value_of(pass, row->in2), row->in2);
        qy_tensor_t v = as_heads(pass, value_of(pass, row->in3), row->in3), lse = pass->acts->lse;
        QY_TRY(qy_attention_fwd(dev, &o, &lse, &q, &k, &v, attention_scale(a), a->window, err));
        if (!pass->params->probability_levels)
            return QY_OK;
        return qy_attention_levels_fwd(dev, &o, &lse, &q, &k, &v, attention_scale(a), a->window,
                                       pass->params->probability_levels, err);
    }
    case QY_ROW_SILU_MUL:
        return qy_silu_mul_fwd(dev, &out, in, value_of(pass, row->in2), err);
    case QY_ROW_RELU:
        return qy_relu_fwd(dev, &out, in, err);
    case QY_ROW_ADD:
        return qy_add(dev, &out, in, value_of(pass, row->in2), err);
    case QY_ROW_MAP:
        return mix(pass, row, &out, in, 0, err);
    case QY_ROW_QUANTIZE: {
        const qy_site_quantizer_t *quantizer = &pass->params->quantizer[row->id];
        if (quantizer->kind == QY_ACT_STATIC)
            return qy_static_quant_fwd(dev, &out, in, &quantizer->s, &quantizer->z, quantizer->bits,
                                       err);
        qy_tensor_t y = as_quantizer_rows(pass, &out, row->id);
        qy_tensor_t x = as_quantizer_rows(pass, in, row->id);
        return qy_act_quant_fwd(dev, &y, &x, pass->params->quantizer[row->id].bits, err);
    }
    }
    return qy_fail(err, QY_ERR_ARG, "block program: unknown row %d", (int)row->kind);
}

/* What row makes and last quantizes, and the plans that it points to. */
typedef struct {
    qy_activation_t a;
    qy_column_plan_t map, back;
} fused_t;

static void describe_fused(fused_t *f, const pass_t *pass, const qy_row_t *row,
                           const qy_row_t *last)
{
    const qy_arch_t *arch = &pass->block->program.arch;
    const qy_channel_map_t *m = &pass->params->map[last->id];
    int norm = row->kind == QY_ROW_NORM, layer = arch->norm_kind == QY_NORM_LAYER;
    f->a = (qy_activation_t){.make = norm ? (layer ? QY_MAKE_LAYERNORM : QY_MAKE_RMSNORM)
                                     : row->kind == QY_ROW_RELU ? QY_MAKE_RELU
                                                                : QY_MAKE_SILU_MUL,
                             .x = value_of(pass, row->in),
                             .eps = arch->norm_eps,
                             .bits = pass->params->quantizer[last->id].bits};
    if (row->kind == QY_ROW_SILU_MUL)
        f->a.up = value_of(pass, row->in2);
    if (norm)
        f->a.w = &pass->params->norm[row->id];
    if (norm && layer)
        f->a.b = &pass->params->norm_bias[row->id];
    if (!m->active || pass->idle[QY_SLOT_MAPPED + last->id])
        return;
    qy_block_map_plans(m, &f->map, &f->back);
    f->a.map = &f->map;
    f->a.back = &f->back;
}

static qy_status_t fused_forward(const pass_t *pass, const qy_row_t *row, const qy_row_t *last,
                                 qy_error_t *err)
{
    fused_t f;
    qy_tensor_t out = pass->acts->slot[last->out], mean = {0}, rstd = {0};
    describe_fused(&f, pass, row, last);
    if (row->kind == QY_ROW_NORM) {
        mean = pass->acts->mean[row->id];
        rstd = pass->acts->rstd[row->id];
    }
    return qy_activation_fwd(pass->block->dev, &out, &mean, &rstd, &f.a, err);
}

qy_status_t qy_block_forward(const qy_block_t *block, const qy_block_params_t *params,
                             qy_block_acts_t *acts, const qy_tensor_t *x, const qy_tensor_t *y,
                             qy_error_t *err)
{
    acts->slot[QY_SLOT_X] = *x;
    acts->slot[QY_SLOT_Y] = *y;
    pass_t pass = begin_pass(block, params, acts);
    const qy_row_t *row = block->program.row, *end = row + block->program.n_rows;
    for (; row < end; row++) {
        const qy_row_t *last = fused_with(&pass, row);
        if (last) {
            QY_TRY(fused_forward(&pass, row, last, err));
            row = last;
        } else if (!is_left_out(&pass, row)) {
            QY_TRY(row_forward(&pass, row, err));
        }
    }
    return QY_OK;
}

const qy_tensor_t *qy_block_value(const qy_block_t *block, const qy_block_params_t *params,
                                  const qy_block_acts_t *acts, qy_slot_t slot)
{
    pass_t pass = begin_pass(block, params, acts);
    return value_of(&pass, slot);
}

qy_status_t qy_block_forward_part(const qy_block_t *block, const qy_block_params_t *params,
                                  const qy_block_acts_t *acts, qy_slot_t from, qy_slot_t upto,
                                  qy_error_t *err)
{
    pass_t pass = begin_pass(block, params, acts);
    int begun = 0;
    for (int i = 0; i < block->program.n_rows; i++) {
        const qy_row_t *row = &block->program.row[i];
        if (begun && !is_left_out(&pass, row))
            QY_TRY(row_forward(&pass, row, err));
        begun = begun || row->out == from;
        if (row->out == upto)
            break;
    }
    return QY_OK;
}

/* The gradient buffer of a slot: its home's. */
static qy_tensor_t grad_of(const pass_t *pass, qy_slot_t slot)
{
    const qy_program_t *p = &pass->block->program;
    qy_slot_t home = qy_program_gradient_home(p, pass->idle, slot);
    qy_tensor_t buffer = home == QY_SLOT_Y ? pass->dy : pass->grads->slot[home];
    return qy_tensor_2d(buffer.data, buffer.dtype, pass->acts->batch * pass->acts->length,
                        qy_program_cols(p, slot));
}

/* 0 the first time a slot's gradient is written, 1 when it is added to. */
static int accumulate(pass_t *pass, qy_slot_t slot)
{
    int again = pass->written[slot];
    pass->written[slot] = true;
    return again;
}

/* Whether anything wants the gradient of this slot: only X, N1 and what stands for it can be
 * unwanted. */
static int wanted(const pass_t *pass, qy_slot_t slot)
{
    const qy_slot_t *source = pass->block->program.source;
    while (source[slot] != QY_SLOT_NONE)
        slot = source[slot];
    if (pass->want_dx || (slot != QY_SLOT_N1 && slot != QY_SLOT_X))
        return 1;
    return slot == QY_SLOT_N1 && pass->grads->dnorm[QY_NORM_ATTENTION].data != NULL;
}

static qy_status_t norm_bwd(pass_t *pass, const qy_row_t *row, const qy_tensor_t *dy,
                            const qy_tensor_t *x, qy_tensor_t *dx, qy_error_t *err)
{
    const qy_block_t *b = pass->block;
    int id = row->id, again = dx ? accumulate(pass, row->in) : 0;
    qy_tensor_t *dw = pass->grads->dnorm[id].data ? &pass->grads->dnorm[id] : NULL;
    qy_tensor_t *db = dw && pass->grads->dnorm_bias[id].data ? &pass->grads->dnorm_bias[id] : NULL;
    if (!dx && !dw)
        return QY_OK;
    const qy_tensor_t *rstd = &pass->acts->rstd[id], *w = &pass->params->norm[id];
    if (b->program.arch.norm_kind == QY_NORM_RMS)
        return qy_rmsnorm_bwd(b->dev, dx, dw, dy, x, rstd, w, again, err);
    return qy_layernorm_bwd(b->dev, dx, dw, db, dy, x, &pass->acts->mean[id], rstd, w, again, err);
}

static qy_status_t linear_bwd(pass_t *pass, const qy_row_t *row, const qy_tensor_t *dy,
                              qy_error_t *err)
{
    const qy_device_t *dev = pass->block->dev;
    qy_block_grads_t *g = pass->grads;
    qy_linear_id_t id = (qy_linear_id_t)row->id;
    if (g->at_linear)
        QY_TRY(g->at_linear(g->context, id, dy, value_of(pass, row->in), err));
    if (g->dw[id].data) {
        QY_TRY(qy_linear_bwd_w(dev, &g->dw[id], dy, value_of(pass, row->in), err));
        if (g->after_dw)
            QY_TRY(g->after_dw(g->context, id, &g->dw[id], err));
    }
    if (!wanted(pass, row->in))
        return QY_OK;
    qy_tensor_t dx = grad_of(pass, row->in);
    return qy_linear_bwd_x(dev, &dx, dy, &pass->params->w[id], accumulate(pass, row->in), err);
}

static qy_status_t attention_bwd(pass_t *pass, const qy_row_t *row, const qy_tensor_t *dy,
                                 qy_error_t *err)
{
    const qy_arch_t *a = &pass->block->program.arch;
    qy_tensor_t gq = grad_of(pass, row->in), gk = grad_of(pass, row->in2);
    qy_tensor_t gv = grad_of(pass, row->in3);
    qy_tensor_t dq = as_heads(pass, &gq, row->in), dk = as_heads(pass, &gk, row->in2);
    qy_tensor_t dv = as_heads(pass, &gv, row->in3), d_o = as_heads(pass, dy, row->out);
    qy_tensor_t o = as_heads(pass, value_of(pass, row->out), row->out);
    qy_tensor_t q = as_heads(pass, value_of(pass, row->in), row->in);
    qy_tensor_t k = as_heads(pass, value_of(pass, row->in2), row->in2);
    qy_tensor_t v = as_heads(pass, value_of(pass, row->in3), row->in3);
    return qy_attention_bwd(pass->block->dev, &dq, &dk, &dv, &d_o, &o, &pass->acts->lse, &q, &k, &v,
                            attention_scale(a), a->window, err);
}

static qy_status_t row_backward(pass_t *pass, const qy_row_t *row, qy_error_t *err)
{
    const qy_device_t *dev = pass->block->dev;
    qy_tensor_t dy = grad_of(pass, row->out);
    switch (row->kind) {
    case QY_ROW_NORM: {
        qy_tensor_t dx = grad_of(pass, row->in);
        return norm_bwd(pass, row, &dy, value_of(pass, row->in), wanted(pass, row->in) ? &dx : NULL,
                        err);
    }
    case QY_ROW_HEAD_NORM: {
        qy_tensor_t gx = grad_of(pass, row->in), dx = as_head_rows(pass, &gx);
        qy_tensor_t x = as_head_rows(pass, value_of(pass, row->in)), dyh = as_head_rows(pass, &dy);
        return norm_bwd(pass, row, &dyh, &x, &dx, err);
    }
    case QY_ROW_LINEAR:
        return linear_bwd(pass, row, &dy, err);
    case QY_ROW_ROPE: {
        qy_tensor_t dx = as_heads(pass, &dy, row->out); /* in place: the slots share a home */
        return qy_rope(dev, &dx, &dx, &pass->block->cosine, &pass->block->sine, 1, err);
    }
    case QY_ROW_ATTENTION:
        return attention_bwd(pass, row, &dy, err);
    case QY_ROW_SILU_MUL: {
        qy_tensor_t dgate = grad_of(pass, row->in), dup = grad_of(pass, row->in2);
        return qy_silu_mul_bwd(dev, &dgate, &dup, &dy, value_of(pass, row->in),
                               value_of(pass, row->in2), err);
    }
    case QY_ROW_RELU: {
        qy_tensor_t dx = dy; /* in place */
        return qy_relu_bwd(dev, &dx, &dy, value_of(pass, row->out), err);
    }
    case QY_ROW_ADD:
        /* d(in) = d(in2) = d(out), all in one buffer: the branch reads it before the residual
         * stream is added to, because the branch's rows come later in the program. */
        pass->written[row->in] = true;
        return QY_OK;
    case QY_ROW_MAP: {
        qy_tensor_t dx = grad_of(pass, row->in);
        return mix(pass, row, &dx, &dy, 1, err);
    }
    case QY_ROW_QUANTIZE: {
        const qy_site_quantizer_t *quantizer = &pass->params->quantizer[row->id];
        if (quantizer->kind == QY_ACT_STATIC) /* in place, as below */
            return qy_static_quant_bwd(dev, &dy, &dy, value_of(pass, row->in), &quantizer->s,
                                       &quantizer->z, quantizer->bits, err);
        qy_tensor_t dx = as_quantizer_rows(pass, &dy, row->id);
        qy_tensor_t x = as_quantizer_rows(pass, value_of(pass, row->in), row->id);
        return qy_act_quant_bwd(dev, &dx, &dx, &x, quantizer->bits, err);
    }
    }
    return qy_fail(err, QY_ERR_ARG, "block program: unknown row %d", (int)row->kind);
}

/* A norm's own backward pass follows, from the gradient of its output. */
static qy_status_t fused_backward(pass_t *pass, const qy_row_t *row, const qy_row_t *last,
                                  qy_error_t *err)
{
    fused_t f;
    int norm = row->kind == QY_ROW_NORM;
    qy_tensor_t dy = grad_of(pass, last->out), dx = grad_of(pass, norm ? row->out : row->in);
    qy_tensor_t dup = {0};
    describe_fused(&f, pass, row, last);
    if (row->kind == QY_ROW_SILU_MUL)
        dup = grad_of(pass, row->in2);
    const qy_tensor_t *mean = norm ? &pass->acts->mean[row->id] : NULL;
    const qy_tensor_t *rstd = norm ? &pass->acts->rstd[row->id] : NULL;
    QY_TRY(qy_activation_bwd(pass->block->dev, &dx, &dup, &dy, mean, rstd, &f.a, err));
    return norm ? row_backward(pass, row, err) : QY_OK;
}

/* The row that begins the op which this one ends; NULL where it ends none. */
static const qy_row_t *fused_from(const pass_t *pass, const qy_row_t *last)
{
    if (last->kind != QY_ROW_QUANTIZE)
        return NULL;
    for (int k = 1; k <= 2 && last - pass->block->program.row >= k; k++)
        if (fused_with(pass, last - k) == last)
            return last - k;
    return NULL;
}

qy_status_t qy_block_backward(const qy_block_t *block, const qy_block_params_t *params,
                              const qy_block_acts_t *acts, qy_block_grads_t *grads,
                              const qy_tensor_t *dy, int want_dx, qy_error_t *err)
{
    pass_t pass = begin_pass(block, params, acts);
    pass.grads = grads;
    pass.dy = *dy;
    pass.want_dx = want_dx;
    const qy_row_t *rows = block->program.row, *row = rows + block->program.n_rows;
    while (row-- > rows) {
        const qy_row_t *last = row, *first = fused_from(&pass, row);
        if (first)
            row = first;
        if (is_left_out(&pass, last) || !wanted(&pass, last->out))
            continue;
        QY_TRY(first ? fused_backward(&pass, first, last, err) : row_backward(&pass, last, err));
    }
    return QY_OK;
}
