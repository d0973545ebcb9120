#include "worker/decorate.h"

#include <stdlib.h>

#include "model/reorder.h"

enum { PROBABILITY_LEVELS = 255 };

void qy_decorate_plain(qy_block_params_t *params)
{
    for (int i = 0; i < QY_N_SITES; i++) {
        params->map[i].active = false;
        params->quantizer[i].kind = QY_ACT_NONE;
    }
    params->probability_levels = 0;
}

void qy_decorate_quantizers(qy_block_params_t *params, const qy_quant_form_t *form)
{
    for (int i = 0; i < QY_N_SITES; i++) {
        int bits = qy_quant_site_bits(form, (qy_site_t)i);
        params->quantizer[i].kind = bits == QY_BITS_NONE ? QY_ACT_NONE : QY_ACT_PER_ROW;
        params->quantizer[i].bits = bits;
    }
}

/* Places that are not just their own column, of kernels/activation.h; returns how many. */
static int64_t find_special(int32_t *special, const int32_t *offsets, const int32_t *items,
                            const float *weights, size_t n)
{
    int64_t n_special = 0;
    for (size_t j = 0; j < n; j++) {
        int32_t k = offsets[j];
        if (offsets[j + 1] != k + 1 || items[k] != (int32_t)j || weights[k] != 1.0f)
            special[n_special++] = (int32_t)j;
    }
    return n_special;
}

static qy_status_t send(const qy_device_t *dev, const qy_tensor_t *to, const void *from, int64_t n,
                        qy_error_t *err)
{
    return qy_device_upload(dev, to->data, from, (size_t)n * sizeof(float), err);
}

/* order as a plan of column_mix: place j holds channel order[j], and back. */
static qy_status_t set_order(qy_channel_map_t *map, const qy_device_t *dev,
                             const qy_tensor_t *order, qy_error_t *err)
{
    int64_t n = qy_tensor_count(order);
    const int32_t *from = order->data;
    int32_t *offsets = malloc((size_t)(4 * n + 1) * sizeof *offsets), *back = offsets + n + 1;
    int32_t *special = back + n;
    float *weights = malloc((size_t)n * sizeof *weights);
    qy_status_t status =
        offsets && weights ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "channel map: out of host memory");
    for (int64_t i = 0; i <= n && status == QY_OK; i++) {
        offsets[i] = (int32_t)i;
        if (i == n)
            break;
        weights[i] = 1.0f;
        back[from[i]] = (int32_t)i;
    }
    if (status == QY_OK) {
        map->n_special = find_special(special, offsets, from, weights, (size_t)n);
        map->n_back_special = find_special(special + n, offsets, back, weights, (size_t)n);
    }
    const struct {
        const qy_tensor_t *to;
        const void *from;
        int64_t n;
    } parts[] = {{&map->offsets, offsets, n + 1}, {&map->back_offsets, offsets, n + 1},
                 {&map->items, from, n},          {&map->back_items, back, n},
                 {&map->weights, weights, n},     {&map->back_weights, weights, n},
                 {&map->special, special, n},     {&map->back_special, special + n, n}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts && status == QY_OK; i++)
        status = send(dev, parts[i].to, parts[i].from, parts[i].n, err);
    if (status == QY_OK)
        status = qy_device_wait(dev, err);
    map->active = status == QY_OK;
    free(offsets);
    free(weights);
    return status;
}

qy_status_t qy_decorate_orders(qy_block_params_t *params, const qy_device_t *dev,
                               const qy_arch_t *arch, const qy_qblock_t *q, qy_error_t *err)
{
    bool quantized = qy_quant_site_bits(&q->form, QY_SITE_Q) != QY_BITS_NONE;
    params->probability_levels = quantized ? PROBABILITY_LEVELS : 0;
    for (int i = 0; i < QY_N_SITES; i++) {
        params->map[i].active = false;
        if (qy_reorder_is_map(arch, (qy_site_t)i))
            QY_TRY(set_order(&params->map[i], dev, &q->site_order[i], err));
    }
    return QY_OK;
}

static qy_status_t set_clusters(qy_site_quantizer_t *quantizer, const qy_device_t *dev,
                                const qy_qblock_t *q, int site, qy_error_t *err)
{
    const int32_t *counts = q->site_counts[site].data, *zeros = q->site_zeros[site].data;
    const float *scales = q->site_scales[site].data;
    int64_t n = qy_tensor_count(&q->site_order[site]), at = 0;
    float *s = malloc((size_t)n * 2 * sizeof *s), *z = s + n;
    if (!s)
        return qy_fail(err, QY_ERR_MEMORY, "clusters: out of host memory");
    for (int64_t c = 0; c < qy_tensor_count(&q->site_counts[site]); c++)
        for (int32_t i = 0; i < counts[c]; i++, at++) {
            s[at] = scales[c];
            z[at] = (float)zeros[c];
        }
    qy_status_t status = send(dev, &quantizer->s, s, n, err);
    if (status == QY_OK)
        status = send(dev, &quantizer->z, z, n, err);
    if (status == QY_OK)
        status = qy_device_wait(dev, err);
    free(s);
    return status;
}

qy_status_t qy_decorate_clusters(qy_block_params_t *params, const qy_device_t *dev,
                                 const qy_qblock_t *q, qy_error_t *err)
{
    for (int i = 0; i < QY_N_SITES; i++) {
        int bits = qy_quant_site_bits(&q->form, (qy_site_t)i);
        params->quantizer[i].kind = QY_ACT_NONE;
        if (bits == QY_BITS_NONE)
            continue;
        QY_TRY(set_clusters(&params->quantizer[i], dev, q, i, err));
        params->quantizer[i].kind = QY_ACT_STATIC;
        params->quantizer[i].bits = bits;
    }
    return QY_OK;
}

qy_status_t qy_decorate_map(qy_channel_map_t *map, const qy_device_t *dev, const int32_t *offsets,
                            const int32_t *items, int64_t channels, qy_error_t *err)
{
    size_t n = (size_t)channels, words = QY_MAP_ITEMS * n;
    map->active = !qy_channels_is_identity(offsets, items, channels);
    if (!map->active)
        return QY_OK;
    int32_t *back_offsets = malloc((3 * n + 1 + words) * sizeof *back_offsets);
    float *weights = malloc(2 * words * sizeof *weights);
    qy_status_t status = back_offsets && weights
                             ? QY_OK
                             : qy_fail(err, QY_ERR_MEMORY, "channel map: out of host memory");
    if (status == QY_OK) {
        int32_t *back_items = back_offsets + n + 1, *special = back_items + words;
        float *back_weights = weights + words;
        qy_channels_weights(weights, back_offsets, back_items, back_weights, offsets, items,
                            channels);
        map->n_special = find_special(special, offsets, items, weights, n);
        map->n_back_special = find_special(special + n, back_offsets, back_items, back_weights, n);
        const struct {
            const qy_tensor_t *to;
            const void *from;
        } parts[] = {{&map->offsets, offsets},       {&map->items, items},
                     {&map->weights, weights},       {&map->back_offsets, back_offsets},
                     {&map->back_items, back_items}, {&map->back_weights, back_weights},
                     {&map->special, special},       {&map->back_special, special + n}};
        for (size_t i = 0; i < sizeof parts / sizeof *parts && status == QY_OK; i++)
            status = qy_device_upload(dev, parts[i].to->data, parts[i].from,
                                      qy_tensor_bytes(parts[i].to), err);
    }
    if (status == QY_OK)
        status = qy_device_wait(dev, err);
    free(back_offsets);
    free(weights);
    return status;
}

qy_status_t qy_decorate_maps(qy_block_params_t *params, const qy_device_t *dev,
                             const qy_qblock_t *q, qy_error_t *err)
{
    for (int i = 0; i < QY_N_SITES; i++) {
        params->map[i].active = false;
        if (q->map_offsets[i].data)
            QY_TRY(qy_decorate_map(&params->map[i], dev, q->map_offsets[i].data,
                                   q->map_items[i].data, qy_tensor_count(&q->map_offsets[i]) - 1,
                                   err));
    }
    return QY_OK;
}
