#include "jobs/plan_time.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jobs/spec_table.h"
#include "model/choices.h"
#include "model/tokenizer.h"

static const char *const phase_names[QY_N_TIME_PHASES] = {
    [QY_TIME_TOKENS] = "tokens",         [QY_TIME_CAPTURE] = "capture",
    [QY_TIME_QUANTIZE] = "quantize",     [QY_TIME_STITCH] = "stitch",
    [QY_TIME_FINAL_NORM] = "final_norm", [QY_TIME_E2E_QP] = "e2e_qp",
    [QY_TIME_EVALUATE] = "evaluate",     [QY_TIME_EXPORT] = "export"};

/* A text is judged by so many bytes of it. */
enum { SAMPLE_BYTES = 1 << 18 };

/* Where nothing better is known: bytes of a token, of text and of a file of ids. */
static const double text_token_bytes = 4, ids_token_bytes = 4;

/* Sequences of a zero-shot task, whose lengths are not known before it is tokenized, count as if
 * they were cut into windows of at most this. */
enum { TASK_LENGTH = 2048 };

/* Bytes of a weight in a dense export. */
static const double dense_bytes = 2;

const char *qy_time_phase_name(qy_time_phase_t phase)
{
    return phase_names[phase];
}

double qy_plan_total_s(const qy_plan_t *plan)
{
    double sum = 0;
    for (int i = 0; i < QY_N_TIME_PHASES; i++)
        sum += plan->time.phase_s[i];
    return sum;
}

double qy_block_flops(const qy_arch_t *arch, double n, double length)
{
    double weights = (double)qy_arch_block_weights(arch);
    double reach =
        arch->window > 0 && (double)arch->window < length ? 2 * (double)arch->window : length;
    /* Two products over half of the positions each, two operations in each. */
    return n * (2 * weights + 2 * reach * (double)(arch->n_heads * arch->head_dim));
}

double qy_head_flops(const qy_arch_t *arch, double n)
{
    return 2 * n * (double)arch->vocab * (double)arch->hidden;
}

/* What the estimates of the phases share. */
typedef struct {
    const qy_plan_t *plan;
    const qy_speed_t *speed;
    double weights, rim, blocks, workers, element; /* rim: weights of embedding and head */
} timing_t;

static double forward_s(const timing_t *t, double samples, double length)
{
    return qy_block_flops(&t->plan->arch, samples * length, length) / t->speed->forward;
}

/* Host memory for a stream of so many samples. */
static double pin_s(const timing_t *t, double samples, double length)
{
    return samples * length * (double)t->plan->arch.hidden * t->element / t->speed->pin;
}

static double load_s(const timing_t *t)
{
    return t->weights / t->speed->read + t->weights / t->speed->load;
}

/* A task that walks samples through blocks of the checkpoint, the rim included. */
static double walk_s(const timing_t *t, double samples, double length, double blocks)
{
    return t->rim / t->speed->read + pin_s(t, samples, length) +
           blocks * (load_s(t) + forward_s(t, samples, length));
}

/* n equal tasks on the workers. */
static double spread_s(const timing_t *t, double n, double task_s)
{
    return ceil(n / t->workers) * task_s;
}

/* A worker's tasks go to one process, which the first of them opens; E2E-QP ends it. */
static int is_first_phase(const qy_plan_t *plan, qy_time_phase_t phase)
{
    int captures = plan->n_ranges > 0 || plan->n_e2e_ranges > 0;
    switch (phase) {
    case QY_TIME_CAPTURE:
        return captures;
    case QY_TIME_QUANTIZE:
        return !captures;
    case QY_TIME_EVALUATE:
        return plan->spec.e2e_qp.present;
    default:
        return 0;
    }
}

static double process_s(const timing_t *t, qy_time_phase_t phase)
{
    return is_first_phase(t->plan, phase) ? t->speed->open_s : 0;
}

/* --- phases ----------------------------------------------------------------------------------- */

static double capture_s(const timing_t *t)
{
    const qy_plan_t *plan = t->plan;
    double sum = process_s(t, QY_TIME_CAPTURE);
    if (plan->n_ranges > 0) {
        double ranges = (double)plan->n_ranges, samples = (double)plan->n_samples / ranges;
        double length = (double)plan->spec.calibration.sequence_length;
        double kept = (double)(plan->n_segments - 1) * samples * length *
                      (double)plan->arch.hidden * t->element;
        double blocks = (double)plan->segment_start[plan->n_segments - 1];
        sum += spread_s(t, ranges, walk_s(t, samples, length, blocks) + kept / t->speed->disk);
    }
    if (plan->n_e2e_ranges > 0) {
        double ranges = (double)plan->n_e2e_ranges, samples = (double)plan->e2e_samples / ranges;
        double length = (double)plan->e2e_length;
        double kept = samples * length * (double)plan->arch.hidden * t->element;
        sum += spread_s(t, ranges, walk_s(t, samples, length, t->blocks) + kept / t->speed->disk);
    }
    return sum;
}

static double step_s(const timing_t *t)
{
    const qy_spec_t *spec = &t->plan->spec;
    double length = (double)spec->calibration.sequence_length;
    double tokens = (double)spec->block_ap.batch_size * length;
    return 3 * qy_block_flops(&t->plan->arch, tokens, length) / t->speed->train +
           t->weights / t->speed->update;
}

/* QLLM's share of a round for one block: forward and the inputs' gradients; the corrected weights
 * are made anew in each step. */
static double qllm_s(const timing_t *t)
{
    const qy_spec_t *spec = &t->plan->spec;
    double length = (double)spec->calibration.sequence_length;
    double tokens = (double)spec->qllm.batch_size * length;
    double step = 2 * qy_block_flops(&t->plan->arch, tokens, length) / t->speed->train +
                  t->weights / t->speed->update;
    return (double)t->plan->qllm.steps * step;
}

static double block_s(const timing_t *t, int last)
{
    const qy_plan_t *plan = t->plan;
    const qy_spec_t *spec = &plan->spec;
    double length = (double)spec->calibration.sequence_length;
    double sum = load_s(t) + t->weights / t->speed->start + t->weights / t->speed->freeze +
                 t->weights * (double)spec->quantize.weights.bits / 8 / t->speed->disk;
    if (plan->n_samples == 0)
        return sum;
    sum += forward_s(t, (double)plan->n_samples, length); /* the target stream */
    sum += 2 * forward_s(t, (double)spec->calibration.validation_samples, length);
    if (spec->quantize.method == QY_METHOD_GPTQ || spec->quantize.method == QY_METHOD_RPTQ)
        sum += qy_plan_rounding_s(t->plan, t->speed);
    else if (spec->quantize.method == QY_METHOD_QLLM)
        sum += qllm_s(t);
    else
        sum += (double)plan->block_ap.steps * step_s(t);
    if (!last) /* the input stream, for the next block */
        sum += forward_s(t, (double)plan->n_samples, length);
    return sum;
}

static double segment_s(const timing_t *t, double blocks)
{
    const qy_plan_t *plan = t->plan;
    double length = (double)plan->spec.calibration.sequence_length;
    double rim = plan->n_samples ? t->rim / t->speed->read : 0;
    double streams = 2 * pin_s(t, (double)plan->n_samples, length);
    return rim + streams + (blocks - 1) * block_s(t, 0) + block_s(t, 1);
}

static double quantize_s(const timing_t *t)
{
    double segments = (double)t->plan->n_segments;
    double longest = segment_s(t, ceil(t->blocks / segments));
    return process_s(t, QY_TIME_QUANTIZE) +
           fmax(longest, spread_s(t, segments, segment_s(t, t->blocks / segments)));
}

/* Each range walks through the original model and through the quantized one. */
static double final_norm_s(const timing_t *t)
{
    const qy_plan_t *plan = t->plan;
    double ranges = (double)qy_plan_norm_ranges(plan);
    if (ranges == 0)
        return 0;
    double samples = (double)plan->spec.calibration.samples / ranges;
    double length = (double)plan->spec.calibration.sequence_length;
    return spread_s(t, ranges, walk_s(t, samples, length, 2 * t->blocks));
}

/* Stages by blocks; the last one has the head as well. The pipeline is as fast as its slowest
 * stage. */
static double e2e_s(const timing_t *t)
{
    const qy_plan_t *plan = t->plan;
    const qy_spec_t *spec = &plan->spec;
    if (!spec->e2e_qp.present)
        return 0;
    double length = (double)plan->e2e_length, micro = (double)spec->e2e_qp.micro_batch_size;
    double batch = (double)spec->e2e_qp.batch_size, micros = ceil(batch / micro);
    double stages = fmin(t->workers, t->blocks);
    double tokens = batch / micros * length;
    double block = 3 * qy_block_flops(&plan->arch, tokens, length) / t->speed->train +
                   t->weights / t->speed->decode;
    int distill = spec->e2e_qp.loss == QY_LOSS_DISTILL;
    /* Logits twice, for their normalizer and for their gradient, and the product back; the
     * teacher's as often. */
    double head = (distill ? 5 : 3) * qy_head_flops(&plan->arch, tokens) / t->speed->head;
    double stage = fmax((t->blocks * block + head) / stages, block * ceil(t->blocks / stages));
    double steps = (double)plan->e2e.steps;
    double codes = t->weights * t->blocks / stages;
    return t->speed->open_s + codes / t->speed->read + t->rim / t->speed->read +
           steps * (micros + stages - 1) * stage;
}

/* How an evaluation is cut: windows of length, in so many ranges. */
typedef struct {
    double windows, length, ranges;
} cut_t;

static cut_t cut_text(const qy_plan_t *plan, int i, double tokens)
{
    int64_t length = plan->spec.evaluate[i].sequence_length;
    double windows = floor(tokens / (double)length);
    int64_t ranges = qy_plan_evaluate_ranges(plan, (int64_t)windows, length);
    return (cut_t){windows, (double)length, (double)ranges};
}

/* Its last sequence is kept, however short, and ranges come from its tokens alone. */
static cut_t cut_task(const qy_plan_t *plan, double tokens)
{
    double length = fmin(TASK_LENGTH, (double)plan->arch.max_positions);
    double ranges = fmin(fmax(floor(tokens / QY_CHOICES_TOKENS), 1), QY_CHOICES_RANGES);
    return (cut_t){ceil(tokens / length), length, ranges};
}

static double evaluate_s(const timing_t *t, const double tokens[QY_MAX_EVALUATE])
{
    const qy_plan_t *plan = t->plan;
    double tasks_s = 0, n = 0;
    for (int i = 0; i < plan->spec.n_evaluate; i++) {
        int is_task = plan->spec.evaluate[i].task[0] != 0;
        const cut_t cut = is_task ? cut_task(plan, tokens[i]) : cut_text(plan, i, tokens[i]);
        double all = (double)(plan->spec.e2e_qp.present ? QY_N_VARIANTS : QY_N_VARIANTS - 1);
        double windows = cut.windows / cut.ranges;
        double walk = walk_s(t, windows, cut.length, t->blocks) + t->rim / t->speed->read +
                      qy_head_flops(&plan->arch, windows * cut.length) / t->speed->head;
        n += all * cut.ranges;
        tasks_s += all * cut.ranges * walk;
        tasks_s += cut.ranges * t->blocks * t->weights / t->speed->freeze; /* rounded plainly */
    }
    return n > 0 ? process_s(t, QY_TIME_EVALUATE) + spread_s(t, n, tasks_s / n) : 0;
}

static double export_s(const timing_t *t)
{
    double weights = t->weights * t->blocks + t->rim;
    double one = weights / t->speed->read + dense_bytes * weights / t->speed->disk;
    return (double)t->plan->spec.n_export * one;
}

/* Streams beyond host_cache: both are read in each epoch; each is read and written when it walks.
 */
static void stream_rates(const timing_t *t, qy_plan_time_t *out)
{
    const qy_plan_t *plan = t->plan;
    double cache = (double)plan->spec.resources.host_cache, all = (double)plan->stream_bytes;
    double length = (double)plan->spec.calibration.sequence_length, block = block_s(t, 0);
    double walk = 2 * forward_s(t, (double)plan->n_samples, length);
    out->walk_s = walk;
    if (plan->n_samples == 0 || cache <= 0 || all <= cache)
        return;
    int method = plan->spec.quantize.method;
    double epochs =
        (double)(method == QY_METHOD_QLLM ? plan->spec.qllm.epochs : plan->spec.block_ap.epochs);
    double on_disk = all - cache;
    bool rounded = method == QY_METHOD_GPTQ || method == QY_METHOD_RPTQ;
    double train = rounded                    ? qy_plan_rounding_s(t->plan, t->speed)
                   : method == QY_METHOD_QLLM ? qllm_s(t)
                                              : (double)plan->block_ap.steps * step_s(t);
    out->stream_bytes_per_s = (epochs + 2) * on_disk / block;
    out->train_bytes_per_s = train > 0 ? epochs * on_disk / train : 0;
    out->walk_bytes_per_s = walk > 0 ? 2 * on_disk / walk : 0;
    out->train_share = train / block;
    out->walk_share = walk / block;
}

int64_t qy_plan_saves_bytes(const qy_plan_t *plan)
{
    int64_t longest = 0, at_once = plan->n_segments;
    for (int64_t k = 0; k < plan->n_segments; k++) {
        int64_t n = plan->segment_start[k + 1] - plan->segment_start[k];
        longest = n > longest ? n : longest;
    }
    /* The last block's streams are not saved: nothing comes after it. */
    double walks_s = (double)(longest - 1) * plan->time.walk_s;
    bool never = plan->time.device[0] && walks_s < 60 * plan->spec.checkpoint.recompute_minutes;
    if (plan->n_samples == 0 || longest < 2 || never)
        return 0;
    at_once = plan->n_workers < at_once ? plan->n_workers : at_once;
    double bytes = 2 * (double)at_once * (double)plan->stream_bytes;
    return bytes < 9e18 ? (int64_t)bytes : INT64_MAX;
}

double qy_plan_stream_wait(const qy_plan_time_t *time, double disk)
{
    double train = time->train_share * fmax(0, time->train_bytes_per_s / disk - 1);
    double walk = time->walk_share * fmax(0, time->walk_bytes_per_s / disk - 1);
    return (train + walk) / (1 + train + walk);
}

/* --- texts ------------------------------------------------------------------------------------ */

static double file_bytes(const char *path)
{
    struct stat st;
    return path[0] && stat(path, &st) == 0 ? (double)st.st_size : 0;
}

static int holds_ids(const char *path)
{
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".npy") == 0;
}

/* Bytes of a token, from the text's beginning; the tokenizer is opened where one is needed. */
static qy_status_t token_bytes(const qy_plan_t *plan, const char *path, qy_tokenizer_t **tokenizer,
                               double *out, qy_error_t *err)
{
    *out = ids_token_bytes;
    if (holds_ids(path))
        return QY_OK;
    *out = text_token_bytes;
    if (!*tokenizer)
        QY_TRY(qy_tokenizer_open(tokenizer, plan->spec.model, err));
    int32_t *ids = NULL;
    int64_t n = 0;
    char *text = malloc(SAMPLE_BYTES);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = text && fd >= 0 ? read(fd, text, SAMPLE_BYTES) : -1;
    if (fd >= 0)
        close(fd);
    qy_status_t status = got < 0 ? qy_fail(err, QY_ERR_IO, "%s: cannot be read", path) : QY_OK;
    if (status == QY_OK)
        status = qy_tokenizer_encode(*tokenizer, text, (size_t)got, &ids, &n, err);
    if (status == QY_OK && n > 0)
        *out = (double)got / (double)n;
    free(ids);
    free(text);
    return status;
}

/* Tokens of each evaluation text. */
static qy_status_t count_tokens(const qy_plan_t *plan, double out[QY_MAX_EVALUATE], qy_error_t *err)
{
    qy_tokenizer_t *tokenizer = NULL;
    qy_status_t status = QY_OK;
    memset(out, 0, QY_MAX_EVALUATE * sizeof *out);
    for (int i = 0; i < plan->spec.n_evaluate && status == QY_OK; i++) {
        double bytes;
        const char *path = plan->spec.evaluate[i].text;
        if (plan->spec.evaluate[i].task[0])
            path = plan->spec.evaluate[i].task;
        status = token_bytes(plan, path, &tokenizer, &bytes, err);
        if (status == QY_OK)
            out[i] = file_bytes(path) / bytes;
    }
    qy_tokenizer_close(&tokenizer);
    return status;
}

/* That are to be tokenized. */
static double text_bytes(const char *path)
{
    return holds_ids(path) ? 0 : file_bytes(path);
}

/* With what every start does first: it looks at its device. */
static double tokens_s(const timing_t *t)
{
    const qy_spec_t *spec = &t->plan->spec;
    bool calibrates = t->plan->n_samples > 0;
    double bytes = calibrates ? text_bytes(spec->calibration.text) : 0;
    const char *e2e = spec->e2e_qp.text[0] ? spec->e2e_qp.text : spec->calibration.text;
    if (spec->e2e_qp.present && !(calibrates && strcmp(e2e, spec->calibration.text) == 0))
        bytes += text_bytes(e2e);
    for (int i = 0; i < spec->n_evaluate; i++)
        bytes += text_bytes(spec->evaluate[i].text);
    return t->speed->open_s + bytes / t->speed->tokenize;
}

qy_status_t qy_plan_estimate(qy_plan_t *plan, const qy_speed_t *speed, qy_error_t *err)
{
    double tokens[QY_MAX_EVALUATE];
    const qy_arch_t *a = &plan->arch;
    QY_TRY(count_tokens(plan, tokens, err));
    timing_t t = {.plan = plan,
                  .speed = speed,
                  .weights = (double)qy_arch_block_weights(a),
                  .rim = (double)a->vocab * (double)a->hidden,
                  .blocks = (double)a->n_blocks,
                  .workers = (double)plan->n_workers,
                  .element = strcmp(speed->compute, "f32") == 0 ? 4 : 2};
    qy_plan_time_t out = {.phase_s = {[QY_TIME_TOKENS] = tokens_s(&t),
                                      [QY_TIME_CAPTURE] = capture_s(&t),
                                      [QY_TIME_QUANTIZE] = quantize_s(&t),
                                      [QY_TIME_STITCH] = t.blocks * t.weights *
                                                         (double)plan->spec.quantize.weights.bits /
                                                         8 / speed->disk,
                                      [QY_TIME_FINAL_NORM] = final_norm_s(&t),
                                      [QY_TIME_E2E_QP] = e2e_s(&t),
                                      [QY_TIME_EVALUATE] = evaluate_s(&t, tokens),
                                      [QY_TIME_EXPORT] = export_s(&t)}};
    stream_rates(&t, &out);
    snprintf(out.device, sizeof out.device, "%s", speed->model);
    snprintf(out.source, sizeof out.source, "%s", speed->source);
    plan->time = out;
    return QY_OK;
}
