/*
 * Times the kernels of a decoder block one by one: time, GB/s, TFLOP/s, and the share of a measured
 * ceiling where one is given. A kernel is timed only after its outputs at a smaller size were
 * compared with the CPU device's, and were the same bytes when it ran again.
 *
 * usage: bench_ops [key=value …]; see usage() for the keys
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/bench/ops.h"

enum { SHRINK = 8, CHECK_TOKENS = 256, SAMPLES = 10 };

static qy_error_t err;

/* ‖got − want‖ / ‖want‖; NaN and infinity are infinitely wrong. */
static double distance(const float *got, const float *want, int64_t n)
{
    double apart = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        apart += d * d;
        size += (double)want[i] * (double)want[i];
    }
    double ratio = sqrt(apart) / (size > 0 ? sqrt(size) : 1.0);
    return isfinite(ratio) ? ratio : HUGE_VAL;
}

/* The worst distance of an output from the CPU's at a smaller size; bytes must repeat. */
static double check(const ops_case_t *k, const qy_device_t *dev, const qy_device_t *cpu,
                    const ops_config_t *config)
{
    ops_work_t w[3] = {{.dev = dev}, {.dev = dev}, {.dev = cpu}};
    bench_shape_t small = config->on.shape;
    double worst = 0;
    small.length = CHECK_TOKENS;
    small.heads = config->on.shape.heads / config->on.shape.kv_heads * 2;
    small.kv_heads = 2;
    small.hidden = config->on.shape.hidden / config->on.shape.heads * small.heads;
    small.intermediate = config->on.shape.intermediate / SHRINK;
    for (int i = 0; i < 3; i++) {
        w[i].rounded = dev->compute;
        w[i].c = *config;
        w[i].variant = k->variant;
        w[i].c.tokens = CHECK_TOKENS;
        w[i].c.on.shape = small;
        k->make(&w[i]);
        k->run(&w[i]);
    }
    for (int i = 0; i < w[0].n_outputs; i++) {
        const qy_tensor_t *t = &w[0].t[i];
        int64_t n = qy_tensor_count(t);
        float *got = bench_get(dev, t), *again = bench_get(dev, &w[1].t[i]);
        float *want = bench_get(cpu, &w[2].t[i]);
        double apart =
            memcmp(got, again, (size_t)n * sizeof *got) ? HUGE_VAL : distance(got, want, n);
        worst = apart > worst ? apart : worst;
        free(got);
        free(again);
        free(want);
    }
    for (int i = 0; i < 3; i++)
        ops_drop(&w[i]);
    return worst;
}

/* Median time of one call in s; calls are queued in groups that take about a hundredth of one. */
static double measure(const ops_case_t *k, ops_work_t *w)
{
    double samples[SAMPLES], began = qy_now_s();
    k->run(w);
    bench_need(qy_device_wait(w->dev, &err), err);
    double once = qy_now_s() - began;
    int per = once > 0.01 ? 1 : (int)(0.01 / (once + 1e-6)) + 1;
    for (int i = -1; i < SAMPLES; i++) {
        began = qy_now_s();
        for (int j = 0; j < per; j++)
            k->run(w);
        bench_need(qy_device_wait(w->dev, &err), err);
        if (i >= 0)
            samples[i] = (qy_now_s() - began) / per;
    }
    return bench_median(samples, SAMPLES);
}

static void share(double rate, long ceiling)
{
    if (rate > 0 && ceiling > 0)
        printf(" %5.1f %%", 100.0 * rate / (double)ceiling);
}

static int run_case(const ops_case_t *k, const qy_device_t *dev, const qy_device_t *cpu,
                    const ops_config_t *c)
{
    const double limit = dev->compute == QY_F32 ? 2e-5 : dev->compute == QY_F16 ? 2e-3 : 1.5e-2;
    double apart = check(k, dev, cpu, c);
    if (!(apart <= limit)) {
        printf("%-26s WRONG: %.2e from the CPU device, at most %.2e; not timed\n", k->name, apart,
               limit);
        return 1;
    }
    ops_work_t w = {.dev = dev, .rounded = dev->compute, .c = *c, .variant = k->variant};
    k->make(&w);
    double s = measure(k, &w);
    printf("%-26s %9.4f ms  %7.1f GB/s", k->name, s * 1e3, w.bytes / s * 1e-9);
    share(w.flops > 0 ? 0 : w.bytes / s * 1e-9, c->gbs);
    if (w.flops > 0)
        printf("  %6.1f TFLOP/s", w.flops / s * 1e-12);
    share(w.flops / s * 1e-12, c->tflops);
    printf("  (%.1e)\n", apart);
    ops_drop(&w);
    return 0;
}

static int run_cases(const ops_case_t *cases, const qy_device_t *dev, const qy_device_t *cpu,
                     const ops_config_t *c)
{
    int wrong = 0;
    for (const ops_case_t *k = cases; k->name; k++)
        if (c->only[0] == '\0' || strstr(k->name, c->only))
            wrong += run_case(k, dev, cpu, c);
    return wrong;
}

static void usage(void)
{
    fprintf(stderr,
            "usage: bench_ops [preset=405b|70b|7b|135m] [hidden=N …] [length=2048]\n"
            "  [device=cuda:0] [compute=bf16] [tokens=4096] [group=64] [gbs=0] [tflops=0]\n"
            "  [only=NAME]   gbs, tflops: the ceilings; only: kernels with this in their name\n");
    exit(2);
}

static void read_config(ops_config_t *c, int argc, char **argv)
{
    *c = (ops_config_t){.on = bench_common("70b"), .tokens = 4096, .group = 64};
    c->on.shape.head_dim = 0;
    const bench_key_t keys[] = {BENCH_NUMBER(c, tokens), BENCH_NUMBER(c, group),
                                BENCH_NUMBER(c, gbs), BENCH_NUMBER(c, tflops), BENCH_TEXT(c, only)};
    bench_read_keys(&c->on, keys, sizeof keys / sizeof *keys, argc, argv, usage);
    /* heads share the hidden size evenly here */
    if (c->on.shape.head_dim > 0 && c->on.shape.head_dim * c->on.shape.heads != c->on.shape.hidden)
        usage();
}

int main(int argc, char **argv)
{
    ops_config_t c;
    qy_device_t *dev, *cpu;
    read_config(&c, argc, argv);
    const bench_shape_t *s = &c.on.shape;
    bench_need(qy_device_open(&dev, c.on.device, c.on.compute, 0, &err), err);
    bench_need(qy_device_open(&cpu, "cpu", "f32", 0, &err), err);
    printf("%s; %s; %s; %ld tokens, hidden %lld, intermediate %lld, heads %lld/%lld, w%dg%ld\n",
           dev->model, dev->libraries, c.on.compute, c.tokens, (long long)s->hidden,
           (long long)s->intermediate, (long long)s->heads, (long long)s->kv_heads, OPS_BITS,
           c.group);
    int wrong = run_cases(ops_layers, dev, cpu, &c) + run_cases(ops_weights, dev, cpu, &c);
    qy_device_close(&cpu);
    qy_device_close(&dev);
    return wrong > 0;
}
