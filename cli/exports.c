#include "cli/exports.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "coordinator/results.h"
#include "jobs/finished.h"
#include "model/export.h"

qy_status_t qy_export_dir(char out[QY_PATH_MAX], const qy_plan_t *plan, const char *format,
                          qy_error_t *err)
{
    return qy_path(out, err, "%s/export/%s", plan->spec.run_dir, format);
}

static qy_status_t read_block(void *context, int64_t block, qy_qblock_t *out, qy_error_t *err)
{
    const qy_plan_t *plan = context;
    return qy_finished_read_model(plan, block, plan->spec.e2e_qp.present, out, err);
}

/* Perplexities as a Markdown table; an empty text where nothing was evaluated. */
static void write_card(char *out, size_t size, const qy_plan_t *plan)
{
    char path[QY_PATH_MAX];
    qy_ledger_t *ledger = NULL;
    size_t used = 0;
    out[0] = 0;
    if (qy_store_ledger(path, plan, NULL) != QY_OK || qy_ledger_read(&ledger, path, NULL) != QY_OK)
        return;
    for (int i = 0; i < plan->spec.n_evaluate; i++) {
        qy_variant_t last = plan->spec.e2e_qp.present ? QY_VARIANT_FINAL : QY_VARIANT_STITCHED;
        double before = qy_results_perplexity(ledger, plan, i, QY_VARIANT_ORIGINAL);
        double after = qy_results_perplexity(ledger, plan, i, last);
        if (isnan(before) || isnan(after) || used + 256 > size)
            continue;
        if (used == 0)
            used += (size_t)snprintf(out, size,
                                     "| text | window | perplexity before | after |\n"
                                     "|---|---|---|---|\n");
        used += (size_t)snprintf(out + used, size - used, "| %s | %lld | %.3f | %.3f |\n",
                                 plan->spec.evaluate[i].name,
                                 (long long)plan->spec.evaluate[i].sequence_length, before, after);
    }
    qy_ledger_close(&ledger);
}

qy_status_t qy_export_of_run(const qy_plan_t *plan, const char *format, const char *dir,
                             int overwrite, int existing_ok, qy_error_t *err)
{
    const qy_exporter_t *exporter = qy_exporter_find(format);
    if (!exporter)
        return qy_fail(err, QY_ERR_ARG, "unknown format %s; known: %s", format,
                       qy_exporter_names());
    if (existing_ok && qy_is_dir(dir))
        return QY_OK;
    char card[4096], *recipe = NULL;
    qy_model_t *model = NULL;
    qy_status_t status;
    write_card(card, sizeof card, plan);
    QY_TRY(qy_spec_write(&plan->spec, &recipe, err));
    QY_TRY_GOTO(qy_model_open(&model, plan->spec.model, err), free_recipe);
    qy_export_t job = {.model = model,
                       .form = qy_plan_form(plan),
                       .recipe = recipe,
                       .card = card,
                       .source = {.context = (void *)plan, .read_block = read_block},
                       .version = QUARRY_VERSION,
                       .plan_hash = plan->hash,
                       .overwrite = overwrite != 0};
    status = qy_export_run(exporter, &job, dir, err);
    qy_model_close(&model);
free_recipe:
    free(recipe);
    return status;
}
