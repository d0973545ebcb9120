#include "worker/rptq_weights.h"

#include <math.h>
#include <stdlib.h>

#include "base/half.h"
#include "base/pack.h"
#include "base/quant_rule.h"
#include "kernels/fill.h"
#include "model/clusters.h"

qy_status_t qy_rptq_weights_create(qy_rptq_weights_t *out, const qy_arch_t *arch,
                                   const qy_quant_form_t *form, int threads, qy_error_t *err)
{
    int64_t weights = 0, steps = 0, columns = 0;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        if (!d->present)
            continue;
        int64_t n_steps = d->out * qy_quant_linear_groups(form, arch, i), n = d->out * d->in;
        weights = n > weights ? n : weights;
        steps = n_steps > steps ? n_steps : steps;
        columns = d->in > columns ? d->in : columns;
    }
    size_t bytes = (size_t)(weights + 2 * steps) * sizeof(float) + (size_t)(threads * columns);
    *out = (qy_rptq_weights_t){.weight = malloc(bytes)};
    if (!out->weight)
        return qy_fail(err, QY_ERR_MEMORY, "rptq: no host memory for %lld weights",
                       (long long)weights);
    out->s = out->weight + weights;
    out->z = out->s + steps;
    out->codes = (uint8_t *)(out->z + steps);
    return QY_OK;
}

void qy_rptq_weights_destroy(qy_rptq_weights_t *h)
{
    free(h->weight);
    *h = (qy_rptq_weights_t){0};
}

/* The published steps of a row's clusters, as the finished model has them. */
static void published_row(float *s, float *z, const float *x, const int32_t *counts, int64_t k,
                          int bits)
{
    for (int64_t c = 0; c < k; x += counts[c++]) {
        float lo = counts[c] ? x[0] : 0.0f, hi = lo;
        for (int32_t i = 0; i < counts[c]; i++) {
            lo = x[i] < lo ? x[i] : lo;
            hi = x[i] > hi ? x[i] : hi;
        }
        qy_cluster_step(&s[c], &z[c], lo, hi, bits, true);
        s[c] = qy_round_f16(s[c]);
    }
}

static void published_steps(const qy_rptq_weights_t *h, const qy_tensor_t *weight,
                            const qy_qblock_t *q, qy_site_t site, int threads)
{
    const int32_t *counts = q->site_counts[site].data;
    int64_t k = qy_tensor_count(&q->site_counts[site]), cols = qy_tensor_cols(weight);
    int64_t rows = qy_tensor_rows(weight);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        published_row(h->s + row * k, h->z + row * k, (const float *)weight->data + row * cols,
                      counts, k, q->form.bits);
}

qy_status_t qy_rptq_weights_load(qy_rptq_weights_t *h, const qy_device_t *dev,
                                 const qy_quant_vars_t *v, const qy_tensor_t *weight,
                                 const qy_qblock_t *q, int linear, bool published, qy_error_t *err)
{
    qy_tensor_t s = v->s, z = v->z;
    QY_TRY(qy_device_upload(dev, v->w.data, weight->data, qy_tensor_bytes(&v->w), err));
    if (published) {
        published_steps(h, weight, q, qy_linear_site(linear), dev->threads);
        QY_TRY(qy_device_upload(dev, s.data, h->s, qy_tensor_bytes(&s), err));
        QY_TRY(qy_device_upload(dev, z.data, h->z, qy_tensor_bytes(&z), err));
    } else {
        QY_TRY(qy_fill(dev, &s, 1.0f, err));
        QY_TRY(qy_fill(dev, &z, 0.0f, err));
    }
    return qy_device_wait(dev, err);
}

/* A row's codes by way of room for them; the first column whose weight is not finite, or −1. */
static int64_t freeze_row(const qy_rptq_weights_t *h, const qy_quant_vars_t *v,
                          const int32_t *group, qy_qblock_t *q, int linear, int64_t row,
                          uint8_t *codes)
{
    int64_t cols = qy_tensor_cols(&v->w), k = qy_tensor_cols(&v->s);
    const float *w = h->weight + row * cols, *s = h->s + row * k, *z = h->z + row * k;
    int bits = q->form.bits;
    float q_max = qy_quant_max(bits);
    for (int64_t i = 0; i < cols; i++) {
        if (!isfinite(w[i]))
            return i;
        codes[i] = (uint8_t)qy_code(w[i], s[group[i]], z[group[i]], q_max);
    }
    qy_pack((uint32_t *)q->codes[linear].data + row * qy_pack_words(cols, bits), codes, cols, bits);
    for (int64_t c = 0; c < k; c++) {
        ((uint16_t *)q->scales[linear].data)[row * k + c] = qy_f32_to_f16(s[c]);
        ((int32_t *)q->zeros[linear].data)[row * k + c] = (int32_t)z[c];
    }
    return -1;
}

qy_status_t qy_rptq_weights_freeze(qy_rptq_weights_t *h, const qy_device_t *dev,
                                   const qy_quant_vars_t *v, const int32_t *group, qy_qblock_t *q,
                                   int linear, qy_error_t *err)
{
    int64_t rows = qy_tensor_rows(&v->w), cols = qy_tensor_cols(&v->w), bands = dev->threads;
    bool finite = true;
    QY_TRY(qy_device_download(dev, h->weight, v->w.data, qy_tensor_bytes(&v->w), err));
    QY_TRY(qy_device_download(dev, h->s, v->s.data, qy_tensor_bytes(&v->s), err));
    QY_TRY(qy_device_download(dev, h->z, v->z.data, qy_tensor_bytes(&v->z), err));
#pragma omp parallel for num_threads(dev->threads) reduction(&& : finite) if (bands > 1)
    for (int64_t b = 0; b < bands; b++)
        for (int64_t row = rows * b / bands; row < rows * (b + 1) / bands; row++)
            finite = freeze_row(h, v, group, q, linear, row, h->codes + b * cols) < 0 && finite;
    for (int64_t row = 0; row < rows && !finite; row++) {
        int64_t bad = freeze_row(h, v, group, q, linear, row, h->codes);
        if (bad >= 0)
            return qy_fail(err, QY_ERR_NUMERIC, "weight (%lld, %lld) is %g", (long long)row,
                           (long long)bad, (double)h->weight[row * cols + bad]);
    }
    return QY_OK;
}
