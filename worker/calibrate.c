#include "worker/calibrate.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "jobs/finished.h"
#include "jobs/plan_time.h"
#include "kernels/quant.h"
#include "model/tokenizer.h"
#include "worker/block_ap.h"
#include "worker/decorate.h"
#include "worker/memory.h"
#include "worker/run_task.h"

extern char **environ;

/* A median is of so many, of fewer where that takes longer than BUDGET_S, but of at least three. */
enum { TIMES_MAX = 15, TIMES_MIN = 3 };
static const double budget_s = 2;

/* Steps of one timed training; windows that go along; their length where the job trains nothing. */
enum { STEPS_MAX = 16, TOKENS = 8192, LENGTH = 2048 };

enum { PIN_BYTES = 256 << 20, DISK_BYTES = 32 << 20, TEXT_BYTES = 1 << 20 };

/* Where a text cannot be tried, bytes/s: of the tokenizer on one core of a current server. */
static const double tokenize_default = 5e6;

typedef struct {
    const qy_plan_t *plan; /* the job's */
    qy_plan_t own;         /* a copy with few samples and steps */
    qy_device_t *dev;
    qy_model_t *model;
    void *memory;
    qy_arena_t arena;
    qy_forward_t forward;
    qy_block_ap_t trainer;
    qy_stream_t *source, *goal;
    int32_t *tokens;
    int64_t n, length; /* samples */
    int64_t at;        /* block that the source's samples stand in front of */
    double weights;
    double first_s; /* what first calls took more than later ones */
    qy_block_weights_t block;
    qy_qblock_t q;
} bench_t;

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One CPU thread is timed by what it computes, not by what else the machine does meanwhile. */
static double clock_s(const bench_t *b)
{
    struct timespec now;
    if (strcmp(b->dev->kind, "cpu") != 0 || b->dev->threads != 1 ||
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) != 0)
        return qy_now_s();
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Median seconds of work, the device waited for; the first call is apart. */
static qy_status_t timed(bench_t *b, qy_status_t (*work)(bench_t *b, qy_error_t *err),
                         double *median, qy_error_t *err)
{
    double seconds[TIMES_MAX], sum = 0, first = 0;
    int n = 0;
    for (int i = -1; i < TIMES_MAX && (i < TIMES_MIN || sum < budget_s); i++) {
        double began = clock_s(b);
        QY_TRY(work(b, err));
        QY_TRY(qy_device_wait(b->dev, err));
        double s = clock_s(b) - began;
        if (i < 0 && s < budget_s) {
            first = s;
            continue;
        }
        sum += seconds[n++] = s;
        if (i < 0) /* slow enough for a first call to count */
            break;
    }
    qsort(seconds, (size_t)n, sizeof *seconds, by_size);
    *median = fmax(seconds[n / 2], 1e-9);
    b->first_s += first > *median ? first - *median : 0;
    return QY_OK;
}

/* --- what is timed ---------------------------------------------------------------------------- */

static qy_status_t load_block(bench_t *b, qy_error_t *err)
{
    qy_decorate_plain(&b->forward.params);
    return qy_block_params_load(&b->forward.params, &b->forward.block, &b->block,
                                &b->forward.staging, 1, err);
}

static qy_status_t advance(bench_t *b, qy_error_t *err)
{
    const qy_hooks_t none = {0};
    return qy_forward_advance(&b->forward, b->source, b->at++, &none, err);
}

static qy_status_t start_block(bench_t *b, qy_error_t *err)
{
    return qy_block_ap_start(&b->trainer, &b->block, err);
}

static qy_status_t train(bench_t *b, qy_error_t *err)
{
    const qy_hooks_t none = {0};
    qy_block_ap_losses_t losses;
    return qy_block_ap_train(&b->trainer, 0, b->source, b->goal, &none, &losses, err);
}

static qy_status_t freeze(bench_t *b, qy_error_t *err)
{
    return qy_block_ap_freeze(&b->trainer, &b->block, &b->q, err);
}

/* The layer whose codes a loaded quantized block has left on the device. */
static int last_linear(const qy_arch_t *arch)
{
    int last = 0;
    for (int i = 0; i < QY_N_LINEARS; i++)
        last = arch->linear[i].present ? i : last;
    return last;
}

static qy_status_t decode(bench_t *b, qy_error_t *err)
{
    qy_forward_t *f = &b->forward;
    int i = last_linear(&b->model->arch);
    qy_tensor_t codes = qy_tensor_view(f->codes.data, QY_U32, 2, b->q.codes[i].shape);
    qy_tensor_t scales = qy_tensor_view(f->scales.data, QY_F32, 2, b->q.scales[i].shape);
    qy_tensor_t zeros = qy_tensor_view(f->zeros.data, QY_U8, 2, b->q.zeros[i].shape);
    return qy_dequant_fwd(f->dev, &f->params.w[i], &codes, &scales, &zeros, f->form.bits, 1, err);
}

static qy_status_t embed(bench_t *b, qy_error_t *err)
{
    qy_stream_t *const streams[] = {b->source, b->goal};
    for (int64_t i = 0; i < b->n; i++) {
        qy_stream_reset(b->source, i);
        qy_stream_reset(b->goal, i);
    }
    b->at = 0;
    return qy_forward_embed(&b->forward, streams, 2, b->tokens, err);
}

/* --- measuring -------------------------------------------------------------------------------- */

static qy_status_t measure_forward(bench_t *b, qy_speed_t *out, qy_error_t *err)
{
    double s;
    double began = clock_s(b);
    QY_TRY(qy_block_weights_read(&b->block, b->model, 0, err));
    out->read = b->weights / fmax(clock_s(b) - began, 1e-9);
    QY_TRY(timed(b, load_block, &s, err));
    out->load = b->weights / s;
    QY_TRY(timed(b, advance, &s, err));
    double tokens = (double)(b->n * b->length);
    out->forward = qy_block_flops(&b->model->arch, tokens, (double)b->length) / s;
    return QY_OK;
}

static qy_status_t measure_training(bench_t *b, qy_speed_t *out, qy_error_t *err)
{
    double s, few;
    QY_TRY(timed(b, start_block, &s, err));
    out->start = b->weights / s;
    /* Embedded tokens, not what many advances have made of them. */
    QY_TRY(embed(b, err));
    QY_TRY(start_block(b, err));
    b->own.block_ap.steps = 2;
    double began = clock_s(b);
    QY_TRY(train(b, err));
    few = clock_s(b) - began;
    s = few / 2;
    if (few < budget_s) {
        b->own.block_ap.steps = STEPS_MAX;
        QY_TRY(timed(b, train, &s, err));
        s /= STEPS_MAX;
        b->first_s += fmax(few - 2 * s, 0);
    }
    /* Backward is two forward passes' products; what is left of a step is its update, which also
     * has a tenth at least. */
    double flops =
        qy_block_flops(&b->model->arch, (double)(b->forward.batch * b->length), (double)b->length);
    double update = fmax(s - 3 * flops / out->forward, s / 10);
    out->update = b->weights / update;
    out->train = 3 * flops / (s - update);
    return QY_OK;
}

static qy_status_t measure_codes(bench_t *b, qy_speed_t *out, qy_error_t *err)
{
    double s;
    qy_quant_form_t form = qy_plan_form(b->plan);
    QY_TRY(qy_qblock_create(&b->q, &b->model->arch, &form, err));
    QY_TRY(timed(b, freeze, &s, err));
    out->freeze = b->weights / s;
    QY_TRY(qy_forward_load_quantized(&b->forward, &b->q, err));
    QY_TRY(timed(b, decode, &s, err));
    const qy_linear_desc_t *d = &b->model->arch.linear[last_linear(&b->model->arch)];
    out->decode = (double)(d->out * d->in) / s;
    return QY_OK;
}

static qy_status_t measure_head(bench_t *b, qy_speed_t *out, qy_error_t *err)
{
    qy_rim_t rim;
    float *losses = malloc((size_t)(b->n * b->length) * sizeof *losses);
    if (!losses)
        return qy_fail(err, QY_ERR_MEMORY, "calibration: out of host memory");
    qy_status_t status = qy_rim_open(&rim, &b->forward, QY_OUTER_HEAD, err);
    double s = 1;
    for (int i = 0; i < 2 && status == QY_OK; i++) { /* the first warms up */
        double began = clock_s(b);
        status = qy_rim_losses(&rim, &b->forward, b->source, b->tokens, losses, err);
        s = fmax(clock_s(b) - began, 1e-9);
    }
    qy_rim_close(&rim, &b->forward);
    out->head = qy_head_flops(&b->model->arch, (double)(b->n * b->length)) / s;
    free(losses);
    return status;
}

/* --- beside the device ------------------------------------------------------------------------ */

/* Starting this program and waiting for its end. */
static qy_status_t measure_process(const char *program, double *seconds, qy_error_t *err)
{
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int state;
    char *argv[] = {(char *)(uintptr_t)program, (char[]){"--version"}, NULL};
    double began = qy_now_s();
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    int failed = posix_spawn(&pid, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed)
        return qy_fail(err, QY_ERR_IO, "%s: %s", program, strerror(failed));
    while (waitpid(pid, &state, 0) < 0 && errno == EINTR)
        continue;
    *seconds = qy_now_s() - began;
    return QY_OK;
}

/* Into the nearest folder above run_dir that is there. */
static qy_status_t measure_disk(const qy_plan_t *plan, double *bytes_per_s, qy_error_t *err)
{
    char folder[QY_PATH_MAX], path[QY_PATH_MAX], *slash;
    QY_TRY(qy_path(folder, err, "%s", plan->spec.run_dir));
    while (!qy_is_dir(folder) && (slash = strrchr(folder, '/')) != NULL && slash > folder)
        *slash = '\0';
    QY_TRY(qy_path(path, err, "%s/.quarry-speed-%lld", folder, (long long)getpid()));
    void *bytes = malloc(DISK_BYTES);
    if (!bytes)
        return qy_fail(err, QY_ERR_MEMORY, "calibration: out of host memory");
    memset(bytes, 'q', DISK_BYTES);
    double began = qy_now_s();
    qy_status_t status = qy_file_write(path, bytes, DISK_BYTES, err);
    *bytes_per_s = DISK_BYTES / fmax(qy_now_s() - began, 1e-9);
    unlink(path);
    free(bytes);
    return status;
}

static qy_status_t measure_text(const qy_plan_t *plan, double *bytes_per_s, qy_error_t *err)
{
    const char *path = plan->spec.calibration.text, *dot = strrchr(path, '.');
    qy_tokenizer_t *tokenizer = NULL;
    int32_t *ids = NULL;
    int64_t n;
    char *text;
    *bytes_per_s = tokenize_default;
    if (!dot || strcmp(dot, ".npy") == 0)
        return QY_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = -1;
    if ((text = malloc(TEXT_BYTES)) && fd >= 0)
        got = read(fd, text, TEXT_BYTES);
    if (fd >= 0)
        close(fd);
    qy_status_t status = got > 0 ? QY_OK : qy_fail(err, QY_ERR_IO, "%s: cannot be read", path);
    if (status == QY_OK)
        status = qy_tokenizer_open(&tokenizer, plan->spec.model, err);
    double began = qy_now_s();
    if (status == QY_OK)
        status = qy_tokenizer_encode(tokenizer, text, (size_t)got, &ids, &n, err);
    *bytes_per_s = (double)got / fmax(qy_now_s() - began, 1e-9);
    qy_tokenizer_close(&tokenizer);
    free(ids);
    free(text);
    return status;
}

/* --- set-up ----------------------------------------------------------------------------------- */

static qy_status_t take(bench_t *b, qy_arena_t *arena, qy_error_t *err)
{
    qy_quant_form_t form = qy_plan_form(b->plan);
    QY_TRY(qy_forward_take(&b->forward, b->dev, b->model, &form, b->plan->spec.block_ap.batch_size,
                           b->length, arena, err));
    return qy_block_ap_take(&b->trainer, &b->own, &b->forward, 1, arena, err);
}

static qy_status_t set_up(bench_t *b, qy_error_t *err)
{
    qy_arena_t measure;
    const qy_arch_t *a = &b->model->arch;
    int64_t batch = b->plan->spec.block_ap.batch_size;
    b->weights = (double)qy_arch_block_weights(a);
    b->length = b->plan->spec.calibration.sequence_length;
    if (b->plan->n_samples == 0)
        b->length = LENGTH < a->max_positions ? LENGTH : a->max_positions;
    b->n = (TOKENS / (batch * b->length) + 1) * batch;
    memcpy(&b->own, b->plan, sizeof b->own);
    b->own.spec.calibration.samples = b->n;
    b->own.block_ap.steps_per_epoch = b->n / batch;
    b->own.block_ap.steps = STEPS_MAX;
    qy_arena_init(&measure, "calibration", NULL, 0);
    QY_TRY(take(b, &measure, err));
    QY_TRY(qy_device_alloc(b->dev, &b->memory, measure.peak, err));
    qy_arena_init(&b->arena, "calibration", b->memory, measure.peak);
    QY_TRY(take(b, &b->arena, err));
    size_t sample = (size_t)(b->length * a->hidden) * qy_dtype_bytes(b->dev->compute);
    const qy_stream_options_t streams = {.n = b->n, .sample_bytes = sample, .in_memory = b->n};
    QY_TRY(qy_stream_create(&b->source, b->dev, &streams, err));
    QY_TRY(qy_stream_create(&b->goal, b->dev, &streams, err));
    b->tokens = malloc((size_t)(b->n * b->length) * sizeof *b->tokens);
    if (!b->tokens)
        return qy_fail(err, QY_ERR_MEMORY, "calibration: out of host memory");
    for (int64_t i = 0; i < b->n * b->length; i++)
        b->tokens[i] = (int32_t)(i * 7919 % a->vocab);
    return embed(b, err);
}

static qy_status_t measure_pin(bench_t *b, double *bytes_per_s, qy_error_t *err)
{
    void *memory;
    double began = qy_now_s();
    QY_TRY(qy_device_host_alloc(b->dev, &memory, PIN_BYTES, err));
    *bytes_per_s = PIN_BYTES / fmax(qy_now_s() - began, 1e-9);
    qy_device_host_free(b->dev, &memory);
    return QY_OK;
}

static void clean_up(bench_t *b)
{
    qy_qblock_free(&b->q);
    qy_block_weights_free(&b->block);
    free(b->tokens);
    qy_stream_destroy(&b->source);
    qy_stream_destroy(&b->goal);
    if (b->memory)
        qy_device_free(b->dev, &b->memory);
    qy_model_close(&b->model);
    qy_device_close(&b->dev);
}

static void describe(bench_t *b, qy_speed_t *out)
{
    char now[24], host[64] = "?";
    size_t free_bytes, total = 0;
    qy_utc(now);
    gethostname(host, sizeof host - 1);
    snprintf(out->source, sizeof out->source, "measured %s on %s", now, host);
    snprintf(out->kind, sizeof out->kind, "%s", b->dev->kind);
    snprintf(out->model, sizeof out->model, "%s", b->dev->model);
    snprintf(out->compute, sizeof out->compute, "%s", qy_dtype_name(b->dev->compute));
    if (strcmp(b->dev->kind, "cpu") == 0)
        out->threads = b->dev->threads;
    else if (qy_device_memory(b->dev, &free_bytes, &total, NULL) == QY_OK)
        out->memory = (double)total;
}

static qy_status_t measure(bench_t *b, qy_speed_t *out, qy_error_t *err)
{
    double began = qy_now_s();
    QY_TRY(qy_device_open(&b->dev, b->plan->spec.resources.device, b->plan->spec.resources.compute,
                          (int)b->plan->spec.resources.threads, err));
    QY_TRY(qy_model_open(&b->model, b->plan->spec.model, err));
    b->model->threads = b->dev->threads;
    out->open_s += qy_now_s() - began;
    describe(b, out);
    QY_TRY(measure_pin(b, &out->pin, err));
    QY_TRY(set_up(b, err));
    QY_TRY(measure_forward(b, out, err));
    QY_TRY(measure_training(b, out, err));
    QY_TRY(measure_codes(b, out, err));
    QY_TRY(measure_head(b, out, err));
    out->open_s += b->first_s;
    return QY_OK;
}

qy_status_t qy_calibrate(qy_speed_t *out, const qy_plan_t *plan, const char *program,
                         qy_error_t *err)
{
    qy_speed_t speed = {0};
    bench_t *b = calloc(1, sizeof *b);
    if (!b)
        return qy_fail(err, QY_ERR_MEMORY, "calibration: out of host memory");
    b->plan = plan;
    qy_status_t status = measure_process(program, &speed.open_s, err);
    if (status == QY_OK)
        status = measure(b, &speed, err);
    clean_up(b);
    free(b);
    if (status == QY_OK)
        status = measure_text(plan, &speed.tokenize, err);
    if (status == QY_OK)
        status = measure_disk(plan, &speed.disk, err);
    if (status == QY_OK)
        *out = speed;
    return status;
}
