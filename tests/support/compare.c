#include "tests/support/compare.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/random.h"

double test_epsilon(qy_dtype_t dtype)
{
    switch (dtype) {
    case QY_F16:
        return 0x1p-10;
    case QY_BF16:
        return 0x1p-7;
    case QY_F64:
        return 0x1p-52;
    default:
        return 0x1p-23;
    }
}

double test_round(double x, qy_dtype_t dtype)
{
    switch (dtype) {
    case QY_F16:
        return (double)qy_f16_to_f32(qy_f32_to_f16((float)x));
    case QY_BF16:
        return (double)qy_bf16_to_f32(qy_f32_to_bf16((float)x));
    case QY_F64:
        return x;
    default:
        return (double)(float)x;
    }
}

double *test_zeros(int64_t n)
{
    double *x = calloc((size_t)n, sizeof *x);
    assert_non_null(x);
    return x;
}

double *test_random(int64_t n, uint64_t stream, double size, qy_dtype_t dtype)
{
    double *x = test_zeros(n);
    for (int64_t i = 0; i < n; i++) {
        uint64_t u = qy_random_u64(20, QY_PHASE_E2E, (uint64_t)i, stream);
        x[i] = test_round(size * ((double)(u >> 11) * 0x1p-52 - 1.0), dtype);
    }
    return x;
}

double *test_whole(int64_t n, uint64_t stream, int most)
{
    double *x = test_zeros(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)qy_random_below(21, QY_PHASE_E2E, (uint64_t)i, stream,
                                       (uint64_t)(2 * most + 1)) -
               most;
    return x;
}

double test_max_abs(const double *x, int64_t n)
{
    double max = 0.0;
    for (int64_t i = 0; i < n; i++)
        max = fmax(max, fabs(x[i]));
    return max;
}

void test_close(const char *what, const double *got, const double *want, int64_t n,
                double tolerance)
{
    for (int64_t i = 0; i < n; i++) {
        if (fabs(got[i] - want[i]) <= tolerance || got[i] == want[i] ||
            (isnan(got[i]) && isnan(want[i])))
            continue;
        fail_msg("%s: element %lld of %lld is %.9g, expected %.9g, off by %.3g, at most %.3g", what,
                 (long long)i, (long long)n, got[i], want[i], fabs(got[i] - want[i]), tolerance);
    }
}

void test_equal(const char *what, const double *got, const double *want, int64_t n)
{
    test_close(what, got, want, n, 0.0);
}

double test_tolerance(double c, qy_dtype_t dtype, int64_t k, const double *want, int64_t n)
{
    return c * test_epsilon(dtype) * sqrt((double)k) * test_max_abs(want, n);
}
