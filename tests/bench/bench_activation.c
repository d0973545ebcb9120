/*
 * Times what stands between a norm's (or gated product's) input and the linear layers behind it
 * under quantized activations: as one op (kernels/activation.h), and as the single ops that it
 * stands for.
 *
 * usage: bench_activation [key=value …]; see usage() for the keys
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "kernels/act_quant.h"
#include "kernels/activation.h"
#include "kernels/columns.h"
#include "kernels/glu.h"
#include "kernels/norm.h"
#include "tests/bench/data.h"
#include "worker/decorate.h"

enum { N_SAMPLES = 11, PER = 50 };

typedef struct {
    bench_common_t on;
    long bits;
} config_t;

/* A site of rows of c: tensors of the op and, made, mixed and g, what the single ops store. */
typedef struct {
    qy_device_t *dev;
    qy_tensor_t x, up, w, rstd, y, dy, dx, dup, made, mixed, g;
    void *memory;
    qy_channel_map_t map;
    qy_column_plan_t to, back;
    qy_activation_t a;
} site_t;

static qy_error_t err;

static void usage(void)
{
    fprintf(stderr, "usage: bench_activation [preset=405b|70b|7b|135m] [hidden=N …] [length=2048]\n"
                    "  [device=cuda:0] [compute=bf16] [bits=4]\n");
    exit(2);
}

static void open_map(site_t *s, int64_t c)
{
    qy_arena_t arena;
    int32_t *offsets, *items;
    qy_arena_init(&arena, "map", NULL, 0);
    bench_need(qy_block_map_take(&s->map, c, &arena, &err), err);
    size_t bytes = arena.peak;
    bench_need(qy_device_alloc(s->dev, &s->memory, bytes, &err), err);
    qy_arena_init(&arena, "map", s->memory, bytes);
    bench_need(qy_block_map_take(&s->map, c, &arena, &err), err);
    bench_channels(&offsets, &items, c);
    bench_need(qy_decorate_map(&s->map, s->dev, offsets, items, c, &err), err);
    free(offsets);
    free(items);
}

static void open_site(site_t *s, qy_device_t *dev, qy_make_t make, int64_t m, int64_t c, int bits)
{
    *s = (site_t){.dev = dev};
    qy_tensor_t *wide[] = {&s->x,   &s->up,   &s->y,     &s->dy, &s->dx,
                           &s->dup, &s->made, &s->mixed, &s->g};
    for (size_t k = 0; k < sizeof wide / sizeof *wide; k++)
        *wide[k] = bench_make(dev, dev->compute, 2, (int64_t[]){m, c}, k, 1.0f);
    s->w = bench_make(dev, QY_F32, 1, &c, 20, 1.0f);
    s->rstd = bench_make(dev, QY_F32, 1, &m, 21, 1.0f);
    open_map(s, c);
    qy_block_map_plans(&s->map, &s->to, &s->back);
    s->a = (qy_activation_t){.make = make,
                             .x = &s->x,
                             .up = &s->up,
                             .w = &s->w,
                             .eps = 1e-5f,
                             .map = &s->to,
                             .back = &s->back,
                             .bits = bits};
}

static void close_site(site_t *s)
{
    qy_tensor_t *all[] = {&s->x,    &s->up,    &s->y, &s->dy, &s->dx,  &s->dup,
                          &s->made, &s->mixed, &s->g, &s->w,  &s->rstd};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        bench_free(s->dev, all[k]);
    qy_device_free(s->dev, &s->memory);
}

static void forward(site_t *s)
{
    bench_need(qy_activation_fwd(s->dev, &s->y, NULL, &s->rstd, &s->a, &err), err);
}

static void backward(site_t *s)
{
    bench_need(qy_activation_bwd(s->dev, &s->dx, &s->dup, &s->dy, NULL, &s->rstd, &s->a, &err),
               err);
}

static void forward_singly(site_t *s)
{
    const qy_channel_map_t *p = &s->map;
    if (s->a.make == QY_MAKE_RMSNORM)
        bench_need(qy_rmsnorm_fwd(s->dev, &s->made, &s->rstd, &s->x, &s->w, s->a.eps, &err), err);
    else
        bench_need(qy_silu_mul_fwd(s->dev, &s->made, &s->x, &s->up, &err), err);
    bench_need(
        qy_column_mix(s->dev, &s->mixed, &s->made, &p->offsets, &p->items, &p->weights, &err), err);
    bench_need(qy_act_quant_fwd(s->dev, &s->y, &s->mixed, s->a.bits, &err), err);
}

static void backward_singly(site_t *s)
{
    const qy_channel_map_t *p = &s->map;
    bench_need(qy_act_quant_bwd(s->dev, &s->g, &s->dy, &s->mixed, s->a.bits, &err), err);
    bench_need(qy_column_mix(s->dev, &s->made, &s->g, &p->back_offsets, &p->back_items,
                             &p->back_weights, &err),
               err);
    if (s->a.make == QY_MAKE_SILU_MUL)
        bench_need(qy_silu_mul_bwd(s->dev, &s->dx, &s->dup, &s->made, &s->x, &s->up, &err), err);
}

static double median_ms(site_t *s, void (*run)(site_t *))
{
    double samples[N_SAMPLES];
    run(s);
    for (int i = 0; i < N_SAMPLES; i++) {
        bench_need(qy_device_wait(s->dev, &err), err);
        double began = qy_now_s();
        for (int k = 0; k < PER; k++)
            run(s);
        bench_need(qy_device_wait(s->dev, &err), err);
        samples[i] = (qy_now_s() - began) / PER * 1e3;
    }
    return bench_median(samples, N_SAMPLES);
}

/* Rates count each tensor that the one op must read or write once. */
static void time_site(qy_device_t *dev, const config_t *c, qy_make_t make, int64_t cols)
{
    site_t s;
    open_site(&s, dev, make, c->on.shape.length, cols, (int)c->bits);
    double one = median_ms(&s, forward), single = median_ms(&s, forward_singly);
    double back = median_ms(&s, backward), back_single = median_ms(&s, backward_singly);
    double row = (double)qy_tensor_bytes(&s.x) * 1e-6;
    double tensors = make == QY_MAKE_SILU_MUL ? 3 : 2, back_tensors = tensors + 1;
    back_tensors += make == QY_MAKE_SILU_MUL;
    printf("%s of %lld: forward %.4f ms (%.0f GB/s), singly %.4f; backward %.4f ms (%.0f GB/s), "
           "singly %.4f\n",
           make == QY_MAKE_SILU_MUL ? "gated product" : "norm", (long long)cols, one,
           tensors * row / one, single, back, back_tensors * row / back, back_single);
    close_site(&s);
}

int main(int argc, char **argv)
{
    config_t c = {.on = bench_common("70b"), .bits = 4};
    qy_device_t *dev;
    const bench_key_t keys[] = {BENCH_NUMBER(&c, bits)};
    bench_read_keys(&c.on, keys, sizeof keys / sizeof *keys, argc, argv, usage);
    bench_need(qy_device_open(&dev, c.on.device, c.on.compute, 0, &err), err);
    printf("%s; %s; %lld tokens\n", dev->model, c.on.compute, (long long)c.on.shape.length);
    time_site(dev, &c, QY_MAKE_RMSNORM, c.on.shape.hidden);
    time_site(dev, &c, QY_MAKE_SILU_MUL, c.on.shape.intermediate);
    qy_device_close(&dev);
    return 0;
}
