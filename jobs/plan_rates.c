/* Learning rates: how far a variable may travel, in how many steps. */
#include "jobs/plan.h"
#include "jobs/plan_inner.h"

#include <math.h>

/* M_PI is not C11. */
#define PI 3.14159265358979323846

/* Travel: Σ of the rates over the steps, in units of the group's first step. Measured on the small
 * Llama that ships with the project and on SmolLM2-135M: docs/rates.md. */
static double weight_travel(int64_t bits)
{
    return bits <= 2 ? 2.0 : bits == 3 ? 1.0 : 1.2;
}
static const double quant_travel = 0.5;
static const double e2e_travel[] = {[QY_LOSS_NEXT_TOKEN] = 0.16, [QY_LOSS_DISTILL] = 0.6};

/* Tokens that a search for channels to reassemble looks at, as published: one window of 2048. */
static const int64_t search_tokens = 2048;

/* With few steps a rate that covers the travel diverges. */
static const double weight_cap = 0.01, quant_cap = 0.004, e2e_cap = 0.02;

/* The published absolute rates, methods/efficientqat.md 2.2 and 4: the same for both phases. */
static double published_lr(int64_t bits)
{
    return bits == 2 ? 2e-5 : 1e-5;
}
static const double published_quant_lr = 1e-4;

static double pick(double given, double automatic)
{
    return isnan(given) ? automatic : given;
}

static void resolve_block_ap(qy_plan_t *plan)
{
    const qy_spec_t *spec = &plan->spec;
    int64_t bits = spec->quantize.weights.bits;
    plan->block_ap.steps_per_epoch = spec->calibration.samples / spec->block_ap.batch_size;
    plan->block_ap.steps = spec->block_ap.epochs * plan->block_ap.steps_per_epoch;
    double weight = published_lr(bits), quant = published_quant_lr;
    if (spec->block_ap.lr_unit == QY_LR_UNIT_STEP) {
        double sum = 0.525 * (double)plan->block_ap.steps + 0.475;
        weight = fmin(weight_cap, weight_travel(bits) / sum);
        quant = fmin(quant_cap, quant_travel / sum);
    }
    plan->block_ap.weight_lr = pick(spec->block_ap.weight_lr, weight);
    plan->block_ap.quant_lr = pick(spec->block_ap.quant_lr, quant);
    double norm = spec->block_ap.lr_unit == QY_LR_UNIT_STEP ? 0.0 : plan->block_ap.weight_lr;
    plan->block_ap.norm_lr = pick(spec->block_ap.norm_lr, norm);
}

static double c(int64_t t, int64_t steps)
{
    return 1.0 + cos(PI * (double)t / (double)steps);
}

double qy_block_ap_rate(const qy_plan_t *plan, double peak, int64_t t)
{
    int64_t steps = plan->block_ap.steps;
    if (plan->spec.block_ap.lr_unit == QY_LR_UNIT_STEP)
        return peak * (1.0 / 20.0 + 19.0 / 40.0 * c(t, steps));
    if (t == 0)
        return peak;
    double least = peak / 20.0;
    double cosine = least + (peak - least) * c(t, steps) / 2.0;
    return least + (cosine - least) * c(t, steps) / c(t - 1, steps);
}

double qy_qllm_rate(const qy_plan_t *plan, int64_t t)
{
    return plan->spec.qllm.lr * (1.0 - (double)t / (double)plan->qllm.steps);
}

double qy_e2e_rate(const qy_plan_t *plan, int64_t k)
{
    int64_t steps = plan->e2e.steps, warmup = plan->e2e.warmup;
    int64_t first = plan->spec.e2e_qp.lr_unit == QY_LR_UNIT_STEP ? 1 : 0;
    if (k < warmup)
        return plan->e2e.lr * (double)(k + first) / (double)warmup;
    int64_t rest = steps - warmup > 1 ? steps - warmup : 1;
    return plan->e2e.lr * 0.5 * (1.0 + cos(PI * (double)(k - warmup) / (double)rest));
}

static void resolve_e2e(qy_plan_t *plan)
{
    const qy_spec_t *spec = &plan->spec;
    plan->e2e.steps_per_epoch = plan->e2e_samples / spec->e2e_qp.batch_size;
    plan->e2e.steps = spec->e2e_qp.epochs * plan->e2e.steps_per_epoch;
    plan->e2e.warmup = (3 * plan->e2e.steps + 99) / 100;
    double lr = published_lr(spec->quantize.weights.bits);
    if (spec->e2e_qp.lr_unit == QY_LR_UNIT_STEP) {
        /* Σ (k+1)/W over the warmup, Σ (1 + cos(π j/n))/2 over the other n steps */
        double warmup = (double)plan->e2e.warmup, n = (double)plan->e2e.steps - warmup;
        double sum = (warmup + 1.0) / 2.0 + (n > 0.0 ? (n + 1.0) / 2.0 : 0.0);
        lr = fmin(e2e_cap, e2e_travel[spec->e2e_qp.loss] / sum);
    }
    plan->e2e.lr = pick(spec->e2e_qp.lr, lr);
}

void qy_plan_resolve_rates(qy_plan_t *plan)
{
    if (plan->spec.quantize.method == QY_METHOD_BLOCK_AP)
        resolve_block_ap(plan);
    if (plan->spec.quantize.method == QY_METHOD_QLLM) {
        int64_t length = plan->spec.calibration.sequence_length;
        int64_t samples = (search_tokens + length - 1) / length;
        if (samples > plan->spec.calibration.samples)
            samples = plan->spec.calibration.samples;
        plan->qllm.search_samples =
            plan->spec.qllm.search_samples ? plan->spec.qllm.search_samples : samples;
        plan->qllm.steps_per_epoch = plan->spec.calibration.samples / plan->spec.qllm.batch_size;
        plan->qllm.steps = plan->spec.qllm.epochs * plan->qllm.steps_per_epoch;
    }
    if (plan->spec.e2e_qp.present)
        resolve_e2e(plan);
}
