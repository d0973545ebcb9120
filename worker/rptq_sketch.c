#include "worker/rptq_sketch.h"

#include <math.h>
#include <stdlib.h>

#include "base/half.h"
#include "model/clusters.h"

enum { TOKENS = 8192 };

qy_status_t qy_rptq_sketch_create(qy_rptq_sketch_t *out, const qy_arch_t *arch,
                                  const qy_quant_form_t *form, int64_t length, qy_error_t *err)
{
    int64_t clusters = 0, widest = 0;
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t n = qy_site_channels(arch, (qy_site_t)i);
        clusters += form->n_clusters[i];
        widest = n > widest ? n : widest;
    }
    size_t words = (size_t)(clusters * (QY_CLUSTER_BINS + 2) + widest * (2 * length + 3));
    *out = (qy_rptq_sketch_t){.memory = calloc(words, sizeof(float))};
    if (!out->memory)
        return qy_fail(err, QY_ERR_MEMORY, "rptq: %zu numbers of host memory", words);
    float *at = out->memory;
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t k = form->n_clusters[i];
        out->bins[i] = (uint32_t *)(void *)at;
        out->lo[i] = at + k * QY_CLUSTER_BINS;
        out->hi[i] = out->lo[i] + k;
        at = out->hi[i] + k;
    }
    out->values = at;
    out->half = (uint16_t *)(void *)(out->values + widest * length);
    out->channel = out->values + 2 * widest * length;
    out->group = (int32_t *)(void *)(out->channel + 2 * widest);
    return QY_OK;
}

void qy_rptq_sketch_free(qy_rptq_sketch_t *s)
{
    free(s->memory);
    *s = (qy_rptq_sketch_t){0};
}

void qy_rptq_sketch_bound(qy_rptq_sketch_t *s, const qy_qblock_t *q, float *const lo[QY_N_SITES],
                          float *const hi[QY_N_SITES])
{
    for (int i = 0; i < QY_N_SITES; i++) {
        const int32_t *order = q->site_order[i].data, *counts = q->site_counts[i].data;
        for (int64_t c = 0; c < qy_tensor_count(&q->site_counts[i]); order += counts[c++]) {
            s->lo[i][c] = INFINITY;
            s->hi[i][c] = -INFINITY;
            for (int32_t j = 0; j < counts[c]; j++) {
                s->lo[i][c] = fminf(s->lo[i][c], lo[i][order[j]]);
                s->hi[i][c] = fmaxf(s->hi[i][c], hi[i][order[j]]);
            }
        }
    }
}

bool qy_rptq_sketch_wants(int64_t i, int64_t n, int64_t length)
{
    int64_t wanted = (TOKENS + length - 1) / length;
    wanted = wanted < n ? wanted : n;
    return (i + 1) * wanted / n > i * wanted / n;
}

static qy_status_t fetch(qy_rptq_sketch_t *s, const qy_device_t *dev, const qy_tensor_t *x,
                         qy_error_t *err)
{
    int64_t n = qy_tensor_count(x);
    if (x->dtype == QY_F32)
        return qy_device_download(dev, s->values, x->data, qy_tensor_bytes(x), err);
    QY_TRY(qy_device_download(dev, s->half, x->data, qy_tensor_bytes(x), err));
    if (x->dtype == QY_F16)
        qy_f16_widen(s->values, s->half, n);
    else
        qy_bf16_widen(s->values, s->half, n);
    return QY_OK;
}

qy_status_t qy_rptq_sketch_add(qy_rptq_sketch_t *s, const qy_device_t *dev, const qy_tensor_t *x,
                               const qy_qblock_t *q, int site, qy_error_t *err)
{
    const int32_t *counts = q->site_counts[site].data;
    int64_t n = qy_tensor_count(&q->site_order[site]), m = qy_tensor_count(x) / n, at = 0;
    float *lo = s->channel, *per_width = s->channel + n;
    QY_TRY(fetch(s, dev, x, err));
    for (int64_t c = 0; c < qy_tensor_count(&q->site_counts[site]); c++)
        for (int32_t i = 0; i < counts[c]; i++, at++) {
            float range = s->hi[site][c] - s->lo[site][c];
            lo[at] = s->lo[site][c];
            per_width[at] = range > 0 ? QY_CLUSTER_BINS / range : 0.0f;
            s->group[at] = (int32_t)c;
        }
    for (int64_t row = 0; row < m; row++)
        for (int64_t i = 0; i < n; i++) {
            float bin = (s->values[row * n + i] - lo[i]) * per_width[i];
            int place = bin >= QY_CLUSTER_BINS ? QY_CLUSTER_BINS - 1 : bin > 0 ? (int)bin : 0;
            s->bins[site][(int64_t)s->group[i] * QY_CLUSTER_BINS + place]++;
        }
    return QY_OK;
}
