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

/* --- what the run has measured, for the model card ---------------------------------------------
 */

typedef struct {
    const qy_plan_t *plan;
    const qy_ledger_t *ledger;
    qy_variant_t last; /* the exported one */
    FILE *out;
} card_t;

/* A row of the table of texts; first: its head as well. False where not all was measured. */
static bool print_perplexity(const card_t *c, int i, bool first)
{
    const qy_evaluate_spec_t *e = &c->plan->spec.evaluate[i];
    double before = qy_results_perplexity(c->ledger, c->plan, i, QY_VARIANT_ORIGINAL);
    double rounded = qy_results_perplexity(c->ledger, c->plan, i, QY_VARIANT_ROUNDED);
    double after = qy_results_perplexity(c->ledger, c->plan, i, c->last);
    if (isnan(before) || isnan(after))
        return false;
    if (first)
        fputs(
            "Perplexity of texts, in windows of so many tokens:\n\n"
            "| text | window | original | plainly rounded | this model |\n|---|---|---|---|---|\n",
            c->out);
    fprintf(c->out, "| %s | %lld | %.3f | %.3f | %.3f |\n", e->name, (long long)e->sequence_length,
            before, rounded, after);
    return true;
}

static bool print_accuracy(const card_t *c, int i, bool first)
{
    qy_accuracy_t before, rounded, after;
    if (!qy_results_accuracy(c->ledger, c->plan, i, QY_VARIANT_ORIGINAL, &before) ||
        !qy_results_accuracy(c->ledger, c->plan, i, QY_VARIANT_ROUNDED, &rounded) ||
        !qy_results_accuracy(c->ledger, c->plan, i, c->last, &after))
        return false;
    if (first)
        fputs("Zero-shot accuracy in percent, and by the likelihood per byte:\n\n"
              "| task | items | original | plainly rounded | this model | standard error |\n"
              "|---|---|---|---|---|---|\n",
              c->out);
    fprintf(c->out, "| %s | %lld | %.2f, %.2f | %.2f, %.2f | %.2f, %.2f | %.2f, %.2f |\n",
            c->plan->spec.evaluate[i].name, (long long)after.n_items, 100 * before.accuracy,
            100 * before.by_bytes, 100 * rounded.accuracy, 100 * rounded.by_bytes,
            100 * after.accuracy, 100 * after.by_bytes, 100 * after.error,
            100 * after.by_bytes_error);
    return true;
}

/* One table of texts, one of tasks; nothing where nothing was evaluated. */
static void print_tables(const card_t *c)
{
    bool texts = false, tasks = false;
    for (int i = 0; i < c->plan->spec.n_evaluate; i++)
        if (!c->plan->spec.evaluate[i].task[0])
            texts = print_perplexity(c, i, !texts) || texts;
    if (texts)
        fputs("\n", c->out);
    for (int i = 0; i < c->plan->spec.n_evaluate; i++)
        if (c->plan->spec.evaluate[i].task[0])
            tasks = print_accuracy(c, i, !tasks) || tasks;
}

/* The caller frees *text. */
static qy_status_t make_card(const qy_plan_t *plan, char **text, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    size_t bytes = 0;
    qy_ledger_t *ledger = NULL;
    card_t c = {.plan = plan,
                .last = plan->spec.e2e_qp.present ? QY_VARIANT_FINAL : QY_VARIANT_STITCHED,
                .out = open_memstream(text, &bytes)};
    if (!c.out)
        return qy_fail(err, QY_ERR_MEMORY, "model card: out of memory");
    if (qy_store_ledger(path, plan, NULL) == QY_OK &&
        qy_ledger_read(&ledger, path, NULL) == QY_OK) {
        c.ledger = ledger;
        print_tables(&c);
    }
    qy_ledger_close(&ledger);
    if (fclose(c.out) == 0)
        return QY_OK;
    free(*text);
    return qy_fail(err, QY_ERR_MEMORY, "model card: out of memory");
}

qy_status_t qy_check_finished(const qy_plan_t *plan, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_store_model(path, plan, err));
    if (!qy_store_has(path, plan, "model", NULL))
        return qy_fail(err, QY_ERR_ARG, "%s is not finished: %s is not there", plan->spec.run_dir,
                       path);
    if (plan->spec.e2e_qp.present && qy_store_e2e_last(plan, err) != plan->e2e.steps)
        return qy_fail(err, QY_ERR_ARG, "%s is not finished: E2E-QP has not ended",
                       plan->spec.run_dir);
    return QY_OK;
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
    char *card = NULL, *recipe = NULL;
    qy_model_t *model = NULL;
    qy_status_t status;
    QY_TRY(make_card(plan, &card, err));
    QY_TRY_GOTO(qy_spec_write(&plan->spec, &recipe, err), free_recipe);
    QY_TRY_GOTO(qy_plan_open_model(&model, plan, err), free_recipe);
    qy_export_t job = {.model = model,
                       .form = qy_plan_form(plan),
                       .recipe = recipe,
                       .card = card,
                       .source = {.context = (void *)plan, .read_block = read_block},
                       .version = QUARRY_VERSION,
                       .plan_hash = plan->hash,
                       .overwrite = overwrite != 0};
    status = qy_finished_final_norm(plan, model, err);
    if (status == QY_OK)
        status = qy_export_run(exporter, &job, dir, err);
    qy_model_close(&model);
free_recipe:
    free(recipe);
    free(card);
    return status;
}
