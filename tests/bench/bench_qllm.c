/*
 * Times QLLM on one decoder block of any shape by the program's own code (worker/qllm.c,
 * reassemble.c): the training step of a round (forward, backward and update of the low-rank
 * corrections under 4-bit weights, activations, Q, K and V, uploads included), and the search of
 * its three sites. Prints losses and gradient norms for bench_torch.py to compare with.
 *
 * usage: bench_qllm [key=value …]; see usage() for the keys
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "jobs/finished.h"
#include "kernels/low_rank.h"
#include "tests/bench/data.h"
#include "worker/decorate.h"
#include "worker/qllm.h"

enum { SAMPLES = 8, CHECKED_STEPS = 8, TIMED_STEPS = 32, MAX_ROUNDS = 100, STREAM_FACTOR = 50 };
static const float outlier = 8.0f; /* of some channels' norm weights */

typedef struct {
    bench_common_t on;
    char what[16];
    long bits, batch, rounds, maps, fused;
} config_t;

typedef struct {
    config_t c;
    qy_plan_t *plan;
    qy_model_t model;
    qy_device_t *dev;
    void *memory;
    qy_forward_t forward;
    qy_qllm_t qllm;
    qy_stream_t *input, *target;
    qy_block_weights_t weights;
    qy_qblock_t maps; /* of which only the channel plans are filled */
} bench_t;

static qy_error_t err;
static const qy_hooks_t hooks;
static const qy_site_t sites[] = {QY_SITE_ATTENTION_IN, QY_SITE_MLP_IN, QY_SITE_DOWN_IN};

static void usage(void)
{
    fprintf(stderr, "usage: bench_qllm [what=round|search] [preset=405b|70b|7b|135m] [hidden=N …]\n"
                    "  [device=cuda:0] [compute=bf16] [bits=4] [batch=1] [rounds=5] [maps=1]\n"
                    "  [fused=1]\n"
                    "  rounds: medians are of so many; maps: 0 leaves channels as they are;\n"
                    "  fused: 0 takes single ops between a norm or product and its readers\n");
    exit(2);
}

static void read_config(config_t *c, int argc, char **argv)
{
    *c = (config_t){.on = bench_common("7b"),
                    .what = "round",
                    .bits = 4,
                    .batch = 1,
                    .rounds = 5,
                    .maps = 1,
                    .fused = 1};
    const bench_key_t keys[] = {BENCH_NUMBER(c, bits),   BENCH_NUMBER(c, batch),
                                BENCH_NUMBER(c, rounds), BENCH_NUMBER(c, maps),
                                BENCH_NUMBER(c, fused),  BENCH_TEXT(c, what)};
    bench_read_keys(&c->on, keys, sizeof keys / sizeof *keys, argc, argv, usage);
    if (c->rounds < 1 || c->rounds > MAX_ROUNDS || c->batch < 1 || c->batch > SAMPLES)
        usage();
}

/* What a round reads of a plan: one block, whole rows of weights. */
static void make_plan(bench_t *b)
{
    qy_plan_t *p = b->plan =
        bench_plan(&b->model.arch, &b->c.on.shape, SAMPLES, (int)b->c.bits, -1);
    p->spec.quantize.method = QY_METHOD_QLLM;
    p->spec.quantize.weights.group_size = -1;
    p->spec.quantize.activation_bits = p->spec.quantize.kv_bits = (int)b->c.bits;
    p->spec.qllm.reassembly = p->spec.qllm.block_norms = true;
    p->spec.qllm.init = strcmp(b->c.what, "search") == 0 ? QY_INIT_LEAST_SQUARES : QY_INIT_MIN_MAX;
    p->spec.qllm.rank = 4;
    p->spec.qllm.batch_size = b->c.batch;
    p->spec.qllm.blocks_per_round = 1;
    p->spec.qllm.channel_ratio = 0.2;
    p->spec.qllm.scaling = 0.25;
    p->spec.qllm.lr = 5e-4;
    p->qllm.search_samples = 1;
    p->qllm.steps_per_epoch = SAMPLES / b->c.batch;
    p->qllm.steps = TIMED_STEPS;
}

static qy_status_t take(void *context, qy_arena_t *arena, qy_error_t *e)
{
    bench_t *b = context;
    const qy_quant_form_t form = qy_plan_form(b->plan);
    QY_TRY(qy_forward_take(&b->forward, b->dev, &b->model, &form, b->c.batch, b->c.on.shape.length,
                           arena, e));
    return qy_qllm_take(&b->qllm, b->plan, &b->forward, arena, e);
}

static qy_stream_t *open_stream(bench_t *b)
{
    qy_stream_t *s = NULL;
    const bench_shape_t *shape = &b->c.on.shape;
    size_t bytes = (size_t)(shape->length * shape->hidden) * qy_dtype_bytes(b->dev->compute);
    const qy_stream_options_t options = {.n = SAMPLES, .sample_bytes = bytes, .in_memory = SAMPLES};
    bench_need(qy_stream_create(&s, b->dev, &options, &err), err);
    for (int64_t i = 0; i < SAMPLES; i++) {
        qy_tensor_t x = qy_tensor_slice(&b->forward.x, 0, shape->length);
        bench_put_inputs(b->dev, &x, i);
        bench_need(qy_stream_store(s, i, 1, 0, x.data, &err), err);
    }
    bench_need(qy_stream_flush(s, &err), err);
    return s;
}

/* A plan at each site. */
static void make_maps(bench_t *b)
{
    for (int k = 0; k < 3; k++) {
        int64_t c = qy_site_channels(&b->model.arch, sites[k]);
        int32_t *offsets, *items;
        bench_channels(&offsets, &items, c);
        if (!b->c.maps)
            qy_channels_identity(offsets, items, c);
        b->maps.map_offsets[sites[k]] = qy_tensor_1d(offsets, QY_I32, c + 1);
        b->maps.map_items[sites[k]] = qy_tensor_1d(items, QY_I32, QY_MAP_ITEMS * c);
    }
}

static qy_status_t see(void *context, const qy_block_acts_t *acts, int64_t first, qy_error_t *e)
{
    (void)first;
    return qy_reassemble_see(context, acts, e);
}

/* The full-precision block over the target stream. */
static void advance(bench_t *b)
{
    qy_forward_t *f = &b->forward;
    qy_decorate_plain(&f->params);
    bench_need(qy_block_params_load(&f->params, &f->block, &b->weights, &f->staging, 1, &err), err);
    qy_reassemble_begin(&b->qllm.sites);
    f->see = see;
    f->see_context = &b->qllm.sites;
    bench_need(qy_forward_advance(f, b->target, 0, &hooks, &err), err);
    bench_need(qy_stream_flush(b->target, &err), err);
    f->see = NULL;
}

/* Factors that bench_torch.py starts with as well. */
static void start_factors(bench_t *b)
{
    qy_qllm_block_t *block = &b->qllm.blocks[0];
    for (int i = 0; i < QY_N_LINEARS; i++) {
        qy_qllm_layer_t *l = &block->layer[i];
        qy_tensor_t a = qy_tensor_slice(&l->a, 0, b->plan->spec.qllm.rank);
        float size = 1.0f / sqrtf((float)qy_tensor_cols(&a));
        bench_put(b->dev, &a, (uint64_t)(STREAM_FACTOR + i), size);
        bench_need(qy_low_rank_fwd(b->dev, &block->params.w[i], &l->a_scaled, &l->b_scaled,
                                   &l->w_hat, &l->a, &l->b, (float)b->plan->spec.qllm.scaling,
                                   &err),
                   err);
    }
}

static double norm_of(const qy_device_t *dev, const qy_tensor_t *t)
{
    float *x = bench_get(dev, t);
    double sum = 0;
    for (int64_t k = 0; k < qy_tensor_count(t); k++)
        sum += (double)x[k] * (double)x[k];
    free(x);
    return sqrt(sum);
}

/* The samples of CHECKED_STEPS steps, the first and the last loss, and the last gradients. */
static void print_check(bench_t *b, const double losses[2])
{
    int64_t order[SAMPLES], per_epoch = b->plan->qllm.steps_per_epoch;
    const qy_qllm_block_t *block = &b->qllm.blocks[0];
    printf("order");
    for (int64_t i = 0; i < CHECKED_STEPS * b->c.batch; i++) {
        int64_t epoch = i / (per_epoch * b->c.batch);
        qy_random_permutation(order, SAMPLES, (uint32_t)b->plan->spec.seed, QY_PHASE_SHUFFLE_BLOCK,
                              (uint64_t)epoch);
        printf(" %lld", (long long)order[i % (per_epoch * b->c.batch)]);
    }
    printf("\nlosses %.6e %.6e\ngradients", losses[0], losses[1]);
    for (int i = 0; i < QY_N_LINEARS; i++)
        printf(" %.6e %.6e", norm_of(b->dev, &block->layer[i].da),
               norm_of(b->dev, &block->layer[i].db));
    for (int i = 0; i < QY_N_NORMS; i++)
        if (block->dnorm[i].data)
            printf(" %.6e", norm_of(b->dev, &block->dnorm[i]));
    printf("\n");
}

static void time_round(bench_t *b, double *samples)
{
    double losses[2];
    bench_need(qy_qllm_start(&b->qllm, 0, 0, &b->weights, &b->maps, &err), err);
    start_factors(b);
    b->plan->qllm.steps = CHECKED_STEPS;
    bench_need(qy_qllm_train(&b->qllm, 0, 1, b->input, b->target, &hooks, losses, &err), err);
    print_check(b, losses);
    b->plan->qllm.steps = TIMED_STEPS;
    for (long i = -1; i < b->c.rounds; i++) { /* the first warms up */
        bench_need(qy_device_wait(b->dev, &err), err);
        double began = qy_now_s();
        bench_need(qy_qllm_train(&b->qllm, 0, 1, b->input, b->target, &hooks, losses, &err), err);
        bench_need(qy_device_wait(b->dev, &err), err);
        if (i >= 0)
            samples[i] = (qy_now_s() - began) / TIMED_STEPS * 1e3;
    }
}

static void time_search(bench_t *b, double *samples)
{
    qy_log_open(stdout, QY_LOG_INFO, "bench", 0); /* a line for each site */
    for (long i = 0; i < b->c.rounds; i++) {
        double began = qy_now_s();
        bench_need(qy_reassemble_search(&b->qllm.sites, 0, &b->weights, &b->maps, &err), err);
        samples[i] = (qy_now_s() - began) * 1e3;
    }
}

int main(int argc, char **argv)
{
    bench_t b = {0};
    double samples[MAX_ROUNDS];
    read_config(&b.c, argc, argv);
    const config_t *c = &b.c;
    b.model.arch = bench_arch(&c->on.shape);
    make_plan(&b);
    bench_need(qy_device_open(&b.dev, c->on.device, c->on.compute, 0, &err), err);
    bench_need(qy_device_take(b.dev, &b.memory, "bench", take, &b, &err), err);
    b.forward.block.fused &= c->fused != 0;
    b.input = open_stream(&b);
    b.target = open_stream(&b);
    bench_weights_make(&b.weights, &b.model.arch, outlier);
    make_maps(&b);
    advance(&b);
    if (strcmp(c->what, "search") == 0)
        time_search(&b, samples);
    else
        time_round(&b, samples);
    double median = bench_median(samples, (int)c->rounds);
    printf("%s %ldx%lld hidden %lld intermediate %lld heads %lld/%lld w%lda%ld %s: median %.3f ms, "
           "least %.3f, most %.3f; allocated %.2f GiB; %s; %s\n",
           c->what, c->batch, (long long)c->on.shape.length, (long long)c->on.shape.hidden,
           (long long)c->on.shape.intermediate, (long long)c->on.shape.heads,
           (long long)c->on.shape.kv_heads, c->bits, c->bits, c->on.compute, median, samples[0],
           samples[c->rounds - 1], (double)qy_device_peak(b.dev) / (1 << 30), b.dev->model,
           b.dev->libraries);
    for (int k = 0; k < 3; k++) {
        free(b.maps.map_offsets[sites[k]].data);
        free(b.maps.map_items[sites[k]].data);
    }
    bench_weights_drop(&b.weights);
    qy_stream_destroy(&b.input);
    qy_stream_destroy(&b.target);
    qy_qllm_free(&b.qllm);
    qy_device_free(b.dev, &b.memory);
    qy_device_close(&b.dev);
    free(b.plan);
    return 0;
}
