#include "worker/rptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "jobs/finished.h"
#include "kernels/columns.h"
#include "kernels/fill.h"
#include "model/clusters.h"
#include "model/reorder.h"
#include "worker/decorate.h"
#include "worker/rptq_orders.h"
#include "worker/rptq_sketch.h"
#include "worker/rptq_weights.h"

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
    r->gptq.given_steps = qy_spec_init(&plan->spec) == QY_INIT_MIN_MAX;
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
    qy_rptq_weights_t weights;
    int32_t *group[QY_N_SITES]; /* (C): cluster of each place */
    qy_rptq_sketch_t sketch;    /* not with compat */
    void *memory;
} host_t;

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
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t n = qy_site_channels(arch, (qy_site_t)i);
        channels += n;
        clusters += form->n_clusters[i];
    }
    *h = (host_t){.memory = calloc((size_t)(3 * channels + 2 * clusters), sizeof(float))};
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
    return QY_OK;
}

/* What a pass over the samples is for. */
typedef struct {
    int64_t block;
    const qy_hooks_t *hooks;
    const qy_qblock_t *q;
    host_t *host;
    bool ordered; /* the second pass: what steps are found from, and second moments */
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
        if (qy_quant_site_bits(&pass->q->form, (qy_site_t)i) != QY_BITS_NONE)
            QY_TRY(qy_rptq_sketch_add(&pass->host->sketch, f->dev, &x, pass->q, i, err));
    }
    return QY_OK;
}

/* With compat each sample's ranges go into the averages of its clusters. */
static qy_status_t average(qy_rptq_t *r, const qy_block_acts_t *acts, int64_t local, int64_t sample,
                           pass_t *pass, qy_error_t *err)
{
    QY_TRY(find_ranges(r, acts, local, 1, 0, err));
    QY_TRY(fetch_ranges(r, pass->host, err));
    for (int s = 0; s < QY_N_SITES; s++)
        qy_clusters_average(pass->host->mean_lo[s], pass->host->mean_hi[s],
                            pass->q->site_counts[s].data, qy_tensor_count(&pass->q->site_counts[s]),
                            pass->host->lo[s], pass->host->hi[s], sample == 0);
    return QY_OK;
}

/* What the second pass takes from samples [first, first + n), which are in acts. */
static qy_status_t collect(qy_rptq_t *r, const qy_block_acts_t *acts, int64_t first, int64_t n,
                           pass_t *pass, qy_error_t *err)
{
    int64_t samples = r->plan->spec.calibration.samples;
    for (int64_t i = 0; i < n; i++) {
        if (r->zero.data)
            QY_TRY(average(r, acts, i, first + i, pass, err));
        else if (qy_rptq_sketch_wants(first + i, samples, r->vars->f->length))
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
        QY_TRY(collect(r, &acts, r->plan->spec.calibration.samples + i, 1, pass, err));
    return QY_OK;
}

static qy_status_t walk(qy_rptq_t *r, qy_stream_t *source, pass_t *pass, qy_error_t *err)
{
    qy_forward_t *f = r->vars->f;
    int64_t n = r->plan->spec.calibration.samples;
    QY_TRY(qy_stream_expect_range(source, 0, n, err));
    for (int64_t at = 0; at < n; at += f->batch) {
        int64_t count = f->batch < n - at ? f->batch : n - at;
        qy_block_acts_t acts = qy_block_acts_narrow(&f->acts, count);
        qy_tensor_t x = qy_tensor_slice(&f->x, 0, count * f->length);
        qy_tensor_t y = qy_tensor_slice(&f->y, 0, count * f->length);
        QY_TRY(qy_stream_load_range(source, at, count, x.data, err));
        QY_TRY(qy_block_forward(&f->block, &f->params, &acts, &x, &y, err));
        if (pass->ordered)
            QY_TRY(collect(r, &acts, at, count, pass, err));
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

/* Cluster c of a site: from its values' counts or, with compat, its averaged range. */
static void finish_cluster(const host_t *h, qy_qblock_t *q, int site, int64_t c, bool compat)
{
    float *s = (float *)q->site_scales[site].data + c, z = 0.0f;
    int bits = qy_quant_site_bits(&q->form, (qy_site_t)site);
    *s = 1.0f;
    if (bits != QY_BITS_NONE && counts_of(q, site)[c]) {
        if (compat)
            qy_cluster_step(s, &z, h->mean_lo[site][c], h->mean_hi[site][c], bits, true);
        else
            qy_cluster_fit(s, &z, h->sketch.bins[site] + c * QY_CLUSTER_BINS, h->sketch.lo[site][c],
                           h->sketch.hi[site][c], bits);
    }
    ((int32_t *)q->site_zeros[site].data)[c] = (int32_t)z;
}

static void finish_sites(const qy_rptq_t *r, const host_t *h, qy_qblock_t *q)
{
    bool compat = r->plan->spec.rptq.compat;
    int threads = r->vars->f->dev->threads;
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t n = qy_tensor_count(&q->site_counts[i]);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
        for (int64_t c = 0; c < n; c++)
            finish_cluster(h, q, i, c, compat);
    }
}

static qy_status_t load_layers(qy_rptq_t *r, const qy_block_weights_t *weights,
                               const qy_qblock_t *q, host_t *h, qy_error_t *err)
{
    const qy_program_t *program = &r->vars->f->block.program;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!r->vars->vars[i].w.data)
            continue;
        QY_TRY(qy_rptq_weights_load(&h->weights, r->vars->f->dev, &r->vars->vars[i],
                                    &weights->linear[i], q, i, r->gptq.given_steps, err));
        r->gptq.groups[qy_gptq_site(program, i)] = h->group[qy_linear_site(i)];
    }
    return QY_OK;
}

static qy_status_t freeze_layers(qy_rptq_t *r, const pass_t *pass, qy_qblock_t *q, qy_error_t *err)
{
    host_t *h = pass->host;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (r->vars->vars[i].w.data &&
            qy_rptq_weights_freeze(&h->weights, r->vars->f->dev, &r->vars->vars[i],
                                   h->group[qy_linear_site(i)], q, i, err) != QY_OK)
            return qy_fail_in(err, "block %lld, %s", (long long)pass->block,
                              r->vars->f->block.program.arch.linear[i].name);
    return QY_OK;
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

/* All layers, whose weights are in the new order, as codes into q. */
static qy_status_t round_layers(qy_rptq_t *r, const qy_block_weights_t *weights, const pass_t *pass,
                                qy_qblock_t *q, qy_error_t *err)
{
    QY_TRY(load_layers(r, weights, q, pass->host, err));
    QY_TRY(qy_gptq_round(&r->gptq, pass->block, err));
    QY_TRY(freeze_layers(r, pass, q, err));
    copy_rest(weights, q);
    return QY_OK;
}

/* The block in its new order into f->params. Plain rounding needs no activations: weights are
 * rounded before these are looked at, as in the official code. */
static qy_status_t load_ordered(qy_rptq_t *r, const qy_block_weights_t *weights, const pass_t *pass,
                                qy_qblock_t *q, qy_error_t *err)
{
    qy_forward_t *f = r->vars->f;
    if (!r->gptq.plain) {
        QY_TRY(qy_block_params_load(&f->params, &f->block, weights, &f->staging, 1, err));
        return qy_decorate_orders(&f->params, f->dev, &f->block.program.arch, q, err);
    }
    QY_TRY(round_layers(r, weights, pass, q, err));
    QY_TRY(qy_forward_load_quantized(f, q, err));
    for (int i = 0; i < QY_N_SITES; i++)
        f->params.quantizer[i].kind = QY_ACT_NONE; /* their steps are still to be found */
    return QY_OK;
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
                          f->dev->threads, err));
    set_groups(pass->host, q);
    if (!r->zero.data)
        qy_rptq_sketch_bound(&pass->host->sketch, q, pass->host->lo, pass->host->hi);
    for (int i = 0; i < QY_N_SITES; i++)
        orders[i] = order_of(q, i);
    QY_TRY(qy_reorder_weights(weights, arch, orders, f->dev->threads, err));
    QY_TRY(load_ordered(r, weights, pass, q, err));
    pass->ordered = true;
    QY_TRY(walk(r, source, pass, err));
    finish_sites(r, pass->host, q);
    return r->gptq.plain ? QY_OK : round_layers(r, weights, pass, q, err);
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
    qy_status_t status =
        qy_rptq_weights_create(&host.weights, arch, &f->form, f->dev->threads, err);
    if (status == QY_OK && !r->plan->spec.rptq.compat)
        status = qy_rptq_sketch_create(&host.sketch, arch, &f->form, f->length, err);
    if (status == QY_OK)
        status = run(r, weights, source, &pass, q, err);
    memset(r->gptq.groups, 0, sizeof r->gptq.groups);
    qy_rptq_sketch_free(&host.sketch);
    qy_rptq_weights_destroy(&host.weights);
    free(host.memory);
    return status;
}
