#include "jobs/finished.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/half.h"

unsigned qy_plan_map_sites(const qy_plan_t *plan)
{
    if (plan->spec.quantize.method != QY_METHOD_QLLM || !plan->spec.qllm.reassembly)
        return 0;
    return 1u << QY_SITE_ATTENTION_IN | 1u << QY_SITE_MLP_IN | 1u << QY_SITE_DOWN_IN;
}

qy_quant_form_t qy_plan_form(const qy_plan_t *plan)
{
    qy_quant_form_t form = {.bits = (int)plan->spec.quantize.weights.bits,
                            .group = plan->group,
                            .symmetric = plan->spec.quantize.weights.symmetric,
                            .activation_bits = (int)plan->spec.quantize.activation_bits,
                            .kv_bits = (int)plan->spec.quantize.kv_bits,
                            .map_sites = qy_plan_map_sites(plan)};
    if (plan->spec.quantize.method != QY_METHOD_RPTQ)
        return form;
    const qy_arch_t *a = &plan->arch;
    int64_t head = plan->spec.rptq.head_clusters;
    for (int i = 0; i < QY_N_SITES; i++)
        form.n_clusters[i] = plan->spec.rptq.clusters;
    form.n_clusters[QY_SITE_Q] = form.n_clusters[QY_SITE_O_IN] = head ? head * a->n_heads : 1;
    form.n_clusters[QY_SITE_K] = form.n_clusters[QY_SITE_V] = head ? head * a->n_kv_heads : 1;
    form.symmetric = false;
    return form;
}

qy_quant_form_t qy_plan_rounded_form(const qy_plan_t *plan)
{
    qy_quant_form_t form = qy_plan_form(plan);
    if (qy_quant_clustered(&form))
        form = (qy_quant_form_t){.bits = form.bits};
    return form;
}

qy_status_t qy_finished_read(const qy_plan_t *plan, int64_t block, qy_qblock_t *out,
                             qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_h5_t *file = NULL;
    qy_quant_form_t form = qy_plan_form(plan);
    QY_TRY(qy_store_block(path, plan, block, err));
    qy_status_t status = qy_store_open(&file, path, plan, "block", err);
    if (status == QY_OK)
        status = qy_qblock_read(out, &plan->arch, &form, file, "", err);
    qy_h5_close(&file);
    return qy_store_set_aside(path, status, err);
}

static qy_status_t read_steps(const qy_plan_t *plan, int64_t block, qy_qblock_t *out,
                              qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_h5_t *file = NULL;
    QY_TRY(qy_store_e2e(path, plan, plan->e2e.steps, block, err));
    qy_status_t status = qy_store_open(&file, path, plan, "e2e", err);
    if (status == QY_OK)
        status = qy_qblock_read_scales(out, &plan->arch, file, err);
    qy_h5_close(&file);
    return qy_store_set_aside(path, status, err);
}

qy_status_t qy_finished_read_model(const qy_plan_t *plan, int64_t block, int final,
                                   qy_qblock_t *out, qy_error_t *err)
{
    char path[QY_PATH_MAX], prefix[32];
    qy_h5_t *file = NULL;
    qy_quant_form_t form = qy_plan_form(plan);
    snprintf(prefix, sizeof prefix, "%03lld/", (long long)block);
    QY_TRY(qy_store_model(path, plan, err));
    qy_status_t status = qy_store_open(&file, path, plan, "model", err);
    if (status == QY_OK)
        status = qy_qblock_read(out, &plan->arch, &form, file, prefix, err);
    qy_h5_close(&file);
    status = qy_store_set_aside(path, status, err);
    if (status != QY_OK || !final)
        return status;
    status = read_steps(plan, block, out, err);
    if (status != QY_OK)
        qy_qblock_free(out);
    return status;
}

/* --- the last norm ---------------------------------------------------------------------------- */

/* Adds a range's sums (QY_N_NORM_SUMS H) and rows. scratch: as many numbers. */
static qy_status_t add_range(const qy_plan_t *plan, int64_t range, double *sums, double *scratch,
                             int64_t *rows, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_h5_t *file = NULL;
    int64_t n = 0, count = QY_N_NORM_SUMS * plan->arch.hidden;
    qy_tensor_t t = qy_tensor_2d(scratch, QY_F64, QY_N_NORM_SUMS, plan->arch.hidden);
    QY_TRY(qy_store_norm(path, plan, range, err));
    qy_status_t status = qy_store_open(&file, path, plan, "norm", err);
    if (status == QY_OK)
        status = qy_h5_get_i64(file, "rows", &n, err);
    if (status == QY_OK)
        status = qy_h5_read(file, "sums", &t, err);
    qy_h5_close(&file);
    QY_TRY(qy_store_set_aside(path, status, err));
    for (int64_t i = 0; i < count; i++)
        sums[i] += scratch[i];
    *rows += n;
    return QY_OK;
}

/* w and b hold the checkpoint's. */
static qy_status_t fit(const double *sums, int64_t hidden, double rows, int with_bias, float *w,
                       float *b, qy_error_t *err)
{
    for (int64_t c = 0; c < hidden; c++) {
        double yh = sums[QY_NORM_SUM_YH * hidden + c], hh = sums[QY_NORM_SUM_HH * hidden + c];
        double y = with_bias ? sums[QY_NORM_SUM_Y * hidden + c] / rows : 0;
        double h = with_bias ? sums[QY_NORM_SUM_H * hidden + c] / rows : 0;
        double slope = (yh - rows * y * h) / (hh - rows * h * h);
        if (hh == 0)
            continue;
        w[c] = qy_round_f16((float)slope);
        if (with_bias)
            b[c] = qy_round_f16((float)(y - slope * h));
        if (!isfinite(w[c]) || (with_bias && !isfinite(b[c])))
            return qy_fail(err, QY_ERR_NUMERIC, "last norm, channel %lld: its weight would be %g",
                           (long long)c, slope);
    }
    return QY_OK;
}

static qy_status_t fit_model(const qy_plan_t *plan, qy_model_t *model, double *sums,
                             double *scratch, qy_error_t *err)
{
    qy_outer_weights_t outer;
    int64_t rows = 0, ranges = qy_plan_norm_ranges(plan);
    for (int64_t r = 0; r < ranges; r++)
        QY_TRY(add_range(plan, r, sums, scratch, &rows, err));
    QY_TRY(qy_outer_weights_read(&outer, model, err));
    float *w = outer.original_norm.data, *b = outer.original_norm_bias.data;
    qy_status_t status = fit(sums, plan->arch.hidden, (double)rows, b != NULL, w, b, err);
    if (status == QY_OK)
        status = qy_model_set_final_norm(model, w, b, err);
    qy_outer_weights_free(&outer);
    return status;
}

qy_status_t qy_finished_final_norm(const qy_plan_t *plan, qy_model_t *model, qy_error_t *err)
{
    size_t n = QY_N_NORM_SUMS * (size_t)plan->arch.hidden;
    if (qy_plan_norm_ranges(plan) == 0)
        return QY_OK;
    double *sums = calloc(2 * n, sizeof *sums);
    if (!sums)
        return qy_fail(err, QY_ERR_MEMORY, "last norm: out of host memory");
    qy_status_t status = fit_model(plan, model, sums, sums + n, err);
    free(sums);
    return status;
}
