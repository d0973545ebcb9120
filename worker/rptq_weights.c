#include "worker/rptq_weights.h"

#include <math.h>
#include <stdlib.h>

#include "base/half.h"
#include "base/pack.h"
#include "base/quant_rule.h"
#include "kernels/fill.h"
#include "model/clusters.h"

qy_status_t qy_rptq_weights_create(qy_rptq_weights_t *out, const qy_arch_t *arch,
                                   const qy_quant_form_t *form, qy_error_t *err)
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
    *out = (qy_rptq_weights_t){.weight =
                                   calloc((size_t)(weights + 2 * steps + columns), sizeof(float))};
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

/* The published steps of each row and cluster, as the finished model has them. */
static void published_steps(const qy_rptq_weights_t *h, const qy_tensor_t *weight,
                            const qy_qblock_t *q, qy_site_t site)
{
    const int32_t *counts = q->site_counts[site].data;
    int64_t k = qy_tensor_count(&q->site_counts[site]), cols = qy_tensor_cols(weight);
    for (int64_t row = 0; row < qy_tensor_rows(weight); row++) {
        const float *x = (const float *)weight->data + row * cols;
        for (int64_t c = 0; c < k; x += counts[c++]) {
            float lo = counts[c] ? x[0] : 0.0f, hi = lo, *s = &h->s[row * k + c];
            for (int32_t i = 0; i < counts[c]; i++) {
                lo = x[i] < lo ? x[i] : lo;
                hi = x[i] > hi ? x[i] : hi;
            }
            qy_cluster_step(s, &h->z[row * k + c], lo, hi, q->form.bits, true);
            *s = qy_round_f16(*s);
        }
    }
}

qy_status_t qy_rptq_weights_load(qy_rptq_weights_t *h, const qy_device_t *dev,
                                 const qy_quant_vars_t *v, const qy_tensor_t *weight,
                                 const qy_qblock_t *q, int linear, bool published, qy_error_t *err)
{
    qy_tensor_t s = v->s, z = v->z;
    QY_TRY(qy_device_upload(dev, v->w.data, weight->data, qy_tensor_bytes(&v->w), err));
    if (published) {
        published_steps(h, weight, q, qy_linear_site(linear));
        QY_TRY(qy_device_upload(dev, s.data, h->s, qy_tensor_bytes(&s), err));
        QY_TRY(qy_device_upload(dev, z.data, h->z, qy_tensor_bytes(&z), err));
    } else {
        QY_TRY(qy_fill(dev, &s, 1.0f, err));
        QY_TRY(qy_fill(dev, &z, 0.0f, err));
    }
    return qy_device_wait(dev, err);
}

qy_status_t qy_rptq_weights_freeze(qy_rptq_weights_t *h, const qy_device_t *dev,
                                   const qy_quant_vars_t *v, const int32_t *group, qy_qblock_t *q,
                                   int linear, qy_error_t *err)
{
    int64_t rows = qy_tensor_rows(&v->w), cols = qy_tensor_cols(&v->w), k = qy_tensor_cols(&v->s);
    int64_t words = qy_pack_words(cols, q->form.bits);
    float q_max = qy_quant_max(q->form.bits);
    QY_TRY(qy_device_download(dev, h->weight, v->w.data, qy_tensor_bytes(&v->w), err));
    QY_TRY(qy_device_download(dev, h->s, v->s.data, qy_tensor_bytes(&v->s), err));
    QY_TRY(qy_device_download(dev, h->z, v->z.data, qy_tensor_bytes(&v->z), err));
    for (int64_t row = 0; row < rows; row++) {
        const float *w = h->weight + row * cols, *s = h->s + row * k, *z = h->z + row * k;
        for (int64_t i = 0; i < cols; i++) {
            if (!isfinite(w[i]))
                return qy_fail(err, QY_ERR_NUMERIC, "weight (%lld, %lld) is %g", (long long)row,
                               (long long)i, (double)w[i]);
            h->codes[i] = (uint8_t)qy_code(w[i], s[group[i]], z[group[i]], q_max);
        }
        qy_pack((uint32_t *)q->codes[linear].data + row * words, h->codes, cols, q->form.bits);
    }
    for (int64_t i = 0; i < rows * k; i++) {
        ((uint16_t *)q->scales[linear].data)[i] = qy_f32_to_f16(h->s[i]);
        ((int32_t *)q->zeros[linear].data)[i] = (int32_t)h->z[i];
    }
    return QY_OK;
}
