/* Low-rank corrections against f64; a correction of nothing; f32 weights for merging. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/low_rank.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

static void corrected(const qy_device_t *dev)
{
    static const int64_t shapes[][3] = {{1, 1, 1}, {5, 33, 4}, {17, 64, 8}, {9, 1030, 8}};
    const qy_dtype_t types[] = {QY_F32, dev->compute};
    const qy_dtype_t compute = dev->compute;
    qy_error_t err = {0};
    for (int k = 0; k < 8; k++) {
        int64_t o = shapes[k / 2][0], n = shapes[k / 2][1], r = shapes[k / 2][2];
        qy_dtype_t type = types[k % 2];
        double *w = test_random(o * n, 1, 1.0, type), *a = test_random(r * n, 2, 1.0, QY_F32);
        double *b = test_random(o * r, 3, 1.0, QY_F32), *want = test_zeros(o * n);
        double *a_scaled = test_zeros(r * n), *b_scaled = test_zeros(o * r);
        for (int64_t i = 0; i < o * n; i++) {
            for (int64_t q = 0; q < r; q++)
                want[i] += .25 * b[i / n * r + q] * a[q * n + i % n];
            want[i] += w[i];
        }
        for (int64_t i = 0; i < r * n; i++)
            a_scaled[i] = test_round(.25 * a[i], compute);
        for (int64_t i = 0; i < o * r; i++)
            b_scaled[i] = test_round(.25 * b[i], compute);
        qy_tensor_t tw = test_put_2d(dev, type, o, n, w), ta = test_put_2d(dev, QY_F32, r, n, a);
        qy_tensor_t tb = test_put_2d(dev, QY_F32, o, r, b);
        qy_tensor_t tas = test_put_2d(dev, compute, r, n, NULL);
        qy_tensor_t tbs = test_put_2d(dev, compute, o, r, NULL);
        test_ok(qy_low_rank_fwd(dev, &tw, &tas, &tbs, &tw, &ta, &tb, .25f, &err), err);
        double *got = test_get(dev, &tw), *got_a = test_get(dev, &tas),
               *got_b = test_get(dev, &tbs);
        test_close("w", got, want, o * n, test_tolerance(4.0, type, 1, want, o * n));
        test_equal("a", got_a, a_scaled, r * n);
        test_equal("b", got_b, b_scaled, o * r);
        test_release_all(dev, &tw, &ta, &tb, &tas, &tbs);
        test_drop(w, a, b, want, a_scaled, b_scaled, got, got_a, got_b);
    }
}

/* b = 0, as training starts: the weights, to the bit. */
static void nothing(const qy_device_t *dev)
{
    enum { O = 6, N = 40, R = 8 };
    qy_error_t err = {0};
    double *w = test_random(O * N, 1, 1.0, dev->compute), *a = test_random(R * N, 2, 9.0, QY_F32);
    double *b = test_zeros(O * R);
    qy_tensor_t tw = test_put_2d(dev, dev->compute, O, N, w),
                ta = test_put_2d(dev, QY_F32, R, N, a);
    qy_tensor_t tb = test_put_2d(dev, QY_F32, O, R, b);
    test_ok(qy_low_rank_fwd(dev, &tw, NULL, NULL, &tw, &ta, &tb, .25f, &err), err);
    double *got = test_get(dev, &tw);
    test_equal("w", got, w, O * N);
    test_refused(qy_low_rank_fwd(dev, &tw, &tw, NULL, &tw, &ta, &tb, .25f, &err), QY_ERR_ARG, err);
    test_refused(qy_low_rank_fwd(dev, &tw, NULL, NULL, &tw, &ta, &ta, .25f, &err), QY_ERR_SHAPE,
                 err);
    test_release_all(dev, &tw, &ta, &tb);
    test_drop(w, a, b, got);
}

TEST_ON_DEVICES(corrected)
TEST_ON_DEVICES(nothing)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_corrected),
        cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
