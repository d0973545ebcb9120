/*
 * Fake quantization of groups: EfficientQAT's golden values, every rule again in plain C, all bit
 * widths, starts, refusals.
 */
#include "tests/kernels/quant_fixture.h"

/* methods/efficientqat.md 10, Q-A and Q-B. */
static void golden(const qy_device_t *dev)
{
    const double w[] = {.30, -.10, .05, -.42, 1.00, .20, -.90, .55};
    const double g[] = {1, 2, -3, .5, -1, .25, 4, -2};
    const struct {
        double s[2], z[2], w_hat[8], dw[8], ds[2], dz[2];
    } cases[] = {
        {{.24, .6333333},
         {2, 1},
         {.24, 0, 0, -.48, 1.2666667, 0, -.6333333, .6333333},
         {1, 2, -3, .5, -1, .25, 4, -2},
         {1.0833333, .9210520},
         {0, 0}},
        {{.15, .40},
         {1.4, 3.7},
         {.30, -.15, 0, -.15, 0, 0, -.80, 0},
         {1, 2, -3, 0, 0, .25, 4, 0},
         {-.1666667, .875},
         {-.075, 1.2}},
    };
    const qy_dtype_t c = dev->compute;
    const double off = c == QY_F32 ? 2e-7 : 2.0 * test_epsilon(c);
    qy_error_t err = {0};
    qy_tensor_t tw = test_put_2d(dev, QY_F32, 1, 8, w), tg = test_put_2d(dev, QY_F32, 1, 8, g);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        qy_tensor_t s = test_put_2d(dev, QY_F32, 1, 2, cases[k].s);
        qy_tensor_t z = test_put_2d(dev, QY_F32, 1, 2, cases[k].z);
        qy_tensor_t w_hat = test_put_2d(dev, c, 1, 8, NULL),
                    dw = test_put_2d(dev, QY_F32, 1, 8, NULL);
        qy_tensor_t ds = test_put_2d(dev, QY_F32, 1, 2, NULL),
                    dz = test_put_2d(dev, QY_F32, 1, 2, NULL);
        if (k == 0) {
            test_ok(qy_quant_start(dev, &s, &z, &tw, 2, 0, 0, &err), err);
            check(dev, "Q-A s", &s, cases[k].s, 5e-8);
            check(dev, "Q-A z", &z, cases[k].z, 0.0);
        }
        test_ok(qy_fake_quant_fwd(dev, &w_hat, &tw, &s, &z, 2, &err), err);
        test_ok(qy_fake_quant_bwd(dev, &dw, &ds, &dz, &tg, &tw, &s, &z, 2, &err), err);
        check(dev, "w_hat", &w_hat, cases[k].w_hat, off);
        check(dev, "dw", &dw, cases[k].dw, 0.0);
        check(dev, "ds", &ds, cases[k].ds, 1e-6);
        check(dev, "dz", &dz, cases[k].dz, 1e-7);
        test_release_all(dev, &s, &z, &w_hat, &dw, &ds, &dz);
    }
    test_release_all(dev, &tw, &tg);
}

static void check_forward(const qy_device_t *dev, const setup_t *u, int bits)
{
    qy_error_t err = {0};
    double *want = test_zeros(u->o * u->i);
    for (int64_t i = 0; i < u->o * u->i; i++) {
        float s = step_of((float)u->s[i / u->n]), z = zero_of((float)u->z[i / u->n], bits);
        want[i] = test_round((double)((code_of((float)u->w[i], s, z, bits) - z) * s), dev->compute);
    }
    qy_tensor_t w_hat = test_put_2d(dev, dev->compute, u->o, u->i, NULL);
    test_ok(qy_fake_quant_fwd(dev, &w_hat, &u->tw, &u->ts, &u->tz, bits, &err), err);
    check(dev, "fake_quant_fwd", &w_hat, want, 0.0);
    test_release(dev, &w_hat);
    test_drop(want);
}

static void check_backward(const qy_device_t *dev, const setup_t *u, int bits, qy_dtype_t g_type)
{
    qy_error_t err = {0};
    int64_t n = u->o * u->i, groups = u->o * u->n_groups;
    double *g = test_random(n, 4, 1.0, g_type), *dw = test_zeros(n);
    double *ds = test_zeros(groups), *dz = test_zeros(groups), most_s = 0.0, most_z = 0.0;
    for (int64_t i = 0; i < n; i++) {
        int64_t j = i / u->n;
        float s = step_of((float)u->s[j]), z = zero_of((float)u->z[j], bits), w = (float)u->w[i];
        float c = code_of(w, s, z, bits);
        int inside = c == free_code(w, s, z);
        double ratio = inside ? (double)w / (double)s : 0.0;
        dw[i] = inside ? g[i] : 0.0;
        ds[j] += g[i] * ((double)(c - z) - ratio);
        dz[j] -= inside ? 0.0 : (double)s * g[i];
        most_s = fmax(most_s, fabs(g[i] * ((double)(c - z) - ratio)) + fabs(g[i] * ratio));
        most_z = fmax(most_z, (double)s * fabs(g[i]));
    }
    qy_tensor_t tg = test_put_2d(dev, g_type, u->o, u->i, g);
    qy_tensor_t tdw = test_put_2d(dev, QY_F32, u->o, u->i, NULL);
    qy_tensor_t tds = test_put_2d(dev, QY_F32, u->o, u->n_groups, NULL);
    qy_tensor_t tdz = test_put_2d(dev, QY_F32, u->o, u->n_groups, NULL);
    test_ok(qy_fake_quant_bwd(dev, &tdw, &tds, &tdz, &tg, &u->tw, &u->ts, &u->tz, bits, &err), err);
    const double root = sqrt((double)u->n) * test_epsilon(QY_F32);
    check(dev, "dw", &tdw, dw, 0.0);
    check(dev, "ds", &tds, ds, 4.0 * root * most_s);
    check(dev, "dz", &tdz, dz, 4.0 * root * most_z);
    if (g_type == QY_F32) { /* dw may take the place of dw_hat */
        test_ok(qy_fake_quant_bwd(dev, &tg, &tds, &tdz, &tg, &u->tw, &u->ts, &u->tz, bits, &err),
                err);
        check(dev, "dw in place", &tg, dw, 0.0);
    }
    test_release_all(dev, &tg, &tdw, &tds, &tdz);
    test_drop(g, dw, ds, dz);
}

static void fake_quant(const qy_device_t *dev)
{
    static const int widths[] = {2, 3, 4, 8};
    for (int k = 0; k < N_SHAPES; k++) {
        setup_t u;
        set_up(&u, dev, shapes[k]);
        for (size_t b = 0; b < sizeof widths / sizeof *widths; b++) {
            check_forward(dev, &u, widths[b]);
            check_backward(dev, &u, widths[b], QY_F32);
            check_backward(dev, &u, widths[b], dev->compute);
        }
        tear_down(&u, dev);
    }
}

/* Start of one group, from the contract. */
static void start_group(double *s_out, double *z_out, const double *w, int64_t n, int bits,
                        int symmetric, int least_squares)
{
    const float q = (float)((1 << bits) - 1), middle = (float)(1 << (bits - 1));
    float lo = 0.0f, hi = 0.0f;
    double best = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        lo = fminf(lo, (float)w[i]);
        hi = fmaxf(hi, (float)w[i]);
    }
    for (int i = 0; i < (least_squares ? 60 : 1); i++) {
        const float f = (float)(1.0 - 0.7 * i / 60.0);
        float s = symmetric ? fmaxf(hi, -lo) * f / (middle - 0.5f) : (hi - lo) * f / q;
        s = fmaxf(s, 1e-4f);
        float z = symmetric ? middle : clamp(nearbyintf(-lo * f / s), 0.0f, q);
        double error = 0.0;
        for (int64_t k = 0; k < n; k++) {
            float off = (code_of((float)w[k], s, z, bits) - z) * s - (float)w[k];
            error += (double)off * (double)off;
        }
        if (error < best) {
            best = error;
            *s_out = (double)s;
            *z_out = (double)z;
        }
    }
}

static void start(const qy_device_t *dev)
{
    qy_error_t err = {0};
    for (int k = 0; k < N_SHAPES; k++) {
        int64_t o = shapes[k][0], i = shapes[k][1], n_groups = shapes[k][2], n = i / n_groups;
        int64_t groups = o * n_groups;
        double *w = test_random(o * i, 5, 0.5, QY_F32), *s = test_zeros(groups);
        double *z = test_zeros(groups);
        for (int64_t j = 0; j < groups * n; j++) { /* one-sided, all zero and tiny groups */
            int64_t kind = j / n % 6;
            w[j] = kind == 1 ? fabs(w[j]) + 0.1 : kind == 2 ? -fabs(w[j]) : w[j];
            w[j] = test_round(kind == 3 ? 0.0 : kind == 4 ? w[j] * 1e-5 : w[j], QY_F32);
        }
        qy_tensor_t tw = test_put_2d(dev, QY_F32, o, i, w);
        qy_tensor_t ts = test_put_2d(dev, QY_F32, o, n_groups, NULL);
        qy_tensor_t tz = test_put_2d(dev, QY_F32, o, n_groups, NULL);
        for (int bits = 2; bits <= 8; bits++) {
            for (int mode = 0; mode < 4; mode++) {
                int symmetric = mode & 1, squares = mode >> 1;
                for (int64_t g = 0; g < groups; g++)
                    start_group(&s[g], &z[g], w + g * n, n, bits, symmetric, squares);
                test_ok(qy_quant_start(dev, &ts, &tz, &tw, bits, symmetric, squares, &err), err);
                check(dev, "start s", &ts, s, 0.0);
                check(dev, "start z", &tz, z, 0.0);
            }
        }
        test_release_all(dev, &tw, &ts, &tz);
        test_drop(w, s, z);
    }
}

/* Groups that do not straddle 0 are widened, one of zeros stays at the floor; see pitfalls there.
 */
static void start_edges(const qy_device_t *dev)
{
    const double w[] = {.5, .6, .7, .8, .02, .02, .02, .02, 0, 0, 0, 0, -.3, -.3, -.3, -.3};
    const double s[] = {(double)(.8f / 3), (double)(.02f / 3), (double)1e-4f, (double)(.3f / 3)};
    const double z[] = {0, 0, 0, 3};
    qy_error_t err = {0};
    qy_tensor_t tw = test_put_2d(dev, QY_F32, 4, 4, w), ts = test_put_2d(dev, QY_F32, 4, 1, NULL);
    qy_tensor_t tz = test_put_2d(dev, QY_F32, 4, 1, NULL);
    test_ok(qy_quant_start(dev, &ts, &tz, &tw, 2, 0, 0, &err), err);
    check(dev, "edge s", &ts, s, 0.0);
    check(dev, "edge z", &tz, z, 0.0);
    test_release_all(dev, &tw, &ts, &tz);
}

/* A NaN or infinite weight must not look like a good one. */
static void not_finite(const qy_device_t *dev)
{
    const double w[] = {NAN, 1, INFINITY, 1}, s[] = {1, 1}, z[] = {0, 0};
    qy_error_t err = {0};
    qy_tensor_t tw = test_put_2d(dev, QY_F32, 1, 4, w), ts = test_put_2d(dev, QY_F32, 1, 2, s);
    qy_tensor_t tz = test_put_2d(dev, QY_F32, 1, 2, z);
    qy_tensor_t w_hat = test_put_2d(dev, dev->compute, 1, 4, NULL);
    test_ok(qy_fake_quant_fwd(dev, &w_hat, &tw, &ts, &tz, 2, &err), err);
    double *got = test_get(dev, &w_hat);
    assert_true(isnan(got[0]) && got[1] == 1.0 && got[3] == 1.0);
    qy_tensor_t codes = test_put_2d(dev, QY_U32, 1, 1, NULL);
    qy_tensor_t s16 = test_put_2d(dev, QY_F32, 1, 2, NULL),
                zeros = test_put_2d(dev, QY_U8, 1, 2, NULL);
    test_ok(qy_quant_freeze(dev, &codes, &s16, &zeros, &tw, &ts, &tz, 2, &err), err);
    double *steps = test_get(dev, &s16);
    assert_true(isnan(steps[0]) && isnan(steps[1]));
    test_release_all(dev, &tw, &ts, &tz, &w_hat, &codes, &s16, &zeros);
    test_drop(got, steps);
}

static void bad_input(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    qy_tensor_t w = test_put_2d(dev, QY_F32, 2, 6, NULL), s = test_put_2d(dev, QY_F32, 2, 3, NULL);
    qy_tensor_t z = test_put_2d(dev, QY_F32, 2, 3, NULL),
                four = test_put_2d(dev, QY_F32, 2, 4, NULL);
    qy_tensor_t w_hat = test_put_2d(dev, c, 2, 6, NULL),
                codes = test_put_2d(dev, QY_U32, 2, 1, NULL);
    qy_tensor_t zeros = test_put_2d(dev, QY_U8, 2, 3, NULL),
                wide = test_put_2d(dev, QY_U32, 2, 2, NULL);
    qy_tensor_t ds = test_put_2d(dev, QY_F32, 2, 3, NULL);
    test_refused(qy_quant_start(dev, &four, &z, &w, 2, 0, 0, &err), QY_ERR_SHAPE, err);
    assert_string_equal(err.text, "quant_start: 4 groups do not divide 6 columns");
    test_refused(qy_quant_start(dev, &s, &four, &w, 2, 0, 0, &err), QY_ERR_SHAPE, err);
    test_refused(qy_quant_start(dev, &s, &z, &w, 1, 0, 0, &err), QY_ERR_ARG, err);
    test_refused(qy_fake_quant_fwd(dev, &w_hat, &w, &s, &z, 9, &err), QY_ERR_ARG, err);
    test_refused(qy_fake_quant_fwd(dev, &s, &w, &s, &z, 2, &err),
                 c == QY_F32 ? QY_ERR_SHAPE : QY_ERR_ARG, err);
    test_refused(qy_fake_quant_bwd(dev, &w, &ds, &s, &w, &w, &s, &z, 2, &err), QY_ERR_ARG, err);
    test_refused(qy_quant_freeze(dev, &wide, &ds, &zeros, &w, &s, &z, 2, &err), QY_ERR_SHAPE, err);
    test_refused(qy_quant_freeze(dev, &codes, &ds, &ds, &w, &s, &z, 2, &err), QY_ERR_ARG, err);
    test_refused(qy_dequant_fwd(dev, &w_hat, &codes, &s, &zeros, 6, 0, &err), QY_ERR_SHAPE, err);
    test_refused(qy_dequant_bwd(dev, &four, &w_hat, &codes, &zeros, 2, 0, &err), QY_ERR_SHAPE, err);
    double *untouched = test_get(dev, &ds);
    assert_true(isnan(untouched[0]));
    test_release_all(dev, &w, &s, &z, &four, &w_hat, &codes, &zeros, &wide, &ds);
    test_drop(untouched);
}

TEST_ON_DEVICES(golden)
TEST_ON_DEVICES(fake_quant)
TEST_ON_DEVICES(start)
TEST_ON_DEVICES(start_edges)
TEST_ON_DEVICES(not_finite)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),     cmocka_unit_test(test_fake_quant),
        cmocka_unit_test(test_start),      cmocka_unit_test(test_start_edges),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
