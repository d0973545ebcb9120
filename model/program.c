#include "model/program.h"

#include <string.h>

static void add_row(qy_program_t *p, qy_row_kind_t kind, qy_slot_t out, qy_slot_t in, qy_slot_t in2,
                    qy_slot_t in3, int id)
{
    p->row[p->n_rows++] =
        (qy_row_t){.kind = kind, .out = out, .in = in, .in2 = in2, .in3 = in3, .id = id};
    const qy_slot_t slots[] = {out, in, in2, in3};
    for (int i = 0; i < 4; i++)
        if (slots[i] != QY_SLOT_NONE)
            p->used[slots[i]] = true;
}

static void linear(qy_program_t *p, qy_linear_id_t id, qy_slot_t out, qy_slot_t in)
{
    add_row(p, QY_ROW_LINEAR, out, in, QY_SLOT_NONE, QY_SLOT_NONE, id);
}

/* Projection of queries or keys, then what the family does to each head; returns the last slot. */
static qy_slot_t head_stage(qy_program_t *p, qy_slot_t projected, qy_slot_t normed,
                            qy_slot_t rotated, qy_norm_id_t norm)
{
    qy_slot_t last = projected;
    if (p->arch.norm[norm].present) {
        add_row(p, QY_ROW_HEAD_NORM, normed, last, QY_SLOT_NONE, QY_SLOT_NONE, norm);
        last = normed;
    }
    if (p->arch.rope_kind != QY_ROPE_NONE) {
        add_row(p, QY_ROW_ROPE, rotated, last, QY_SLOT_NONE, QY_SLOT_NONE, 0);
        last = rotated;
    }
    return last;
}

static qy_slot_t decorated_slot(qy_program_t *p, qy_row_kind_t kind, qy_slot_t out, qy_slot_t in,
                                qy_site_t site)
{
    add_row(p, kind, out, in, QY_SLOT_NONE, QY_SLOT_NONE, (int)site);
    p->source[out] = in;
    return out;
}

/* What stands at a site between slot and its readers; returns the slot that they read. */
static qy_slot_t decorate(qy_program_t *p, const qy_decoration_t *d, qy_site_t site, qy_slot_t slot)
{
    if (d && d->mapped[site])
        slot =
            decorated_slot(p, QY_ROW_MAP, (qy_slot_t)((int)QY_SLOT_MAPPED + (int)site), slot, site);
    if (d && d->quantized[site])
        slot = decorated_slot(p, QY_ROW_QUANTIZE, (qy_slot_t)((int)QY_SLOT_QUANTIZED + (int)site),
                              slot, site);
    return slot;
}

void qy_program_build(qy_program_t *program, const qy_arch_t *arch,
                      const qy_decoration_t *decoration)
{
    qy_program_t *p = program;
    memset(p, 0, sizeof *p);
    p->arch = *arch;
    const qy_slot_t none = QY_SLOT_NONE;
    for (int s = 0; s < QY_N_SLOTS; s++)
        p->source[s] = none;

    add_row(p, QY_ROW_NORM, QY_SLOT_N1, QY_SLOT_X, none, none, QY_NORM_ATTENTION);
    qy_slot_t n1 = decorate(p, decoration, QY_SITE_ATTENTION_IN, QY_SLOT_N1);
    linear(p, QY_LINEAR_Q, QY_SLOT_Q, n1);
    linear(p, QY_LINEAR_K, QY_SLOT_K, n1);
    linear(p, QY_LINEAR_V, QY_SLOT_V, n1);
    qy_slot_t q = head_stage(p, QY_SLOT_Q, QY_SLOT_QN, QY_SLOT_QR, QY_NORM_Q);
    qy_slot_t k = head_stage(p, QY_SLOT_K, QY_SLOT_KN, QY_SLOT_KR, QY_NORM_K);
    q = decorate(p, decoration, QY_SITE_Q, q);
    k = decorate(p, decoration, QY_SITE_K, k);
    qy_slot_t v = decorate(p, decoration, QY_SITE_V, QY_SLOT_V);
    add_row(p, QY_ROW_ATTENTION, QY_SLOT_A, q, k, v, 0);
    linear(p, QY_LINEAR_O, QY_SLOT_O, decorate(p, decoration, QY_SITE_O_IN, QY_SLOT_A));
    add_row(p, QY_ROW_ADD, QY_SLOT_H, QY_SLOT_X, QY_SLOT_O, none, 0);

    add_row(p, QY_ROW_NORM, QY_SLOT_N2, QY_SLOT_H, none, none, QY_NORM_MLP);
    qy_slot_t n2 = decorate(p, decoration, QY_SITE_MLP_IN, QY_SLOT_N2);
    if (arch->act_kind == QY_ACT_SILU_GATE) {
        linear(p, QY_LINEAR_GATE, QY_SLOT_GATE, n2);
        linear(p, QY_LINEAR_UP, QY_SLOT_UP, n2);
        add_row(p, QY_ROW_SILU_MUL, QY_SLOT_M, QY_SLOT_GATE, QY_SLOT_UP, none, 0);
    } else {
        linear(p, QY_LINEAR_UP, QY_SLOT_UP, n2);
        add_row(p, QY_ROW_RELU, QY_SLOT_M, QY_SLOT_UP, none, none, 0);
    }
    linear(p, QY_LINEAR_DOWN, QY_SLOT_D, decorate(p, decoration, QY_SITE_DOWN_IN, QY_SLOT_M));
    add_row(p, QY_ROW_ADD, QY_SLOT_Y, QY_SLOT_H, QY_SLOT_D, none, 0);
}

static int64_t slot_cols(const qy_arch_t *a, qy_slot_t slot)
{
    switch (slot) {
    case QY_SLOT_Q:
    case QY_SLOT_QN:
    case QY_SLOT_QR:
    case QY_SLOT_A:
        return a->n_heads * a->head_dim;
    case QY_SLOT_K:
    case QY_SLOT_V:
    case QY_SLOT_KN:
    case QY_SLOT_KR:
        return a->n_kv_heads * a->head_dim;
    case QY_SLOT_GATE:
    case QY_SLOT_UP:
    case QY_SLOT_M:
        return a->intermediate;
    default:
        return a->hidden;
    }
}

int64_t qy_program_cols(const qy_program_t *program, qy_slot_t slot)
{
    while (program->source[slot] != QY_SLOT_NONE)
        slot = program->source[slot];
    return slot_cols(&program->arch, slot);
}

/* Arenas round every tensor up; a block has few, so this covers the rounding. */
static int64_t rounded(int64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

int64_t qy_program_activation_bytes(const qy_program_t *program, int64_t batch, int64_t length,
                                    int64_t element_bytes)
{
    const qy_arch_t *a = &program->arch;
    int64_t tokens = batch * length, sum = 0;
    for (int s = 0; s < QY_N_SLOTS; s++)
        if (program->used[s] && s != QY_SLOT_X && s != QY_SLOT_Y)
            sum += rounded(tokens * qy_program_cols(program, (qy_slot_t)s) * element_bytes);
    /* mean and rstd of every norm row, f32, and the attention's log-sum-exp */
    int64_t per_norm = a->norm_kind == QY_NORM_LAYER ? 2 : 1;
    for (int i = 0; i < program->n_rows; i++) {
        const qy_row_t *row = &program->row[i];
        if (row->kind == QY_ROW_NORM)
            sum += per_norm * rounded(tokens * 4);
        else if (row->kind == QY_ROW_HEAD_NORM)
            sum += rounded(tokens * 4 * (row->id == QY_NORM_Q ? a->n_heads : a->n_kv_heads));
        else if (row->kind == QY_ROW_ATTENTION)
            sum += rounded(tokens * 4 * a->n_heads);
    }
    return sum;
}

qy_slot_t qy_program_gradient_home(const qy_program_t *program, const bool *idle, qy_slot_t slot)
{
    for (int i = 0; i < program->n_rows; i++) {
        const qy_row_t *row = &program->row[i];
        bool in_place = row->kind == QY_ROW_ROPE || row->kind == QY_ROW_RELU ||
                        row->kind == QY_ROW_QUANTIZE ||
                        (row->kind == QY_ROW_MAP && idle && idle[row->out]);
        bool passes = row->kind == QY_ROW_ADD && (row->in == slot || row->in2 == slot);
        if (passes || (in_place && row->in == slot))
            return qy_program_gradient_home(program, idle, row->out);
    }
    return slot;
}

int64_t qy_program_gradient_bytes(const qy_program_t *program, int64_t batch, int64_t length,
                                  int64_t element_bytes)
{
    int64_t sum = 0;
    for (int s = 0; s < QY_N_SLOTS; s++)
        if (program->used[s] && s != QY_SLOT_Y &&
            qy_program_gradient_home(program, NULL, (qy_slot_t)s) == (qy_slot_t)s)
            sum += rounded(batch * length * qy_program_cols(program, (qy_slot_t)s) * element_bytes);
    return sum;
}
