/*
 * What a task's process does: a table from task kind to function. Failures become the result's
 * error.
 */
#ifndef QY_WORKER_RUN_TASK_H
#define QY_WORKER_RUN_TASK_H

#include "jobs/plan.h"
#include "model/choices.h"
#include "worker/forward.h"
#include "worker/hooks.h"

/* What every task works with. */
typedef struct {
    const qy_plan_t *plan;
    qy_device_t *dev;
    qy_model_t *model;
    const qy_hooks_t *hooks;
} qy_work_t;

/* One function a kind; *result's values are theirs to fill. */
qy_status_t qy_task_capture(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                            qy_error_t *err);
qy_status_t qy_task_segment(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                            qy_error_t *err);
qy_status_t qy_task_evaluate(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                             qy_error_t *err);
qy_status_t qy_task_final_norm(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                               qy_error_t *err);
qy_status_t qy_task_probe(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                          qy_error_t *err);

/* The device memory that each kind takes at most, beside the device's own. Of work only the plan,
 * the model's arch and the device's compute type are looked at. */
qy_status_t qy_task_capture_bytes(const qy_work_t *work, size_t *bytes, qy_error_t *err);
qy_status_t qy_task_segment_bytes(const qy_work_t *work, size_t *bytes, qy_error_t *err);
qy_status_t qy_task_evaluate_bytes(const qy_work_t *work, size_t *bytes, qy_error_t *err);
qy_status_t qy_task_final_norm_bytes(const qy_work_t *work, size_t *bytes, qy_error_t *err);

/* Opens plan, device and model, runs the task, closes everything. Never fails itself: what went
 * wrong is in result->error. */
void qy_run_task(const qy_task_t *task, const qy_hooks_t *hooks, qy_result_t *result);

/*
 * A stream of n samples of the plan's hidden states: as many in host memory as fit into its share
 * (one of so many) of resources.host_cache, the others in scratch. With a name ("03-input") the
 * scratch file outlives the process, and what is whole in it is found again by a stream of the same
 * run and name.
 */
qy_status_t qy_work_stream(const qy_work_t *work, int64_t n, int64_t length, int share,
                           const char *name, qy_stream_t **out, qy_error_t *err);
/* Removes such a file, where there is one on this node. */
void qy_work_stream_remove(const qy_plan_t *plan, const char *name);

/* Bytes of resources.host_cache; auto: half of the node's memory, or of what the job's cgroup
 * leaves of it, divided among the node's workers. */
double qy_work_host_cache(const qy_plan_t *plan);

/* Sequences in a forward-only batch of this length: enough rows to keep GEMMs busy. */
int64_t qy_forward_batch(int64_t length);

/*
 * NLL of windows (n × length ids) under a model: read_block NULL for the checkpoint itself, else
 * gives its quantized blocks. maps NULL, or for the checkpoint itself: of each block the channel
 * maps (nothing else of it is looked at) that its weights stand behind; activations are quantized
 * as form says. nll[i]: f64 sum over the T − 1 predictions of window i.
 */
typedef struct {
    qy_quant_form_t form;
    qy_status_t (*read_block)(void *context, int64_t block, qy_qblock_t *out, qy_error_t *err);
    void *context;
    const qy_qblock_t *maps;
} qy_variant_source_t;

/* What its forward passes are taken for (qy_forward_create): NULL where nothing is quantized. */
const qy_quant_form_t *qy_variant_form(const qy_variant_source_t *source);
/* Puts a block of the variant into f->params. */
qy_status_t qy_variant_load(qy_forward_t *f, const qy_variant_source_t *source, int64_t block,
                            qy_error_t *err);

qy_status_t qy_evaluate_windows(qy_device_t *dev, const qy_model_t *model,
                                const qy_variant_source_t *source, qy_stream_t *stream,
                                const int32_t *tokens, int64_t n, int64_t length,
                                const qy_hooks_t *hooks, double *nll, qy_error_t *err);

/*
 * The same for sequences [first, first + n) of a zero-shot task: nll[i], i < n, is the f64 sum over
 * the scored tokens of sequence first + i, in their order. Sequences of about the same length go
 * side by side, padded behind their ends, which causal attention never looks at. Their activations
 * are held in host memory up to host_cache bytes, beyond that in a file in scratch.
 */
qy_status_t qy_evaluate_choices(qy_device_t *dev, const qy_model_t *model,
                                const qy_variant_source_t *source, const qy_choices_t *choices,
                                int64_t first, int64_t n, double host_cache, const char *scratch,
                                const qy_hooks_t *hooks, double *nll, qy_error_t *err);

#endif
