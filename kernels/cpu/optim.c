#include "kernels/optim.h"

#include <string.h>

#include "kernels/adam_rule.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/group.h"

/* 1 where a number has all bits of the exponent set: infinity or NaN. */
static QY_CLONES int any_nonfinite_32(const uint32_t *bits, int64_t n)
{
    uint32_t found = 0;
    for (int64_t i = 0; i < n; i++)
        found |= (bits[i] & 0x7f800000u) == 0x7f800000u;
    return found != 0;
}

static QY_CLONES int any_nonfinite_16(const uint16_t *bits, uint16_t exponent, int64_t n)
{
    uint32_t found = 0;
    for (int64_t i = 0; i < n; i++)
        found |= (bits[i] & exponent) == exponent;
    return found != 0;
}

qy_status_t qy_cpu_nonfinite(const qy_device_t *dev, qy_tensor_t *flag, const qy_tensor_t *x,
                             int accumulate, qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_count(x), n_chunks = qy_chunks(n, QY_CPU_CHUNK);
    int found = 0;
#pragma omp parallel for num_threads(dev->threads) reduction(| : found) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t at = c * QY_CPU_CHUNK, count = qy_min(QY_CPU_CHUNK, n - at);
        if (x->dtype == QY_F32)
            found |= any_nonfinite_32((const uint32_t *)x->data + at, count);
        else
            found |= any_nonfinite_16((const uint16_t *)x->data + at,
                                      x->dtype == QY_F16 ? 0x7c00u : 0x7f80u, count);
    }
    if (found || !accumulate)
        *qy_f32(flag) = found ? 1.0f : 0.0f;
    return QY_OK;
}

qy_status_t qy_cpu_step_begin(const qy_device_t *dev, qy_tensor_t *hyper, qy_tensor_t *state,
                              const qy_tensor_t *flag, qy_error_t *err)
{
    (void)dev;
    (void)err;
    float *h = hyper->data;
    double *s = state->data;
    int skip = flag && *qy_f32(flag) != 0.0f, dynamic = s[QY_STATE_DYNAMIC] != 0.0;
    h[QY_HYPER_INV_SCALE] = (float)(1.0 / s[QY_STATE_SCALE]);
    if (skip) {
        s[QY_STATE_SKIPPED] += 1.0;
        s[QY_STATE_GOOD] = 0.0;
        if (dynamic)
            s[QY_STATE_SCALE] *= 0.5;
    } else {
        s[QY_STATE_T] += 1.0;
        s[QY_STATE_GOOD] += 1.0;
        if (dynamic && s[QY_STATE_GOOD] >= QY_LOSS_SCALE_GOOD) {
            s[QY_STATE_SCALE] *= 2.0;
            s[QY_STATE_GOOD] = 0.0;
        }
    }
    h[QY_HYPER_SKIP] = skip ? 1.0f : 0.0f;
    h[QY_HYPER_BIAS1] = (float)(1.0 - pow(QY_ADAM_BETA1, s[QY_STATE_T]));
    h[QY_HYPER_BIAS2] = (float)sqrt(1.0 - pow(QY_ADAM_BETA2, s[QY_STATE_T]));
    h[QY_HYPER_SCALE] = (float)s[QY_STATE_SCALE];
    return QY_OK;
}

/* n numbers with one unit: scale = inv_scale of the gradients, step = lr / bias1. */
static QY_CLONES void adam_run(float *p, float *m, float *v, const float *g, int64_t n, float scale,
                               float unit, float step, float bias2, float eps, float floor)
{
    float rate = unit * step;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        qy_adam_rule(p + i, m + i, v + i, g[i] * scale * unit, rate, bias2, eps, floor);
}

/* n numbers, each with its own unit. */
static QY_CLONES void adam_each(float *p, float *m, float *v, const float *g, const float *unit,
                                int64_t n, float scale, float step, float bias2, float floor)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        qy_adam_rule(p + i, m + i, v + i, g[i] * scale * unit[i], unit[i] * step, bias2,
                     qy_adam_eps(true), floor);
}

qy_status_t qy_cpu_adamw(const qy_device_t *dev, qy_tensor_t *p, qy_tensor_t *m, qy_tensor_t *v,
                         const qy_tensor_t *g, const qy_tensor_t *unit, const qy_tensor_t *hyper,
                         int lr_index, float floor, qy_error_t *err)
{
    (void)err;
    const float *h = hyper->data;
    if (h[QY_HYPER_SKIP] != 0.0f)
        return QY_OK;
    float scale = h[QY_HYPER_INV_SCALE], bias2 = h[QY_HYPER_BIAS2];
    float step = h[lr_index] / h[QY_HYPER_BIAS1];
    int64_t n = qy_tensor_count(p), per_unit = unit ? n / qy_tensor_count(unit) : n;
    int64_t run = per_unit == 1 || !unit ? QY_CPU_CHUNK : per_unit, n_runs = qy_chunks(n, run);
#pragma omp parallel for num_threads(dev->threads) if (n > QY_CPU_CHUNK)
    for (int64_t r = 0; r < n_runs; r++) {
        int64_t at = r * run, count = qy_min(run, n - at);
        float *p_at = qy_f32(p) + at, *m_at = qy_f32(m) + at, *v_at = qy_f32(v) + at;
        const float *g_at = qy_f32(g) + at;
        if (unit && per_unit == 1)
            adam_each(p_at, m_at, v_at, g_at, qy_f32(unit) + at, count, scale, step, bias2, floor);
        else
            adam_run(p_at, m_at, v_at, g_at, count, scale, unit ? qy_f32(unit)[r] : 1.0f, step,
                     bias2, qy_adam_eps(unit != NULL), floor);
    }
    return QY_OK;
}

/* The numbers of one fused update. */
typedef struct {
    float *w_hat, *w, *w_m, *w_v, *s, *s_m, *s_v, *z, *z_m, *z_v;
    const float *dw_hat, *unit;
    float scale, w_step, q_step, bias2, eps, q_max;
    int64_t n, n_groups; /* elements of a group, groups of a row */
    int train_zero;
} update_t;

/* The groups of one row, each in three passes over memory that stays in the first cache. */
static QY_CLONES void update_row(const update_t *u, int64_t row)
{
    const float none = -HUGE_VALF;
    for (int64_t j = row * u->n_groups; j < (row + 1) * u->n_groups; j++) {
        float *w = u->w + j * u->n, *m = u->w_m + j * u->n, *v = u->w_v + j * u->n;
        const float *g = u->dw_hat + j * u->n;
        float unit = u->unit ? u->unit[j] : 1.0f, w_rate = unit * u->w_step, scale = u->scale;
        float s = qy_step_used(u->s[j]), z = qy_zero_used(u->z[j], u->q_max), ds, dz;
        float bias2 = u->bias2, eps = u->eps, q_max = u->q_max;
        qy_group_sums(&ds, &dz, g, w, u->n, s, z, q_max);
#pragma omp simd
        for (int64_t i = 0; i < u->n; i++) {
            float dw = qy_group_inside(w[i], s, z, q_max) ? g[i] : 0.0f;
            qy_adam_rule(w + i, m + i, v + i, dw * scale * unit, w_rate, bias2, eps, none);
        }
        qy_adam_rule(u->s + j, u->s_m + j, u->s_v + j, ds * scale * unit, unit * u->q_step, bias2,
                     eps, none);
        if (u->train_zero)
            qy_adam_rule(u->z + j, u->z_m + j, u->z_v + j, dz * scale, u->q_step, bias2, eps, none);
        qy_group_fwd(u->w_hat + j * u->n, w, u->n, qy_step_used(u->s[j]),
                     qy_zero_used(u->z[j], q_max), q_max);
    }
}

qy_status_t qy_cpu_quant_update(const qy_device_t *dev, qy_tensor_t *w_hat, qy_quant_vars_t *vars,
                                const qy_tensor_t *dw_hat, const qy_tensor_t *unit,
                                const qy_tensor_t *hyper, int bits, int train_zero, qy_error_t *err)
{
    (void)err;
    const float *h = hyper->data;
    if (h[QY_HYPER_SKIP] != 0.0f)
        return QY_OK;
    int64_t o = qy_tensor_rows(&vars->w), n_groups = qy_tensor_cols(&vars->s);
    const update_t u = {
        .w_hat = w_hat->data,
        .w = vars->w.data,
        .w_m = vars->w_m.data,
        .w_v = vars->w_v.data,
        .s = vars->s.data,
        .s_m = vars->s_m.data,
        .s_v = vars->s_v.data,
        .z = vars->z.data,
        .z_m = vars->z_m.data,
        .z_v = vars->z_v.data,
        .dw_hat = dw_hat->data,
        .unit = unit ? unit->data : NULL,
        .scale = h[QY_HYPER_INV_SCALE],
        .w_step = h[QY_HYPER_LR_WEIGHT] / h[QY_HYPER_BIAS1],
        .q_step = h[QY_HYPER_LR_QUANT] / h[QY_HYPER_BIAS1],
        .bias2 = h[QY_HYPER_BIAS2],
        .eps = qy_adam_eps(unit != NULL),
        .q_max = qy_quant_max(bits),
        .n = qy_tensor_cols(&vars->w) / n_groups,
        .n_groups = n_groups,
        .train_zero = train_zero,
    };
#pragma omp parallel for num_threads(dev->threads) if (o > 1)
    for (int64_t r = 0; r < o; r++)
        update_row(&u, r);
    return QY_OK;
}
