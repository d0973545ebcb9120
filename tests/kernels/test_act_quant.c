/* Activation quantizers: golden rows, random ones against f64, rows without a range, aliasing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/act_quant.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

/* One row of a device: dq and the gradient for g. */
static void row(const qy_device_t *dev, const double *x, const double *g, int64_t n, int bits,
                double **y, double **dx)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    qy_tensor_t tx = test_put_2d(dev, c, 1, n, x), ty = test_put_2d(dev, c, 1, n, NULL);
    qy_tensor_t td = test_put_2d(dev, c, 1, n, g);
    test_ok(qy_act_quant_fwd(dev, &ty, &tx, bits, &err), err);
    test_ok(qy_act_quant_bwd(dev, &td, &td, &tx, bits, &err), err);
    *y = test_get(dev, &ty);
    *dx = test_get(dev, &td);
    test_release_all(dev, &tx, &ty, &td);
}

typedef struct {
    double x[4], y[4], dx[4]; /* g = 1, 2, 3, 4 at 4 bits */
} golden_t;

/* Published function, run by its authors' code; the second row's z is −10, the fourth is one point.
 */
static const golden_t golden[] = {
    {{-1, .25, .75, 6.5}, {-1, 0, 1, 6.5}, {1 - 1.0 / 30, 2, 3, 4 + 1.0 / 30}},
    {{2, 3, 4, 5}, {2, 3, 4, 5}, {1, 2, 3, 4}},
    {{3, 3, .4, -1.5}, {3, 3, .3, -1.5}, {.96666667, 1.96666667, 3, 4.06666667}},
    {{2.5, 2.5, 2.5, 2.5}, {2.5, 2.5, 2.5, 2.5}, {1, 2, 3, 4}},
    {{0, 0, 0, 0}, {0, 0, 0, 0}, {1, 2, 3, 4}},
};
enum { N_GOLDEN = sizeof golden / sizeof *golden };

static void goldens(const qy_device_t *dev)
{
    const double g[] = {1, 2, 3, 4};
    for (int i = 0; i < N_GOLDEN; i++) {
        double *y, *dx;
        row(dev, golden[i].x, g, 4, 4, &y, &dx);
        test_close("golden y", y, golden[i].y, 4, 4 * test_epsilon(dev->compute) * 6.5);
        test_close("golden dx", dx, golden[i].dx, 4, 4 * test_epsilon(dev->compute) * 4);
        test_drop(y, dx);
    }
}

/* The contract in f64, with the step as f32 has it, so that both round the same numbers. */
static void reference(double *y, double *dx, const double *x, const double *g, int64_t n, int bits)
{
    double lo = x[0], hi = x[0], q = (double)((1 << bits) - 1), sum = 0, n_lo = 0, n_hi = 0;
    for (int64_t i = 0; i < n; i++) {
        lo = fmin(lo, x[i]);
        hi = fmax(hi, x[i]);
    }
    double raw = (double)((float)(hi - lo) / (float)q), z = rint(fmax(-1e4, fmin(1e4, -lo / raw)));
    double s = fmax((double)1e-5f, fmin(1e4, raw));
    for (int64_t i = 0; i < n; i++) {
        double u = rint(x[i] / s) + z, code = fmax(0, fmin(q, u));
        y[i] = (code - z) * s;
        sum += g[i] * (u == code ? rint(x[i] / s) - x[i] / s : code - z);
        n_lo += x[i] == lo;
        n_hi += x[i] == hi;
    }
    double slope = s == raw ? sum / q : 0;
    for (int64_t i = 0; i < n; i++) {
        double u = rint(x[i] / s) + z;
        dx[i] = (u >= 0 && u <= q ? g[i] : 0) + (x[i] == hi ? slope / n_hi : 0) -
                (x[i] == lo ? slope / n_lo : 0);
    }
}

static void random_rows(const qy_device_t *dev)
{
    static const int64_t shapes[][2] = {{1, 2}, {3, 7}, {5, 64}, {4, 1024}, {3, 1027}, {2, 5000}};
    static const int bits[] = {3, 4, 6, 8};
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    for (int k = 0; k < 6; k++) {
        int64_t m = shapes[k][0], d = shapes[k][1], n = m * d;
        double *x = test_random(n, 11, 3.0, c), *g = test_random(n, 12, 1.0, c);
        double *y = test_zeros(n), *dx = test_zeros(n);
        for (int64_t i = 0; i < n; i += 3) /* ranges that do not hold 0, ties at the ends */
            x[i] = test_round(x[i] < 0 ? 5.5 : 9.0, c);
        for (int b = 0; b < 4; b++) {
            for (int64_t r = 0; r < m; r++)
                reference(y + r * d, dx + r * d, x + r * d, g + r * d, d, bits[b]);
            qy_tensor_t tx = test_put_2d(dev, c, m, d, x), tg = test_put_2d(dev, c, m, d, g);
            qy_tensor_t td = test_put_2d(dev, c, m, d, NULL);
            test_ok(qy_act_quant_bwd(dev, &td, &tg, &tx, bits[b], &err), err);
            test_ok(qy_act_quant_fwd(dev, &tx, &tx, bits[b], &err), err);
            double *got_y = test_get(dev, &tx), *got_dx = test_get(dev, &td);
            test_close("y", got_y, y, n, 2 * test_epsilon(c) * 9.0);
            test_close("dx", got_dx, dx, n, test_tolerance(8.0, c, d, dx, n));
            test_release_all(dev, &tx, &tg, &td);
            test_drop(got_y, got_dx);
        }
        test_drop(x, g, y, dx);
    }
}

/* A step below its least value passes no gradient; a NaN stays one; an infinity spoils its row. */
static void far_rows(const qy_device_t *dev)
{
    const double tiny[] = {0, 3e-5, 6e-5, 9e-5}, g[] = {1, 2, 3, 4};
    const double nan[] = {1, NAN, 3, 4}, inf[] = {1, 2, INFINITY, 4};
    double *y, *dx;
    row(dev, tiny, g, 4, 4, &y, &dx);
    test_equal("tiny dx", dx, g, 4);
    test_drop(y, dx);
    row(dev, nan, g, 4, 4, &y, &dx);
    assert_true(isnan(y[1]) && y[0] == 1 && y[3] == 4);
    test_drop(y, dx);
    row(dev, inf, g, 4, 4, &y, &dx);
    for (int i = 0; i < 4; i++)
        assert_true(isnan(y[i]));
    test_drop(y, dx);
}

static void bad_input(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    qy_tensor_t a = test_put_2d(dev, c, 2, 8, NULL), b = test_put_2d(dev, c, 2, 7, NULL);
    qy_tensor_t i = test_put_2d(dev, QY_I32, 2, 8, NULL);
    test_refused(qy_act_quant_fwd(dev, &b, &a, 4, &err), QY_ERR_SHAPE, err);
    test_refused(qy_act_quant_fwd(dev, &a, &i, 4, &err), QY_ERR_ARG, err);
    test_refused(qy_act_quant_fwd(dev, &a, &a, 9, &err), QY_ERR_ARG, err);
    test_refused(qy_act_quant_bwd(dev, &a, &b, &a, 4, &err), QY_ERR_SHAPE, err);
    test_refused(qy_act_quant_bwd(dev, &a, &a, &a, 4, &err), QY_ERR_ARG, err);
    test_release_all(dev, &a, &b, &i);
}

TEST_ON_DEVICES(goldens)
TEST_ON_DEVICES(random_rows)
TEST_ON_DEVICES(far_rows)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_random_rows),
        cmocka_unit_test(test_far_rows),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
