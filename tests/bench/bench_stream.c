/*
 * Times what the program does with a stream, by its own walk and training (worker/forward.c,
 * block_ap.c): one decoder block of any shape, its samples in memory or in a scratch file. First
 * the file alone, then the advance, then an epoch of Block-AP. Prints how long the device waited
 * for the disk and checksums that must be the same however the samples are held.
 *
 * usage: bench_stream [key=value …]; see usage() for the keys
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "jobs/plan_time.h"
#include "tests/bench/data.h"
#include "worker/block_ap.h"

enum { PATTERNS = 8 };

typedef struct {
    bench_common_t on;
    char scratch[QY_PATH_MAX];
    long samples, batch, epochs, memory, buffered, train;
} config_t;

typedef struct {
    config_t c;
    qy_plan_t *plan;
    qy_model_t model;
    qy_device_t *dev;
    void *memory;
    qy_forward_t forward;
    qy_block_ap_t trainer;
    qy_stream_t *input, *target;
    size_t sample_bytes;
} bench_t;

static qy_error_t err;
static const qy_hooks_t hooks;

static void usage(void)
{
    fprintf(
        stderr,
        "usage: bench_stream [preset=405b|70b|7b|135m] [hidden=N …] [device=cuda:0] "
        "[compute=bf16]\n"
        "  [samples=128] [batch=2] [epochs=1] [memory=N] [scratch=/tmp] [buffered=0] [train=1]\n"
        "  memory: samples of each stream that are held in memory; buffered: no O_DIRECT\n");
    exit(2);
}

static void read_config(config_t *c, int argc, char **argv)
{
    *c = (config_t){.on = bench_common("70b"),
                    .scratch = "/tmp",
                    .samples = 128,
                    .batch = 2,
                    .epochs = 1,
                    .train = 1};
    const bench_key_t keys[] = {BENCH_NUMBER(c, samples),  BENCH_NUMBER(c, batch),
                                BENCH_NUMBER(c, epochs),   BENCH_NUMBER(c, memory),
                                BENCH_NUMBER(c, buffered), BENCH_NUMBER(c, train),
                                BENCH_TEXT(c, scratch)};
    bench_read_keys(&c->on, keys, sizeof keys / sizeof *keys, argc, argv, usage);
    if (c->samples < c->batch || c->batch < 1 || c->epochs < 1 || c->memory < 0)
        usage();
}

/* What training and the estimate read of a plan: one block over all samples, w2g64. */
static void make_plan(bench_t *b)
{
    qy_plan_t *p = b->plan = bench_plan(&b->model.arch, &b->c.on.shape, b->c.samples, 2, 64);
    p->spec.quantize.method = QY_METHOD_BLOCK_AP;
    p->spec.quantize.activation_bits = p->spec.quantize.kv_bits = 16;
    p->spec.block_ap.init = QY_INIT_MIN_MAX;
    p->spec.block_ap.lr_unit = QY_LR_UNIT_STEP;
    p->spec.block_ap.epochs = b->c.epochs;
    p->spec.block_ap.batch_size = b->c.batch;
    p->spec.block_ap.shuffle = true;
    p->block_ap.steps_per_epoch = b->c.samples / b->c.batch;
    p->block_ap.steps = b->c.epochs * p->block_ap.steps_per_epoch;
    p->block_ap.weight_lr = p->block_ap.quant_lr = 1e-3;
}

static qy_status_t take(void *context, qy_arena_t *arena, qy_error_t *e)
{
    bench_t *b = context;
    const qy_quant_form_t form = qy_plan_form(b->plan);
    QY_TRY(qy_forward_take(&b->forward, b->dev, &b->model, &form, b->c.batch, b->c.on.shape.length,
                           arena, e));
    return b->c.train ? qy_block_ap_take(&b->trainer, b->plan, &b->forward, 1, arena, e) : QY_OK;
}

static qy_stream_t *open_stream(bench_t *b)
{
    qy_stream_t *s = NULL;
    bench_need(qy_stream_create(&s, b->dev,
                                &(qy_stream_options_t){.n = b->c.samples,
                                                       .sample_bytes = b->sample_bytes,
                                                       .in_memory = b->c.memory,
                                                       .scratch = b->c.scratch,
                                                       .buffered = (int)b->c.buffered},
                                &err),
               err);
    return s;
}

/* Both streams, in front of block 0; returns seconds of writing. */
static double fill(bench_t *b)
{
    const qy_forward_t *f = &b->forward;
    double seconds = 0;
    for (long p = 0; p < PATTERNS; p++) {
        bench_put_inputs(b->dev, &f->x, p);
        double began = qy_now_s();
        for (long at = p * b->c.batch; at + b->c.batch <= b->c.samples;
             at += PATTERNS * b->c.batch) {
            bench_need(qy_stream_store(b->input, at, b->c.batch, 0, f->x.data, &err), err);
            bench_need(qy_stream_store(b->target, at, b->c.batch, 0, f->x.data, &err), err);
        }
        bench_need(qy_stream_flush(b->input, &err), err);
        bench_need(qy_stream_flush(b->target, &err), err);
        seconds += qy_now_s() - began;
    }
    return seconds;
}

/* Seconds of reading both, with nothing computed. */
static double read_all(bench_t *b)
{
    double began = qy_now_s();
    bench_need(qy_stream_expect_range(b->input, 0, b->c.samples, &err), err);
    bench_need(qy_stream_expect_range(b->target, 0, b->c.samples, &err), err);
    for (int64_t i = 0; i < b->c.samples; i++) {
        bench_need(qy_stream_load(b->input, &i, 1, b->forward.x.data, &err), err);
        bench_need(qy_stream_load(b->target, &i, 1, b->forward.x.data, &err), err);
    }
    bench_need(qy_device_wait(b->dev, &err), err);
    return qy_now_s() - began;
}

/* XXH3 over the XXH3 of each sample. */
static uint64_t digest(bench_t *b, qy_stream_t *s)
{
    uint64_t sum = 0;
    char *host = malloc(b->sample_bytes);
    bench_need(qy_stream_expect_range(s, 0, b->c.samples, &err), err);
    for (int64_t i = 0; i < b->c.samples && host; i++) {
        bench_need(qy_stream_read(s, i, host, &err), err);
        sum = qy_xxh3_seeded(host, b->sample_bytes, sum);
    }
    free(host);
    return sum;
}

static double stall_s(const bench_t *b)
{
    return qy_stream_stall_s(b->input) + qy_stream_stall_s(b->target);
}

/* What a plan of this says that it asks of the disk. */
static void print_plan(bench_t *b)
{
    qy_speed_t speed;
    qy_plan_t *p = b->plan;
    long in_file = b->c.samples - b->c.memory;
    p->stream_bytes = 2 * b->c.samples * (int64_t)b->sample_bytes;
    p->spec.resources.host_cache =
        in_file > 0 ? p->stream_bytes - 2 * in_file * (int64_t)b->sample_bytes + 1 : 0;
    if (qy_speed_find(&speed, b->c.on.device, 0, &err) != QY_OK ||
        qy_plan_estimate(p, &speed, &err) != QY_OK)
        printf("plan     %s\n", err.text);
    else
        printf("plan     asks %.2f GB/s while it trains, %.2f while a stream advances\n",
               p->time.train_bytes_per_s / 1e9, p->time.walk_bytes_per_s / 1e9);
}

/* One line: milliseconds a batch, share of waiting, GB/s of samples that are in the file. */
static void report(const bench_t *b, const char *what, double seconds, double stalled,
                   double passes, double transfers, uint64_t sum)
{
    double batches = passes * (double)(b->c.samples / b->c.batch);
    double in_file =
        (double)(b->c.samples - (b->c.memory < b->c.samples ? b->c.memory : b->c.samples));
    printf(
        "%-8s %8.2f ms a batch, stall_s %.3f of %.3f s (%.1f %%), disk %.2f GB/s, bytes %016llx\n",
        what, seconds / batches * 1e3, stalled, seconds, 100 * stalled / seconds,
        passes * transfers * in_file * (double)b->sample_bytes / seconds / 1e9,
        (unsigned long long)sum);
    fflush(stdout);
}

/* Twice: what the first pass of a size sets up once is not timed. */
static void time_advance(bench_t *b)
{
    for (int64_t block = 0; block < 2; block++) {
        double stalled = stall_s(b), began = qy_now_s();
        bench_need(qy_forward_advance(&b->forward, b->target, block, &hooks, &err), err);
        bench_need(qy_stream_flush(b->target, &err), err);
        double seconds = qy_now_s() - began;
        stalled = stall_s(b) - stalled;
        if (block == 1)
            report(b, "advance", seconds, stalled, 1, 2, digest(b, b->target));
    }
}

static void time_training(bench_t *b, const qy_block_weights_t *weights)
{
    qy_block_ap_losses_t losses;
    bench_need(qy_block_ap_start(&b->trainer, weights, &err), err);
    double stalled = stall_s(b), began = qy_now_s();
    bench_need(qy_block_ap_train(&b->trainer, 0, b->input, b->target, &hooks, &losses, &err), err);
    double seconds = qy_now_s() - began;
    report(b, "train", seconds, stall_s(b) - stalled, (double)b->c.epochs, 2,
           qy_xxh3(&losses, sizeof losses));
}

int main(int argc, char **argv)
{
    bench_t b = {0};
    qy_block_weights_t weights;
    read_config(&b.c, argc, argv);
    const config_t *c = &b.c;
    b.model.arch = bench_arch(&c->on.shape);
    make_plan(&b);
    bench_need(qy_device_open(&b.dev, c->on.device, c->on.compute, 0, &err), err);
    bench_need(qy_device_take(b.dev, &b.memory, "bench", take, &b, &err), err);
    b.sample_bytes =
        (size_t)(c->on.shape.length * c->on.shape.hidden) * qy_dtype_bytes(b.dev->compute);
    b.input = open_stream(&b);
    b.target = open_stream(&b);
    printf("hidden %lld, %ld samples of %.1f MB a stream, %ld in memory, %s, %s\n",
           (long long)c->on.shape.hidden, c->samples, (double)b.sample_bytes / 1e6, c->memory,
           c->buffered ? "buffered" : "O_DIRECT where it works", c->scratch);
    double all = 2 * (double)c->samples * (double)b.sample_bytes / 1e9;
    double written = fill(&b), read = read_all(&b);
    printf("alone    writing %.2f GB/s, reading %.2f GB/s\n", all / written, all / read);
    print_plan(&b);
    bench_weights_make(&weights, &b.model.arch, 1.0f);
    bench_need(qy_block_params_load(&b.forward.params, &b.forward.block, &weights,
                                    &b.forward.staging, 1, &err),
               err);
    time_advance(&b);
    if (c->train)
        time_training(&b, &weights);
    bench_weights_drop(&weights);
    qy_stream_destroy(&b.input);
    qy_stream_destroy(&b.target);
    qy_device_free(b.dev, &b.memory);
    qy_device_close(&b.dev);
    free(b.plan);
    return 0;
}
