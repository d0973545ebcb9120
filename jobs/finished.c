#include "jobs/finished.h"

#include <stdio.h>

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
    form.n_clusters[QY_SITE_Q] = form.n_clusters[QY_SITE_O_IN] = head * a->n_heads;
    form.n_clusters[QY_SITE_K] = form.n_clusters[QY_SITE_V] = head * a->n_kv_heads;
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
