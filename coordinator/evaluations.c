#include "coordinator/evaluations.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/results.h"
#include "jobs/store.h"

enum { DIGEST_DIGITS = 16 };

const char *qy_variant_name(qy_variant_t variant)
{
    static const char *const names[QY_N_VARIANTS] = {"original", "rounded", "stitched", "final"};
    return (unsigned)variant < QY_N_VARIANTS ? names[variant] : "unknown";
}

/* What is common to all ranges of one text under one variant. */
static void tag_start(char out[QY_EVALUATION_TAG_MAX], const qy_plan_t *plan, int text,
                      qy_variant_t variant)
{
    snprintf(out, QY_EVALUATION_TAG_MAX, "%.*s %s", DIGEST_DIGITS, plan->eval_digest[text],
             qy_variant_name(variant));
}

static void tag_range(char out[QY_EVALUATION_TAG_MAX], const char *start, int64_t range,
                      int64_t n_ranges, int64_t length)
{
    snprintf(out, QY_EVALUATION_TAG_MAX, "%.40s range %" PRId64 " of %" PRId64 " length %" PRId64,
             start, range, n_ranges, length);
}

void qy_evaluation_tag(char out[QY_EVALUATION_TAG_MAX], const qy_plan_t *plan,
                       const qy_task_t *task, int64_t n_ranges, int64_t length)
{
    char start[QY_EVALUATION_TAG_MAX];
    tag_start(start, plan, task->text, (qy_variant_t)task->variant);
    tag_range(out, start, task->range, n_ranges, length);
}

const qy_entry_t *qy_evaluation_find(const qy_ledger_t *ledger, const char *tag)
{
    for (int64_t i = qy_ledger_count(ledger) - 1; i >= 0; i--) {
        const qy_entry_t *entry = qy_ledger_at(ledger, i);
        if (entry->kind == QY_LEDGER_DONE && entry->n_values > 0 && strcmp(entry->text, tag) == 0)
            return entry;
    }
    return NULL;
}

/* How the latest evaluation under this tag was cut; false where there is none. */
static bool find_cut(const qy_ledger_t *ledger, const char *start, int64_t *n_ranges,
                     int64_t *length)
{
    size_t n = strlen(start);
    for (int64_t i = qy_ledger_count(ledger) - 1; i >= 0; i--) {
        const qy_entry_t *entry = qy_ledger_at(ledger, i);
        if (entry->kind == QY_LEDGER_DONE && strncmp(entry->text, start, n) == 0 &&
            sscanf(entry->text + n, " range %*d of %" SCNd64 " length %" SCNd64, n_ranges,
                   length) == 2)
            return true;
    }
    return false;
}

/* All values of a text or task under a variant, range after range; NULL where some are missing. The
 * caller frees. */
static double *read_values(const qy_ledger_t *ledger, const qy_plan_t *plan, int text,
                           qy_variant_t variant, int64_t *n, int64_t *length)
{
    char start[QY_EVALUATION_TAG_MAX], tag[QY_EVALUATION_TAG_MAX];
    int64_t n_ranges = 0;
    double *values = NULL;
    *n = 0;
    tag_start(start, plan, text, variant);
    if (!find_cut(ledger, start, &n_ranges, length))
        return NULL;
    for (int64_t r = 0; r < n_ranges; r++) {
        tag_range(tag, start, r, n_ranges, *length);
        const qy_entry_t *entry = qy_evaluation_find(ledger, tag);
        double *grown =
            entry ? realloc(values, (size_t)(*n + entry->n_values) * sizeof *values) : NULL;
        if (!grown) {
            free(values);
            return NULL;
        }
        values = grown;
        memcpy(values + *n, entry->values, (size_t)entry->n_values * sizeof *values);
        *n += entry->n_values;
    }
    return values;
}

double qy_results_perplexity(const qy_ledger_t *ledger, const qy_plan_t *plan, int text,
                             qy_variant_t variant)
{
    int64_t n, length;
    double *values = read_values(ledger, plan, text, variant, &n, &length), sum = 0.0;
    for (int64_t i = 0; i < n && values; i++)
        sum += values[i];
    bool is_text = values && length > 1;
    free(values);
    return is_text ? exp(sum / ((double)n * (double)(length - 1))) : (double)NAN;
}

bool qy_results_accuracy(const qy_ledger_t *ledger, const qy_plan_t *plan, int text,
                         qy_variant_t variant, qy_accuracy_t *out)
{
    int64_t n, length;
    qy_choices_t choices = {0};
    double *values = read_values(ledger, plan, text, variant, &n, &length);
    bool known =
        values &&
        qy_store_read_choices(&choices, plan, plan->spec.evaluate[text].name, NULL) == QY_OK &&
        choices.n == n && qy_choices_score(&choices, values, out, NULL) == QY_OK;
    qy_choices_free(&choices);
    free(values);
    return known;
}
