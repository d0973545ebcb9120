/* AdamW, the step's numbers, the non-finite flag, and the fused update against its three parts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/fill.h"
#include "kernels/optim.h"
#include "kernels/quant.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

/* One step's hyper, from rates and the step's number. */
static void put_hyper(double hyper[QY_N_HYPER], double lr, int t, double inv_scale)
{
    for (int i = 0; i < QY_N_HYPER; i++)
        hyper[i] = 0.0;
    hyper[QY_HYPER_LR_WEIGHT] = lr;
    hyper[QY_HYPER_LR_QUANT] = 3.0 * lr;
    hyper[QY_HYPER_LR_NORM] = 5.0 * lr;
    hyper[QY_HYPER_BIAS1] = 1.0 - pow(0.9, t);
    hyper[QY_HYPER_BIAS2] = sqrt(1.0 - pow(0.999, t));
    hyper[QY_HYPER_SCALE] = 1.0 / inv_scale;
    hyper[QY_HYPER_INV_SCALE] = inv_scale;
}

static void overwrite(const qy_device_t *dev, qy_tensor_t *t, const double *values)
{
    qy_tensor_t fresh = test_put(dev, t->dtype, t->n_dims, t->shape, values);
    test_release(dev, t);
    *t = fresh;
}

/* methods/efficientqat.md 10, AdamW, with step_begin counting the steps. */
static void golden(const qy_device_t *dev)
{
    static const double g[] = {.1, -.2, .3}, lr[] = {1e-4, 9.99e-5, 9.98e-5};
    static const double p[] = {0.49990000001, 0.49993657375003814, 0.49990231829181025};
    const double start = 0.5, zero = 0.0, fresh[QY_N_STATE] = {[QY_STATE_SCALE] = 1.0};
    double hyper[QY_N_HYPER] = {0};
    qy_error_t err = {0};
    qy_tensor_t tp = test_put_1d(dev, QY_F32, 1, &start), tm = test_put_1d(dev, QY_F32, 1, &zero);
    qy_tensor_t tv = test_put_1d(dev, QY_F32, 1, &zero), tg = test_put_1d(dev, QY_F32, 1, &zero);
    qy_tensor_t th = test_put_1d(dev, QY_F32, QY_N_HYPER, hyper);
    qy_tensor_t state = test_put_1d(dev, QY_F64, QY_N_STATE, fresh);
    for (int t = 0; t < 3; t++) {
        hyper[QY_HYPER_LR_WEIGHT] = lr[t];
        overwrite(dev, &th, hyper);
        overwrite(dev, &tg, &g[t]);
        test_ok(qy_step_begin(dev, &th, &state, NULL, &err), err);
        test_ok(qy_adamw(dev, &tp, &tm, &tv, &tg, NULL, &th, QY_HYPER_LR_WEIGHT, -INFINITY, &err),
                err);
        double *got = test_get(dev, &tp);
        test_close("golden p", got, &p[t], 1, 3e-8 * (t + 1));
        test_drop(got);
    }
    test_release_all(dev, &tp, &tm, &tv, &tg, &th, &state);
}

/* The contract in f64. */
static void ref_adamw(double *p, double *m, double *v, const double *g, const double *unit,
                      int64_t n, int64_t per_unit, const double *hyper, int lr, double floor)
{
    for (int64_t i = 0; i < n; i++) {
        double u = unit ? unit[i / per_unit] : 1.0, d = g[i] * hyper[QY_HYPER_INV_SCALE] * u;
        m[i] = 0.9 * m[i] + 0.1 * d;
        v[i] = 0.999 * v[i] + 0.001 * d * d;
        p[i] -= u * hyper[lr] / hyper[QY_HYPER_BIAS1] * m[i] /
                (sqrt(v[i]) / hyper[QY_HYPER_BIAS2] + (unit ? 1e-14 : 1e-8));
        p[i] = fmax(p[i], floor);
    }
}

/* size: of the gradients. */
static void check_adamw(const qy_device_t *dev, int64_t n, int64_t n_units, int lr, double floor,
                        double size)
{
    qy_error_t err = {0};
    double *p = test_random(n, 1, 1.0, QY_F32), *m = test_zeros(n), *v = test_zeros(n);
    double *unit = test_random(n_units ? n_units : 1, 2, 0.5, QY_F32), hyper[QY_N_HYPER];
    for (int64_t i = 0; i < n_units; i++)
        unit[i] = test_round(fabs(unit[i]) + 0.01, QY_F32);
    qy_tensor_t tp = test_put_1d(dev, QY_F32, n, p), tm = test_put_1d(dev, QY_F32, n, m);
    qy_tensor_t tv = test_put_1d(dev, QY_F32, n, v),
                tu = test_put_1d(dev, QY_F32, n_units + !n_units, unit);
    for (int t = 1; t <= 4; t++) {
        double *g = test_random(n, (uint64_t)(10 + t), size, QY_F32);
        put_hyper(hyper, 0x1p-6, t, 0x1p-6);
        ref_adamw(p, m, v, g, n_units ? unit : NULL, n, n_units ? n / n_units : 1, hyper, lr,
                  floor);
        qy_tensor_t tg = test_put_1d(dev, QY_F32, n, g);
        qy_tensor_t th = test_put_1d(dev, QY_F32, QY_N_HYPER, hyper);
        test_ok(
            qy_adamw(dev, &tp, &tm, &tv, &tg, n_units ? &tu : NULL, &th, lr, (float)floor, &err),
            err);
        test_release_all(dev, &tg, &th);
        test_drop(g);
    }
    double *got_p = test_get(dev, &tp), *got_m = test_get(dev, &tm), *got_v = test_get(dev, &tv);
    test_close("adamw p", got_p, p, n, 8.0 * test_epsilon(QY_F32));
    test_close("adamw m", got_m, m, n, test_tolerance(4.0, QY_F32, 1, m, n));
    test_close("adamw v", got_v, v, n, test_tolerance(4.0, QY_F32, 1, v, n));
    test_release_all(dev, &tp, &tm, &tv, &tu);
    test_drop(p, m, v, unit, got_p, got_m, got_v);
}

static void adamw(const qy_device_t *dev)
{
    /* n, units. */
    static const int64_t sizes[][2] = {{1, 0},       {7, 7},          {100, 4},  {4097, 0},
                                       {4097, 4097}, {64 * 300, 300}, {10000, 1}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        check_adamw(dev, sizes[k][0], sizes[k][1], QY_HYPER_LR_WEIGHT, -INFINITY, 64.0);
        check_adamw(dev, sizes[k][0], sizes[k][1], QY_HYPER_LR_NORM, 0.125, 64.0);
        /* as small as a large model's: in units that makes no difference, else ε is what counts */
        check_adamw(dev, sizes[k][0], sizes[k][1], QY_HYPER_LR_WEIGHT, -INFINITY, 0x1p-27);
    }
}

static void check_state(const qy_device_t *dev, const qy_tensor_t *th, const qy_tensor_t *state,
                        const double want_state[QY_N_STATE], double inv_scale, double skip)
{
    double *h = test_get(dev, th), *s = test_get(dev, state), t = want_state[QY_STATE_T];
    const double want[] = {1,
                           2,
                           3,
                           (double)(float)(1.0 - pow(0.9, t)),
                           (double)(float)sqrt(1.0 - pow(0.999, t)),
                           want_state[QY_STATE_SCALE],
                           inv_scale,
                           skip};
    test_equal("state", s, want_state, QY_N_STATE);
    test_close("hyper", h, want, QY_N_HYPER, 1e-9);
    test_drop(h, s);
}

/* Counting, skipping, halving at an overflow and doubling after 2000 good steps. */
static void step_begin(const qy_device_t *dev)
{
    qy_error_t err = {0};
    const double rates[QY_N_HYPER] = {1, 2, 3}, zero = 0.0, one = 1.0;
    qy_tensor_t th = test_put_1d(dev, QY_F32, QY_N_HYPER, rates);
    qy_tensor_t good = test_put_1d(dev, QY_F32, 1, &zero), bad = test_put_1d(dev, QY_F32, 1, &one);
    const double fixed[] = {0, 1, 0, 0, 0}, dynamic[] = {5, 65536, 1998, 2, 1};
    qy_tensor_t state = test_put_1d(dev, QY_F64, QY_N_STATE, fixed);
    test_ok(qy_step_begin(dev, &th, &state, NULL, &err), err);
    check_state(dev, &th, &state, (const double[]){1, 1, 1, 0, 0}, 1.0, 0.0);
    test_ok(qy_step_begin(dev, &th, &state, &bad, &err), err);
    check_state(dev, &th, &state, (const double[]){1, 1, 0, 1, 0}, 1.0, 1.0);
    overwrite(dev, &state, dynamic);
    test_ok(qy_step_begin(dev, &th, &state, &good, &err), err);
    check_state(dev, &th, &state, (const double[]){6, 65536, 1999, 2, 1}, 0x1p-16, 0.0);
    test_ok(qy_step_begin(dev, &th, &state, &good, &err), err);
    check_state(dev, &th, &state, (const double[]){7, 131072, 0, 2, 1}, 0x1p-16, 0.0);
    test_ok(qy_step_begin(dev, &th, &state, &bad, &err), err);
    check_state(dev, &th, &state, (const double[]){7, 65536, 0, 3, 1}, 0x1p-17, 1.0);
    test_release_all(dev, &th, &good, &bad, &state);
}

static void nonfinite(const qy_device_t *dev)
{
    static const qy_dtype_t types[] = {QY_F32, QY_F16, QY_BF16};
    static const double seen[] = {INFINITY, -INFINITY, NAN, 60000.0, 0.0};
    static const int64_t sizes[] = {1, 4097, 9000};
    const double one = 1.0;
    qy_error_t err = {0};
    for (size_t d = 0; d < sizeof types / sizeof *types; d++) {
        for (size_t k = 0; k < 3 * sizeof seen / sizeof *seen; k++) {
            int64_t n = sizes[k % 3];
            double *x = test_random(n, 1, 6e4, types[d]), want = k / 3 < 3;
            x[n - 1] = seen[k / 3];
            qy_tensor_t t = test_put_1d(dev, types[d], n, x);
            qy_tensor_t flag = test_put_1d(dev, QY_F32, 1, NULL);
            test_ok(qy_nonfinite(dev, &flag, &t, 0, &err), err);
            double *got = test_get(dev, &flag);
            test_equal("nonfinite", got, &want, 1);
            overwrite(dev, &flag, &one);
            test_ok(qy_nonfinite(dev, &flag, &t, 1, &err), err);
            double *kept = test_get(dev, &flag);
            test_equal("nonfinite kept", kept, &one, 1);
            test_release_all(dev, &t, &flag);
            test_drop(x, got, kept);
        }
    }
}

/* All that a fused update touches. */
typedef struct {
    qy_quant_vars_t vars;
    qy_tensor_t w_hat;
} model_t;

static model_t put_model(const qy_device_t *dev, int64_t o, int64_t i, int64_t n_groups, int bits)
{
    qy_error_t err = {0};
    model_t m;
    double *w = test_random(o * i, 1, 0.5, QY_F32), *z = test_zeros(o * i);
    m.vars.w = test_put_2d(dev, QY_F32, o, i, w);
    m.vars.w_m = test_put_2d(dev, QY_F32, o, i, z);
    m.vars.w_v = test_put_2d(dev, QY_F32, o, i, z);
    m.vars.s = test_put_2d(dev, QY_F32, o, n_groups, z);
    m.vars.s_m = test_put_2d(dev, QY_F32, o, n_groups, z);
    m.vars.s_v = test_put_2d(dev, QY_F32, o, n_groups, z);
    m.vars.z = test_put_2d(dev, QY_F32, o, n_groups, z);
    m.vars.z_m = test_put_2d(dev, QY_F32, o, n_groups, z);
    m.vars.z_v = test_put_2d(dev, QY_F32, o, n_groups, z);
    m.w_hat = test_put_2d(dev, dev->compute, o, i, NULL);
    test_ok(qy_quant_start(dev, &m.vars.s, &m.vars.z, &m.vars.w, bits, 0, 1, &err), err);
    test_ok(qy_fake_quant_fwd(dev, &m.w_hat, &m.vars.w, &m.vars.s, &m.vars.z, bits, &err), err);
    test_drop(w, z);
    return m;
}

static void release_model(const qy_device_t *dev, model_t *m)
{
    test_release_all(dev, &m->vars.w, &m->vars.w_m, &m->vars.w_v, &m->vars.s, &m->vars.s_m,
                     &m->vars.s_v, &m->vars.z, &m->vars.z_m, &m->vars.z_v, &m->w_hat);
}

static void same(const qy_device_t *dev, const char *what, const qy_tensor_t *a,
                 const qy_tensor_t *b)
{
    double *x = test_get(dev, a), *y = test_get(dev, b);
    test_equal(what, x, y, qy_tensor_count(a));
    test_drop(x, y);
}

static void same_model(const qy_device_t *dev, const model_t *a, const model_t *b)
{
    same(dev, "w", &a->vars.w, &b->vars.w);
    same(dev, "w_m", &a->vars.w_m, &b->vars.w_m);
    same(dev, "w_v", &a->vars.w_v, &b->vars.w_v);
    same(dev, "s", &a->vars.s, &b->vars.s);
    same(dev, "s_m", &a->vars.s_m, &b->vars.s_m);
    same(dev, "s_v", &a->vars.s_v, &b->vars.s_v);
    same(dev, "z", &a->vars.z, &b->vars.z);
    same(dev, "z_m", &a->vars.z_m, &b->vars.z_m);
    same(dev, "z_v", &a->vars.z_v, &b->vars.z_v);
    same(dev, "w_hat", &a->w_hat, &b->w_hat);
}

/* The update as its parts. */
static void update_in_parts(const qy_device_t *dev, model_t *m, const qy_tensor_t *dw_hat,
                            const qy_tensor_t *unit, const qy_tensor_t *th, int bits,
                            int train_zero)
{
    qy_error_t err = {0};
    int64_t o = qy_tensor_rows(&m->vars.w), i = qy_tensor_cols(&m->vars.w);
    int64_t n_groups = qy_tensor_cols(&m->vars.s);
    qy_quant_vars_t *u = &m->vars;
    qy_tensor_t dw = test_put_2d(dev, QY_F32, o, i, NULL);
    qy_tensor_t ds = test_put_2d(dev, QY_F32, o, n_groups, NULL);
    qy_tensor_t dz = test_put_2d(dev, QY_F32, o, n_groups, NULL);
    qy_tensor_t one = test_put_2d(dev, QY_F32, o, n_groups, NULL);
    test_ok(qy_fill(dev, &one, 1.0f, &err), err);
    test_ok(qy_fake_quant_bwd(dev, &dw, &ds, &dz, dw_hat, &u->w, &u->s, &u->z, bits, &err), err);
    test_ok(
        qy_adamw(dev, &u->w, &u->w_m, &u->w_v, &dw, unit, th, QY_HYPER_LR_WEIGHT, -INFINITY, &err),
        err);
    test_ok(
        qy_adamw(dev, &u->s, &u->s_m, &u->s_v, &ds, unit, th, QY_HYPER_LR_QUANT, -INFINITY, &err),
        err);
    if (train_zero)
        test_ok(qy_adamw(dev, &u->z, &u->z_m, &u->z_v, &dz, unit ? &one : NULL, th,
                         QY_HYPER_LR_QUANT, -INFINITY, &err),
                err);
    test_ok(qy_fake_quant_fwd(dev, &m->w_hat, &u->w, &u->s, &u->z, bits, &err), err);
    test_release_all(dev, &dw, &ds, &dz, &one);
}

static void check_update(const qy_device_t *dev, int64_t o, int64_t i, int64_t n_groups, int bits,
                         int with_unit, int train_zero)
{
    qy_error_t err = {0};
    model_t fused = put_model(dev, o, i, n_groups, bits),
            parts = put_model(dev, o, i, n_groups, bits);
    double *s0 = test_get(dev, &fused.vars.s), hyper[QY_N_HYPER];
    qy_tensor_t unit = test_put_2d(dev, QY_F32, o, n_groups, s0);
    for (int t = 1; t <= 3; t++) {
        qy_dtype_t type = t == 2 ? dev->compute : QY_F32;
        double *g = test_random(o * i, (uint64_t)(20 + t), 1.0, type);
        put_hyper(hyper, 0.05, t, 0.5);
        qy_tensor_t dw_hat = test_put_2d(dev, type, o, i, g);
        qy_tensor_t th = test_put_1d(dev, QY_F32, QY_N_HYPER, hyper);
        test_ok(qy_quant_update(dev, &fused.w_hat, &fused.vars, &dw_hat, with_unit ? &unit : NULL,
                                &th, bits, train_zero, &err),
                err);
        update_in_parts(dev, &parts, &dw_hat, with_unit ? &unit : NULL, &th, bits, train_zero);
        same_model(dev, &fused, &parts);
        hyper[QY_HYPER_SKIP] = 1.0; /* now nothing may change */
        overwrite(dev, &th, hyper);
        test_ok(qy_quant_update(dev, &fused.w_hat, &fused.vars, &dw_hat, with_unit ? &unit : NULL,
                                &th, bits, train_zero, &err),
                err);
        test_ok(qy_adamw(dev, &fused.vars.w, &fused.vars.w_m, &fused.vars.w_v, &fused.vars.w, NULL,
                         &th, QY_HYPER_LR_WEIGHT, 1.0f, &err),
                err);
        same_model(dev, &fused, &parts);
        test_release_all(dev, &dw_hat, &th);
        test_drop(g);
    }
    double *s = test_get(dev, &fused.vars.s);
    assert_true(s[0] != s0[0]); /* it did train */
    release_model(dev, &fused);
    release_model(dev, &parts);
    test_release(dev, &unit);
    test_drop(s0, s);
}

static void quant_update(const qy_device_t *dev)
{
    for (int flags = 0; flags < 4; flags++) {
        check_update(dev, 1, 8, 1, 2, flags & 1, flags >> 1);
        check_update(dev, 5, 39, 3, 3, flags & 1, flags >> 1);
        check_update(dev, 64, 256, 4, 2, flags & 1, flags >> 1);
        check_update(dev, 3, 300, 1, 4, flags & 1, flags >> 1);
    }
}

static void bad_input(const qy_device_t *dev)
{
    qy_error_t err = {0};
    model_t m = put_model(dev, 2, 6, 3, 2);
    const double hyper[QY_N_HYPER] = {0};
    qy_tensor_t th = test_put_1d(dev, QY_F32, QY_N_HYPER, hyper);
    qy_tensor_t g = test_put_2d(dev, QY_F32, 2, 6, NULL),
                short_g = test_put_2d(dev, QY_F32, 2, 5, NULL);
    qy_tensor_t f = test_put_1d(dev, QY_F32, 5, NULL);
    qy_quant_vars_t *u = &m.vars;
    test_refused(qy_quant_update(dev, &m.w_hat, u, &short_g, NULL, &th, 2, 1, &err), QY_ERR_SHAPE,
                 err);
    test_refused(qy_quant_update(dev, &m.w_hat, u, &g, &g, &th, 2, 1, &err), QY_ERR_SHAPE, err);
    test_refused(qy_quant_update(dev, &m.w_hat, u, &g, NULL, &f, 2, 1, &err), QY_ERR_SHAPE, err);
    test_refused(qy_quant_update(dev, &m.w_hat, u, &g, NULL, &th, 0, 1, &err), QY_ERR_ARG, err);
    test_refused(qy_adamw(dev, &u->w, &u->w_m, &u->w_v, &short_g, NULL, &th, 0, 0.0f, &err),
                 QY_ERR_SHAPE, err);
    test_refused(qy_adamw(dev, &u->w, &u->w_m, &u->w_v, &g, &f, &th, 0, 0.0f, &err), QY_ERR_SHAPE,
                 err);
    test_refused(qy_adamw(dev, &u->w, &u->w_m, &u->w_v, &g, NULL, &th, QY_HYPER_BIAS1, 0.0f, &err),
                 QY_ERR_ARG, err);
    test_refused(qy_adamw(dev, &u->w, &u->w_m, &u->w_v, &g, NULL, &th, 0, NAN, &err), QY_ERR_ARG,
                 err);
    test_refused(qy_step_begin(dev, &f, &th, NULL, &err), QY_ERR_SHAPE, err);
    test_refused(qy_step_begin(dev, &th, &th, NULL, &err), QY_ERR_ARG, err);
    test_refused(qy_nonfinite(dev, &f, &g, 0, &err), QY_ERR_SHAPE, err);
    release_model(dev, &m);
    test_release_all(dev, &th, &g, &short_g, &f);
}

TEST_ON_DEVICES(golden)
TEST_ON_DEVICES(adamw)
TEST_ON_DEVICES(step_begin)
TEST_ON_DEVICES(nonfinite)
TEST_ON_DEVICES(quant_update)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),       cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_step_begin),   cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_quant_update), cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
