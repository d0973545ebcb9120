/*
 * Times the ops of one Block-AP step of the tiny model on the CPU device, one thread, and splits
 * them into products and the rest: batch 2 × 256 tokens, hidden 256, 8 heads over 4 key heads of
 * 32, intermediate 512, w2g64, about 590 thousand weights. Usage: bench_step_cpu [threads]
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/random.h"
#include "kernels/attention.h"
#include "kernels/fill.h"
#include "kernels/glu.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/optim.h"
#include "kernels/quant.h"

enum { B = 2, T = 256, M = B * T, D = 256, H = 8, KV = 4, HD = 32, F = 512, G = 64, BITS = 2 };
enum { N_LINEARS = 7, REPEATS = 30, WARM_UP = 3 };

static const int64_t shapes[N_LINEARS][2] = {{H * HD, D}, {KV * HD, D}, {KV * HD, D}, {D, H *HD},
                                             {F, D},      {F, D},       {D, F}};

typedef struct {
    qy_tensor_t w_hat, dw, unit, y, x, dy, dx;
    qy_quant_vars_t vars;
} linear_t;

static qy_device_t *dev;
static qy_error_t err;

static void need(qy_status_t status)
{
    if (status != QY_OK) {
        fprintf(stderr, "bench_step_cpu: %s\n", err.text);
        exit(1);
    }
}

/* A tensor of small numbers around 0, the same in every run. */
static qy_tensor_t make(int n_dims, const int64_t *shape, float size)
{
    qy_tensor_t t = qy_tensor_view(NULL, QY_F32, n_dims, shape);
    need(qy_device_alloc(dev, &t.data, qy_tensor_bytes(&t), &err));
    float *x = t.data;
    for (int64_t i = 0; i < qy_tensor_count(&t); i++) {
        uint64_t u = qy_random_u64(1, QY_PHASE_E2E, (uint64_t)i, (uint64_t)shape[n_dims - 1]);
        x[i] = size * ((float)(u >> 40) / 8388608.0f - 1.0f);
    }
    return t;
}

static qy_tensor_t matrix(int64_t rows, int64_t cols, float size)
{
    return make(2, (int64_t[]){rows, cols}, size);
}

static void make_linear(linear_t *l, const int64_t shape[2])
{
    int64_t o = shape[0], i = shape[1];
    *l = (linear_t){.w_hat = matrix(o, i, 0.1f),
                    .dw = matrix(o, i, 1e-3f),
                    .unit = matrix(o, i / G, 0.1f),
                    .y = matrix(M, o, 1.0f),
                    .x = matrix(M, i, 1.0f),
                    .dy = matrix(M, o, 1e-3f),
                    .dx = matrix(M, i, 1.0f)};
    qy_tensor_t *const moments[] = {&l->vars.w_m, &l->vars.w_v, &l->vars.s_m,
                                    &l->vars.s_v, &l->vars.z_m, &l->vars.z_v};
    for (size_t k = 0; k < sizeof moments / sizeof *moments; k++)
        *moments[k] = matrix(o, k < 2 ? i : i / G, 0.0f);
    l->vars.w = matrix(o, i, 0.1f);
    l->vars.s = matrix(o, i / G, 0.1f);
    l->vars.z = matrix(o, i / G, 0.0f);
    need(qy_quant_start(dev, &l->vars.s, &l->vars.z, &l->vars.w, BITS, 0, 1, &err));
    need(qy_device_copy(dev, l->unit.data, l->vars.s.data, qy_tensor_bytes(&l->unit), &err));
}

typedef struct {
    const char *name;
    int product;  /* counts as GEMM */
    int per_step; /* how often a step does it */
    void (*run)(void);
} row_t;

static linear_t linears[N_LINEARS];
static qy_tensor_t x, y, dy, w, dw, rstd, gate, up, dgate, dup, act, cosine, sine;
static qy_tensor_t q, k, v, o, d_o, dq, dk, dv, lse, loss, hyper;

static void run_forward(void)
{
    for (int i = 0; i < N_LINEARS; i++)
        need(qy_linear_fwd(dev, &linears[i].y, &linears[i].x, &linears[i].w_hat, NULL, &err));
}

static void run_backward_x(void)
{
    for (int i = 0; i < N_LINEARS; i++)
        need(qy_linear_bwd_x(dev, &linears[i].dx, &linears[i].dy, &linears[i].w_hat, 0, &err));
}

static void run_backward_w(void)
{
    for (int i = 0; i < N_LINEARS; i++)
        need(qy_linear_bwd_w(dev, &linears[i].dw, &linears[i].dy, &linears[i].x, &err));
}

static void run_update(void)
{
    for (int i = 0; i < N_LINEARS; i++)
        need(qy_quant_update(dev, &linears[i].w_hat, &linears[i].vars, &linears[i].dw,
                             &linears[i].unit, &hyper, BITS, 1, &err));
}

static void run_attention_fwd(void)
{
    need(qy_attention_fwd(dev, &o, &lse, &q, &k, &v, 0.17677669f, 0, &err));
}

static void run_attention_bwd(void)
{
    need(qy_attention_bwd(dev, &dq, &dk, &dv, &d_o, &o, &lse, &q, &k, &v, 0.17677669f, 0, &err));
}

static void run_norm_fwd(void)
{
    need(qy_rmsnorm_fwd(dev, &y, &rstd, &x, &w, 1e-5f, &err));
}

static void run_norm_bwd(void)
{
    need(qy_rmsnorm_bwd(dev, &y, &dw, &dy, &x, &rstd, &w, 1, &err));
}

static void run_rope(void)
{
    need(qy_rope(dev, &dq, &q, &cosine, &sine, 0, &err));
    need(qy_rope(dev, &dk, &k, &cosine, &sine, 0, &err));
}

static void run_silu_fwd(void)
{
    need(qy_silu_mul_fwd(dev, &act, &gate, &up, &err));
}

static void run_silu_bwd(void)
{
    need(qy_silu_mul_bwd(dev, &dgate, &dup, &act, &gate, &up, &err));
}

static void run_add(void)
{
    need(qy_add(dev, &y, &x, &dy, &err));
}

static void run_mse(void)
{
    need(qy_mse(dev, &loss, &dy, &y, &x, &hyper, &err));
}

static const row_t rows[] = {
    {"linear_fwd (7)", 1, 1, run_forward},
    {"linear_bwd_x (7)", 1, 1, run_backward_x},
    {"linear_bwd_w (7)", 1, 1, run_backward_w},
    {"attention_fwd (products and rest)", 0, 1, run_attention_fwd},
    {"attention_bwd (products and rest)", 0, 1, run_attention_bwd},
    {"quant_update (7)", 0, 1, run_update},
    {"rmsnorm_fwd", 0, 2, run_norm_fwd},
    {"rmsnorm_bwd", 0, 2, run_norm_bwd},
    {"rope q and k", 0, 2, run_rope},
    {"silu_mul_fwd", 0, 1, run_silu_fwd},
    {"silu_mul_bwd", 0, 1, run_silu_bwd},
    {"add", 0, 2, run_add},
    {"mse", 0, 1, run_mse},
};

static void set_up(int threads)
{
    need(qy_device_open(&dev, "cpu", "auto", threads, &err));
    for (int i = 0; i < N_LINEARS; i++)
        make_linear(&linears[i], shapes[i]);
    qy_tensor_t *const hidden[] = {&x, &y, &dy}, *const wide[] = {&gate, &up, &dgate, &dup, &act};
    qy_tensor_t *const heads[] = {&q, &o, &d_o, &dq}, *const kv_heads[] = {&k, &v, &dk, &dv};
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        *hidden[i] = matrix(M, D, 1.0f);
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        *wide[i] = matrix(M, F, 3.0f);
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        *heads[i] = make(4, (int64_t[]){B, T, H, HD}, 1.0f);
    for (size_t i = 0; i < sizeof kv_heads / sizeof *kv_heads; i++)
        *kv_heads[i] = make(4, (int64_t[]){B, T, KV, HD}, 1.0f);
    w = matrix(1, D, 1.0f);
    dw = matrix(1, D, 1.0f);
    rstd = matrix(1, M, 1.0f);
    cosine = matrix(T, HD / 2, 1.0f);
    sine = matrix(T, HD / 2, 1.0f);
    lse = make(3, (int64_t[]){B, H, T}, 1.0f);
    loss = matrix(1, 1, 1.0f);
    hyper = matrix(1, QY_N_HYPER, 0.0f);
    float *h = hyper.data;
    h[QY_HYPER_LR_WEIGHT] = h[QY_HYPER_LR_QUANT] = 1e-4f;
    h[QY_HYPER_BIAS1] = h[QY_HYPER_BIAS2] = 0.5f;
    h[QY_HYPER_SCALE] = h[QY_HYPER_INV_SCALE] = 1.0f;
}

int main(int argc, char **argv)
{
    set_up(argc > 1 ? atoi(argv[1]) : 1);
    printf("%s; %s; %d threads\n", dev->model, dev->libraries, dev->threads);
    double products = 0.0, rest = 0.0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double best = 1e9;
        for (int n = 0; n < WARM_UP + REPEATS; n++) {
            double start = qy_now_s();
            rows[i].run();
            double took = qy_now_s() - start;
            best = n >= WARM_UP && took < best ? took : best;
        }
        best *= 1e3 * rows[i].per_step;
        *(rows[i].product ? &products : &rest) += best;
        printf("%-36s %8.3f ms a step\n", rows[i].name, best);
    }
    printf("linear products %.3f ms, the rest %.3f ms a step\n", products, rest);
    qy_device_close(&dev);
    return 0;
}
