#include "cli/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/exports.h"
#include "coordinator/results.h"
#include "jobs/finished.h"

/* Plain lines (not a terminal) come at most this often, finished blocks always. */
static const double plain_interval_s = 10;

void qy_progress_init(qy_progress_view_t *view, int quiet)
{
    *view = (qy_progress_view_t){.quiet = quiet, .terminal = isatty(STDERR_FILENO)};
}

void qy_progress_end(qy_progress_view_t *view)
{
    if (view->line_open)
        fprintf(stderr, "\n");
    view->line_open = 0;
}

static void show_line(qy_progress_view_t *v, const char *text, int keep)
{
    if (v->terminal) {
        fprintf(stderr, "\r\033[K%s%s", text, keep ? "\n" : "");
        v->line_open = !keep;
    } else if (keep || qy_now_s() - v->last_plain > plain_interval_s) {
        fprintf(stderr, "%s\n", text);
        v->last_plain = qy_now_s();
    }
}

void qy_progress_show(void *view, int worker, const char *task, const qy_progress_t *p)
{
    qy_progress_view_t *v = view;
    char text[256], where[64] = "";
    if (v->quiet)
        return;
    if (p->block >= 0)
        snprintf(where, sizeof where, "  block %lld", (long long)p->block);
    if (p->block_done && isnan(p->loss_after)) { /* rounding has no losses */
        snprintf(text, sizeof text, "[%d] %s%s done  %.1f s", worker, task, where, p->seconds);
    } else if (p->block_done) {
        snprintf(text, sizeof text,
                 "[%d] %s%s done  loss %.3e -> %.3e  validation %.3e -> %.3e  %.1f s", worker, task,
                 where, p->loss_before, p->loss_after, p->validation_before, p->validation_after,
                 p->seconds);
    } else {
        int used = snprintf(text, sizeof text, "[%d] %s%s  %lld/%lld", worker, task, where,
                            (long long)p->step, (long long)p->n_steps);
        if (isfinite(p->loss) && p->loss > 0)
            used += snprintf(text + used, sizeof text - (size_t)used, "  loss %.4g", p->loss);
        if (p->tokens_per_s > 0)
            snprintf(text + used, sizeof text - (size_t)used, "  %.0f tokens/s", p->tokens_per_s);
    }
    show_line(v, text, p->block_done);
}

void qy_progress_phase(void *view, const char *phase, double seconds)
{
    qy_progress_view_t *v = view;
    char text[128];
    if (v->quiet || seconds < 0)
        return;
    snprintf(text, sizeof text, "%s: %.1f s", phase, seconds);
    show_line(v, text, 1);
}

/* --- the closing table
 * ---------------------------------------------------------------------------- */

static double megabytes(int64_t bytes)
{
    return (double)bytes / 1e6;
}

/* Bytes of the blocks' linear layers: f16, and codes with steps and zero points as exported. */
static void block_bytes(const qy_plan_t *plan, int64_t *dense, int64_t *packed)
{
    qy_quant_form_t form = qy_plan_form(plan);
    *dense = *packed = 0;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &plan->arch.linear[i];
        if (!d->present)
            continue;
        int64_t groups = d->out * qy_quant_n_groups(&form, d->in);
        *dense += plan->arch.n_blocks * d->out * d->in * 2;
        *packed += plan->arch.n_blocks *
                   ((d->out * d->in * form.bits + groups * form.bits) / 8 + groups * 2);
    }
}

/* One line of the table: a variant's size, then its perplexity or its accuracies, in percent. */
static void print_row(FILE *file, const qy_plan_t *plan, const qy_ledger_t *ledger,
                      const char *name, qy_variant_t variant, int64_t bytes)
{
    fprintf(file, "  %-24s %10.1f MB", name, megabytes(bytes));
    for (int i = 0; i < plan->spec.n_evaluate; i++) {
        qy_accuracy_t a;
        if (!plan->spec.evaluate[i].task[0])
            fprintf(file, "  %14.3f", qy_results_perplexity(ledger, plan, i, variant));
        else if (qy_results_accuracy(ledger, plan, i, variant, &a))
            fprintf(file, "  %6.2f, %6.2f", 100 * a.accuracy, 100 * a.by_bytes);
        else
            fprintf(file, "  %14s", "-");
    }
    fprintf(file, "\n");
}

static void print_title(FILE *file, const qy_plan_t *plan)
{
    bool tasks = false;
    fprintf(file, "\n  %-24s %13s", "model", "linear layers");
    for (int i = 0; i < plan->spec.n_evaluate; i++) {
        bool task = plan->spec.evaluate[i].task[0] != '\0';
        fprintf(file, "  %s %10.10s", task ? "acc" : "ppl", plan->spec.evaluate[i].name);
        tasks = tasks || task;
    }
    fprintf(file, "%s\n", tasks ? "  (acc: %, and by bytes)" : "");
}

static void print_table(const qy_plan_t *plan, const qy_ledger_t *ledger, FILE *file)
{
    int64_t dense, packed;
    char name[64];
    block_bytes(plan, &dense, &packed);
    static const char *const names[QY_N_METHODS] = {"Block-AP", "RTN", "GPTQ", "RPTQ", "QLLM"};
    snprintf(name, sizeof name, "%s w%d", names[plan->spec.quantize.method],
             (int)plan->spec.quantize.weights.bits);
    print_title(file, plan);
    print_row(file, plan, ledger, "original", QY_VARIANT_ORIGINAL, dense);
    print_row(file, plan, ledger, "rounded (RTN, min-max)", QY_VARIANT_ROUNDED, packed);
    print_row(file, plan, ledger, name, QY_VARIANT_STITCHED, packed);
    if (plan->spec.e2e_qp.present)
        print_row(file, plan, ledger, "  + E2E-QP", QY_VARIANT_FINAL, packed);
}

qy_status_t qy_print_results(const qy_plan_t *plan, FILE *file, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_ledger_t *ledger = NULL;
    QY_TRY(qy_store_ledger(path, plan, err));
    QY_TRY(qy_ledger_read(&ledger, path, err));
    if (plan->spec.n_evaluate > 0)
        print_table(plan, ledger, file);
    qy_ledger_close(&ledger);
    fprintf(file, "\n  run directory               %s\n", plan->spec.run_dir);
    for (int i = 0; i < plan->spec.n_export; i++) {
        QY_TRY(qy_export_dir(path, plan, plan->spec.export_format[i], err));
        fprintf(file, "  exported %-18s %s\n", plan->spec.export_format[i], path);
    }
    return QY_OK;
}
