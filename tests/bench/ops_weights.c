#include "kernels/optim.h"
#include "tests/bench/ops.h"

static qy_error_t err;

/* Variants of make_weights: the type of the gradient. */
enum { DW_F32, DW_COMPUTE };

/* w_hat, w, m, v, s, s_m, s_v, z, z_m, z_v, then dw, unit, hyper */
static void make_weights(ops_work_t *w)
{
    int64_t o = w->c.on.shape.intermediate, i = w->c.on.shape.hidden, g = i / w->c.group;
    ops_compute(w, o, i, 0.0f);
    ops_f32(w, o, i, 0.05f);
    ops_f32(w, o, i, 0.0f);
    ops_f32(w, o, i, 0.0f);
    for (int k = 0; k < 6; k++)
        ops_f32(w, o, g, 0.0f);
    ops_tensor(w, w->variant == DW_F32 ? QY_F32 : QY_N_DTYPES, 2, (int64_t[]){o, i}, 1.0f);
    ops_f32(w, o, g, 1.0f);
    ops_f32(w, 1, QY_N_HYPER, 0.0f);
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
    bench_need(qy_quant_start(w->dev, &w->vars.s, &w->vars.z, &w->vars.w, OPS_BITS, 0, 0, &err),
               err);
    bench_need(qy_device_wait(w->dev, &err), err);
    ops_cost(w, 10, 0, ops_bytes(w, 0, 12) + ops_bytes(w, 1, 9));
}

static void run_update(ops_work_t *w)
{
    bench_need(qy_quant_update(w->dev, &w->t[0], &w->vars, &w->t[10], &w->t[11], &w->t[12],
                               OPS_BITS, 1, &err),
               err);
}

static void make_nonfinite(ops_work_t *w)
{
    ops_f32(w, 1, 1, 0.0f);
    ops_f32(w, w->c.on.shape.intermediate, w->c.on.shape.hidden, 1.0f);
    ops_cost(w, 1, 0, 0);
}

static void run_nonfinite(ops_work_t *w)
{
    bench_need(qy_nonfinite(w->dev, &w->t[0], &w->t[1], 0, &err), err);
}

static void make_start(ops_work_t *w)
{
    int64_t o = w->c.on.shape.intermediate, i = w->c.on.shape.hidden;
    ops_f32(w, o, i / w->c.group, 0.0f);
    ops_f32(w, o, i / w->c.group, 0.0f);
    ops_f32(w, o, i, 0.05f);
    ops_cost(w, 2, 0, 0);
}

static void run_start(ops_work_t *w)
{
    bench_need(qy_quant_start(w->dev, &w->t[0], &w->t[1], &w->t[2], OPS_BITS, 0, 1, &err), err);
}

/* w_hat, ds, s, codes, zeros, dw, w, z */
static void make_frozen(ops_work_t *w)
{
    int64_t o = w->c.on.shape.intermediate, i = w->c.on.shape.hidden, g = i / w->c.group;
    ops_compute(w, o, i, 0.0f);
    ops_f32(w, o, g, 0.0f);
    ops_f32(w, o, g, 0.0f);
    ops_tensor(w, QY_U32, 2, (int64_t[]){o, i * OPS_BITS / 32}, 0.0f);
    ops_tensor(w, QY_U8, 2, (int64_t[]){o, g}, 0.0f);
    ops_f32(w, o, i, 1.0f);
    ops_f32(w, o, i, 0.05f);
    ops_f32(w, o, g, 0.0f);
    bench_need(qy_quant_start(w->dev, &w->t[2], &w->t[7], &w->t[6], OPS_BITS, 0, 0, &err), err);
    bench_need(qy_quant_freeze(w->dev, &w->t[3], &w->t[1], &w->t[4], &w->t[6], &w->t[2], &w->t[7],
                               OPS_BITS, &err),
               err);
    ops_cost(w, 1, 0, ops_bytes(w, 0, 1) + ops_bytes(w, 2, 3));
}

static void run_dequant(ops_work_t *w)
{
    bench_need(qy_dequant_fwd(w->dev, &w->t[0], &w->t[3], &w->t[2], &w->t[4], OPS_BITS, 1, &err),
               err);
}

static void make_dequant_bwd(ops_work_t *w)
{
    make_frozen(w);
    ops_cost(w, 2, 0, ops_bytes(w, 1, 1) + ops_bytes(w, 3, 3));
}

static void run_dequant_bwd(ops_work_t *w)
{
    bench_need(qy_dequant_bwd(w->dev, &w->t[1], &w->t[5], &w->t[3], &w->t[4], OPS_BITS, 0, &err),
               err);
}

const ops_case_t ops_weights[] = {
    {"quant_update, f32", make_weights, run_update, DW_F32},
    {"quant_update, compute", make_weights, run_update, DW_COMPUTE},
    {"nonfinite", make_nonfinite, run_nonfinite, 0},
    {"quant_start", make_start, run_start, 0},
    {"dequant_fwd", make_frozen, run_dequant, 0},
    {"dequant_bwd", make_dequant_bwd, run_dequant_bwd, 0},
    {NULL, NULL, NULL, 0},
};
