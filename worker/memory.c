#include "worker/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/norm.h"
#include "worker/e2e_stage.h"
#include "worker/run_task.h"

/* Left free on a GPU without a limit: libraries take memory as they go. */
static const size_t room_reserve = (size_t)1 << 30;

/* Sizes beyond this are nobody's: sums of their bytes could overflow. */
static const double measurable = 1e17;

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static double widest(const qy_arch_t *a)
{
    double most = (double)a->hidden;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (a->linear[i].present && (double)a->linear[i].out > most)
            most = (double)a->linear[i].out;
    return most;
}

static qy_status_t check_measurable(const qy_plan_t *plan, qy_error_t *err)
{
    const qy_spec_t *spec = &plan->spec;
    const qy_arch_t *a = &plan->arch;
    double wide = widest(a), blocks = (double)a->n_blocks;
    double micros = (double)(spec->e2e_qp.present ? spec->e2e_qp.batch_size : 0);
    const double sizes[] = {(double)spec->block_ap.batch_size *
                                (double)spec->calibration.sequence_length * wide,
                            (micros + 1) * (double)plan->e2e_length * wide * blocks,
                            (double)plan->e2e_length * wide * (double)spec->e2e_qp.micro_batch_size,
                            ((double)a->vocab + (double)a->max_positions + wide) * wide * blocks};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!(sizes[i] < measurable))
            return qy_fail(err, QY_ERR_ARG, "a worker would need more than %.0f PB of memory",
                           measurable / 1e15);
    return QY_OK;
}

/* Scratch that the ops of a training on batch × length tokens ask for: row products of the
 * attention's backward pass; partial sums of the norms' gradients. */
static size_t scratch_of(const qy_plan_t *plan, int64_t batch, int64_t length, int norms)
{
    const qy_arch_t *a = &plan->arch;
    size_t rows = (size_t)(batch * length);
    size_t parts = (rows + QY_NORM_ROWS - 1) / QY_NORM_ROWS * (size_t)a->hidden;
    size_t heads = rows * (size_t)a->n_heads;
    size_t head_parts = (heads + QY_NORM_ROWS - 1) / QY_NORM_ROWS * (size_t)a->head_dim;
    size_t most = heads;
    if (norms)
        most = larger(most, larger(2 * parts, head_parts));
    return most * sizeof(float);
}

static size_t sample_bytes(const qy_plan_t *plan, int64_t length, qy_dtype_t compute)
{
    return (size_t)(length * plan->arch.hidden) * qy_dtype_bytes(compute);
}

/* Micro-batches on their way between stages (kernels/peers.h): two towards each neighbour. */
static size_t passing_bytes(const qy_plan_t *plan, const char *kind, qy_dtype_t compute,
                            int n_ranks)
{
    size_t one =
        (size_t)plan->spec.e2e_qp.micro_batch_size * sample_bytes(plan, plan->e2e_length, compute);
    int neighbours = n_ranks > 2 ? 2 : n_ranks - 1;
    return strcmp(kind, "cuda") == 0 && strcmp(plan->spec.resources.pipe, "mpi") != 0
               ? 2 * (size_t)neighbours * one
               : 0;
}

/* The largest stage: they differ in blocks, in micro-batches under way and in what lies outside the
 * blocks. */
static qy_status_t measure_e2e(size_t *bytes, const qy_work_t *work, qy_error_t *err)
{
    const qy_plan_t *plan = work->plan;
    int n_stages =
        (int)(plan->n_workers < plan->arch.n_blocks ? plan->n_workers : plan->arch.n_blocks);
    *bytes = 0;
    int64_t *first = malloc((size_t)(n_stages + 1) * sizeof *first);
    if (!first)
        return qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    qy_e2e_split(plan, n_stages, first);
    qy_status_t status = QY_OK;
    for (int r = 0; r < n_stages && status == QY_OK; r++) {
        size_t one = 0;
        status = qy_e2e_stage_bytes(&one, plan, work->dev, work->model, first[r],
                                    first[r + 1] - first[r], qy_e2e_slots(plan, n_stages, r), err);
        *bytes = larger(*bytes, one);
    }
    free(first);
    return status;
}

qy_status_t qy_memory_measure(qy_memory_t *out, const qy_plan_t *plan, const char *kind,
                              qy_dtype_t compute, qy_error_t *err)
{
    /* Only what sizes follow from: nothing is opened. */
    qy_device_t dev = {.compute = compute};
    qy_model_t model = {.arch = plan->arch};
    const qy_work_t work = {.plan = plan, .dev = &dev, .model = &model};
    const qy_spec_t *spec = &plan->spec;
    int qllm = spec->quantize.method == QY_METHOD_QLLM;
    int64_t batch = qllm ? spec->qllm.batch_size : spec->block_ap.batch_size;
    int norms = qllm || plan->block_ap.norm_lr > 0;
    size_t scratch = 0, norm;
    *out = (qy_memory_t){0};
    QY_TRY(check_measurable(plan, err));
    snprintf(dev.kind, sizeof dev.kind, "%s", kind);
    if (plan->n_samples)
        scratch = scratch_of(plan, batch, spec->calibration.sequence_length, norms);
    QY_TRY(qy_task_segment_bytes(&work, &out->segment, err));
    out->segment += qy_device_own_bytes(kind, scratch);
    QY_TRY(qy_task_capture_bytes(&work, &out->capture, err));
    if (out->capture)
        out->capture += qy_device_own_bytes(kind, 0);
    QY_TRY(qy_task_evaluate_bytes(&work, &out->evaluate, err));
    if (out->evaluate)
        out->evaluate += qy_device_own_bytes(kind, 0);
    QY_TRY(qy_task_final_norm_bytes(&work, &norm, err));
    if (norm) {
        int64_t length = spec->calibration.sequence_length;
        scratch = scratch_of(plan, qy_forward_batch(length), length, 1);
        out->evaluate = larger(out->evaluate, norm + qy_device_own_bytes(kind, scratch));
    }
    if (spec->e2e_qp.present) {
        QY_TRY(measure_e2e(&out->e2e, &work, err));
        out->e2e += qy_device_own_bytes(
            kind, scratch_of(plan, spec->e2e_qp.micro_batch_size, plan->e2e_length, 0));
        out->e2e += passing_bytes(plan, kind, compute, (int)plan->n_workers);
    }
    out->most = larger(larger(out->capture, out->segment), larger(out->evaluate, out->e2e));
    return QY_OK;
}

/* The compute type that a spec asks of a device of this kind. */
static qy_dtype_t compute_of(const qy_spec_t *spec, const char *kind)
{
    if (strcmp(kind, "cpu") == 0 || strcmp(spec->resources.compute, "f32") == 0)
        return QY_F32;
    return strcmp(spec->resources.compute, "f16") == 0 ? QY_F16 : QY_BF16;
}

static qy_status_t refuse(qy_status_t status, size_t need, const char *whose, size_t have,
                          qy_error_t *err)
{
    char want[32], got[32];
    qy_plan_bytes_text(want, (int64_t)need);
    qy_plan_bytes_text(got, (int64_t)have);
    return qy_fail(err, status, "a worker needs %s (%zu bytes) of %s %s (%zu bytes)", want, need,
                   whose, got, have);
}

/* resources.gpu_memory where it holds for this kind: where either device will do, it is the GPU's.
 */
static size_t limit_of(const qy_spec_t *spec, const char *kind)
{
    int holds = strcmp(kind, "cuda") == 0 || strcmp(spec->resources.device, "cpu") == 0;
    return holds ? (size_t)spec->resources.gpu_memory : 0;
}

static qy_status_t check_limit(const qy_spec_t *spec, const char *kind, size_t need,
                               qy_error_t *err)
{
    size_t limit = limit_of(spec, kind);
    if (limit && need > limit)
        return refuse(QY_ERR_ARG, need,
                      strcmp(kind, "cuda") == 0
                          ? "GPU memory beside the context; resources.gpu_memory:"
                          : "memory to compute with; resources.gpu_memory:",
                      limit, err);
    return QY_OK;
}

qy_status_t qy_memory_plan(qy_plan_t *plan, qy_error_t *err)
{
    const char *device = plan->spec.resources.device;
    qy_memory_t cpu = {0}, gpu = {0};
    if (strcmp(device, "cuda") != 0)
        QY_TRY(qy_memory_measure(&cpu, plan, "cpu", compute_of(&plan->spec, "cpu"), err));
    if (strcmp(device, "cpu") != 0)
        QY_TRY(qy_memory_measure(&gpu, plan, "cuda", compute_of(&plan->spec, "cuda"), err));
    plan->cpu_bytes = (int64_t)cpu.most;
    plan->gpu_bytes = (int64_t)gpu.most;
    QY_TRY(check_limit(&plan->spec, "cpu", cpu.most, err));
    return check_limit(&plan->spec, "cuda", gpu.most, err);
}

qy_status_t qy_memory_check(const qy_plan_t *plan, const qy_device_t *dev, qy_error_t *err)
{
    qy_memory_t need;
    size_t free_bytes, total_bytes;
    char host[64] = "?", whose[256];
    QY_TRY(qy_memory_measure(&need, plan, dev->kind, dev->compute, err));
    QY_TRY(check_limit(&plan->spec, dev->kind, need.most, err));
    qy_device_limit(dev, limit_of(&plan->spec, dev->kind));
    if (strcmp(dev->kind, "cuda") != 0)
        return QY_OK;
    QY_TRY(qy_device_memory(dev, &free_bytes, &total_bytes, err));
    free_bytes += qy_device_used(dev);
    if (need.most <= free_bytes)
        return QY_OK;
    gethostname(host, sizeof host - 1);
    snprintf(whose, sizeof whose, "GPU memory; host %s: free on its %s:", host, dev->model);
    return refuse(QY_ERR_MEMORY, need.most, whose, free_bytes, err);
}

size_t qy_memory_room(const qy_plan_t *plan, const qy_device_t *dev, int n_ranks)
{
    size_t limit = limit_of(&plan->spec, dev->kind), used = qy_device_used(dev);
    size_t free_bytes = 0, total_bytes = 0;
    /* What is yet to come: the device's scratch, and what passes between stages. */
    size_t scratch = scratch_of(plan, plan->spec.e2e_qp.micro_batch_size, plan->e2e_length, 0);
    size_t later = qy_device_own_bytes(dev->kind, scratch);
    later = later > used ? later - used : 0;
    later += passing_bytes(plan, dev->kind, dev->compute, n_ranks);
    if (limit)
        return limit > used + later ? limit - used - later : 0;
    if (strcmp(dev->kind, "cuda") != 0 ||
        qy_device_memory(dev, &free_bytes, &total_bytes, NULL) != QY_OK)
        return 0;
    return free_bytes > room_reserve + later ? free_bytes - room_reserve - later : 0;
}
