/*
 * Times what training does with one decoder block of any shape: a Block-AP step (as
 * worker/block_ap.c does it, uploads included), the advance of a stream, and E2E-QP forward and
 * backward from packed codes. Prints losses and gradient norms for bench_torch.py to compare with.
 *
 * usage: bench_block [key=value …]; see usage() for the keys
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/fill.h"
#include "kernels/loss.h"
#include "kernels/quant.h"
#include "kernels/optim.h"
#include "tests/bench/data.h"
#include "worker/block.h"

enum { BATCHES = 4, PRINTED_LOSSES = 8, MAX_SAMPLES = 1000 };

static const float weight_lr = 1e-4f, quant_lr = 1e-4f;

typedef struct {
    bench_common_t on;
    char dw[8], what[16];
    long bits, group, batch, samples, per, recompute, graph;
} config_t;

typedef struct {
    config_t c;
    qy_device_t *dev;
    qy_arena_t arena;
    void *memory;
    qy_block_t block;
    qy_block_params_t params;
    qy_block_acts_t acts;
    qy_block_grads_t grads;
    qy_tensor_t x, y, goal, dy, hyper, state, flag, loss, staging;
    qy_quant_vars_t vars[QY_N_LINEARS];
    qy_tensor_t unit[QY_N_LINEARS];
    qy_tensor_t codes[QY_N_LINEARS], s[QY_N_LINEARS], zeros[QY_N_LINEARS], ds[QY_N_LINEARS];
    void *host_x[BATCHES], *host_goal[BATCHES], *host_y;
    int e2e;
    qy_graph_t *graph;
} bench_t;

static qy_error_t err;

static void usage(void)
{
    fprintf(
        stderr,
        "usage: bench_block [what=block-ap|advance|e2e] [preset=405b|70b|7b|135m] [device=cuda:0]\n"
        "  [compute=bf16] [dw=f32|compute] [hidden=N] [intermediate=N] [heads=N] [kv_heads=N]\n"
        "  [head_dim=N] [bits=2] [group=64] [batch=2] [length=2048] [samples=20] [per=16]\n"
        "  [recompute=0] [graph=1]   samples: medians are of so many; per: steps queued for one\n");
    exit(2);
}

static void read_config(config_t *c, int argc, char **argv)
{
    *c = (config_t){.on = bench_common("7b"),
                    .dw = "compute",
                    .what = "block-ap",
                    .bits = 2,
                    .group = 64,
                    .batch = 2,
                    .samples = 20,
                    .per = 16,
                    .graph = 1};
    const bench_key_t keys[] = {
        BENCH_NUMBER(c, bits),    BENCH_NUMBER(c, group), BENCH_NUMBER(c, batch),
        BENCH_NUMBER(c, samples), BENCH_NUMBER(c, per),   BENCH_NUMBER(c, recompute),
        BENCH_NUMBER(c, graph),   BENCH_TEXT(c, dw),      BENCH_TEXT(c, what)};
    bench_read_keys(&c->on, keys, sizeof keys / sizeof *keys, argc, argv, usage);
    if (c->samples < 1 || c->samples > MAX_SAMPLES || c->per < 1)
        usage();
}

static void take(bench_t *b, qy_tensor_t *t, qy_dtype_t dtype, int64_t rows, int64_t cols)
{
    bench_need(qy_arena_tensor(&b->arena, t, dtype, 2, (int64_t[]){rows, cols}, &err), err);
}

static void take_block_ap(bench_t *b, int i, int64_t out, int64_t in, int64_t groups)
{
    qy_quant_vars_t *v = &b->vars[i];
    qy_tensor_t *wide[] = {&v->w, &v->w_m, &v->w_v};
    qy_tensor_t *narrow[] = {&v->s, &v->s_m, &v->s_v, &v->z, &v->z_m, &v->z_v, &b->unit[i]};
    for (size_t k = 0; k < sizeof wide / sizeof *wide; k++)
        take(b, wide[k], QY_F32, out, in);
    for (size_t k = 0; k < sizeof narrow / sizeof *narrow; k++)
        take(b, narrow[k], QY_F32, out, groups);
    take(b, &b->grads.dw[i], strcmp(b->c.dw, "f32") == 0 ? QY_F32 : b->dev->compute, out, in);
}

static void take_e2e(bench_t *b, int i, int64_t out, int64_t in, int64_t groups)
{
    take(b, &b->codes[i], QY_U32, out, (in * b->c.bits + 31) / 32);
    take(b, &b->s[i], QY_F32, out, groups);
    take(b, &b->ds[i], QY_F32, out, groups);
    take(b, &b->zeros[i], QY_U8, out, groups);
}

/* Everything in device memory, or, while the arena only measures, its size. */
static void take_all(bench_t *b, const qy_arch_t *arch)
{
    const config_t *c = &b->c;
    int64_t tokens = c->batch * c->on.shape.length, largest = 0, group = c->group;
    int block_ap = strcmp(c->what, "block-ap") == 0;
    b->e2e = strcmp(c->what, "e2e") == 0;
    bench_need(qy_block_init(&b->block, b->dev, arch, NULL, c->on.shape.length, &b->arena, &err),
               err);
    bench_need(qy_block_params_take(&b->params, &b->block, &b->arena, &err), err);
    bench_need(
        qy_block_acts_take(&b->acts, &b->block, c->batch, c->on.shape.length, &b->arena, &err),
        err);
    take(b, &b->x, b->dev->compute, tokens, c->on.shape.hidden);
    take(b, &b->y, b->dev->compute, tokens, c->on.shape.hidden);
    take(b, &b->loss, QY_F32, 1, MAX_SAMPLES);
    if (!block_ap && !b->e2e)
        return;
    bench_need(
        qy_block_grads_take(&b->grads, &b->block, c->batch, c->on.shape.length, &b->arena, &err),
        err);
    take(b, &b->goal, b->dev->compute, tokens, c->on.shape.hidden);
    take(b, &b->dy, b->dev->compute, tokens, c->on.shape.hidden);
    take(b, &b->hyper, QY_F32, 1, QY_N_HYPER);
    take(b, &b->state, QY_F64, 1, QY_N_STATE);
    take(b, &b->flag, QY_F32, 1, 1);
    for (int i = 0; i < QY_N_LINEARS; i++) {
        int64_t out = arch->linear[i].out, in = arch->linear[i].in;
        largest = out * in > largest ? out * in : largest;
        if (block_ap)
            take_block_ap(b, i, out, in, in / (group > 0 ? group : in));
        else
            take_e2e(b, i, out, in, in / (group > 0 ? group : in));
    }
    if (!b->e2e)
        return;
    take(b, &b->staging, QY_F32, 1, largest); /* holds dw of one layer at a time */
    for (int i = 0; i < QY_N_LINEARS; i++)
        b->grads.dw[i] =
            qy_tensor_2d(b->staging.data, QY_F32, arch->linear[i].out, arch->linear[i].in);
}

static qy_status_t step_gradient(void *context, qy_linear_id_t linear, const qy_tensor_t *dw,
                                 qy_error_t *e)
{
    bench_t *b = context;
    return qy_dequant_bwd(b->dev, &b->ds[linear], dw, &b->codes[linear], &b->zeros[linear],
                          (int)b->c.bits, 0, e);
}

static void forward(bench_t *b)
{
    bench_need(qy_block_forward(&b->block, &b->params, &b->acts, &b->x, &b->y, &err), err);
}

/* Inputs of all batches, and what the block in full precision makes of them. */
static void make_batches(bench_t *b)
{
    const qy_device_t *dev = b->dev;
    size_t bytes = qy_tensor_bytes(&b->x);
    for (int i = 0; i < QY_N_LINEARS; i++)
        bench_put_weights(dev, &b->params.w[i], i);
    for (int i = 0; i < QY_N_NORMS; i++)
        if (b->params.norm[i].data)
            bench_need(qy_fill(dev, &b->params.norm[i], 1.0f, &err), err);
    bench_need(qy_device_host_alloc(dev, &b->host_y, bytes, &err), err);
    for (int i = 0; i < BATCHES; i++) {
        bench_need(qy_device_host_alloc(dev, &b->host_x[i], bytes, &err), err);
        bench_need(qy_device_host_alloc(dev, &b->host_goal[i], bytes, &err), err);
        bench_put_inputs(dev, &b->x, i);
        forward(b);
        bench_need(qy_device_download(dev, b->host_x[i], b->x.data, bytes, &err), err);
        bench_need(qy_device_download(dev, b->host_goal[i], b->y.data, bytes, &err), err);
    }
}

static void start_linear(bench_t *b, int i)
{
    const qy_device_t *dev = b->dev;
    qy_quant_vars_t *v = &b->vars[i];
    qy_tensor_t *moments[] = {&v->w_m, &v->w_v, &v->s_m, &v->s_v, &v->z_m, &v->z_v};
    bench_put_weights(dev, &v->w, i);
    bench_need(qy_quant_start(dev, &v->s, &v->z, &v->w, (int)b->c.bits, 0, 0, &err), err);
    bench_need(qy_fake_quant_fwd(dev, &b->params.w[i], &v->w, &v->s, &v->z, (int)b->c.bits, &err),
               err);
    bench_need(qy_device_copy(dev, b->unit[i].data, v->s.data, qy_tensor_bytes(&v->s), &err), err);
    for (size_t k = 0; k < sizeof moments / sizeof *moments; k++)
        bench_need(qy_fill(dev, moments[k], 0.0f, &err), err);
}

/* Packed codes of a layer, by way of a master that is thrown away. */
static void pack_linear(bench_t *b, int i)
{
    const qy_device_t *dev = b->dev;
    qy_tensor_t w =
        qy_tensor_2d(b->staging.data, QY_F32, b->params.w[i].shape[0], b->params.w[i].shape[1]);
    qy_tensor_t z = bench_make(dev, QY_F32, 2, b->s[i].shape, 0, 0.0f);
    bench_put_weights(dev, &w, i);
    bench_need(qy_quant_start(dev, &b->s[i], &z, &w, (int)b->c.bits, 0, 0, &err), err);
    bench_need(qy_quant_freeze(dev, &b->codes[i], &b->s[i], &b->zeros[i], &w, &b->s[i], &z,
                               (int)b->c.bits, &err),
               err);
    bench_need(qy_device_wait(dev, &err), err);
    bench_free(dev, &z);
}

static void start(bench_t *b)
{
    const int scaled = b->dev->compute == QY_F16;
    const double state[QY_N_STATE] = {
        [QY_STATE_SCALE] = scaled ? QY_LOSS_SCALE_START : 1.0, [QY_STATE_DYNAMIC] = scaled};
    const float hyper[QY_N_HYPER] = {[QY_HYPER_SCALE] = (float)state[QY_STATE_SCALE]};
    make_batches(b);
    if (!b->hyper.data)
        return;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (b->e2e)
            pack_linear(b, i);
        else
            start_linear(b, i);
    }
    bench_need(qy_device_upload(b->dev, b->state.data, state, sizeof state, &err), err);
    bench_need(qy_device_upload(b->dev, b->hyper.data, hyper, sizeof hyper, &err), err);
    bench_need(qy_device_wait(b->dev, &err), err);
}

static void upload_batch(bench_t *b, long step)
{
    size_t bytes = qy_tensor_bytes(&b->x);
    bench_need(qy_device_upload(b->dev, b->x.data, b->host_x[step % BATCHES], bytes, &err), err);
    if (b->goal.data)
        bench_need(
            qy_device_upload(b->dev, b->goal.data, b->host_goal[step % BATCHES], bytes, &err), err);
}

static void update(bench_t *b)
{
    const qy_device_t *dev = b->dev;
    const int scaled = dev->compute == QY_F16;
    for (int i = 0; scaled && i < QY_N_LINEARS; i++)
        bench_need(qy_nonfinite(dev, &b->flag, &b->grads.dw[i], i > 0, &err), err);
    bench_need(qy_step_begin(dev, &b->hyper, &b->state, scaled ? &b->flag : NULL, &err), err);
    for (int i = 0; i < QY_N_LINEARS; i++)
        bench_need(qy_quant_update(dev, &b->params.w[i], &b->vars[i], &b->grads.dw[i], &b->unit[i],
                                   &b->hyper, (int)b->c.bits, 1, &err),
                   err);
}

/* Norms of the first step's gradients, which the PyTorch baseline is compared with. */
static void print_gradients(bench_t *b)
{
    printf("gradients");
    for (int i = 0; i < QY_N_LINEARS; i++) {
        float *dw = bench_get(b->dev, &b->grads.dw[i]);
        double sum = 0;
        for (int64_t k = 0; k < qy_tensor_count(&b->grads.dw[i]); k++)
            sum += (double)dw[k] * (double)dw[k];
        free(dw);
        printf(" %.6e", sqrt(sum));
    }
    printf("\n");
}

static qy_status_t queue_step(void *context, qy_error_t *e)
{
    bench_t *b = context;
    qy_tensor_t loss = qy_tensor_1d(b->loss.data, QY_F32, 1);
    QY_TRY(qy_block_forward(&b->block, &b->params, &b->acts, &b->x, &b->y, e));
    QY_TRY(qy_mse(b->dev, &loss, &b->dy, &b->y, &b->goal, &b->hyper, e));
    QY_TRY(qy_block_backward(&b->block, &b->params, &b->acts, &b->grads, &b->dy, 0, e));
    update(b);
    return QY_OK;
}

static void block_ap_step(bench_t *b, long step)
{
    const float rates[3] = {weight_lr, quant_lr, 0.0f};
    float *losses = b->loss.data;
    bench_need(qy_device_upload(b->dev, b->hyper.data, rates, sizeof rates, &err), err);
    upload_batch(b, step);
    if (b->c.graph)
        bench_need(qy_device_repeat(b->dev, &b->graph, queue_step, b, &err), err);
    else
        bench_need(queue_step(b, &err), err);
    bench_need(
        qy_device_copy(b->dev, losses + 1 + step % (MAX_SAMPLES - 1), losses, sizeof *losses, &err),
        err);
    if (step == 0)
        print_gradients(b);
}

static void advance(bench_t *b, long step)
{
    upload_batch(b, step);
    forward(b);
    bench_need(
        qy_device_download_queued(b->dev, b->host_y, b->y.data, qy_tensor_bytes(&b->y), &err), err);
}

static void unpack(bench_t *b)
{
    for (int i = 0; i < QY_N_LINEARS; i++)
        bench_need(qy_dequant_fwd(b->dev, &b->params.w[i], &b->codes[i], &b->s[i], &b->zeros[i],
                                  (int)b->c.bits, 0, &err),
                   err);
}

static void e2e(bench_t *b, long step)
{
    qy_tensor_t loss =
        qy_tensor_1d((float *)b->loss.data + 1 + step % (MAX_SAMPLES - 1), QY_F32, 1);
    upload_batch(b, step);
    for (long i = 0; i <= b->c.recompute; i++) {
        unpack(b);
        forward(b);
    }
    bench_need(qy_mse(b->dev, &loss, &b->dy, &b->y, &b->goal, NULL, &err), err);
    bench_need(qy_block_backward(&b->block, &b->params, &b->acts, &b->grads, &b->dy, 1, &err), err);
}

int main(int argc, char **argv)
{
    bench_t b = {0};
    double samples[MAX_SAMPLES];
    read_config(&b.c, argc, argv);
    const config_t *c = &b.c;
    const qy_arch_t arch = bench_arch(&c->on.shape);
    bench_need(qy_device_open(&b.dev, c->on.device, c->on.compute, 0, &err), err);
    qy_arena_init(&b.arena, "bench", NULL, 0);
    take_all(&b, &arch);
    size_t peak = b.arena.peak;
    bench_need(qy_device_alloc(b.dev, &b.memory, peak, &err), err);
    qy_arena_init(&b.arena, "bench", b.memory, peak);
    qy_device_stage(b.dev, (size_t)(c->batch * c->on.shape.length * c->on.shape.hidden) *
                               qy_dtype_bytes(b.dev->compute));
    take_all(&b, &arch);
    if (b.e2e) {
        b.grads.after_dw = step_gradient;
        b.grads.context = &b;
    }
    start(&b);
    void (*run)(bench_t *, long) = b.e2e                             ? e2e
                                   : strcmp(c->what, "advance") == 0 ? advance
                                                                     : block_ap_step;
    for (long i = -1, step = 0; i < c->samples; i++) { /* the first sample warms up */
        bench_need(qy_device_wait(b.dev, &err), err);
        double began = qy_now_s();
        for (long k = 0; k < c->per; k++)
            run(&b, step++);
        bench_need(qy_device_wait(b.dev, &err), err);
        if (i >= 0)
            samples[i] = (qy_now_s() - began) / (double)c->per * 1e3;
    }
    float *losses = bench_get(b.dev, &b.loss);
    if (b.goal.data) {
        printf("losses");
        for (int i = 0; i < PRINTED_LOSSES; i++)
            printf(" %.6e", (double)losses[1 + i]);
        printf("\n");
    }
    size_t free_bytes, total_bytes;
    bench_need(qy_device_memory(b.dev, &free_bytes, &total_bytes, &err), err);
    double median = bench_median(samples, (int)c->samples);
    printf(
        "%s %s %ldx%lld hidden %lld intermediate %lld heads %lld/%lld w%ldg%ld %s dw %s: median "
        "%.3f "
        "ms, least %.3f, most %.3f; arena %.2f GiB, allocated %.2f, device %.2f in use; %s; %s\n",
        c->what, c->recompute ? "(recompute)" : "", c->batch, (long long)c->on.shape.length,
        (long long)c->on.shape.hidden, (long long)c->on.shape.intermediate,
        (long long)c->on.shape.heads, (long long)c->on.shape.kv_heads, c->bits, c->group,
        c->on.compute, c->dw, median, samples[0], samples[c->samples - 1], (double)peak / (1 << 30),
        (double)qy_device_peak(b.dev) / (1 << 30), (double)(total_bytes - free_bytes) / (1 << 30),
        b.dev->model, b.dev->libraries);
    free(losses);
    qy_graph_free(b.dev, &b.graph);
    qy_device_free(b.dev, &b.memory);
    for (int i = 0; i < BATCHES; i++) {
        qy_device_host_free(b.dev, &b.host_x[i]);
        qy_device_host_free(b.dev, &b.host_goal[i]);
    }
    qy_device_host_free(b.dev, &b.host_y);
    qy_device_close(&b.dev);
    return 0;
}
