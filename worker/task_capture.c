/* Capture: a range of samples through the full-precision model, written at every segment start. */
#include <stdlib.h>

#include "jobs/store.h"
#include "worker/run_task.h"

typedef struct {
    const qy_work_t *work;
    const qy_task_t *task;
    qy_forward_t forward;
    qy_stream_t *stream;
    int32_t *tokens;          /* all samples of the set */
    int64_t first, n, length; /* of this range */
} capture_t;

/* Where the activations in front of this block go; 0 where nobody asks for them. */
static int wanted_at(const capture_t *c, int64_t block, char path[QY_PATH_MAX], qy_status_t *status,
                     qy_error_t *err)
{
    const qy_plan_t *plan = c->work->plan;
    *status = QY_OK;
    if (c->task->set == QY_SET_E2E) {
        if (block == plan->arch.n_blocks)
            *status = qy_store_teacher(path, plan, c->task->range, err);
        return block == plan->arch.n_blocks;
    }
    for (int64_t k = 1; k < plan->n_segments; k++)
        if (plan->segment_start[k] == block) {
            *status = qy_store_capture(path, plan, k, c->task->range, err);
            return 1;
        }
    return 0;
}

static const char *kind_of(const capture_t *c)
{
    return c->task->set == QY_SET_E2E ? "teacher" : "capture";
}

static qy_status_t write_rows(capture_t *c, qy_h5_t *file, qy_error_t *err)
{
    const qy_plan_t *plan = c->work->plan;
    int64_t shape[] = {c->n, c->length, plan->arch.hidden};
    void *row = malloc(qy_stream_sample_bytes(c->stream));
    if (!row)
        return qy_fail(err, QY_ERR_MEMORY, "capture: out of host memory");
    qy_status_t status = qy_stream_expect_range(c->stream, 0, c->n, err);
    if (status == QY_OK)
        status = qy_store_mark(file, plan, kind_of(c), err);
    if (status == QY_OK)
        status = qy_h5_declare(file, "x", c->work->dev->compute, 3, shape, err);
    for (int64_t i = 0; i < c->n && status == QY_OK; i++) {
        status = qy_stream_read(c->stream, i, row, err);
        if (status == QY_OK)
            status = qy_h5_write_rows(file, "x", i, 1, row, err);
    }
    free(row);
    return status;
}

static qy_status_t write_capture(capture_t *c, const char *path, qy_error_t *err)
{
    qy_h5_t *file = NULL;
    QY_TRY(qy_h5_create(&file, path, err));
    qy_status_t status = write_rows(c, file, err);
    if (status == QY_OK)
        return qy_h5_commit(&file, err);
    qy_h5_close(&file);
    return status;
}

/* Fills the stream from the last capture that an earlier attempt left, and says after which block.
 */
static qy_status_t begin(capture_t *c, int64_t *next_block, qy_error_t *err)
{
    const qy_plan_t *plan = c->work->plan;
    char path[QY_PATH_MAX];
    qy_status_t status;
    int64_t from = 0; /* the last place up to which every file is there */
    for (int64_t b = 1; b <= plan->arch.n_blocks; b++) {
        if (!wanted_at(c, b, path, &status, err))
            continue;
        QY_TRY(status);
        if (!qy_store_has(path, plan, kind_of(c), NULL))
            break;
        from = b;
    }
    *next_block = from;
    if (from > 0) {
        wanted_at(c, from, path, &status, err);
        qy_h5_t *file = NULL;
        status = qy_store_open(&file, path, plan, kind_of(c), err);
        if (status == QY_OK)
            status = qy_stream_fill(&c->stream, 1, file, c->work->dev->compute, 0, c->n, from, err);
        qy_h5_close(&file);
        return qy_store_set_aside(path, status, err);
    }
    return qy_forward_embed(&c->forward, &c->stream, 1, c->tokens + c->first * c->length, err);
}

static qy_status_t walk(capture_t *c, qy_error_t *err)
{
    const qy_plan_t *plan = c->work->plan;
    int64_t block = 0, end = plan->arch.n_blocks;
    double last = 0;
    if (c->task->set == QY_SET_CALIBRATION)
        end = plan->segment_start[plan->n_segments - 1];
    QY_TRY(begin(c, &block, err));
    qy_forward_read_ahead(&c->forward, end);
    while (block < end) {
        char path[QY_PATH_MAX];
        qy_status_t status;
        QY_TRY(qy_hooks_check(c->work->hooks, err));
        QY_TRY(qy_forward_load_original(&c->forward, block, err));
        QY_TRY(qy_forward_advance(&c->forward, c->stream, block, c->work->hooks, err));
        block++;
        if (wanted_at(c, block, path, &status, err)) {
            QY_TRY(status);
            QY_TRY(write_capture(c, path, err));
        }
        qy_hooks_progress(c->work->hooks, &last,
                          &(qy_progress_t){.task_id = c->task->id,
                                           .kind = QY_TASK_CAPTURE,
                                           .block = block,
                                           .step = block,
                                           .n_steps = end});
    }
    return QY_OK;
}

qy_status_t qy_task_capture_bytes(const qy_work_t *work, size_t *bytes, qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    const int64_t lengths[] = {plan->n_ranges ? plan->spec.calibration.sequence_length : 0,
                               plan->n_e2e_ranges ? plan->e2e_length : 0};
    *bytes = 0;
    for (int i = 0; i < 2; i++) {
        size_t one = 0;
        if (lengths[i])
            QY_TRY(qy_forward_bytes(&one, work->dev, work->model, NULL,
                                    qy_forward_batch(lengths[i]), lengths[i], QY_OUTER_EMBEDDING,
                                    err));
        *bytes = one > *bytes ? one : *bytes;
    }
    return QY_OK;
}

qy_status_t qy_task_capture(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                            qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    capture_t c = {.work = work, .task = task};
    qy_status_t status;
    int64_t all;
    (void)result;
    int e2e = task->set == QY_SET_E2E;
    QY_TRY(
        qy_store_read_tokens(&c.tokens, &all, &c.length, plan, e2e ? "e2e" : "calibration", err));
    qy_plan_range(all, e2e ? plan->n_e2e_ranges : plan->n_ranges, task->range, &c.first, &c.n);
    QY_TRY_GOTO(qy_forward_create(&c.forward, work->dev, work->model, NULL,
                                  qy_forward_batch(c.length), c.length, err),
                free_tokens);
    QY_TRY_GOTO(qy_work_stream(work, c.n, c.length, 1, NULL, &c.stream, err), free_forward);
    status = walk(&c, err);
    qy_stream_destroy(&c.stream);
free_forward:
    qy_forward_free(&c.forward);
free_tokens:
    free(c.tokens);
    return status;
}
