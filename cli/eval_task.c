/* quarry eval --task: accuracy at a zero-shot task. */
#include "cli/eval.h"

#include <jansson.h>
#include <stdlib.h>

#include "model/choices.h"

/* Of one item: right choice, what the model chose, and by choice −log p and bytes. */
static qy_status_t write_item(FILE *file, const char *path, int64_t item, int32_t gold,
                              const int32_t *chosen, json_t *nll, json_t *bytes, qy_error_t *err)
{
    json_t *line = json_pack("{s:s, s:I, s:i, s:i, s:i, s:o, s:o}", "task", path, "item",
                             (json_int_t)item, "gold", (int)gold, "chosen", (int)chosen[0],
                             "chosen_by_bytes", (int)chosen[1], "nll", nll, "bytes", bytes);
    int failed = !line || json_dumpf(line, file, JSON_COMPACT | JSON_REAL_PRECISION(10)) != 0 ||
                 fputc('\n', file) == EOF;
    json_decref(line);
    return failed ? qy_fail(err, QY_ERR_IO, "the items of %s cannot be written", path) : QY_OK;
}

/* Sequences by item and choice: sequence[start[item] + choice]; the caller frees both. */
static int index_items(const qy_choices_t *t, int64_t **start, int64_t **sequence)
{
    *start = calloc((size_t)t->n_items + 1, sizeof **start);
    *sequence = calloc((size_t)t->n, sizeof **sequence);
    if (!*start || !*sequence)
        return 0;
    for (int64_t i = 0; i < t->n; i++)
        (*start)[t->choice[i].item + 1]++;
    for (int64_t i = 0; i < t->n_items; i++)
        (*start)[i + 1] += (*start)[i];
    for (int64_t i = 0; i < t->n; i++)
        (*sequence)[(*start)[t->choice[i].item] + t->choice[i].choice] = i;
    return 1;
}

static qy_status_t write_items(FILE *file, const char *path, const qy_choices_t *t,
                               const double *nll, qy_error_t *err)
{
    size_t n = (size_t)t->n_items;
    int64_t *start = NULL, *sequence = NULL;
    int32_t *chosen = malloc(2 * n * sizeof *chosen);
    double *best = malloc(2 * n * sizeof *best);
    qy_status_t status = QY_OK;
    if (!index_items(t, &start, &sequence) || !chosen || !best)
        status = qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", path);
    else
        qy_choices_pick(t, nll, chosen, chosen + n, best);
    for (int64_t i = 0; i < t->n_items && status == QY_OK; i++) {
        json_t *values = json_array(), *bytes = json_array();
        for (int64_t k = start[i]; k < start[i + 1]; k++) {
            json_array_append_new(values, json_real(nll[sequence[k]]));
            json_array_append_new(bytes, json_integer(t->choice[sequence[k]].bytes));
        }
        status = write_item(file, path, i, t->gold[i],
                            (int32_t[]){chosen[i], chosen[(size_t)i + n]}, values, bytes, err);
    }
    free(start);
    free(sequence);
    free(chosen);
    free(best);
    return status;
}

static qy_status_t score(eval_t *e, const char *path, const qy_choices_t *t, FILE *items,
                         qy_error_t *err)
{
    const qy_variant_source_t source = qy_eval_source(e);
    qy_accuracy_t a;
    double *nll = malloc((size_t)t->n * sizeof *nll);
    if (!nll)
        return qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", path);
    qy_status_t status = qy_evaluate_choices(e->dev, e->model, &source, t, 0, t->n, 1e18, NULL,
                                             &(qy_hooks_t){0}, nll, err);
    if (status == QY_OK)
        status = qy_choices_score(t, nll, &a, err);
    if (status == QY_OK && items)
        status = write_items(items, path, t, nll, err);
    free(nll);
    QY_TRY(status);
    printf("%s: %lld items, %lld continuations, %lld tokens\n", path, (long long)t->n_items,
           (long long)t->n, (long long)t->n_ids);
    printf("accuracy %.4f +- %.4f, by bytes %.4f +- %.4f\n", a.accuracy, a.error, a.by_bytes,
           a.by_bytes_error);
    return QY_OK;
}

qy_status_t qy_eval_task(eval_t *e, const char *path, FILE *items, qy_error_t *err)
{
    qy_choices_t task;
    QY_TRY(qy_choices_read(&task, path, e->tokenizer, e->task_bos != 0,
                           e->model->arch.max_positions, err));
    qy_status_t status = qy_choices_check(&task, e->model->arch.vocab, path, err);
    if (status == QY_OK)
        status = score(e, path, &task, items, err);
    qy_choices_free(&task);
    return status;
}
