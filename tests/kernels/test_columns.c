/* Mixed columns by an integer plan and its transpose, and ranges of columns. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/columns.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

/* Three of six channels merged into one by their mean, one kept, one split into two halves. */
static const double offsets[] = {0, 1, 4, 5, 6, 7}, items[] = {1, 0, 3, 4, 2, 5, 5, 0};
static const double weights[] = {1, 1.0 / 3, 1.0 / 3, 1.0 / 3, 1, .5, .5, 0};
enum { C = 6, J = 5, K = 8 };

static void mixed(const qy_device_t *dev)
{
    static const int64_t rows[] = {1, 17, 300};
    const qy_dtype_t types[] = {QY_F32, dev->compute};
    qy_error_t err = {0};
    for (int t = 0; t < 2; t++)
        for (int r = 0; r < 3; r++) {
            int64_t m = rows[r];
            double *x = test_random(m * C, 5, 4.0, types[t]), *y = test_zeros(m * J);
            for (int64_t i = 0; i < m; i++)
                for (int j = 0; j < J; j++)
                    for (int k = (int)offsets[j]; k < (int)offsets[j + 1]; k++)
                        y[i * J + j] += weights[k] * x[i * C + (int)items[k]];
            qy_tensor_t tx = test_put_2d(dev, types[t], m, C, x);
            qy_tensor_t ty = test_put_2d(dev, types[t], m, J, NULL);
            qy_tensor_t to = test_put_1d(dev, QY_I32, J + 1, offsets);
            qy_tensor_t ti = test_put_1d(dev, QY_I32, K, items);
            qy_tensor_t tw = test_put_1d(dev, QY_F32, K, weights);
            test_ok(qy_column_mix(dev, &ty, &tx, &to, &ti, &tw, &err), err);
            double *got = test_get(dev, &ty);
            test_close("mix", got, y, m * J, 4 * test_epsilon(types[t]) * 4.0);
            test_release_all(dev, &tx, &ty, &to, &ti, &tw);
            test_drop(x, y, got);
        }
}

static void ranges(const qy_device_t *dev)
{
    static const int64_t shapes[][2] = {{1, 1}, {5, 33}, {40, 300}, {130, 32}};
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    for (int k = 0; k < 4; k++) {
        int64_t m = shapes[k][0], d = shapes[k][1];
        double *x = test_random(2 * m * d, 6, 4.0, c), *lo = test_zeros(d), *hi = test_zeros(d);
        for (int64_t j = 0; j < d; j++) {
            lo[j] = INFINITY;
            hi[j] = -INFINITY;
            for (int64_t i = 0; i < 2 * m; i++) {
                lo[j] = fmin(lo[j], x[i * d + j]);
                hi[j] = fmax(hi[j], x[i * d + j]);
            }
        }
        qy_tensor_t a = test_put_2d(dev, c, m, d, x), b = test_put_2d(dev, c, m, d, x + m * d);
        qy_tensor_t tl = test_put_1d(dev, QY_F32, d, NULL), th = test_put_1d(dev, QY_F32, d, NULL);
        test_ok(qy_column_range(dev, &tl, &th, &a, 0, &err), err);
        test_ok(qy_column_range(dev, &tl, &th, &b, 1, &err), err);
        double *got_lo = test_get(dev, &tl), *got_hi = test_get(dev, &th);
        test_equal("lo", got_lo, lo, d);
        test_equal("hi", got_hi, hi, d);
        test_release_all(dev, &a, &b, &tl, &th);
        test_drop(x, lo, hi, got_lo, got_hi);
    }
}

static void bad_input(const qy_device_t *dev)
{
    qy_error_t err = {0};
    qy_tensor_t x = test_put_2d(dev, QY_F32, 2, C, NULL), y = test_put_2d(dev, QY_F32, 2, J, NULL);
    qy_tensor_t o = test_put_1d(dev, QY_I32, J + 1, offsets),
                i = test_put_1d(dev, QY_I32, K, items);
    qy_tensor_t w = test_put_1d(dev, QY_F32, K, weights), f = test_put_1d(dev, QY_F32, K - 1, NULL);
    test_refused(qy_column_mix(dev, &y, &x, &i, &i, &w, &err), QY_ERR_SHAPE, err);
    test_refused(qy_column_mix(dev, &y, &x, &o, &i, &f, &err), QY_ERR_SHAPE, err);
    test_refused(qy_column_mix(dev, &y, &x, &o, &w, &w, &err), QY_ERR_ARG, err);
    test_refused(qy_column_mix(dev, &x, &x, &o, &i, &w, &err), QY_ERR_SHAPE, err);
    test_refused(qy_column_range(dev, &w, &f, &x, 0, &err), QY_ERR_SHAPE, err);
    test_release_all(dev, &x, &y, &o, &i, &w, &f);
}

TEST_ON_DEVICES(mixed)
TEST_ON_DEVICES(ranges)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
