#include "jobs/task.h"

#include "jobs/spec.h"
#include "jobs/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More windows than any text has; keeps a hostile count from asking for memory. */
enum { MAX_VALUES = 4 << 20 };

static const char *const variant_names[QY_N_VARIANTS] = {[QY_VARIANT_ORIGINAL] = "original",
                                                         [QY_VARIANT_ROUNDED] = "rounded",
                                                         [QY_VARIANT_STITCHED] = "stitched",
                                                         [QY_VARIANT_FINAL] = "final"};

void qy_result_free(qy_result_t *result)
{
    free(result->values);
    result->values = NULL;
    result->n_values = 0;
}

void qy_task_name(const qy_task_t *task, char out[96])
{
    long long range = (long long)task->range;
    unsigned variant = (unsigned)task->variant;
    switch (task->kind) {
    case QY_TASK_CAPTURE:
        snprintf(out, 96, "capture %s range %lld", task->set == QY_SET_E2E ? "e2e" : "calibration",
                 range);
        break;
    case QY_TASK_SEGMENT:
        snprintf(out, 96, "segment %lld", range);
        break;
    case QY_TASK_EVALUATE:
        snprintf(out, 96, "evaluate text %d %s range %lld", task->text,
                 variant < QY_N_VARIANTS ? variant_names[variant] : "?", range);
        break;
    case QY_TASK_FINAL_NORM:
        snprintf(out, 96, "final norm range %lld", range);
        break;
    case QY_TASK_PROBE:
        snprintf(out, 96, "probe of the device");
        break;
    default:
        snprintf(out, 96, "task %d of an unknown kind", task->id);
    }
}

static qy_task_kind_t get_kind(qy_wire_in_t *in)
{
    uint32_t kind = qy_get_u32(in);
    if (kind >= QY_N_TASK_KINDS)
        qy_wire_refuse(in, "an unknown kind of task");
    return kind < QY_N_TASK_KINDS ? (qy_task_kind_t)kind : QY_TASK_CAPTURE;
}

/* --- tasks ------------------------------------------------------------------------------------ */

qy_status_t qy_task_encode(const qy_task_t *task, void **bytes, size_t *n, qy_error_t *err)
{
    qy_wire_out_t out = {0};
    qy_put_u32(&out, (uint32_t)task->kind);
    qy_put_u32(&out, (uint32_t)task->id);
    qy_put_u32(&out, (uint32_t)task->attempt);
    qy_put_u32(&out, (uint32_t)task->set);
    qy_put_u32(&out, (uint32_t)task->variant);
    qy_put_u32(&out, (uint32_t)task->text);
    qy_put_i64(&out, task->range);
    qy_put_f64(&out, task->cost);
    qy_put_string(&out, task->plan_hash);
    qy_put_string(&out, task->run_dir);
    return qy_wire_finish(&out, bytes, n, err);
}

static void check_task(qy_wire_in_t *in, const qy_task_t *task)
{
    if (task->id < 0)
        qy_wire_refuse(in, "a negative id");
    if (task->attempt < 1)
        qy_wire_refuse(in, "an attempt below 1");
    if (task->set != QY_SET_CALIBRATION && task->set != QY_SET_E2E)
        qy_wire_refuse(in, "an unknown set of samples");
    if (task->variant < 0 || task->variant >= QY_N_VARIANTS)
        qy_wire_refuse(in, "an unknown variant of the model");
    if (task->text < 0 || task->text >= QY_MAX_EVALUATE)
        qy_wire_refuse(in, "a text that no plan has");
    if (task->range < 0)
        qy_wire_refuse(in, "a negative range");
    if (!isfinite(task->cost) || task->cost < 0.0)
        qy_wire_refuse(in, "a cost that is no number");
}

qy_status_t qy_task_decode(qy_task_t *task, const void *bytes, size_t n, qy_error_t *err)
{
    qy_wire_in_t in = qy_wire_open(bytes, n);
    qy_task_t read;
    memset(&read, 0, sizeof read);
    read.kind = get_kind(&in);
    read.id = qy_get_i32(&in);
    read.attempt = qy_get_i32(&in);
    read.set = qy_get_i32(&in);
    read.variant = qy_get_i32(&in);
    read.text = qy_get_i32(&in);
    read.range = qy_get_i64(&in);
    read.cost = qy_get_f64(&in);
    qy_get_string(&in, read.plan_hash, sizeof read.plan_hash);
    qy_get_string(&in, read.run_dir, sizeof read.run_dir);
    check_task(&in, &read);
    QY_TRY(qy_wire_close(&in, "task", err));
    *task = read;
    return QY_OK;
}

/* --- progress --------------------------------------------------------------------------------- */

qy_status_t qy_progress_encode(const qy_progress_t *progress, void **bytes, size_t *n,
                               qy_error_t *err)
{
    qy_wire_out_t out = {0};
    qy_put_u32(&out, (uint32_t)progress->task_id);
    qy_put_u32(&out, (uint32_t)progress->kind);
    qy_put_i64(&out, progress->block);
    qy_put_i64(&out, progress->step);
    qy_put_i64(&out, progress->n_steps);
    qy_put_f64(&out, progress->loss);
    qy_put_f64(&out, progress->tokens_per_s);
    qy_put_u32(&out, (uint32_t)progress->block_done);
    qy_put_f64(&out, progress->loss_before);
    qy_put_f64(&out, progress->loss_after);
    qy_put_f64(&out, progress->validation_before);
    qy_put_f64(&out, progress->validation_after);
    qy_put_f64(&out, progress->seconds);
    qy_put_f64(&out, progress->train_s);
    qy_put_f64(&out, progress->advance_s);
    qy_put_f64(&out, progress->stall_s);
    return qy_wire_finish(&out, bytes, n, err);
}

qy_status_t qy_progress_decode(qy_progress_t *progress, const void *bytes, size_t n,
                               qy_error_t *err)
{
    qy_wire_in_t in = qy_wire_open(bytes, n);
    qy_progress_t read;
    memset(&read, 0, sizeof read);
    read.task_id = qy_get_i32(&in);
    read.kind = get_kind(&in);
    read.block = qy_get_i64(&in);
    read.step = qy_get_i64(&in);
    read.n_steps = qy_get_i64(&in);
    read.loss = qy_get_f64(&in);
    read.tokens_per_s = qy_get_f64(&in);
    read.block_done = qy_get_i32(&in);
    read.loss_before = qy_get_f64(&in);
    read.loss_after = qy_get_f64(&in);
    read.validation_before = qy_get_f64(&in);
    read.validation_after = qy_get_f64(&in);
    read.seconds = qy_get_f64(&in);
    read.train_s = qy_get_f64(&in);
    read.advance_s = qy_get_f64(&in);
    read.stall_s = qy_get_f64(&in);
    if (read.task_id < -1)
        qy_wire_refuse(&in, "a negative id");
    if (read.block < -1 || (read.block_done && read.block < 0))
        qy_wire_refuse(&in, "a negative block");
    if (read.step < 0 || read.n_steps < 0)
        qy_wire_refuse(&in, "a negative step");
    if (read.block_done != 0 && read.block_done != 1)
        qy_wire_refuse(&in, "block_done is neither 0 nor 1");
    QY_TRY(qy_wire_close(&in, "progress", err));
    *progress = read;
    return QY_OK;
}

/* --- results ---------------------------------------------------------------------------------- */

qy_status_t qy_result_encode(const qy_result_t *result, void **bytes, size_t *n, qy_error_t *err)
{
    if (result->n_values < 0 || result->n_values > MAX_VALUES)
        return qy_fail(err, QY_ERR_ARG, "result of %lld values, at most %d",
                       (long long)result->n_values, MAX_VALUES);
    qy_wire_out_t out = {0};
    qy_put_u32(&out, (uint32_t)result->task_id);
    qy_put_u32(&out, (uint32_t)result->kind);
    qy_put_u32(&out, (uint32_t)result->error.status);
    qy_put_string(&out, result->error.text);
    qy_put_f64(&out, result->seconds);
    qy_put_i64(&out, result->device_bytes);
    qy_put_i64(&out, result->n_values);
    for (int64_t i = 0; i < result->n_values; i++)
        qy_put_f64(&out, result->values[i]);
    return qy_wire_finish(&out, bytes, n, err);
}

static void get_values(qy_wire_in_t *in, qy_result_t *result)
{
    int64_t n = result->n_values;
    if (n < 0 || n > MAX_VALUES || (uint64_t)n * 8 != in->left)
        qy_wire_refuse(in, "another number of values than it says");
    if (in->problem || n == 0)
        return;
    result->values = malloc((size_t)n * sizeof *result->values);
    if (!result->values) {
        qy_wire_refuse(in, "no memory for its values");
        return;
    }
    for (int64_t i = 0; i < n; i++)
        result->values[i] = qy_get_f64(in);
}

qy_status_t qy_result_decode(qy_result_t *result, const void *bytes, size_t n, qy_error_t *err)
{
    qy_wire_in_t in = qy_wire_open(bytes, n);
    qy_result_t read;
    memset(&read, 0, sizeof read);
    read.task_id = qy_get_i32(&in);
    read.kind = get_kind(&in);
    uint32_t code = qy_get_u32(&in);
    qy_get_string(&in, read.error.text, sizeof read.error.text);
    read.seconds = qy_get_f64(&in);
    read.device_bytes = qy_get_i64(&in);
    read.n_values = qy_get_i64(&in);
    if (read.task_id < -1)
        qy_wire_refuse(&in, "a negative id");
    if (code >= QY_N_STATUS)
        qy_wire_refuse(&in, "an unknown status");
    get_values(&in, &read);
    qy_status_t status = qy_wire_close(&in, "result", err);
    if (status != QY_OK) {
        qy_result_free(&read);
        return status;
    }
    read.error.status = (qy_status_t)code;
    *result = read;
    return QY_OK;
}
