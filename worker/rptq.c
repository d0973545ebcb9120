#include "worker/rptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/pack.h"
#include "base/quant_rule.h"
#include "jobs/finished.h"
#include "kernels/columns.h"
#include "kernels/fill.h"
#include "model/clusters.h"
#include "model/reorder.h"
#include "worker/decorate.h"
#include "worker/rptq_orders.h"
#include "worker/rptq_sketch.h"

/* The official code's buffer holds 128 samples, of which it fills 126. */
enum { ZERO_SAMPLES = 2 };

qy_status_t qy_rptq_take(qy_rptq_t *r, const qy_plan_t *plan, qy_block_ap_t *vars,
                         qy_arena_t *arena, qy_error_t *err)
{
    const qy_arch_t *arch = &vars->f->block.program.arch;
    int64_t sum = 0, at = 0;
    *r = (qy_rptq_t){.plan = plan, .vars = vars};
    QY_TRY(qy_gptq_take(&r->gptq, plan, vars, arena, err));
    for (int i = 0; i < QY_N_SITES; i++)
        sum += 2 * qy_site_channels(arch, (qy_site_t)i);
    QY_TRY(qy_arena_1d(arena, &r->range, QY_F32, sum, err));
    for (int i = 0; i < QY_N_SITES && arena->base; i++) {
        int64_t n = qy_site_channels(arch, (qy_site_t)i);
        float *memory = (float *)r->range.data + at;
        r->lo[i] = qy_tensor_1d(memory, QY_F32, n);
        r->hi[i] = qy_tensor_1d(memory + n, QY_F32, n);
        at += 2 * n;
    }
    r->zero_block = -1;
    r->gptq.given_steps = plan->spec.rptq.compat;
    return plan->spec.rptq.compat ? qy_arena_2d(arena, &r->zero, vars->f->dev->compute,
                                                vars->f->length, arch->hidden, err)
                                  : QY_OK;
}

/* The block in f->params on the all-zero sample; the outcome is in f->y. */
static qy_status_t run_zero(const qy_rptq_t *r, qy_block_acts_t *acts, qy_tensor_t *y,
                            qy_error_t *err)
{
    qy_forward_t *f = r->vars->f;
    *acts = qy_block_acts_narrow(&f->acts, 1);
    *y = qy_tensor_slice(&f->y, 0, f->length);
    return qy_block_forward(&f->block, &f->params, acts, &r->zero, y, err);
}

static qy_status_t pass_zero(qy_rptq_t *r, int64_t block, qy_error_t *err)
{
    qy_forward_t *f = r->vars->f;
    qy_qblock_t q;
    qy_block_acts_t acts;
    qy_tensor_t y;
    QY_TRY(qy_finished_read(r->plan, block, &q, err));
    qy_status_t status = qy_forward_load_quantized(f, &q, err);
    if (status == QY_OK)
        status = run_zero(r, &acts, &y, err);
    if (status == QY_OK)
        status = qy_device_copy(f->dev, r->zero.data, y.data, qy_tensor_bytes(&y), err);
    qy_qblock_free(&q);
    return status;
}

qy_status_t qy_rptq_bring(qy_rptq_t *r, int64_t first, int64_t block, qy_error_t *err)
{
    if (!r->zero.data)
        return QY_OK;
    if (r->zero_block < 0) {
        QY_TRY(qy_fill(r->vars->f->dev, &r->zero, 0.0f, err));
        r->zero_block = first;
    }
    for (; r->zero_block < block; r->zero_block++)
        QY_TRY(pass_zero(r, r->zero_block, err));
    return QY_OK;
}

/* --- a block at work ---------------------------------------------------------------------------
 */

/* Host memory of one block. */
typedef struct {
    float *range;          /* as r->range */
    float *lo[QY_N_SITES]; /* (C) in it */
    float *hi[QY_N_SITES];
    float *mean_lo[QY_N_SITES], *mean_hi[QY_N_SITES]; /* (K): averages of the clusters */
    float *weight, *s, *z;      /* the largest layer, its steps, zero points */
    int32_t *group[QY_N_SITES]; /* (C): cluster of each place */
    qy_rptq_sketch_t sketch;    /* not with compat */
    void *memory;
} host_t;

static int64_t most_weights(const qy_arch_t *arch)
{
    int64_t most = 0;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (arch->linear[i].present && arch->linear[i].out * arch->linear[i].in > most)
            most = arch->linear[i].out * arch->linear[i].in;
    return most;
}

static int64_t most_steps(const qy_arch_t *arch, const qy_quant_form_t *form)
{
    int64_t most = 0;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        int64_t n = arch->linear[i].out * qy_quant_linear_groups(form, arch, i);
        if (arch->linear[i].present && n > most)
            most = n;
    }
    return most;
}

static void *take(char **at, int64_t n)
{
    void *out = *at;
    *at += (size_t)n * sizeof(float);
    return out;
}

static qy_status_t host_create(host_t *h, const qy_arch_t *arch, const qy_quant_form_t *form,
                               qy_error_t *err)
{
    int64_t channels = 0, clusters = 0;
    int64_t weights = most_weights(arch), steps = most_steps(arch, form);
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t n = qy_site_channels(arch, (qy_site_t)i);
        channels += n;
        clusters += form->n_clusters[i];
    }
    *h = (host_t){.memory = calloc((size_t)(3 * channels + 2 * clusters + weights + 2 * steps),
                                   sizeof(float))};
    if (!h->memory)
        return qy_fail(err, QY_ERR_MEMORY, "rptq: out of host memory");
    char *at = h->memory;
    h->range = take(&at, 2 * channels);
    float *range = h->range;
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t n = qy_site_channels(arch, (qy_site_t)i);
        h->lo[i] = range;
        h->hi[i] = range + n;
        range += 2 * n;
        h->group[i] = take(&at, n);
        h->mean_lo[i] = take(&at, form->n_clusters[i]);
        h->mean_hi[i] = take(&at, form->n_clusters[i]);
    }
    h->weight = take(&at, weights);
    h->s = take(&at, steps);
    h->z = take(&at, steps);
    return QY_OK;
}

/* What a pass over the samples is for. */
typedef struct {
    int64_t block;
    const qy_hooks_t *hooks;
    const qy_qblock_t *q;
    host_t *host;
    bool ordered; /* the second pass: averages of each sample's ranges, and second moments */
    double began, last;
} pass_t;

/* The activation at a site as its readers see it. */
static qy_slot_t site_slot(const qy_program_t *program, qy_site_t site)
{
    for (int i = 0; i < program->n_rows; i++) {
        const qy_row_t *row = &program->row[i];
        if (row->kind == QY_ROW_ATTENTION && site == QY_SITE_Q)
            return row->in;
        if (row->kind == QY_ROW_ATTENTION && site == QY_SITE_K)
            return row->in2;
        if (row->kind == QY_ROW_ATTENTION && site == QY_SITE_V)
            return row->in3;
        if (row->kind == QY_ROW_LINEAR && site < QY_SITE_Q && qy_linear_site(row->id) == site)
            return row->in;
    }
    return QY_SLOT_NONE;
}

static int32_t *order_of(const qy_qblock_t *q, int site)
{
    return q->site_order[site].data;
}

static int32_t *counts_of(const qy_qblock_t *q, int site)
{
    return q->site_counts[site].data;
}

/* By default steps of few codes are those of least error; at 8 bits the range is what counts. */
static bool is_fitted(const qy_quant_form_t *form, int site)
{
    return qy_quant_site_bits(form, (qy_site_t)site) < 8;
}

static qy_status_t find_ranges(qy_rptq_t *r, const qy_block_acts_t *acts, int64_t first, int64_t n,
                               int accumulate, qy_error_t *err)
{
    const qy_forward_t *f = r->vars->f;
    for (int i = 0; i < QY_N_SITES; i++) {
        qy_slot_t slot = site_slot(&f->block.program, (qy_site_t)i);
        const qy_tensor_t *all = qy_block_value(&f->block, &f->params, acts, slot);
        qy_tensor_t x = qy_tensor_slice(all, first * f->length, n * f->length);
        QY_TRY(qy_column_range(f->dev, &r->lo[i], &r->hi[i], &x, accumulate, err));
    }
    return QY_OK;
}

static qy_status_t fetch_ranges(qy_rptq_t *r, host_t *host, qy_error_t *err)
{
    return qy_device_download(r->vars->f->dev, host->range, r->range.data,
                              qy_tensor_bytes(&r->range), err);
}

/* Clusters that stand side by side: the group of each place, for the layers that read it. */
static void set_groups(host_t *h, const qy_qblock_t *q)
{
    for (int i = 0; i < QY_N_SITES; i++)
        for (int64_t c = 0, at = 0; c < qy_tensor_count(&q->site_counts[i]); c++)
            for (int32_t j = 0; j < counts_of(q, i)[c]; j++)
                h->group[i][at++] = (int32_t)c;
}

static qy_status_t sketch(qy_rptq_t *r, const qy_block_acts_t *acts, int64_t sample, pass_t *pass,
                          qy_error_t *err)
{
    const qy_forward_t *f = r->vars->f;
    for (int i = 0; i < QY_N_SITES; i++) {
        qy_slot_t slot = site_slot(&f->block.program, (qy_site_t)i);
        const qy_tensor_t *all = qy_block_value(&f->block, &f->params, acts, slot);
        qy_tensor_t x = qy_tensor_slice(all, sample * f->length, f->length);
        if (is_fitted(&pass->q->form, i))
            QY_TRY(qy_rptq_sketch_add(&pass->host->sketch, f->dev, &x, pass->q, i, err));
    }
    return QY_OK;
}

/* Each sample's ranges into the averages of its clusters. */
static qy_status_t average(qy_rptq_t *r, const qy_block_acts_t *acts, int64_t first, int64_t n,
                           pass_t *pass, qy_error_t *err)
{
    for (int64_t i = 0; i < n; i++) {
        QY_TRY(find_ranges(r, acts, i, 1, 0, err));
        QY_TRY(fetch_ranges(r, pass->host, err));
        for (int s = 0; s < QY_N_SITES; s++)
            qy_clusters_average(pass->host->mean_lo[s], pass->host->mean_hi[s],
                                pass->q->site_counts[s].data,
                                qy_tensor_count(&pass->q->site_counts[s]), pass->host->lo[s],
                                pass->host->hi[s], first + i == 0);
        if (!r->zero.data &&
            qy_rptq_sketch_wants(first + i, r->plan->spec.calibration.samples, r->vars->f->length))
            QY_TRY(sketch(r, acts, i, pass, err));
    }
    return qy_gptq_add(&r->gptq, acts, first > 0, err);
}

/* The all-zero samples of the official code, behind all others. */
static qy_status_t add_zeros(qy_rptq_t *r, pass_t *pass, qy_error_t *err)
{
    qy_block_acts_t acts;
    qy_tensor_t y;
    QY_TRY(run_zero(r, &acts, &y, err));
    if (!pass->ordered)
        return find_ranges(r, &acts, 0, 1, 1, err);
    for (int64_t i = 0; i < ZERO_SAMPLES; i++)
        QY_TRY(average(r, &acts, r->plan->spec.calibration.samples + i, 1, pass, err));
    return QY_OK;
}

static qy_status_t walk(qy_rptq_t *r, qy_stream_t *source, pass_t *pass, qy_error_t *err)
{
    qy_forward_t *f = r->vars->f;
    int64_t n = r->plan->spec.calibration.samples;
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = f->batch < n - at ? f->batch : n - at;
        qy_block_acts_t acts = qy_block_acts_narrow(&f->acts, count);
        qy_tensor_t x = qy_tensor_slice(&f->x, 0, count * f->length);
        qy_tensor_t y = qy_tensor_slice(&f->y, 0, count * f->length);
        for (int64_t i = 0; i < count; i++) {
            int64_t sample = at + i;
            char *to = (char *)x.data + (size_t)i * qy_stream_sample_bytes(source);
            QY_TRY(qy_stream_load(source, &sample, 1, to, err));
        }
        QY_TRY(qy_block_forward(&f->block, &f->params, &acts, &x, &y, err));
        if (pass->ordered)
            QY_TRY(average(r, &acts, at, count, pass, err));
        else
            QY_TRY(find_ranges(r, &acts, 0, count, at > 0, err));
        QY_TRY(qy_hooks_check(pass->hooks, err));
        int64_t done = at + count + (pass->ordered ? n : 0);
        double tokens = (double)(done * f->length);
        qy_hooks_progress(pass->hooks, &pass->last,
                          &(qy_progress_t){.kind = QY_TASK_SEGMENT,
                                           .block = pass->block,
                                           .step = done,
                                           .n_steps = 2 * n,
                                           .loss = (double)NAN,
                                           .tokens_per_s = tokens / (qy_now_s() - pass->began)});
    }
    return r->zero.data ? add_zeros(r, pass, err) : QY_OK;
}

/* --- steps -------------------------------------------------------------------------------------
 */

static void finish_sites(const qy_rptq_t *r, const host_t *h, qy_qblock_t *q)
{
    bool compat = r->plan->spec.rptq.compat;
    for (int i = 0; i < QY_N_SITES; i++) {
        float *scales = q->site_scales[i].data;
        int32_t *zeros = q->site_zeros[i].data;
        int bits = qy_quant_site_bits(&q->form, (qy_site_t)i);
        for (int64_t c = 0; c < qy_tensor_count(&q->site_counts[i]); c++) {
            float z = 0.0f;
            scales[c] = 1.0f;
            if (bits == QY_BITS_NONE || !counts_of(q, i)[c]) {
                zeros[c] = 0;
                continue;
            }
            if (!compat && is_fitted(&q->form, i))
                qy_cluster_fit(&scales[c], &z, h->sketch.bins[i] + c * QY_CLUSTER_BINS,
                               h->sketch.lo[i][c], h->sketch.hi[i][c], bits);
            else
                qy_cluster_step(&scales[c], &z, h->mean_lo[i][c], h->mean_hi[i][c], bits, compat);
            zeros[c] = (int32_t)z;
        }
    }
}

/* The published steps of each row and cluster, as the finished model has them. */
static void weight_steps(const qy_rptq_t *r, int linear, const float *w, const qy_qblock_t *q,
                         host_t *h)
{
    const qy_linear_desc_t *d = &r->vars->f->block.program.arch.linear[linear];
    const int32_t *counts = counts_of(q, qy_linear_site(linear));
    int64_t k = qy_tensor_count(&q->site_counts[qy_linear_site(linear)]);
    for (int64_t row = 0; row < d->out; row++) {
        const float *x = w + row * d->in;
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

static qy_status_t load_layers(qy_rptq_t *r, const qy_block_weights_t *weights,
                               const qy_qblock_t *q, host_t *h, qy_error_t *err)
{
    const qy_program_t *program = &r->vars->f->block.program;
    const qy_device_t *dev = r->vars->f->dev;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        qy_quant_vars_t *v = &r->vars->vars[i];
        if (!v->w.data)
            continue;
        QY_TRY(
            qy_device_upload(dev, v->w.data, weights->linear[i].data, qy_tensor_bytes(&v->w), err));
        if (r->gptq.given_steps) {
            weight_steps(r, i, weights->linear[i].data, q, h);
            QY_TRY(qy_device_upload(dev, v->s.data, h->s, qy_tensor_bytes(&v->s), err));
            QY_TRY(qy_device_upload(dev, v->z.data, h->z, qy_tensor_bytes(&v->z), err));
        } else { /* found cluster by cluster; those without channels keep these */
            QY_TRY(qy_fill(dev, &v->s, 1.0f, err));
            QY_TRY(qy_fill(dev, &v->z, 0.0f, err));
        }
        QY_TRY(qy_device_wait(dev, err));
        r->gptq.groups[qy_gptq_site(program, i)] = h->group[qy_linear_site(i)];
    }
    return QY_OK;
}

/* Codes of the rounded weights, of which each is a whole number of steps from its zero point. */
static qy_status_t freeze_layer(qy_rptq_t *r, int64_t block, int linear, qy_qblock_t *q, host_t *h,
                                qy_error_t *err)
{
    const qy_linear_desc_t *d = &r->vars->f->block.program.arch.linear[linear];
    const qy_device_t *dev = r->vars->f->dev;
    const qy_quant_vars_t *v = &r->vars->vars[linear];
    const int32_t *group = h->group[qy_linear_site(linear)];
    int64_t k = qy_tensor_cols(&v->s), words = qy_pack_words(d->in, q->form.bits);
    float q_max = qy_quant_max(q->form.bits);
    uint8_t *codes = malloc((size_t)d->in);
    if (!codes)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for a row of codes", d->name);
    qy_status_t status = qy_device_download(dev, h->weight, v->w.data, qy_tensor_bytes(&v->w), err);
    if (status == QY_OK)
        status = qy_device_download(dev, h->s, v->s.data, qy_tensor_bytes(&v->s), err);
    if (status == QY_OK)
        status = qy_device_download(dev, h->z, v->z.data, qy_tensor_bytes(&v->z), err);
    for (int64_t row = 0; row < d->out && status == QY_OK; row++) {
        const float *w = h->weight + row * d->in, *s = h->s + row * k, *z = h->z + row * k;
        for (int64_t i = 0; i < d->in && status == QY_OK; i++) {
            if (!isfinite(w[i]))
                status =
                    qy_fail(err, QY_ERR_NUMERIC, "block %lld, %s: weight (%lld, %lld) is %g",
                            (long long)block, d->name, (long long)row, (long long)i, (double)w[i]);
            else
                codes[i] = (uint8_t)qy_code(w[i], s[group[i]], z[group[i]], q_max);
        }
        qy_pack((uint32_t *)q->codes[linear].data + row * words, codes, d->in, q->form.bits);
    }
    for (int64_t i = 0; i < d->out * k && status == QY_OK; i++) {
        ((uint16_t *)q->scales[linear].data)[i] = qy_f32_to_f16(h->s[i]);
        ((int32_t *)q->zeros[linear].data)[i] = (int32_t)h->z[i];
    }
    free(codes);
    return status;
}

static void copy_rest(const qy_block_weights_t *weights, qy_qblock_t *q)
{
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (weights->bias[i].data)
            memcpy(q->bias[i].data, weights->bias[i].data, qy_tensor_bytes(&weights->bias[i]));
    for (int i = 0; i < QY_N_NORMS; i++) {
        if (weights->norm[i].data)
            memcpy(q->norm[i].data, weights->norm[i].data, qy_tensor_bytes(&weights->norm[i]));
        if (weights->norm_bias[i].data)
            memcpy(q->norm_bias[i].data, weights->norm_bias[i].data,
                   qy_tensor_bytes(&weights->norm_bias[i]));
    }
}

static qy_status_t run(qy_rptq_t *r, qy_block_weights_t *weights, qy_stream_t *source, pass_t *pass,
                       qy_qblock_t *q, qy_error_t *err)
{
    qy_forward_t *f = r->vars->f;
    const qy_arch_t *arch = &f->block.program.arch;
    const int32_t *orders[QY_N_SITES];
    qy_decorate_plain(&f->params);
    QY_TRY(walk(r, source, pass, err));
    QY_TRY(fetch_ranges(r, pass->host, err));
    QY_TRY(qy_rptq_orders(q, arch, pass->host->lo, pass->host->hi, r->plan->spec.seed, pass->block,
                          err));
    set_groups(pass->host, q);
    if (!r->zero.data)
        qy_rptq_sketch_bound(&pass->host->sketch, q, pass->host->lo, pass->host->hi);
    for (int i = 0; i < QY_N_SITES; i++)
        orders[i] = order_of(q, i);
    QY_TRY(qy_reorder_weights(weights, arch, orders, err));
    QY_TRY(qy_block_params_load(&f->params, &f->block, weights, &f->staging, 1, err));
    QY_TRY(qy_decorate_orders(&f->params, f->dev, arch, q, err));
    pass->ordered = true;
    QY_TRY(walk(r, source, pass, err));
    finish_sites(r, pass->host, q);
    QY_TRY(load_layers(r, weights, q, pass->host, err));
    QY_TRY(qy_gptq_round(&r->gptq, pass->block, err));
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (r->vars->vars[i].w.data)
            QY_TRY(freeze_layer(r, pass->block, i, q, pass->host, err));
    copy_rest(weights, q);
    return QY_OK;
}

qy_status_t qy_rptq_run(qy_rptq_t *r, int64_t block, qy_block_weights_t *weights,
                        qy_stream_t *source, const qy_hooks_t *hooks, qy_qblock_t *q,
                        qy_error_t *err)
{
    const qy_forward_t *f = r->vars->f;
    const qy_arch_t *arch = &f->block.program.arch;
    host_t host;
    QY_TRY(host_create(&host, arch, &f->form, err));
    pass_t pass = {.block = block, .hooks = hooks, .q = q, .host = &host, .began = qy_now_s()};
    qy_status_t status = QY_OK;
    if (!r->plan->spec.rptq.compat)
        status = qy_rptq_sketch_create(&host.sketch, arch, &f->form, f->length, err);
    if (status == QY_OK)
        status = run(r, weights, source, &pass, q, err);
    memset(r->gptq.groups, 0, sizeof r->gptq.groups);
    qy_rptq_sketch_free(&host.sketch);
    free(host.memory);
    return status;
}
