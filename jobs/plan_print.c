/* The plan for people. */
#include "jobs/plan.h"
#include "jobs/plan_inner.h"
#include "jobs/plan_time.h"
#include "jobs/spec_table.h"

#include <inttypes.h>
#include <string.h>

static void print_model(const qy_plan_t *plan, FILE *file)
{
    const qy_arch_t *a = &plan->arch;
    fprintf(file, "model      %s\n", plan->spec.model);
    fprintf(file,
            "           %s, %" PRId64 " blocks, hidden %" PRId64 ", %" PRId64
            " heads, vocabulary %" PRId64 ", %.4g M parameters\n",
            a->model_type, a->n_blocks, a->hidden, a->n_heads, a->vocab,
            (double)qy_arch_parameters(a) / 1e6);
    fprintf(file, "run        %s\n", plan->spec.run_dir);
    fprintf(file, "plan       %.16s…\n", plan->hash);
}

static void print_clusters(const qy_spec_t *spec, FILE *file)
{
    int64_t head = spec->rptq.head_clusters;
    fprintf(file,
            "           clusters: %" PRId64 ", %" PRId64 " %s; activations %" PRId64
            " bits, KV cache %" PRId64 " bits; weights by %s\n",
            spec->rptq.clusters, head ? head : 1, head ? "a head" : "for all heads",
            spec->quantize.activation_bits, spec->quantize.kv_bits,
            spec->rptq.weights == QY_RPTQ_GPTQ ? "GPTQ" : "plain rounding");
}

static void print_quantize(const qy_plan_t *plan, FILE *file)
{
    const qy_spec_t *spec = &plan->spec;
    static const char *const names[QY_N_METHODS] = {"block-ap", "rtn", "gptq", "rptq", "qllm"};
    bool trained = spec->quantize.method == QY_METHOD_BLOCK_AP;
    char group[32] = "whole rows";
    if (plan->group)
        snprintf(group, sizeof group, "groups of %" PRId64, plan->group);
    if (spec->quantize.method == QY_METHOD_RPTQ)
        snprintf(group, sizeof group, "rows and clusters");
    fprintf(file, "quantize   %s, %" PRId64 " bits, %s, %s, %s start\n",
            names[spec->quantize.method], spec->quantize.weights.bits, group,
            spec->quantize.weights.symmetric ? "symmetric" : "asymmetric",
            qy_spec_init(spec) == QY_INIT_LEAST_SQUARES ? "least-squares" : "min-max");
    if (trained)
        fprintf(file,
                "           %" PRId64 " steps a block, rates: weights %.3g, steps %.3g, norms %.3g "
                "(%s)\n",
                plan->block_ap.steps, plan->block_ap.weight_lr, plan->block_ap.quant_lr,
                plan->block_ap.norm_lr,
                spec->block_ap.lr_unit == QY_LR_UNIT_STEP ? "in units of the step" : "absolute");
    if (spec->quantize.method == QY_METHOD_RPTQ)
        print_clusters(spec, file);
    if (spec->quantize.method == QY_METHOD_QLLM)
        fprintf(file,
                "           channels %s, rank %" PRId64 ", %" PRId64 " steps a round of %" PRId64
                " blocks from rate %.3g\n",
                !spec->qllm.reassembly ? "stay"
                : spec->qllm.compat    ? "reassembled as the official code does"
                                       : "reassembled",
                spec->qllm.rank, plan->qllm.steps, spec->qllm.blocks_per_round, spec->qllm.lr);
    if (spec->quantize.method == QY_METHOD_GPTQ)
        fprintf(
            file, "           ranges %s, %s, %s, damping %.3g, first tokens %.3g of their window\n",
            spec->gptq.static_groups ? "of the weights as they come" : "as errors are made good",
            spec->gptq.act_order ? "largest inputs first" : "in the order of columns",
            spec->gptq.sequential ? "four passes over the samples" : "one pass over the samples",
            spec->gptq.damping, spec->gptq.first_token);
}

static void print_segments(const qy_plan_t *plan, FILE *file)
{
    fprintf(file, "segments   %" PRId64 "%s, workers %" PRId64 "\n", plan->n_segments,
            plan->spec.quantize.segments ? "" : " (auto)", plan->n_workers);
    for (int64_t k = 0; k < plan->n_segments; k++) {
        int64_t first = plan->segment_start[k], last = plan->segment_start[k + 1] - 1;
        fprintf(file, "  %4" PRId64 "     block", k);
        if (first < last)
            fprintf(file, "s %" PRId64 " to", first);
        fprintf(file, " %" PRId64 "\n", last);
    }
}

static void print_tokens(const qy_plan_t *plan, FILE *file)
{
    const qy_spec_t *spec = &plan->spec;
    fputs("tokens    ", file);
    if (plan->n_samples)
        fprintf(file, " calibration %" PRId64 " + %" PRId64 " windows of %" PRId64 ";",
                spec->calibration.samples, spec->calibration.validation_samples,
                spec->calibration.sequence_length);
    if (spec->e2e_qp.present)
        fprintf(file, " e2e_qp %" PRId64 " windows of %" PRId64 ";", plan->e2e_samples,
                plan->e2e_length);
    fprintf(file, " %d evaluation%s\n", spec->n_evaluate, spec->n_evaluate == 1 ? "" : "s");
}

static void print_phases(const qy_plan_t *plan, FILE *file)
{
    const qy_spec_t *spec = &plan->spec;
    print_tokens(plan, file);
    fprintf(file, "capture    %" PRId64 " tasks\n", plan->n_ranges + plan->n_e2e_ranges);
    fprintf(file, "quantize   %" PRId64 " task%s\n", plan->n_segments,
            plan->n_segments == 1 ? "" : "s");
    if (qy_plan_norm_ranges(plan) > 0)
        fprintf(file, "final_norm %" PRId64 " tasks\n", qy_plan_norm_ranges(plan));
    if (spec->e2e_qp.present)
        fprintf(file,
                "e2e_qp     %s, %" PRId64 " steps (%" PRId64 " of warmup) of %" PRId64
                " windows, rate %.3g (%s)\n",
                spec->e2e_qp.loss == QY_LOSS_DISTILL ? "distill" : "next-token", plan->e2e.steps,
                plan->e2e.warmup, spec->e2e_qp.batch_size, plan->e2e.lr,
                spec->e2e_qp.lr_unit == QY_LR_UNIT_STEP ? "in units of the step" : "absolute");
    for (int i = 0; i < spec->n_evaluate; i++) {
        const qy_evaluate_spec_t *e = &spec->evaluate[i];
        fprintf(file, "evaluate   %s: %s, ", e->name, e->task[0] ? e->task : e->text);
        if (e->task[0])
            fprintf(file, "zero-shot task, ");
        else
            fprintf(file, "windows of %" PRId64 ", ", e->sequence_length);
        fprintf(file, "%d models\n", spec->e2e_qp.present ? QY_N_VARIANTS : QY_N_VARIANTS - 1);
    }
    for (int i = 0; i < spec->n_export; i++)
        fprintf(file, "export     %s\n", spec->export_format[i]);
}

static void print_bytes(const qy_plan_t *plan, FILE *file)
{
    char gpu[32], cpu[32], host[32], streams[32], disk[32];
    qy_plan_bytes_text(gpu, plan->gpu_bytes);
    qy_plan_bytes_text(cpu, plan->cpu_bytes);
    qy_plan_bytes_text(host, plan->host_bytes);
    qy_plan_bytes_text(streams, plan->stream_bytes);
    qy_plan_bytes_text(disk, plan->disk_bytes);
    const char *word = "memory";
    if (plan->gpu_bytes) {
        fprintf(file,
                "memory     on a GPU: a worker computes with %s, and with about 0.6 GiB for the "
                "CUDA context\n",
                gpu);
        word = "";
    }
    if (plan->cpu_bytes) {
        fprintf(file, "%-10s on the CPU: a worker computes with %s in f32\n", word, cpu);
        word = "";
    }
    fprintf(file, "%-10s %s of host memory a worker beside that; its streams are %s\n", word, host,
            streams);
    fprintf(file, "disk       %s at most in the run directory%s", disk,
            plan->spec.n_export ? ", exports included" : "");
    qy_plan_bytes_text(disk, qy_plan_saves_bytes(plan));
    if (qy_plan_saves_bytes(plan))
        fprintf(file, "; beside that %s for saved streams", disk);
    fprintf(file, "\n");
}

void qy_plan_seconds_text(char out[32], double seconds)
{
    if (seconds >= 3600)
        snprintf(out, 32, "%.1f h", seconds / 3600);
    else if (seconds >= 60)
        snprintf(out, 32, "%.1f min", seconds / 60);
    else
        snprintf(out, 32, "%.1f s", seconds);
}

static void print_time(const qy_plan_t *plan, FILE *file)
{
    if (!plan->time.device[0])
        return;
    char text[32];
    qy_plan_seconds_text(text, qy_plan_total_s(plan));
    fprintf(file, "time       about %s with %" PRId64 " worker%s; %s, %s\n", text, plan->n_workers,
            plan->n_workers == 1 ? "" : "s", plan->time.device, plan->time.source);
    for (int i = 0; i < QY_N_TIME_PHASES; i++) {
        if (plan->time.phase_s[i] <= 0)
            continue;
        qy_plan_seconds_text(text, plan->time.phase_s[i]);
        fprintf(file, "           %-10s %s\n", qy_time_phase_name((qy_time_phase_t)i), text);
    }
    if (plan->time.stream_bytes_per_s > 0)
        fprintf(file,
                "scratch    %.2f GB/s asked of its disk by each worker of a node: %.2f while it "
                "trains, %.2f while streams advance\n",
                plan->time.stream_bytes_per_s / 1e9, plan->time.train_bytes_per_s / 1e9,
                plan->time.walk_bytes_per_s / 1e9);
}

void qy_plan_print(const qy_plan_t *plan, FILE *file)
{
    print_model(plan, file);
    print_quantize(plan, file);
    print_segments(plan, file);
    print_phases(plan, file);
    print_bytes(plan, file);
    print_time(plan, file);
}
