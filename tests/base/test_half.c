/* Half floats: every f16 pattern, and rounding against the definition "nearest, ties to even". */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/random.h"

/* Value of a finite f16 pattern from its definition. */
static double f16_value(uint16_t h)
{
    int exponent = (h >> 10) & 31, mantissa = h & 1023;
    double v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -v : v;
}

static void test_f16_patterns(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = qy_f16_to_f32((uint16_t)h);
        if ((h & 0x7c00) != 0x7c00) {
            assert_true((double)x == f16_value((uint16_t)h));
            assert_int_equal(signbit(x) != 0, h >> 15);
        } else {
            assert_true((h & 1023) ? isnan(x) : isinf(x));
        }
        if (!isnan(x))
            assert_int_equal(qy_f32_to_f16(x), h);
        else
            assert_true(isnan(qy_f16_to_f32(qy_f32_to_f16(x))));
    }
}

/* Midpoints of neighbours go to the even one, anything beside them to the nearer one. */
static void test_f16_rounding(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double middle = (f16_value((uint16_t)h) + f16_value((uint16_t)(h + 1))) / 2;
        float tie = (float)middle;
        assert_true((double)tie == middle);
        assert_int_equal(qy_f32_to_f16(tie), h + (h & 1));
        assert_int_equal(qy_f32_to_f16(-tie), 0x8000 + h + (h & 1));
        assert_int_equal(qy_f32_to_f16(nextafterf(tie, 0.0f)), h);
        assert_int_equal(qy_f32_to_f16(nextafterf(tie, 1e9f)), h + 1);
    }
    assert_int_equal(qy_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(qy_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(qy_f32_to_f16(3.4e38f), 0x7c00);
    assert_int_equal(qy_f32_to_f16(-INFINITY), 0xfc00);
    assert_true(qy_round_f16(0.1f) == 0.0999755859375f);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = qy_bf16_to_f32((uint16_t)h);
        uint32_t u;
        memcpy(&u, &x, sizeof u);
        assert_int_equal(u, h << 16);
        if (isnan(x))
            assert_true(isnan(qy_bf16_to_f32(qy_f32_to_bf16(x))));
        else
            assert_int_equal(qy_f32_to_bf16(x), h);
    }
    for (uint32_t i = 0; i < 10000; i++) {
        uint32_t u = (uint32_t)qy_random_u64(1, QY_PHASE_E2E, i, 0) & 0x7f7fffffu;
        uint32_t down = u >> 16, rest = u & 0xffffu;
        uint32_t want = rest > 0x8000 || (rest == 0x8000 && (down & 1)) ? down + 1 : down;
        float x;
        memcpy(&x, &u, sizeof x);
        assert_int_equal(qy_f32_to_bf16(x), want);
        u = down << 16 | 0x8000;
        memcpy(&x, &u, sizeof x);
        assert_int_equal(qy_f32_to_bf16(x), down + (down & 1));
    }
    uint32_t quiet = 0x7f800001u; /* a NaN whose upper half alone would read as infinity */
    float nan;
    memcpy(&nan, &quiet, sizeof nan);
    assert_true(isnan(qy_bf16_to_f32(qy_f32_to_bf16(nan))));
    assert_true(isnan(qy_f16_to_f32(qy_f32_to_f16(nan))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_patterns),
        cmocka_unit_test(test_f16_rounding),
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
