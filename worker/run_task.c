#include "worker/run_task.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/machine.h"
#include "worker/device_record.h"

static qy_status_t (*const task_functions[QY_N_TASK_KINDS])(const qy_work_t *, const qy_task_t *,
                                                            qy_result_t *, qy_error_t *) = {
    [QY_TASK_CAPTURE] = qy_task_capture,
    [QY_TASK_SEGMENT] = qy_task_segment,
    [QY_TASK_EVALUATE] = qy_task_evaluate,
    [QY_TASK_FINAL_NORM] = qy_task_final_norm,
    [QY_TASK_PROBE] = qy_task_probe,
};

int64_t qy_forward_batch(int64_t length)
{
    int64_t batch = 2048 / length;
    return batch < 1 ? 1 : batch;
}

/* auto: half of the memory that the node gives, for all workers on it. */
double qy_work_host_cache(const qy_plan_t *plan)
{
    if (plan->spec.resources.host_cache > 0)
        return (double)plan->spec.resources.host_cache;
    const char *text = getenv(QY_NODE_WORKERS);
    long workers = text ? strtol(text, NULL, 10) : 1;
    return qy_machine_memory() / 2 / (double)(workers > 1 ? workers : 1);
}

/* XXH3 of a few texts that say whose something is. */
static uint64_t identity(const char *a, const char *b)
{
    char text[QY_PATH_MAX + 128];
    int n = snprintf(text, sizeof text, "%s|%s", a, b);
    return qy_xxh3(text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

/* Named after the run: its plan and where it lives. */
static void scratch_name(const qy_plan_t *plan, const char *name, char out[96])
{
    snprintf(out, 96, "quarry-%016" PRIx64 "-%.48s.bin", identity(plan->hash, plan->spec.run_dir),
             name);
}

qy_status_t qy_work_stream(const qy_work_t *work, int64_t n, int64_t length, int share,
                           const char *name, qy_stream_t **out, qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    char file[96];
    size_t sample = (size_t)(length * plan->arch.hidden) * qy_dtype_bytes(work->dev->compute);
    double fit = qy_work_host_cache(plan) / (double)share / (double)sample;
    if (name)
        scratch_name(plan, name, file);
    return qy_stream_create(out, work->dev,
                            &(qy_stream_options_t){.n = n,
                                                   .sample_bytes = sample,
                                                   .in_memory = fit < (double)n ? (int64_t)fit : n,
                                                   .scratch = plan->spec.resources.scratch,
                                                   .name = name ? file : NULL,
                                                   .seed = identity(plan->hash, name ? name : "")},
                            err);
}

void qy_work_stream_remove(const qy_plan_t *plan, const char *name)
{
    char file[96], path[QY_PATH_MAX];
    scratch_name(plan, name, file);
    if (qy_path(path, NULL, "%s/%s", plan->spec.resources.scratch, file) == QY_OK)
        unlink(path);
}

static qy_status_t run(const qy_task_t *task, const qy_hooks_t *hooks, qy_result_t *result,
                       qy_error_t *err)
{
    qy_status_t status;
    qy_plan_t *plan = NULL;
    qy_hooks_t with_fault = *hooks;
    qy_work_t work = {.hooks = &with_fault};
    QY_TRY(qy_plan_load(&plan, task->run_dir, err));
    work.plan = plan;
    if (strcmp(plan->hash, task->plan_hash) != 0) {
        status = qy_fail(err, QY_ERR_FORMAT, "%s: the plan there has hash %.12s, the task %.12s",
                         task->run_dir, plan->hash, task->plan_hash);
        goto destroy_plan;
    }
    QY_TRY_GOTO(qy_device_open_recorded(&work.dev, plan, err), destroy_plan);
    qy_fault_t fault = qy_fault_of(task, work.dev);
    with_fault.fault = &fault;
    QY_TRY_GOTO(qy_model_open(&work.model, plan->spec.model, err), close_device);
    work.model->threads = work.dev->threads;
    status = task_functions[task->kind](&work, task, result, err);
    result->device_bytes = (int64_t)qy_device_peak(work.dev);
    qy_model_close(&work.model);
close_device:
    qy_device_close(&work.dev);
destroy_plan:
    qy_plan_destroy(&plan);
    return status;
}

void qy_run_task(const qy_task_t *task, const qy_hooks_t *hooks, qy_result_t *result)
{
    double began = qy_now_s();
    *result = (qy_result_t){.task_id = task->id, .kind = task->kind};
    run(task, hooks, result, &result->error);
    result->seconds = qy_now_s() - began;
}
