/*
 * Bytes of host memory and disk that a run needs, from shapes alone. Upper bounds by what is held
 * at the same time; small things (norms, biases, file headers) are left out. What the device
 * computes with is measured by worker/memory.h.
 */
#include "jobs/finished.h"
#include "jobs/plan_inner.h"
#include "jobs/spec_table.h"
#include "model/gguf_encode.h"

#include <stdio.h>
#include <string.h>

/* Between the device and a stream's scratch file, as worker/stream_io.c takes them. */
static const int64_t STREAM_BUFFERS = (int64_t)384 << 20;

enum { F32 = 4, F16 = 2, VARS = 3 /* a trained variable and its two moments */ };

/* Sizes may be anything that a file says: products and sums stop at the largest number. */
static int64_t times(int64_t a, int64_t b)
{
    return b != 0 && a > INT64_MAX / b ? INT64_MAX : a * b;
}

static int64_t plus(int64_t a, int64_t b)
{
    return a > INT64_MAX - b ? INT64_MAX : a + b;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* What a block is made of, in numbers of elements. */
typedef struct {
    int64_t weights, groups, code_bytes;
} counts_t;

static counts_t count(const qy_plan_t *plan)
{
    const qy_arch_t *a = &plan->arch;
    const qy_quant_form_t form = qy_plan_form(plan);
    counts_t n = {.weights = qy_arch_block_weights(a)};
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &a->linear[i];
        if (!d->present)
            continue;
        n.groups += times(d->out, qy_quant_linear_groups(&form, a, i));
        n.code_bytes += times(d->out, times((times(d->in, form.bits) + 31) / 32, 4));
    }
    return n;
}

/* One window's activations between blocks. */
static int64_t window_bytes(const qy_plan_t *plan, int64_t length)
{
    return times(times(length, plan->arch.hidden), plan->element_bytes);
}

/* Weights, steps and zero points in training, their moments, and the initial steps: what a
 * checkpoint inside a block holds. */
static int64_t vars_bytes(const counts_t *n)
{
    return plus(times(n->weights, VARS * F32), times(n->groups, (2 * VARS + 1) * F32));
}

static void size_memory(qy_plan_t *plan, const counts_t *n)
{
    const qy_spec_t *spec = &plan->spec;
    int64_t sample = window_bytes(plan, spec->calibration.sequence_length);
    plan->stream_bytes = times(times(2, plan->n_samples), sample);
    int64_t cached = plan->stream_bytes;
    if (spec->resources.host_cache && cached > spec->resources.host_cache)
        cached = plus(spec->resources.host_cache,
                      least(2 * STREAM_BUFFERS, times(2, plan->stream_bytes)));
    /* A checkpoint's block is widened to f32 on its way, with the next one read ahead. */
    plan->host_bytes = plus(cached, times(n->weights, 2 * F32));
    if (qy_spec_calibrates(spec)) /* a checkpoint on its way to the disk */
        plan->host_bytes = plus(plan->host_bytes, vars_bytes(n));
}

/* A block's linear layers in ggml's blocks, which take more bits than the codes have. */
static int64_t gguf_bytes(const qy_plan_t *plan)
{
    const qy_quant_form_t form = qy_plan_form(plan);
    int64_t sum = 0;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &plan->arch.linear[i];
        if (d->present)
            sum = plus(sum, times(d->out, qy_gguf_row_bytes(&form, d->in)));
    }
    return sum;
}

/* All formats: dense weights in f16, ggml's blocks, or codes with steps and zero points; embedding
 * and head in f16. */
static int64_t exports_bytes(const qy_plan_t *plan, const counts_t *n)
{
    const qy_arch_t *a = &plan->arch;
    int64_t rim = times(times(a->vocab, a->hidden), a->tied_head ? F16 : 2 * F16), sum = 0;
    for (int i = 0; i < plan->spec.n_export; i++) {
        const char *format = plan->spec.export_format[i];
        int64_t block = strcmp(format, "hf") == 0 ? times(n->weights, F16)
                        : strcmp(format, "gguf") == 0
                            ? gguf_bytes(plan)
                            : plus(n->code_bytes, times(n->groups, 2 * F16));
        sum = plus(sum, plus(rim, times(a->n_blocks, block)));
    }
    return sum;
}

static void size_disk(qy_plan_t *plan, const counts_t *n)
{
    const qy_spec_t *spec = &plan->spec;
    int64_t length = spec->calibration.sequence_length, blocks = plan->arch.n_blocks;
    int64_t sample = window_bytes(plan, length);
    const qy_quant_form_t form = qy_plan_form(plan);
    int64_t zero = qy_quant_clustered(&form) ? (int64_t)sizeof(int32_t) : 1;
    int64_t block = plus(n->code_bytes, times(n->groups, F16 + zero));
    /* activations at segment starts, blocks and the model stitched of them, token files */
    int64_t sum = times(times(plan->n_segments - 1, plan->n_samples), sample);
    sum = plus(sum, times(2 * blocks, block));
    sum = plus(sum, times(times(plan->n_samples, length), F32));
    /* each segment's checkpoint inside a block, while the next is written */
    if (qy_spec_calibrates(spec))
        sum = plus(sum, times(2 * least(plan->n_workers, plan->n_segments), vars_bytes(n)));
    if (spec->e2e_qp.present) {
        sum = plus(sum, times(times(plan->e2e_samples, plan->e2e_length), F32));
        if (plan->n_e2e_ranges) /* the teacher's final states */
            sum = plus(sum, times(plan->e2e_samples, window_bytes(plan, plan->e2e_length)));
        /* the newest two steps, while a third is written */
        sum = plus(sum, times(3 * blocks, times(n->groups, VARS * F32)));
    }
    plan->disk_bytes = plus(sum, exports_bytes(plan, n));
}

/* The compute type decides; left open, the CPU's is assumed: it needs more. */
static int64_t element_bytes(const qy_spec_t *spec)
{
    const char *compute = spec->resources.compute;
    bool half = strcmp(compute, "f16") == 0 || strcmp(compute, "bf16") == 0 ||
                (strcmp(compute, "auto") == 0 && strcmp(spec->resources.device, "cuda") == 0);
    return half ? F16 : F32;
}

void qy_plan_size(qy_plan_t *plan)
{
    plan->element_bytes = element_bytes(&plan->spec);
    counts_t n = count(plan);
    size_memory(plan, &n);
    size_disk(plan, &n);
}

void qy_plan_bytes_text(char out[32], int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024.0 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024.0;
        unit++;
    }
    snprintf(out, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}
