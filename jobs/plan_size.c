/*
 * Bytes that a run needs, from shapes alone. Upper bounds by what is held at the same time; small
 * things (norms, biases, rope tables, file headers) are left out.
 */
#include "jobs/finished.h"
#include "jobs/plan_inner.h"
#include "jobs/spec_table.h"
#include "model/program.h"

#include <stdio.h>
#include <string.h>

enum { F32 = 4, F16 = 2, VARS = 3 /* a trained variable and its two moments */ };

/* What a worker takes at once: tokens of a walk, rows and columns of logits, numbers to stage. */
enum { WALK_TOKENS = 2048, LOGIT_ROWS = 2048, LOGIT_COLS = 8192, STAGING = 1 << 20 };

/* Sizes may be anything that a file says: products and sums stop at the largest number. */
static int64_t times(int64_t a, int64_t b)
{
    return b != 0 && a > INT64_MAX / b ? INT64_MAX : a * b;
}

static int64_t plus(int64_t a, int64_t b)
{
    return a > INT64_MAX - b ? INT64_MAX : a + b;
}

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* What a block is made of, in numbers of elements. */
typedef struct {
    int64_t weights, groups, layer; /* layer: the largest linear layer's weights */
    int64_t code_bytes;
    int64_t outer; /* embedding, head, positions */
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
        n.groups += times(d->out, qy_quant_n_groups(&form, d->in));
        n.layer = largest(n.layer, times(d->out, d->in));
        n.code_bytes += times(d->out, times((times(d->in, form.bits) + 31) / 32, 4));
    }
    n.outer = times(times(a->vocab, a->hidden), a->tied_head ? 1 : 2);
    if (a->learned_positions)
        n.outer = plus(n.outer, times(a->max_positions, a->hidden));
    return n;
}

/* One window's activations between blocks. */
static int64_t window_bytes(const qy_plan_t *plan, int64_t length)
{
    return times(times(length, plan->arch.hidden), plan->element_bytes);
}

static qy_program_t decorated(const qy_plan_t *plan)
{
    qy_program_t program;
    const qy_quant_form_t form = qy_plan_form(plan);
    const qy_decoration_t decoration = qy_quant_decoration(&form);
    qy_program_build(&program, &plan->arch, &decoration);
    return program;
}

static int64_t forward_backward_bytes(const qy_plan_t *plan, int64_t batch, int64_t length)
{
    qy_program_t program = decorated(plan);
    int64_t e = plan->element_bytes;
    /* x, its target, y and dy are the caller's */
    return plus(plus(qy_program_activation_bytes(&program, batch, length, e),
                     qy_program_gradient_bytes(&program, batch, length, e)),
                times(4 * batch, window_bytes(plan, length)));
}

/* A worker's buffer for weights on their way to the device; never smaller than STAGING numbers. */
static int64_t staging_bytes(const counts_t *n)
{
    return times(largest(n->layer, STAGING), F32);
}

/* Weights, steps and zero points in training, their moments, and the initial steps: what a
 * checkpoint inside a block holds. */
static int64_t vars_bytes(const counts_t *n)
{
    return plus(times(n->weights, VARS * F32), times(n->groups, (2 * VARS + 1) * F32));
}

static int64_t block_ap_bytes(const qy_plan_t *plan, const counts_t *n)
{
    int64_t batch = plan->spec.block_ap.batch_size, vars = vars_bytes(n);
    /* all of dw, as f16 must see it finite before the first update; the weight that GEMMs take */
    int64_t weights = times(n->weights, F32 + plan->element_bytes);
    return plus(plus(plus(vars, weights), plus(staging_bytes(n), n->code_bytes)),
                forward_backward_bytes(plan, batch, plan->spec.calibration.sequence_length));
}

/* A block's weights, steps and zero points, and what is made of them. */
static int64_t rtn_bytes(const qy_plan_t *plan, const counts_t *n)
{
    int64_t weights = times(n->weights, F32 + plan->element_bytes);
    return plus(plus(weights, staging_bytes(n)), plus(n->code_bytes, times(n->groups, 2 * F32)));
}

/* Chunks of logits and their gradients, twice with a teacher's, and their rows of hidden states. */
static int64_t head_bytes(const qy_plan_t *plan, int64_t tokens, int n_models)
{
    int64_t e = plan->element_bytes, rows = least(tokens, LOGIT_ROWS);
    int64_t cols = least(plan->arch.vocab, LOGIT_COLS);
    return plus(times(times(rows, cols), n_models * F32 + e),
                times(times(rows, plan->arch.hidden), (n_models + 1) * e));
}

/* A stage of the pipeline: its share of the blocks, one block's forward and backward, the ends. */
static int64_t e2e_bytes(const qy_plan_t *plan, const counts_t *n)
{
    if (!plan->spec.e2e_qp.present)
        return 0;
    int64_t e = plan->element_bytes, stages = least(plan->n_workers, plan->arch.n_blocks);
    int64_t blocks = (plan->arch.n_blocks + stages - 1) / stages;
    int64_t micro = plan->spec.e2e_qp.micro_batch_size, length = plan->e2e_length;
    int64_t per_block = plus(plus(n->code_bytes, times(n->groups, 1 + (VARS + 1) * F32)),
                             times(micro, window_bytes(plan, length)));
    int64_t work = plus(plus(times(n->weights, e), times(n->layer, F32)), staging_bytes(n));
    int n_models = plan->spec.e2e_qp.loss == QY_LOSS_DISTILL ? 2 : 1;
    int64_t ends = plus(times(n->outer, e), head_bytes(plan, times(micro, length), n_models));
    return plus(plus(times(blocks, per_block), forward_backward_bytes(plan, micro, length)),
                plus(work, ends));
}

/* Capture or evaluation at windows of this length: a block, a few windows' forward pass, the head.
 */
static int64_t walk_bytes(const qy_plan_t *plan, const counts_t *n, int64_t length)
{
    int64_t e = plan->element_bytes, batch = largest(1, WALK_TOKENS / largest(1, length));
    qy_program_t program = decorated(plan);
    int64_t forward = plus(qy_program_activation_bytes(&program, batch, length, e),
                           times(2 * batch, window_bytes(plan, length)));
    int64_t weights = plus(times(n->weights, e), plus(staging_bytes(n), n->code_bytes));
    int64_t ends = plus(times(n->outer, e), head_bytes(plan, times(batch, length), 1));
    return plus(plus(weights, forward), ends);
}

/* The longest walk; rounding plainly for comparison goes with an evaluation. */
static int64_t walks_bytes(const qy_plan_t *plan, const counts_t *n)
{
    int64_t most = 0;
    if (plan->n_ranges)
        most = walk_bytes(plan, n, plan->spec.calibration.sequence_length);
    if (plan->n_e2e_ranges)
        most = largest(most, walk_bytes(plan, n, plan->e2e_length));
    for (int i = 0; i < plan->spec.n_evaluate; i++) {
        /* A task's sequences go side by side up to WALK_TOKENS; few are longer. */
        int64_t length = plan->spec.evaluate[i].sequence_length;
        if (plan->spec.evaluate[i].task[0])
            length = least(WALK_TOKENS, plan->arch.max_positions);
        most = largest(most, plus(walk_bytes(plan, n, length), rtn_bytes(plan, n)));
    }
    return most;
}

static void size_memory(qy_plan_t *plan, const counts_t *n)
{
    const qy_spec_t *spec = &plan->spec;
    int64_t sample = window_bytes(plan, spec->calibration.sequence_length);
    plan->stream_bytes = times(times(2, plan->n_samples), sample);
    int64_t training = qy_spec_calibrates(spec) ? block_ap_bytes(plan, n) : rtn_bytes(plan, n);
    plan->device_bytes = largest(largest(training, e2e_bytes(plan, n)), walks_bytes(plan, n));
    int64_t cached = plan->stream_bytes;
    if (spec->resources.host_cache)
        cached = least(cached, spec->resources.host_cache);
    /* A checkpoint's block is widened to f32 on its way, with the next one read ahead. */
    plan->host_bytes = plus(cached, times(n->weights, 2 * F32));
    if (qy_spec_calibrates(spec)) /* a checkpoint on its way to the disk */
        plan->host_bytes = plus(plan->host_bytes, vars_bytes(n));
    if (plan->element_bytes == F32)
        plan->host_bytes = plus(plan->host_bytes, plan->device_bytes);
}

static void size_disk(qy_plan_t *plan, const counts_t *n)
{
    const qy_spec_t *spec = &plan->spec;
    int64_t length = spec->calibration.sequence_length, blocks = plan->arch.n_blocks;
    int64_t sample = window_bytes(plan, length);
    int64_t block = plus(n->code_bytes, times(n->groups, F16 + 1));
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
    plan->disk_bytes = sum;
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
