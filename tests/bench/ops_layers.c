#include "tests/bench/ops.h"

#include <math.h>

#include "kernels/attention.h"
#include "kernels/fill.h"
#include "kernels/glu.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"

static qy_error_t err;

/* --- products -------------------------------------------------------------------------------- */

/* What a product computes, y (tokens, o) = x (tokens, i) wᵀ and its derivatives: y, dx, dw. */
enum { Y, DX, DW };

typedef enum { HIDDEN, KV, INTERMEDIATE } width_t;

/* Variants of make_product: the linear layers of a block that differ in shape. */
enum { Y_Q, Y_K, Y_UP, Y_DOWN, DX_UP, DX_DOWN, DW_UP, DW_DOWN, DW_UP_COMPUTE };

static const struct {
    width_t o, i;
    int kind, f32_out;
} products[] = {
    [Y_Q] = {HIDDEN, HIDDEN, Y, 0},
    [Y_K] = {KV, HIDDEN, Y, 0},
    [Y_UP] = {INTERMEDIATE, HIDDEN, Y, 0},
    [Y_DOWN] = {HIDDEN, INTERMEDIATE, Y, 0},
    [DX_UP] = {INTERMEDIATE, HIDDEN, DX, 0},
    [DX_DOWN] = {HIDDEN, INTERMEDIATE, DX, 0},
    [DW_UP] = {INTERMEDIATE, HIDDEN, DW, 1},
    [DW_DOWN] = {HIDDEN, INTERMEDIATE, DW, 1},
    [DW_UP_COMPUTE] = {INTERMEDIATE, HIDDEN, DW, 0},
};

static int64_t width_of(const ops_work_t *w, width_t width)
{
    const bench_shape_t *s = &w->c.on.shape;
    return width == HIDDEN ? s->hidden
           : width == KV   ? s->hidden / s->heads * s->kv_heads
                           : s->intermediate;
}

static void make_product(ops_work_t *w)
{
    const int kind = products[w->variant].kind;
    int64_t m = w->c.tokens, o = width_of(w, products[w->variant].o);
    int64_t i = width_of(w, products[w->variant].i);
    const int64_t shape[3][2] = {{m, o}, {m, i}, {o, i}};
    if (products[w->variant].f32_out)
        ops_f32(w, shape[kind][0], shape[kind][1], 0.0f);
    else
        ops_compute(w, shape[kind][0], shape[kind][1], 0.0f);
    ops_compute(w, shape[(kind + 1) % 3][0], shape[(kind + 1) % 3][1], 1.0f);
    ops_compute(w, shape[(kind + 2) % 3][0], shape[(kind + 2) % 3][1], 1.0f);
    ops_cost(w, 1, 2.0 * (double)m * (double)o * (double)i, 0);
}

static void run_fwd(ops_work_t *w)
{
    bench_need(qy_linear_fwd(w->dev, &w->t[0], &w->t[1], &w->t[2], NULL, &err), err);
}

static void run_bwd_x(ops_work_t *w)
{
    bench_need(qy_linear_bwd_x(w->dev, &w->t[0], &w->t[2], &w->t[1], 0, &err), err);
}

static void run_bwd_w(ops_work_t *w)
{
    bench_need(qy_linear_bwd_w(w->dev, &w->t[0], &w->t[1], &w->t[2], &err), err);
}

/* --- attention ------------------------------------------------------------------------------- */

enum { O, LSE, DQ, DK, DV, Q, K, V, D_O };
enum { FORWARD, BACKWARD }; /* variants of make_attention */

static void make_attention(ops_work_t *w)
{
    const int backward = w->variant == BACKWARD;
    int64_t length = w->c.on.shape.length < w->c.tokens ? w->c.on.shape.length : w->c.tokens;
    int64_t b = w->c.tokens / length, d = w->c.on.shape.hidden / w->c.on.shape.heads;
    const int64_t q[] = {b, length, w->c.on.shape.heads, d},
                  k[] = {b, length, w->c.on.shape.kv_heads, d};
    const int64_t lse[] = {b, w->c.on.shape.heads, length};
    double pairs =
        0.5 * (double)length * (double)(length + 1) * (double)(b * w->c.on.shape.heads * d);
    ops_tensor(w, QY_N_DTYPES, 4, q, 0.0f);
    ops_tensor(w, QY_F32, 3, lse, 0.0f);
    ops_tensor(w, QY_N_DTYPES, 4, q, 0.0f);
    ops_tensor(w, QY_N_DTYPES, 4, k, 0.0f);
    ops_tensor(w, QY_N_DTYPES, 4, k, 0.0f);
    ops_tensor(w, QY_N_DTYPES, 4, q, 1.0f);
    ops_tensor(w, QY_N_DTYPES, 4, k, 1.0f);
    ops_tensor(w, QY_N_DTYPES, 4, k, 1.0f);
    ops_tensor(w, QY_N_DTYPES, 4, q, 1.0f);
    bench_need(qy_attention_fwd(w->dev, &w->t[O], &w->t[LSE], &w->t[Q], &w->t[K], &w->t[V],
                                1.0f / sqrtf((float)d), 0, &err),
               err);
    /* As others count: the scores a second time are not counted. */
    ops_cost(w, backward ? 5 : 2, (backward ? 10.0 : 4.0) * pairs,
             backward ? 0 : ops_bytes(w, O, 2) + ops_bytes(w, Q, 3));
}

static void run_attention_fwd(ops_work_t *w)
{
    bench_need(qy_attention_fwd(w->dev, &w->t[O], &w->t[LSE], &w->t[Q], &w->t[K], &w->t[V],
                                1.0f / sqrtf((float)w->t[Q].shape[3]), 0, &err),
               err);
}

static void run_attention_bwd(ops_work_t *w)
{
    bench_need(qy_attention_bwd(w->dev, &w->t[DQ], &w->t[DK], &w->t[DV], &w->t[D_O], &w->t[O],
                                &w->t[LSE], &w->t[Q], &w->t[K], &w->t[V],
                                1.0f / sqrtf((float)w->t[Q].shape[3]), 0, &err),
               err);
}

/* --- rows and elements ------------------------------------------------------------------------ */

static void make_norm_fwd(ops_work_t *w)
{
    ops_compute(w, w->c.tokens, w->c.on.shape.hidden, 0.0f);
    ops_f32(w, w->c.tokens, 1, 0.0f);
    ops_compute(w, w->c.tokens, w->c.on.shape.hidden, 1.0f);
    ops_f32(w, 1, w->c.on.shape.hidden, 1.0f);
    ops_cost(w, 2, 0, 0);
}

static void run_norm_fwd(ops_work_t *w)
{
    bench_need(qy_rmsnorm_fwd(w->dev, &w->t[0], &w->t[1], &w->t[2], &w->t[3], 1e-5f, &err), err);
}

static void make_norm_bwd(ops_work_t *w)
{
    make_norm_fwd(w);
    ops_compute(w, w->c.tokens, w->c.on.shape.hidden, 1.0f);
    run_norm_fwd(w);
    ops_cost(w, 1, 0, 0);
}

static void run_norm_bwd(ops_work_t *w)
{
    bench_need(
        qy_rmsnorm_bwd(w->dev, &w->t[0], NULL, &w->t[4], &w->t[2], &w->t[1], &w->t[3], 0, &err),
        err);
}

static void make_rope(ops_work_t *w)
{
    int64_t d = w->c.on.shape.hidden / w->c.on.shape.heads;
    const int64_t shape[] = {1, w->c.tokens, w->c.on.shape.heads, d};
    ops_tensor(w, QY_N_DTYPES, 4, shape, 0.0f);
    ops_tensor(w, QY_N_DTYPES, 4, shape, 1.0f);
    ops_f32(w, w->c.tokens, d / 2, 1.0f);
    ops_f32(w, w->c.tokens, d / 2, 1.0f);
    ops_cost(w, 1, 0, 0);
}

static void run_rope(ops_work_t *w)
{
    bench_need(qy_rope(w->dev, &w->t[0], &w->t[1], &w->t[2], &w->t[3], 0, &err), err);
}

static void make_silu(ops_work_t *w)
{
    for (int i = 0; i < 5; i++)
        ops_compute(w, w->c.tokens, w->c.on.shape.intermediate, i < 2 ? 0.0f : 4.0f);
    ops_cost(w, 2, 0, 0);
}

static void make_silu_fwd(ops_work_t *w)
{
    make_silu(w);
    ops_cost(w, 1, 0, 3.0 * ops_bytes(w, 0, 1));
}

static void run_silu_fwd(ops_work_t *w)
{
    bench_need(qy_silu_mul_fwd(w->dev, &w->t[0], &w->t[3], &w->t[4], &err), err);
}

static void run_silu_bwd(ops_work_t *w)
{
    bench_need(qy_silu_mul_bwd(w->dev, &w->t[0], &w->t[1], &w->t[2], &w->t[3], &w->t[4], &err),
               err);
}

static void make_add(ops_work_t *w)
{
    for (int i = 0; i < 3; i++)
        ops_compute(w, w->c.tokens, w->c.on.shape.hidden, i ? 1.0f : 0.0f);
    ops_cost(w, 1, 0, 0);
}

static void run_add(ops_work_t *w)
{
    bench_need(qy_add(w->dev, &w->t[0], &w->t[1], &w->t[2], &err), err);
}

static void make_mse(ops_work_t *w)
{
    ops_f32(w, 1, 1, 0.0f);
    make_add(w);
    ops_cost(w, 2, 0, 0);
}

static void run_mse(ops_work_t *w)
{
    bench_need(qy_mse(w->dev, &w->t[0], &w->t[1], &w->t[2], &w->t[3], NULL, &err), err);
}

/* --- the cases -------------------------------------------------------------------------------- */

const ops_case_t ops_layers[] = {
    {"linear_fwd q", make_product, run_fwd, Y_Q},
    {"linear_fwd k", make_product, run_fwd, Y_K},
    {"linear_fwd up", make_product, run_fwd, Y_UP},
    {"linear_fwd down", make_product, run_fwd, Y_DOWN},
    {"linear_bwd_x up", make_product, run_bwd_x, DX_UP},
    {"linear_bwd_x down", make_product, run_bwd_x, DX_DOWN},
    {"linear_bwd_w up, f32", make_product, run_bwd_w, DW_UP},
    {"linear_bwd_w down, f32", make_product, run_bwd_w, DW_DOWN},
    {"linear_bwd_w up, compute", make_product, run_bwd_w, DW_UP_COMPUTE},
    {"attention_fwd", make_attention, run_attention_fwd, FORWARD},
    {"attention_bwd", make_attention, run_attention_bwd, BACKWARD},
    {"rmsnorm_fwd", make_norm_fwd, run_norm_fwd, 0},
    {"rmsnorm_bwd", make_norm_bwd, run_norm_bwd, 0},
    {"rope", make_rope, run_rope, 0},
    {"silu_mul_fwd", make_silu_fwd, run_silu_fwd, 0},
    {"silu_mul_bwd", make_silu, run_silu_bwd, 0},
    {"add", make_add, run_add, 0},
    {"mse", make_mse, run_mse, 0},
    {NULL, NULL, NULL, 0},
};
