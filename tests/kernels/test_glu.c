/* SiLU-gated product and ReLU against f64, far arguments, aliasing; the CPU's exp to the last
 * place. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/vexp.h"
#include "kernels/glu.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/reference64.h"

static const int64_t sizes[] = {1, 7, 33, 4096, 4097, 512 * 512};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

/* Every 97th of all f32 numbers: at most 2 units in the last place of the result. */
static void test_exp(void **state)
{
    (void)state;
    double worst = 0.0;
    for (uint64_t u = 0; u < UINT64_C(1) << 32; u += 97) {
        uint32_t bits = (uint32_t)u;
        float x;
        memcpy(&x, &bits, sizeof x);
        float got = qy_exp(x);
        if (isnan(x)) {
            assert_true(isnan(got));
            continue;
        }
        double want = exp((double)x);
        if (want > 3.4028235677973366e38) {
            assert_true(isinf(got));
            continue;
        }
        double unit = ldexp(1.0, want < 0x1p-126 ? -149 : ilogb(want) - 23);
        worst = fmax(worst, fabs((double)got - want) / unit);
    }
    print_message("exp: %.3f units in the last place\n", worst);
    assert_true(worst <= 2.0);
    assert_true(qy_exp(0.0f) == 1.0f);
    assert_true(qy_exp(-INFINITY) == 0.0f);
    assert_true(isinf(qy_exp(INFINITY)));
}

static void check(const qy_device_t *dev, const char *what, qy_tensor_t *t, const double *want)
{
    int64_t n = qy_tensor_count(t);
    double *got = test_get(dev, t);
    test_close(what, got, want, n, test_tolerance(8.0, t->dtype, 1, want, n));
    test_release(dev, t);
    test_drop(got);
}

static void silu(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    for (int s = 0; s < N_SIZES; s++) {
        int64_t n = sizes[s];
        double *gate = test_random(n, 1, 8.0, c), *up = test_random(n, 2, 2.0, c);
        double *dy = test_random(n, 3, 1.0, c), *y = test_zeros(n), *dgate = test_zeros(n);
        double *dup = test_zeros(n);
        qy_tensor_t tg = test_put_1d(dev, c, n, gate), tu = test_put_1d(dev, c, n, up);
        qy_tensor_t tdy = test_put_1d(dev, c, n, dy), ty = test_put_1d(dev, c, n, NULL);
        qy_tensor_t tdg = test_put_1d(dev, c, n, NULL), tdu = test_put_1d(dev, c, n, NULL);
        test_ok(qy_silu_mul_fwd(dev, &ty, &tg, &tu, &err), err);
        test_ok(qy_silu_mul_bwd(dev, &tdg, &tdu, &tdy, &tg, &tu, &err), err);
        test_ok(qy_silu_mul_bwd(dev, &tg, &tu, &tdy, &tg, &tu, &err), err);
        ref_silu_mul_fwd(y, gate, up, n);
        ref_silu_mul_bwd(dgate, dup, dy, gate, up, n);
        check(dev, "silu y", &ty, y);
        check(dev, "silu dgate", &tdg, dgate);
        check(dev, "silu dup", &tdu, dup);
        check(dev, "silu dgate in place", &tg, dgate);
        check(dev, "silu dup in place", &tu, dup);
        test_release(dev, &tdy);
        test_drop(gate, up, dy, y, dgate, dup);
    }
}

/* Far gates saturate without infinities, and a NaN stays one. */
static void silu_far(const qy_device_t *dev)
{
    const double gate[] = {-100.0, -1000.0, -20000.0, 100.0, 1000.0, 0.0, NAN};
    const double up[] = {1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 1.0};
    const double y[] = {0.0, 0.0, 0.0, 200.0, 2000.0, 0.0, NAN};
    const double dgate[] = {0.0, 0.0, 0.0, 2.0, 2.0, 1.5, NAN};
    enum { N = sizeof gate / sizeof *gate };
    const double ones[N] = {1, 1, 1, 1, 1, 1, 1};
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    qy_tensor_t tg = test_put_1d(dev, c, N, gate), tu = test_put_1d(dev, c, N, up);
    qy_tensor_t ty = test_put_1d(dev, c, N, NULL), td = test_put_1d(dev, c, N, ones);
    test_ok(qy_silu_mul_fwd(dev, &ty, &tg, &tu, &err), err);
    test_ok(qy_silu_mul_bwd(dev, &tg, &tu, &td, &tg, &tu, &err), err);
    double *got_y = test_get(dev, &ty), *got_dgate = test_get(dev, &tg);
    test_close("far y", got_y, y, N, 1e-20);
    test_close("far dgate", got_dgate, dgate, N, 1e-20);
    test_release_all(dev, &tg, &tu, &ty, &td);
    test_drop(got_y, got_dgate);
}

static void relu(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    for (int s = 0; s < N_SIZES; s++) {
        int64_t n = sizes[s];
        double *x = test_whole(n, 1, 3), *dy = test_random(n, 2, 1.0, c);
        double *y = test_zeros(n), *dx = test_zeros(n);
        for (int64_t i = 0; i < n; i++) {
            y[i] = x[i] > 0.0 ? x[i] : 0.0;
            dx[i] = x[i] > 0.0 ? dy[i] : 0.0;
        }
        qy_tensor_t tx = test_put_1d(dev, c, n, x), tdy = test_put_1d(dev, c, n, dy);
        test_ok(qy_relu_fwd(dev, &tx, &tx, &err), err);
        test_ok(qy_relu_bwd(dev, &tdy, &tdy, &tx, &err), err);
        double *got_y = test_get(dev, &tx), *got_dx = test_get(dev, &tdy);
        test_equal("relu y", got_y, y, n);
        test_equal("relu dx", got_dx, dx, n);
        test_release_all(dev, &tx, &tdy);
        test_drop(x, dy, y, dx, got_y, got_dx);
    }
    const double far[] = {INFINITY, -INFINITY, NAN}, want[] = {INFINITY, 0.0, NAN};
    qy_tensor_t t = test_put_1d(dev, c, 3, far);
    test_ok(qy_relu_fwd(dev, &t, &t, &err), err);
    double *got = test_get(dev, &t);
    test_equal("relu far", got, want, 3);
    test_release(dev, &t);
    test_drop(got);
}

static void bad_input(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    qy_tensor_t a = test_put_1d(dev, c, 8, NULL), b = test_put_1d(dev, c, 7, NULL);
    qy_tensor_t d = test_put_1d(dev, c, 8, NULL), i = test_put_1d(dev, QY_I32, 8, NULL);
    test_refused(qy_silu_mul_fwd(dev, &a, &d, &b, &err), QY_ERR_SHAPE, err);
    test_refused(qy_silu_mul_fwd(dev, &a, &i, &d, &err), QY_ERR_ARG, err);
    test_refused(qy_silu_mul_bwd(dev, &a, &a, &d, &d, &d, &err), QY_ERR_ARG, err);
    test_refused(qy_silu_mul_bwd(dev, &a, &b, &d, &d, &d, &err), QY_ERR_SHAPE, err);
    test_refused(qy_relu_fwd(dev, &a, &b, &err), QY_ERR_SHAPE, err);
    test_refused(qy_relu_bwd(dev, &a, &d, &b, &err), QY_ERR_SHAPE, err);
    test_release_all(dev, &a, &b, &d, &i);
}

TEST_ON_DEVICES(silu)
TEST_ON_DEVICES(silu_far)
TEST_ON_DEVICES(relu)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),       cmocka_unit_test(test_silu),
        cmocka_unit_test(test_silu_far),  cmocka_unit_test(test_relu),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
