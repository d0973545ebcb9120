/* fill, convert, add, embedding. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/fill.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

static const int64_t sizes[] = {1, 2, 7, 255, 4096, 4097, 10000};
enum { N_SIZES = sizeof sizes / sizeof *sizes };
static const qy_dtype_t floats[] = {QY_F32, QY_F16, QY_BF16};

static void fill(const qy_device_t *dev)
{
    static const qy_dtype_t types[] = {QY_F32, QY_F16, QY_BF16, QY_I32, QY_I64, QY_U32, QY_U8};
    qy_error_t err = {0};
    for (size_t d = 0; d < sizeof types / sizeof *types; d++) {
        for (int s = 0; s < N_SIZES; s++) {
            double *want = test_zeros(sizes[s]);
            for (int64_t i = 0; i < sizes[s]; i++)
                want[i] = 3.0;
            qy_tensor_t y = test_put_1d(dev, types[d], sizes[s], NULL);
            test_ok(qy_fill(dev, &y, 3.0f, &err), err);
            double *got = test_get(dev, &y);
            test_equal("fill", got, want, sizes[s]);
            test_release(dev, &y);
            test_drop(got, want);
        }
    }
}

/* Every pair of float types; the f32 numbers do not fit the halves, so rounding shows. */
static void convert(const qy_device_t *dev)
{
    qy_error_t err = {0};
    for (int a = 0; a < 3; a++) {
        for (int b = 0; b < 3; b++) {
            for (int s = 0; s < N_SIZES; s++) {
                int64_t n = sizes[s];
                double *x = test_random(n, (uint64_t)s, 100.0, floats[a]), *want = test_zeros(n);
                for (int64_t i = 0; i < n; i++)
                    want[i] = test_round(x[i], floats[b]);
                qy_tensor_t from = test_put_1d(dev, floats[a], n, x);
                qy_tensor_t to = test_put_1d(dev, floats[b], n, NULL);
                test_ok(qy_convert(dev, &to, &from, &err), err);
                double *got = test_get(dev, &to);
                test_equal("convert", got, want, n);
                test_release_all(dev, &from, &to);
                test_drop(x, want, got);
            }
        }
    }
}

static void convert_special(const qy_device_t *dev)
{
    const double x[] = {INFINITY, -INFINITY, NAN, 65519.0, 65520.0, -1e6, 0x1p-25, 0x1.8p-25, -0.0};
    const double want[] = {INFINITY,  -INFINITY, NAN,     65504.0, INFINITY,
                           -INFINITY, 0.0,       0x1p-24, 0.0};
    enum { N = sizeof x / sizeof *x };
    qy_tensor_t y = test_put_1d(dev, QY_F16, N, x); /* converts */
    double *got = test_get(dev, &y);
    test_equal("convert_special", got, want, N);
    assert_true(signbit(got[N - 1]));
    test_release(dev, &y);
    test_drop(got);
}

static void add(const qy_device_t *dev)
{
    qy_error_t err = {0};
    for (int d = 0; d < 3; d++) {
        for (int s = 0; s < N_SIZES; s++) {
            int64_t n = sizes[s];
            double *a = test_random(n, 1, 10.0, floats[d]), *b = test_random(n, 2, 10.0, floats[d]);
            double *want = test_zeros(n);
            for (int64_t i = 0; i < n; i++)
                want[i] = test_round((double)((float)a[i] + (float)b[i]), floats[d]);
            qy_tensor_t x = test_put_1d(dev, floats[d], n, a),
                        z = test_put_1d(dev, floats[d], n, b);
            qy_tensor_t y = test_put_1d(dev, floats[d], n, NULL);
            test_ok(qy_add(dev, &y, &x, &z, &err), err);
            test_ok(qy_add(dev, &x, &x, &z, &err), err);
            double *got = test_get(dev, &y), *in_place = test_get(dev, &x);
            test_equal("add", got, want, n);
            test_equal("add in place", in_place, want, n);
            test_release_all(dev, &x, &y, &z);
            test_drop(a, b, want, got, in_place);
        }
    }
}

static void embedding(const qy_device_t *dev)
{
    enum { V = 11 };
    static const int64_t cases[][2] = {{1, 1}, {5, 3}, {70, 33}, {129, 256}};
    qy_error_t err = {0};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int64_t m = cases[k][0], d = cases[k][1];
        double *table = test_whole(V * d, 1, 8), *y0 = test_whole(m * d, 2, 8);
        double *ids = test_zeros(m), *want = test_zeros(m * d);
        for (int64_t r = 0; r < m; r++)
            ids[r] = (double)((r * 7 + V - 1) % V);
        qy_tensor_t t = test_put_2d(dev, dev->compute, V, d, table);
        qy_tensor_t id = test_put_1d(dev, QY_I32, m, ids);
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            qy_tensor_t y = test_put_2d(dev, dev->compute, m, d, accumulate ? y0 : NULL);
            for (int64_t i = 0; i < m * d; i++)
                want[i] = table[(int64_t)ids[i / d] * d + i % d] + (accumulate ? y0[i] : 0.0);
            test_ok(qy_embedding_fwd(dev, &y, &t, &id, accumulate, &err), err);
            double *got = test_get(dev, &y);
            test_equal("embedding", got, want, m * d);
            test_release(dev, &y);
            test_drop(got);
        }
        test_release_all(dev, &t, &id);
        test_drop(table, y0, ids, want);
    }
}

static void bad_input(const qy_device_t *dev)
{
    qy_error_t err = {0};
    qy_tensor_t a = test_put_1d(dev, QY_F32, 8, NULL), b = test_put_1d(dev, QY_F32, 9, NULL);
    qy_tensor_t h = test_put_1d(dev, QY_F16, 8, NULL), i = test_put_1d(dev, QY_I32, 8, NULL);
    qy_tensor_t none = qy_tensor_1d(NULL, QY_F32, 8), empty = qy_tensor_1d(a.data, QY_F32, 0);
    qy_tensor_t over = qy_tensor_1d(a.data, QY_F16, 8);
    test_refused(qy_convert(dev, &b, &a, &err), QY_ERR_SHAPE, err);
    assert_string_equal(err.text, "convert: y is (9), expected (8)");
    test_refused(qy_convert(dev, &i, &a, &err), QY_ERR_ARG, err);
    assert_string_equal(err.text, "convert: y is i32, expected f32 or f16 or bf16");
    test_refused(qy_convert(dev, &over, &a, &err), QY_ERR_ARG, err);
    test_refused(qy_convert(dev, &a, NULL, &err), QY_ERR_ARG, err);
    test_refused(qy_fill(dev, &none, 1.0f, &err), QY_ERR_ARG, err);
    test_refused(qy_fill(dev, &empty, 1.0f, &err), QY_ERR_SHAPE, err);
    test_refused(qy_add(dev, &a, &a, &b, &err), QY_ERR_SHAPE, err);
    test_refused(qy_add(dev, &a, &a, &h, &err), QY_ERR_ARG, err);
    qy_tensor_t table = test_put_2d(dev, dev->compute, 4, 3, NULL);
    qy_tensor_t y = test_put_2d(dev, dev->compute, 8, 2, NULL);
    test_refused(qy_embedding_fwd(dev, &y, &table, &i, 0, &err), QY_ERR_SHAPE, err);
    assert_string_equal(err.text, "embedding_fwd: y is (8, 2), expected (8, 3)");
    test_refused(qy_embedding_fwd(dev, &y, &table, &a, 0, &err), QY_ERR_ARG, err);
    double *untouched = test_get(dev, &y);
    assert_true(isnan(untouched[0]) && isnan(untouched[15]));
    test_release_all(dev, &a, &b, &h, &i, &table, &y);
    test_drop(untouched);
}

TEST_ON_DEVICES(fill)
TEST_ON_DEVICES(convert)
TEST_ON_DEVICES(convert_special)
TEST_ON_DEVICES(add)
TEST_ON_DEVICES(embedding)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fill),
        cmocka_unit_test(test_convert),
        cmocka_unit_test(test_convert_special),
        cmocka_unit_test(test_add),
        cmocka_unit_test(test_embedding),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
