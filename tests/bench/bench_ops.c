/*
 * Times the kernels of a decoder block one by one: time, GB/s, TFLOP/s, and the share of a measured
 * ceiling where one is given. A kernel is timed only after its outputs at a smaller size were
 * compared with the CPU device's, and were the same bytes when it ran again.
 *
 * usage: bench_ops [device=cuda:0] [compute=bf16] [tokens=4096] [length=2048] [hidden=8192]
 *   [intermediate=28672] [heads=64] [kv_heads=8] [group=64] [gbs=0] [tflops=0] [only=NAME]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/half.h"
#include "kernels/attention.h"
#include "kernels/fill.h"
#include "kernels/glu.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/optim.h"
#include "kernels/quant.h"
#include "tests/bench/data.h"

enum { BITS = 2, MAX_TENSORS = 16, SHRINK = 8, CHECK_TOKENS = 256, SAMPLES = 10 };

typedef struct {
    char device[32], compute[8], only[32];
    long tokens, length, hidden, intermediate, heads, kv_heads, group, gbs, tflops;
} config_t;

/* One kernel at work: its tensors, outputs first, and what it costs. */
typedef struct {
    const qy_device_t *dev;
    qy_dtype_t rounded; /* type that operands of the compute type are rounded to */
    config_t c;
    qy_tensor_t t[MAX_TENSORS];
    int n, n_outputs;
    double flops, bytes;
    qy_quant_vars_t vars;
} work_t;

typedef struct {
    const char *name;
    void (*make)(work_t *w);
    void (*run)(work_t *w);
} case_t;

static qy_error_t err;

/* The next tensor: compute type, or dtype where it is not QY_N_DTYPES; size 0 fills with 0. */
static qy_tensor_t *add_tensor(work_t *w, qy_dtype_t dtype, int n_dims, const int64_t *shape,
                               float size)
{
    qy_tensor_t *t = &w->t[w->n];
    int half = dtype == QY_N_DTYPES && w->rounded != QY_F32;
    *t = bench_make(w->dev, dtype == QY_N_DTYPES ? w->dev->compute : dtype, n_dims, shape,
                    (uint64_t)w->n, size);
    if (half && t->dtype == QY_F32) { /* the CPU gets the numbers that the GPU rounded */
        float *x = t->data;
        for (int64_t i = 0; i < qy_tensor_count(t); i++)
            x[i] = w->rounded == QY_F16 ? qy_round_f16(x[i]) : qy_bf16_to_f32(qy_f32_to_bf16(x[i]));
    }
    w->n++;
    return t;
}

static qy_tensor_t *compute2(work_t *w, int64_t rows, int64_t cols, float size)
{
    return add_tensor(w, QY_N_DTYPES, 2, (int64_t[]){rows, cols}, size);
}

static qy_tensor_t *f32(work_t *w, int64_t rows, int64_t cols, float size)
{
    return add_tensor(w, QY_F32, 2, (int64_t[]){rows, cols}, size);
}

static double bytes_of(const work_t *w, int first, int n)
{
    double sum = 0;
    for (int i = first; i < first + n; i++)
        sum += (double)qy_tensor_bytes(&w->t[i]);
    return sum;
}

static void cost(work_t *w, int n_outputs, double flops, double bytes)
{
    w->n_outputs = n_outputs;
    w->flops = flops;
    w->bytes = bytes > 0 ? bytes : bytes_of(w, 0, w->n);
}

/* --- products -------------------------------------------------------------------------------- */

static void make_product(work_t *w, int64_t o, int64_t i, int kind, int f32_out)
{
    int64_t m = w->c.tokens;
    const int64_t shape[3][2] = {{m, o}, {m, i}, {o, i}};
    if (f32_out)
        f32(w, shape[kind][0], shape[kind][1], 0.0f);
    else
        compute2(w, shape[kind][0], shape[kind][1], 0.0f);
    compute2(w, shape[(kind + 1) % 3][0], shape[(kind + 1) % 3][1], 1.0f);
    compute2(w, shape[(kind + 2) % 3][0], shape[(kind + 2) % 3][1], 1.0f);
    cost(w, 1, 2.0 * (double)m * (double)o * (double)i, 0);
}

static void make_fwd_square(work_t *w)
{
    make_product(w, w->c.hidden, w->c.hidden, 0, 0);
}

static void make_fwd_kv(work_t *w)
{
    make_product(w, w->c.hidden / w->c.heads * w->c.kv_heads, w->c.hidden, 0, 0);
}

static void make_fwd_up(work_t *w)
{
    make_product(w, w->c.intermediate, w->c.hidden, 0, 0);
}

static void make_fwd_down(work_t *w)
{
    make_product(w, w->c.hidden, w->c.intermediate, 0, 0);
}

static void make_bwd_x_up(work_t *w)
{
    make_product(w, w->c.intermediate, w->c.hidden, 1, 0);
}

static void make_bwd_x_down(work_t *w)
{
    make_product(w, w->c.hidden, w->c.intermediate, 1, 0);
}

static void make_bwd_w_up(work_t *w)
{
    make_product(w, w->c.intermediate, w->c.hidden, 2, 1);
}

static void make_bwd_w_down(work_t *w)
{
    make_product(w, w->c.hidden, w->c.intermediate, 2, 1);
}

static void make_bwd_w_up_half(work_t *w)
{
    make_product(w, w->c.intermediate, w->c.hidden, 2, 0);
}

static void run_fwd(work_t *w)
{
    bench_need(qy_linear_fwd(w->dev, &w->t[0], &w->t[1], &w->t[2], NULL, &err), err);
}

static void run_bwd_x(work_t *w)
{
    bench_need(qy_linear_bwd_x(w->dev, &w->t[0], &w->t[2], &w->t[1], 0, &err), err);
}

static void run_bwd_w(work_t *w)
{
    bench_need(qy_linear_bwd_w(w->dev, &w->t[0], &w->t[1], &w->t[2], &err), err);
}

/* --- attention ------------------------------------------------------------------------------- */

enum { O, LSE, DQ, DK, DV, Q, K, V, D_O };

static void make_attention(work_t *w, int backward)
{
    int64_t length = w->c.length < w->c.tokens ? w->c.length : w->c.tokens;
    int64_t b = w->c.tokens / length, d = w->c.hidden / w->c.heads;
    const int64_t q[] = {b, length, w->c.heads, d}, k[] = {b, length, w->c.kv_heads, d};
    const int64_t lse[] = {b, w->c.heads, length};
    double pairs = 0.5 * (double)length * (double)(length + 1) * (double)(b * w->c.heads * d);
    add_tensor(w, QY_N_DTYPES, 4, q, 0.0f);
    add_tensor(w, QY_F32, 3, lse, 0.0f);
    add_tensor(w, QY_N_DTYPES, 4, q, 0.0f);
    add_tensor(w, QY_N_DTYPES, 4, k, 0.0f);
    add_tensor(w, QY_N_DTYPES, 4, k, 0.0f);
    add_tensor(w, QY_N_DTYPES, 4, q, 1.0f);
    add_tensor(w, QY_N_DTYPES, 4, k, 1.0f);
    add_tensor(w, QY_N_DTYPES, 4, k, 1.0f);
    add_tensor(w, QY_N_DTYPES, 4, q, 1.0f);
    bench_need(qy_attention_fwd(w->dev, &w->t[O], &w->t[LSE], &w->t[Q], &w->t[K], &w->t[V],
                                1.0f / sqrtf((float)d), 0, &err),
               err);
    /* As others count: the scores a second time are not counted. */
    cost(w, backward ? 5 : 2, (backward ? 10.0 : 4.0) * pairs,
         backward ? 0 : bytes_of(w, O, 2) + bytes_of(w, Q, 3));
}

static void make_attention_fwd(work_t *w)
{
    make_attention(w, 0);
}

static void make_attention_bwd(work_t *w)
{
    make_attention(w, 1);
}

static void run_attention_fwd(work_t *w)
{
    bench_need(qy_attention_fwd(w->dev, &w->t[O], &w->t[LSE], &w->t[Q], &w->t[K], &w->t[V],
                                1.0f / sqrtf((float)w->t[Q].shape[3]), 0, &err),
               err);
}

static void run_attention_bwd(work_t *w)
{
    bench_need(qy_attention_bwd(w->dev, &w->t[DQ], &w->t[DK], &w->t[DV], &w->t[D_O], &w->t[O],
                                &w->t[LSE], &w->t[Q], &w->t[K], &w->t[V],
                                1.0f / sqrtf((float)w->t[Q].shape[3]), 0, &err),
               err);
}

/* --- rows and elements ------------------------------------------------------------------------ */

static void make_norm_fwd(work_t *w)
{
    compute2(w, w->c.tokens, w->c.hidden, 0.0f);
    f32(w, w->c.tokens, 1, 0.0f);
    compute2(w, w->c.tokens, w->c.hidden, 1.0f);
    f32(w, 1, w->c.hidden, 1.0f);
    cost(w, 2, 0, 0);
}

static void run_norm_fwd(work_t *w)
{
    bench_need(qy_rmsnorm_fwd(w->dev, &w->t[0], &w->t[1], &w->t[2], &w->t[3], 1e-5f, &err), err);
}

static void make_norm_bwd(work_t *w)
{
    make_norm_fwd(w);
    compute2(w, w->c.tokens, w->c.hidden, 1.0f);
    run_norm_fwd(w);
    cost(w, 1, 0, 0);
}

static void run_norm_bwd(work_t *w)
{
    bench_need(
        qy_rmsnorm_bwd(w->dev, &w->t[0], NULL, &w->t[4], &w->t[2], &w->t[1], &w->t[3], 0, &err),
        err);
}

static void make_rope(work_t *w)
{
    int64_t d = w->c.hidden / w->c.heads;
    const int64_t shape[] = {1, w->c.tokens, w->c.heads, d};
    add_tensor(w, QY_N_DTYPES, 4, shape, 0.0f);
    add_tensor(w, QY_N_DTYPES, 4, shape, 1.0f);
    f32(w, w->c.tokens, d / 2, 1.0f);
    f32(w, w->c.tokens, d / 2, 1.0f);
    cost(w, 1, 0, 0);
}

static void run_rope(work_t *w)
{
    bench_need(qy_rope(w->dev, &w->t[0], &w->t[1], &w->t[2], &w->t[3], 0, &err), err);
}

static void make_silu(work_t *w)
{
    for (int i = 0; i < 5; i++)
        compute2(w, w->c.tokens, w->c.intermediate, i < 2 ? 0.0f : 4.0f);
    cost(w, 2, 0, 0);
}

static void make_silu_fwd(work_t *w)
{
    make_silu(w);
    cost(w, 1, 0, 3.0 * bytes_of(w, 0, 1));
}

static void run_silu_fwd(work_t *w)
{
    bench_need(qy_silu_mul_fwd(w->dev, &w->t[0], &w->t[3], &w->t[4], &err), err);
}

static void run_silu_bwd(work_t *w)
{
    bench_need(qy_silu_mul_bwd(w->dev, &w->t[0], &w->t[1], &w->t[2], &w->t[3], &w->t[4], &err),
               err);
}

static void make_add(work_t *w)
{
    for (int i = 0; i < 3; i++)
        compute2(w, w->c.tokens, w->c.hidden, i ? 1.0f : 0.0f);
    cost(w, 1, 0, 0);
}

static void run_add(work_t *w)
{
    bench_need(qy_add(w->dev, &w->t[0], &w->t[1], &w->t[2], &err), err);
}

static void make_mse(work_t *w)
{
    f32(w, 1, 1, 0.0f);
    make_add(w);
    cost(w, 2, 0, 0);
}

static void run_mse(work_t *w)
{
    bench_need(qy_mse(w->dev, &w->t[0], &w->t[1], &w->t[2], &w->t[3], NULL, &err), err);
}

/* --- quantized weights ------------------------------------------------------------------------ */

/* w_hat, w, m, v, s, s_m, s_v, z, z_m, z_v, then dw, unit, hyper; the gradient in dw_type. */
static void make_weights(work_t *w, qy_dtype_t dw_type)
{
    int64_t o = w->c.intermediate, i = w->c.hidden, g = i / w->c.group;
    compute2(w, o, i, 0.0f);
    f32(w, o, i, 0.05f);
    f32(w, o, i, 0.0f);
    f32(w, o, i, 0.0f);
    for (int k = 0; k < 6; k++)
        f32(w, o, g, 0.0f);
    add_tensor(w, dw_type, 2, (int64_t[]){o, i}, 1.0f);
    f32(w, o, g, 1.0f);
    f32(w, 1, QY_N_HYPER, 0.0f);
    w->vars = (qy_quant_vars_t){.w = w->t[1],
                                .w_m = w->t[2],
                                .w_v = w->t[3],
                                .s = w->t[4],
                                .s_m = w->t[5],
                                .s_v = w->t[6],
                                .z = w->t[7],
                                .z_m = w->t[8],
                                .z_v = w->t[9]};
    const float hyper[QY_N_HYPER] = {
        [QY_HYPER_LR_WEIGHT] = 1e-5f, [QY_HYPER_LR_QUANT] = 1e-5f, [QY_HYPER_BIAS1] = 0.5f,
        [QY_HYPER_BIAS2] = 0.5f,      [QY_HYPER_SCALE] = 1.0f,     [QY_HYPER_INV_SCALE] = 1.0f};
    bench_need(qy_device_upload(w->dev, w->t[12].data, hyper, sizeof hyper, &err), err);
    bench_need(qy_quant_start(w->dev, &w->vars.s, &w->vars.z, &w->vars.w, BITS, 0, 0, &err), err);
    bench_need(qy_device_wait(w->dev, &err), err);
    cost(w, 10, 0, bytes_of(w, 0, 12) + bytes_of(w, 1, 9));
}

static void make_update(work_t *w)
{
    make_weights(w, QY_F32);
}

static void make_update_half(work_t *w)
{
    make_weights(w, QY_N_DTYPES);
}

static void run_update(work_t *w)
{
    bench_need(
        qy_quant_update(w->dev, &w->t[0], &w->vars, &w->t[10], &w->t[11], &w->t[12], BITS, 1, &err),
        err);
}

static void make_nonfinite(work_t *w)
{
    f32(w, 1, 1, 0.0f);
    f32(w, w->c.intermediate, w->c.hidden, 1.0f);
    cost(w, 1, 0, 0);
}

static void run_nonfinite(work_t *w)
{
    bench_need(qy_nonfinite(w->dev, &w->t[0], &w->t[1], 0, &err), err);
}

static void make_start(work_t *w)
{
    int64_t o = w->c.intermediate, i = w->c.hidden;
    f32(w, o, i / w->c.group, 0.0f);
    f32(w, o, i / w->c.group, 0.0f);
    f32(w, o, i, 0.05f);
    cost(w, 2, 0, 0);
}

static void run_start(work_t *w)
{
    bench_need(qy_quant_start(w->dev, &w->t[0], &w->t[1], &w->t[2], BITS, 0, 1, &err), err);
}

/* w_hat, ds, s, codes, zeros, dw, w, z */
static void make_frozen(work_t *w)
{
    int64_t o = w->c.intermediate, i = w->c.hidden, g = i / w->c.group;
    compute2(w, o, i, 0.0f);
    f32(w, o, g, 0.0f);
    f32(w, o, g, 0.0f);
    add_tensor(w, QY_U32, 2, (int64_t[]){o, i * BITS / 32}, 0.0f);
    add_tensor(w, QY_U8, 2, (int64_t[]){o, g}, 0.0f);
    f32(w, o, i, 1.0f);
    f32(w, o, i, 0.05f);
    f32(w, o, g, 0.0f);
    bench_need(qy_quant_start(w->dev, &w->t[2], &w->t[7], &w->t[6], BITS, 0, 0, &err), err);
    bench_need(qy_quant_freeze(w->dev, &w->t[3], &w->t[1], &w->t[4], &w->t[6], &w->t[2], &w->t[7],
                               BITS, &err),
               err);
    cost(w, 1, 0, bytes_of(w, 0, 1) + bytes_of(w, 2, 3));
}

static void run_dequant(work_t *w)
{
    bench_need(qy_dequant_fwd(w->dev, &w->t[0], &w->t[3], &w->t[2], &w->t[4], BITS, 1, &err), err);
}

static void make_dequant_bwd(work_t *w)
{
    make_frozen(w);
    cost(w, 2, 0, bytes_of(w, 1, 1) + bytes_of(w, 3, 3));
}

static void run_dequant_bwd(work_t *w)
{
    bench_need(qy_dequant_bwd(w->dev, &w->t[1], &w->t[5], &w->t[3], &w->t[4], BITS, 0, &err), err);
}

/* --- the program ----------------------------------------------------------------------------- */

static const case_t cases[] = {
    {"linear_fwd q", make_fwd_square, run_fwd},
    {"linear_fwd k", make_fwd_kv, run_fwd},
    {"linear_fwd up", make_fwd_up, run_fwd},
    {"linear_fwd down", make_fwd_down, run_fwd},
    {"linear_bwd_x up", make_bwd_x_up, run_bwd_x},
    {"linear_bwd_x down", make_bwd_x_down, run_bwd_x},
    {"linear_bwd_w up, f32", make_bwd_w_up, run_bwd_w},
    {"linear_bwd_w down, f32", make_bwd_w_down, run_bwd_w},
    {"linear_bwd_w up, compute", make_bwd_w_up_half, run_bwd_w},
    {"attention_fwd", make_attention_fwd, run_attention_fwd},
    {"attention_bwd", make_attention_bwd, run_attention_bwd},
    {"rmsnorm_fwd", make_norm_fwd, run_norm_fwd},
    {"rmsnorm_bwd", make_norm_bwd, run_norm_bwd},
    {"rope", make_rope, run_rope},
    {"silu_mul_fwd", make_silu_fwd, run_silu_fwd},
    {"silu_mul_bwd", make_silu, run_silu_bwd},
    {"add", make_add, run_add},
    {"mse", make_mse, run_mse},
    {"quant_update, f32", make_update, run_update},
    {"quant_update, compute", make_update_half, run_update},
    {"nonfinite", make_nonfinite, run_nonfinite},
    {"quant_start", make_start, run_start},
    {"dequant_fwd", make_frozen, run_dequant},
    {"dequant_bwd", make_dequant_bwd, run_dequant_bwd},
};

static void drop(work_t *w)
{
    for (int i = 0; i < w->n; i++)
        bench_free(w->dev, &w->t[i]);
    w->n = 0;
}

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
static double check(const case_t *k, const qy_device_t *dev, const qy_device_t *cpu,
                    const config_t *config)
{
    work_t w[3] = {{.dev = dev}, {.dev = dev}, {.dev = cpu}};
    double worst = 0;
    for (int i = 0; i < 3; i++) {
        w[i].rounded = dev->compute;
        w[i].c = *config;
        w[i].c.tokens = w[i].c.length = CHECK_TOKENS;
        w[i].c.heads = config->heads / config->kv_heads * 2;
        w[i].c.kv_heads = 2;
        w[i].c.hidden = config->hidden / config->heads * w[i].c.heads;
        w[i].c.intermediate = config->intermediate / SHRINK;
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
        drop(&w[i]);
    return worst;
}

/* Median time of one call in s; calls are queued in groups that take about a hundredth of one. */
static double measure(const case_t *k, work_t *w)
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

static int run_case(const case_t *k, const qy_device_t *dev, const qy_device_t *cpu,
                    const config_t *c)
{
    const double limit = dev->compute == QY_F32 ? 2e-5 : dev->compute == QY_F16 ? 2e-3 : 1.5e-2;
    double apart = check(k, dev, cpu, c);
    if (!(apart <= limit)) {
        printf("%-26s WRONG: %.2e from the CPU device, at most %.2e; not timed\n", k->name, apart,
               limit);
        return 1;
    }
    work_t w = {.dev = dev, .rounded = dev->compute, .c = *c};
    k->make(&w);
    double s = measure(k, &w);
    printf("%-26s %9.4f ms  %7.1f GB/s", k->name, s * 1e3, w.bytes / s * 1e-9);
    share(w.flops > 0 ? 0 : w.bytes / s * 1e-9, c->gbs);
    if (w.flops > 0)
        printf("  %6.1f TFLOP/s", w.flops / s * 1e-12);
    share(w.flops / s * 1e-12, c->tflops);
    printf("  (%.1e)\n", apart);
    drop(&w);
    return 0;
}

static void read_config(config_t *c, int argc, char **argv)
{
    *c = (config_t){.device = "cuda:0",
                    .compute = "bf16",
                    .tokens = 4096,
                    .length = 2048,
                    .hidden = 8192,
                    .intermediate = 28672,
                    .heads = 64,
                    .kv_heads = 8,
                    .group = 64};
    const struct {
        const char *key;
        long *number;
        char *text;
        size_t size;
    } keys[] = {{"tokens", &c->tokens, NULL, 0},
                {"length", &c->length, NULL, 0},
                {"hidden", &c->hidden, NULL, 0},
                {"intermediate", &c->intermediate, NULL, 0},
                {"heads", &c->heads, NULL, 0},
                {"kv_heads", &c->kv_heads, NULL, 0},
                {"group", &c->group, NULL, 0},
                {"gbs", &c->gbs, NULL, 0},
                {"tflops", &c->tflops, NULL, 0},
                {"device", NULL, c->device, sizeof c->device},
                {"compute", NULL, c->compute, sizeof c->compute},
                {"only", NULL, c->only, sizeof c->only}};
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        size_t k = 0, n = sizeof keys / sizeof *keys;
        while (k < n && (!value || strncmp(argv[i], keys[k].key, (size_t)(value - argv[i])) != 0))
            k++;
        if (k == n) {
            fprintf(stderr, "bench_ops: \"%s\" is not key=value of a known key\n", argv[i]);
            exit(2);
        }
        if (keys[k].number)
            *keys[k].number = strtol(value + 1, NULL, 10);
        else
            snprintf(keys[k].text, keys[k].size, "%s", value + 1);
    }
}

int main(int argc, char **argv)
{
    config_t c;
    qy_device_t *dev, *cpu;
    int wrong = 0;
    read_config(&c, argc, argv);
    bench_need(qy_device_open(&dev, c.device, c.compute, 0, &err), err);
    bench_need(qy_device_open(&cpu, "cpu", "f32", 0, &err), err);
    printf("%s; %s; %s; %ld tokens, hidden %ld, intermediate %ld, heads %ld/%ld, w%dg%ld\n",
           dev->model, dev->libraries, c.compute, c.tokens, c.hidden, c.intermediate, c.heads,
           c.kv_heads, BITS, c.group);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (c.only[0] == '\0' || strstr(cases[i].name, c.only))
            wrong += run_case(&cases[i], dev, cpu, &c);
    qy_device_close(&cpu);
    qy_device_close(&dev);
    return wrong > 0;
}
