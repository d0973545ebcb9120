/* What a block takes of memory and what is loaded into it; block_pass.c runs it. */
#include "worker/block.h"

#include <stdlib.h>

#include "kernels/fill.h"

static qy_status_t load_rope(qy_block_t *block, int64_t length, qy_error_t *err)
{
    size_t bytes = qy_tensor_bytes(&block->cosine);
    float *tables = malloc(2 * bytes);
    if (!tables)
        return qy_fail(err, QY_ERR_MEMORY, "rope tables: %zu bytes of host memory", 2 * bytes);
    float *sine = tables + bytes / sizeof *tables;
    qy_arch_rope_tables(&block->program.arch, length, tables, sine);
    qy_status_t status = qy_device_upload(block->dev, block->cosine.data, tables, bytes, err);
    if (status == QY_OK)
        status = qy_device_upload(block->dev, block->sine.data, sine, bytes, err);
    if (status == QY_OK)
        status = qy_device_wait(block->dev, err);
    free(tables);
    return status;
}

qy_status_t qy_block_init(qy_block_t *block, const qy_device_t *dev, const qy_arch_t *arch,
                          const qy_decoration_t *decoration, int64_t max_length, qy_arena_t *arena,
                          qy_error_t *err)
{
    *block = (qy_block_t){.dev = dev, .fused = dev->fuses};
    qy_program_build(&block->program, arch, decoration);
    if (arch->rope_kind == QY_ROPE_NONE)
        return QY_OK;
    QY_TRY(qy_arena_2d(arena, &block->cosine, QY_F32, max_length, arch->head_dim / 2, err));
    QY_TRY(qy_arena_2d(arena, &block->sine, QY_F32, max_length, arch->head_dim / 2, err));
    return arena->base ? load_rope(block, max_length, err) : QY_OK;
}

qy_status_t qy_block_map_take(qy_channel_map_t *map, int64_t channels, qy_arena_t *arena,
                              qy_error_t *err)
{
    QY_TRY(qy_arena_1d(arena, &map->offsets, QY_I32, channels + 1, err));
    QY_TRY(qy_arena_1d(arena, &map->items, QY_I32, QY_MAP_ITEMS * channels, err));
    QY_TRY(qy_arena_1d(arena, &map->weights, QY_F32, QY_MAP_ITEMS * channels, err));
    QY_TRY(qy_arena_1d(arena, &map->back_offsets, QY_I32, channels + 1, err));
    QY_TRY(qy_arena_1d(arena, &map->back_items, QY_I32, QY_MAP_ITEMS * channels, err));
    QY_TRY(qy_arena_1d(arena, &map->back_weights, QY_F32, QY_MAP_ITEMS * channels, err));
    QY_TRY(qy_arena_1d(arena, &map->special, QY_I32, channels, err));
    return qy_arena_1d(arena, &map->back_special, QY_I32, channels, err);
}

void qy_block_map_plans(const qy_channel_map_t *map, qy_column_plan_t *plan, qy_column_plan_t *back)
{
    *plan = (qy_column_plan_t){&map->special, &map->offsets, &map->items, &map->weights,
                               map->n_special};
    *back = (qy_column_plan_t){&map->back_special, &map->back_offsets, &map->back_items,
                               &map->back_weights, map->n_back_special};
}

qy_status_t qy_block_sites_take(qy_block_params_t *params, const qy_block_t *block,
                                qy_arena_t *arena, qy_error_t *err)
{
    for (int i = 0; i < QY_N_SITES; i++) {
        qy_slot_t mapped = (qy_slot_t)((int)QY_SLOT_MAPPED + i);
        qy_slot_t quantized = (qy_slot_t)((int)QY_SLOT_QUANTIZED + i);
        int64_t channels =
            qy_program_cols(&block->program, block->program.used[mapped] ? mapped : quantized);
        if (block->program.used[mapped])
            QY_TRY(qy_block_map_take(&params->map[i], channels, arena, err));
        if (!block->program.used[quantized])
            continue;
        QY_TRY(qy_arena_1d(arena, &params->quantizer[i].s, QY_F32, channels, err));
        QY_TRY(qy_arena_1d(arena, &params->quantizer[i].z, QY_F32, channels, err));
    }
    return QY_OK;
}

qy_status_t qy_block_params_take(qy_block_params_t *params, const qy_block_t *block,
                                 qy_arena_t *arena, qy_error_t *err)
{
    const qy_arch_t *a = &block->program.arch;
    *params = (qy_block_params_t){0};
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &a->linear[i];
        if (d->present)
            QY_TRY(qy_arena_2d(arena, &params->w[i], block->dev->compute, d->out, d->in, err));
        if (d->present && d->bias)
            QY_TRY(qy_arena_1d(arena, &params->bias[i], block->dev->compute, d->out, err));
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        const qy_norm_desc_t *d = &a->norm[i];
        if (d->present)
            QY_TRY(qy_arena_1d(arena, &params->norm[i], QY_F32, d->size, err));
        if (d->present && d->bias)
            QY_TRY(qy_arena_1d(arena, &params->norm_bias[i], QY_F32, d->size, err));
    }
    return qy_block_sites_take(params, block, arena, err);
}

/* Host f32 into dst of any float type, by way of a staging tensor of f32. */
static qy_status_t load_one(const qy_device_t *dev, const qy_tensor_t *dst, const qy_tensor_t *src,
                            const qy_tensor_t *staging, qy_error_t *err)
{
    if (!dst->data)
        return QY_OK;
    if (dst->dtype == QY_F32)
        return qy_device_upload(dev, dst->data, src->data, qy_tensor_bytes(src), err);
    qy_tensor_t f32 = qy_tensor_view(staging->data, QY_F32, src->n_dims, src->shape), out = *dst;
    QY_TRY(qy_device_upload(dev, f32.data, src->data, qy_tensor_bytes(src), err));
    return qy_convert(dev, &out, &f32, err);
}

qy_status_t qy_block_params_load(const qy_block_params_t *params, const qy_block_t *block,
                                 const qy_block_weights_t *weights, const qy_tensor_t *staging,
                                 int linears, qy_error_t *err)
{
    const qy_device_t *dev = block->dev;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (linears)
            QY_TRY(load_one(dev, &params->w[i], &weights->linear[i], staging, err));
        QY_TRY(load_one(dev, &params->bias[i], &weights->bias[i], staging, err));
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        QY_TRY(load_one(dev, &params->norm[i], &weights->norm[i], staging, err));
        QY_TRY(load_one(dev, &params->norm_bias[i], &weights->norm_bias[i], staging, err));
    }
    return qy_device_wait(dev, err); /* the caller may free weights now */
}

qy_status_t qy_block_acts_take(qy_block_acts_t *acts, const qy_block_t *block, int64_t batch,
                               int64_t length, qy_arena_t *arena, qy_error_t *err)
{
    const qy_program_t *p = &block->program;
    const qy_arch_t *a = &p->arch;
    int64_t tokens = batch * length;
    *acts = (qy_block_acts_t){.batch = batch, .length = length};
    for (int s = 0; s < QY_N_SLOTS; s++)
        if (p->used[s] && s != QY_SLOT_X && s != QY_SLOT_Y)
            QY_TRY(qy_arena_2d(arena, &acts->slot[s], block->dev->compute, tokens,
                               qy_program_cols(p, (qy_slot_t)s), err));
    for (int i = 0; i < p->n_rows; i++) {
        const qy_row_t *row = &p->row[i];
        if (row->kind == QY_ROW_NORM) {
            QY_TRY(qy_arena_1d(arena, &acts->rstd[row->id], QY_F32, tokens, err));
            if (a->norm_kind == QY_NORM_LAYER)
                QY_TRY(qy_arena_1d(arena, &acts->mean[row->id], QY_F32, tokens, err));
        } else if (row->kind == QY_ROW_HEAD_NORM) {
            int64_t heads = row->id == QY_NORM_Q ? a->n_heads : a->n_kv_heads;
            QY_TRY(qy_arena_1d(arena, &acts->rstd[row->id], QY_F32, tokens * heads, err));
        }
    }
    return qy_arena_tensor(arena, &acts->lse, QY_F32, 3, (int64_t[]){batch, a->n_heads, length},
                           err);
}

qy_block_acts_t qy_block_acts_reshape(const qy_block_acts_t *acts, int64_t batch, int64_t length)
{
    qy_block_acts_t out = *acts;
    int64_t old = acts->batch * acts->length, tokens = batch * length;
    out.batch = batch;
    out.length = length;
    for (int s = 0; s < QY_N_SLOTS; s++)
        if (acts->slot[s].data)
            out.slot[s].shape[0] = acts->slot[s].shape[0] / old * tokens;
    for (int i = 0; i < QY_N_NORMS; i++) {
        out.mean[i].shape[0] = acts->mean[i].shape[0] / old * tokens;
        out.rstd[i].shape[0] = acts->rstd[i].shape[0] / old * tokens;
    }
    out.lse.shape[0] = batch;
    out.lse.shape[2] = length;
    return out;
}

qy_block_acts_t qy_block_acts_narrow(const qy_block_acts_t *acts, int64_t batch)
{
    return qy_block_acts_reshape(acts, batch, acts->length);
}

qy_status_t qy_block_grads_take(qy_block_grads_t *grads, const qy_block_t *block, int64_t batch,
                                int64_t length, qy_arena_t *arena, qy_error_t *err)
{
    const qy_program_t *p = &block->program;
    for (int s = 0; s < QY_N_SLOTS; s++)
        if (p->used[s] && s != QY_SLOT_Y &&
            qy_program_gradient_home(p, NULL, (qy_slot_t)s) == (qy_slot_t)s)
            QY_TRY(qy_arena_2d(arena, &grads->slot[s], block->dev->compute, batch * length,
                               qy_program_cols(p, (qy_slot_t)s), err));
    return QY_OK;
}
