/* Linear layers: exact with whole numbers, random against f64, refusals, tiles of every size. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/linear.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/reference64.h"

/* M, O, I: single, odd, one more than the CPU's tiles, those of the tiny model. */
static const int64_t cases[][3] = {{1, 1, 1},      {3, 5, 7},     {129, 3, 33},   {2, 257, 65},
                                   {130, 300, 20}, {5, 129, 513}, {64, 256, 512}, {512, 128, 256}};
enum { N_CASES = sizeof cases / sizeof *cases };

typedef struct {
    int64_t m, o, i;
    double *x, *w, *b, *dy, *y, *dx, *dw, *dx0;
    qy_tensor_t tx, tw, tb, tdy;
} setup_t;

static void set_up(setup_t *s, const qy_device_t *dev, const int64_t shape[3], int whole)
{
    const qy_dtype_t c = dev->compute;
    int64_t m = shape[0], o = shape[1], i = shape[2];
    *s = (setup_t){.m = m, .o = o, .i = i};
    s->x = whole ? test_whole(m * i, 1, 2) : test_random(m * i, 1, 1.0, c);
    s->w = whole ? test_whole(o * i, 2, 2) : test_random(o * i, 2, 1.0, c);
    s->b = whole ? test_whole(o, 3, 8) : test_random(o, 3, 1.0, c);
    s->dy = whole ? test_whole(m * o, 4, 2) : test_random(m * o, 4, 1.0, c);
    s->dx0 = whole ? test_whole(m * i, 5, 8) : test_random(m * i, 5, 1.0, c);
    s->y = test_zeros(m * o);
    s->dx = test_zeros(m * i);
    s->dw = test_zeros(o * i);
    s->tx = test_put_2d(dev, c, m, i, s->x);
    s->tw = test_put_2d(dev, c, o, i, s->w);
    s->tb = test_put_1d(dev, c, o, s->b);
    s->tdy = test_put_2d(dev, c, m, o, s->dy);
}

static void tear_down(setup_t *s, const qy_device_t *dev)
{
    test_release_all(dev, &s->tx, &s->tw, &s->tb, &s->tdy);
    test_drop(s->x, s->w, s->b, s->dy, s->y, s->dx, s->dw, s->dx0);
}

/* Whole numbers stay exact in f32 sums, and in f16 and bf16 results that are f32. */
static double tolerance(const qy_device_t *dev, qy_dtype_t out, int whole, int64_t k,
                        const double *want, int64_t n)
{
    if (whole && (out == QY_F32 || dev->compute == QY_F32))
        return 0.0;
    return test_tolerance(2.0, QY_F32, k, want, n) +
           (out == QY_F32 ? 0.0 : test_tolerance(1.0, out, 1, want, n));
}

static void check_fwd(const qy_device_t *dev, setup_t *s, qy_dtype_t out, int biased, int whole)
{
    qy_error_t err = {0};
    int64_t n = s->m * s->o;
    qy_tensor_t y = test_put_2d(dev, out, s->m, s->o, NULL);
    test_ok(qy_linear_fwd(dev, &y, &s->tx, &s->tw, biased ? &s->tb : NULL, &err), err);
    double *got = test_get(dev, &y);
    ref_linear_fwd(s->y, s->x, s->w, biased ? s->b : NULL, s->m, s->o, s->i);
    test_close("linear_fwd", got, s->y, n, tolerance(dev, out, whole, s->i, s->y, n));
    test_release(dev, &y);
    test_drop(got);
}

static void check_bwd_x(const qy_device_t *dev, setup_t *s, int accumulate, int whole)
{
    qy_error_t err = {0};
    int64_t n = s->m * s->i;
    qy_tensor_t dx = test_put_2d(dev, dev->compute, s->m, s->i, accumulate ? s->dx0 : NULL);
    test_ok(qy_linear_bwd_x(dev, &dx, &s->tdy, &s->tw, accumulate, &err), err);
    double *got = test_get(dev, &dx);
    ref_linear_bwd_x(s->dx, s->dy, s->w, s->m, s->o, s->i);
    for (int64_t i = 0; accumulate && i < n; i++)
        s->dx[i] += s->dx0[i];
    test_close("linear_bwd_x", got, s->dx, n, tolerance(dev, dev->compute, whole, s->o, s->dx, n));
    test_release(dev, &dx);
    test_drop(got);
}

static void check_bwd_w(const qy_device_t *dev, setup_t *s, qy_dtype_t out, int whole)
{
    qy_error_t err = {0};
    int64_t n = s->o * s->i;
    qy_tensor_t dw = test_put_2d(dev, out, s->o, s->i, NULL);
    test_ok(qy_linear_bwd_w(dev, &dw, &s->tdy, &s->tx, &err), err);
    double *got = test_get(dev, &dw);
    ref_linear_bwd_w(s->dw, s->dy, s->x, s->m, s->o, s->i);
    test_close("linear_bwd_w", got, s->dw, n, tolerance(dev, out, whole, s->m, s->dw, n));
    test_release(dev, &dw);
    test_drop(got);
}

static void products(const qy_device_t *dev)
{
    for (int k = 0; k < N_CASES; k++) {
        for (int whole = 0; whole < 2; whole++) {
            setup_t s;
            set_up(&s, dev, cases[k], whole);
            for (int flag = 0; flag < 2; flag++) {
                qy_dtype_t out = flag ? dev->compute : QY_F32;
                check_fwd(dev, &s, out, flag, whole);
                check_bwd_x(dev, &s, flag, whole);
                check_bwd_w(dev, &s, out, whole);
            }
            tear_down(&s, dev);
        }
    }
}

static void bad_input(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    qy_tensor_t x = test_put_2d(dev, c, 4, 6, NULL), w = test_put_2d(dev, c, 5, 6, NULL);
    qy_tensor_t y = test_put_2d(dev, c, 4, 5, NULL), bad = test_put_2d(dev, c, 5, 7, NULL);
    qy_tensor_t b = test_put_1d(dev, c, 4, NULL), i = test_put_2d(dev, QY_I32, 4, 6, NULL);
    test_refused(qy_linear_fwd(dev, &y, &x, &bad, NULL, &err), QY_ERR_SHAPE, err);
    assert_string_equal(err.text, "linear_fwd: w is (5, 7), expected (5, 6)");
    test_refused(qy_linear_fwd(dev, &y, &x, &w, &b, &err), QY_ERR_SHAPE, err);
    test_refused(qy_linear_fwd(dev, &bad, &x, &w, NULL, &err), QY_ERR_SHAPE, err);
    test_refused(qy_linear_fwd(dev, &y, &i, &w, NULL, &err), QY_ERR_ARG, err);
    test_refused(qy_linear_fwd(dev, &y, &x, NULL, NULL, &err), QY_ERR_ARG, err);
    test_refused(qy_linear_bwd_x(dev, &x, &y, &bad, 0, &err), QY_ERR_SHAPE, err);
    test_refused(qy_linear_bwd_x(dev, &y, &y, &w, 0, &err), QY_ERR_SHAPE, err);
    test_refused(qy_linear_bwd_w(dev, &bad, &y, &x, &err), QY_ERR_SHAPE, err);
    qy_tensor_t square = test_put_2d(dev, c, 4, 4, NULL), eye = test_put_2d(dev, c, 4, 4, NULL);
    test_refused(qy_linear_fwd(dev, &square, &square, &eye, NULL, &err), QY_ERR_ARG, err);
    int64_t huge = INT64_C(1) << 31;
    qy_tensor_t tall = qy_tensor_2d(x.data, c, huge, 6), out = qy_tensor_2d(y.data, c, huge, 5);
    test_refused(qy_linear_fwd(dev, &out, &tall, &w, NULL, &err), QY_ERR_SHAPE, err);
    double *untouched = test_get(dev, &y);
    assert_true(isnan(untouched[0]) && isnan(untouched[19]));
    test_release_all(dev, &x, &w, &y, &bad, &b, &i, &square, &eye);
    test_drop(untouched);
}

TEST_ON_DEVICES(products)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
