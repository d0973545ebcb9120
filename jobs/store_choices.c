/* Files of zero-shot tasks: tokenized once, read by every evaluation and where accuracies are told.
 */
#include "jobs/store_inner.h"

#include <stdlib.h>

/* Columns of the dataset "choices": a row for each sequence. */
enum { COL_TOKENS, COL_SCORED, COL_ITEM, COL_CHOICE, COL_BYTES, N_COLS };

/* --- writing ---------------------------------------------------------------------------------- */

static qy_status_t write_rows(qy_h5_t *file, const qy_choices_t *task, qy_error_t *err)
{
    int32_t *rows = malloc((size_t)(task->n * N_COLS) * sizeof *rows);
    if (!rows)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %lld sequences", qy_h5_path(file),
                       (long long)task->n);
    for (int64_t i = 0; i < task->n; i++) {
        const qy_choice_t *c = &task->choice[i];
        int32_t *row = rows + i * N_COLS;
        row[COL_TOKENS] = c->n;
        row[COL_SCORED] = c->n_scored;
        row[COL_ITEM] = c->item;
        row[COL_CHOICE] = c->choice;
        row[COL_BYTES] = c->bytes;
    }
    const qy_tensor_t t = qy_tensor_2d(rows, QY_I32, task->n, N_COLS);
    qy_status_t status = qy_h5_write(file, "choices", &t, err);
    free(rows);
    return status;
}

static qy_status_t write_task(const qy_plan_t *plan, const char *name, const qy_choices_t *task,
                              qy_error_t *err)
{
    const qy_tensor_t ids = qy_tensor_1d(task->ids, QY_I32, task->n_ids);
    const qy_tensor_t gold = qy_tensor_1d(task->gold, QY_I32, task->n_items);
    qy_h5_t *file = NULL;
    QY_TRY(qy_store_create_set(&file, plan, name, "choices", err));
    qy_status_t status = qy_h5_write(file, "ids", &ids, err);
    if (status == QY_OK)
        status = qy_h5_write(file, "gold", &gold, err);
    if (status == QY_OK)
        status = write_rows(file, task, err);
    if (status == QY_OK)
        status = qy_h5_commit(&file, err);
    qy_h5_close(&file);
    return status;
}

qy_status_t qy_store_make_choices(const qy_plan_t *plan, const qy_evaluate_spec_t *e,
                                  const qy_tokenizer_t *tokenizer, qy_error_t *err)
{
    qy_choices_t task;
    QY_TRY(qy_choices_read(&task, e->task, tokenizer, true, plan->arch.max_positions, err));
    qy_status_t status = qy_choices_check(&task, plan->arch.vocab, e->task, err);
    if (status == QY_OK)
        status = write_task(plan, e->name, &task, err);
    qy_choices_free(&task);
    return status;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* A dataset of i32 whole, and its number of rows; cols 0: it has one dimension. */
static qy_status_t read_i32(qy_h5_t *file, const char *name, int64_t cols, int32_t **out,
                            int64_t *rows, qy_error_t *err)
{
    qy_tensor_t t;
    QY_TRY(qy_h5_info(file, name, &t, err));
    if (t.dtype != QY_I32 || t.n_dims != (cols ? 2 : 1) || t.shape[0] < 1 ||
        (cols && t.shape[1] != cols))
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s is not what a task has", qy_h5_path(file), name);
    t.data = malloc(qy_tensor_bytes(&t));
    if (!t.data)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its %zu bytes", qy_h5_path(file),
                       qy_tensor_bytes(&t));
    qy_status_t status = qy_h5_read(file, name, &t, err);
    if (status != QY_OK) {
        free(t.data);
        return status;
    }
    *out = t.data;
    *rows = t.shape[0];
    return QY_OK;
}

static qy_status_t read_rows(qy_h5_t *file, qy_choices_t *task, qy_error_t *err)
{
    int32_t *rows = NULL;
    int64_t first = 0;
    QY_TRY(read_i32(file, "choices", N_COLS, &rows, &task->n, err));
    task->choice = malloc((size_t)task->n * sizeof *task->choice);
    for (int64_t i = 0; i < task->n && task->choice; i++) {
        const int32_t *row = rows + i * N_COLS;
        task->choice[i] = (qy_choice_t){.first = first,
                                        .n = row[COL_TOKENS],
                                        .n_scored = row[COL_SCORED],
                                        .item = row[COL_ITEM],
                                        .choice = row[COL_CHOICE],
                                        .bytes = row[COL_BYTES]};
        first += row[COL_TOKENS];
    }
    free(rows);
    if (task->choice)
        return QY_OK;
    return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %lld sequences", qy_h5_path(file),
                   (long long)task->n);
}

qy_status_t qy_store_read_choices(qy_choices_t *out, const qy_plan_t *plan, const char *name,
                                  qy_error_t *err)
{
    qy_choices_t task = {0};
    qy_h5_t *file = NULL;
    QY_TRY(qy_store_open_set(&file, plan, name, "choices", err));
    qy_status_t status = read_i32(file, "ids", 0, &task.ids, &task.n_ids, err);
    if (status == QY_OK)
        status = read_i32(file, "gold", 0, &task.gold, &task.n_items, err);
    if (status == QY_OK)
        status = read_rows(file, &task, err);
    if (status == QY_OK)
        status = qy_choices_check(&task, plan->arch.vocab, qy_h5_path(file), err);
    qy_h5_close(&file);
    if (status == QY_OK)
        *out = task;
    else
        qy_choices_free(&task);
    return status;
}
