/* Philox4x32-10 against Random123's known answers; the scaling and the permutation by definition.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/random.h"

/* Random123 1.14, tests/kat_vectors, "philox4x32 10". */
static void test_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        qy_philox4x32(out, cases[i].counter, cases[i].key);
        assert_memory_equal(out, cases[i].out, sizeof out);
    }
}

static void test_u64_layout(void **state)
{
    (void)state;
    uint64_t index = 0x85a308d3243f6a88u, stream = 0x0370734413198a2eu;
    const uint32_t counter[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};
    const uint32_t key[2] = {11, QY_PHASE_E2E};
    uint32_t out[4];
    qy_philox4x32(out, counter, key);
    assert_true(qy_random_u64(11, QY_PHASE_E2E, index, stream) ==
                ((uint64_t)out[1] << 32 | out[0]));
    assert_true(qy_random_u64(11, QY_PHASE_E2E, index, stream) !=
                qy_random_u64(11, QY_PHASE_VALIDATION, index, stream));
}

/* floor(u n / 2^64) by long division of bits: shifts and additions only. */
static uint64_t scaled(uint64_t u, uint64_t n)
{
    uint64_t high = 0, low = 0;
    for (int bit = 63; bit >= 0; bit--) {
        high = high << 1 | low >> 63;
        low <<= 1;
        if ((u >> bit) & 1) {
            low += n;
            high += low < n;
        }
    }
    return high;
}

static void test_below(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 1000, 1u << 31, 0x123456789abcdefu, UINT64_MAX};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (uint64_t i = 0; i < 300; i++) {
            uint64_t u = qy_random_u64(3, QY_PHASE_CALIBRATION, i, 0);
            uint64_t got = qy_random_below(3, QY_PHASE_CALIBRATION, i, 0, sizes[s]);
            assert_true(got < sizes[s]);
            assert_true(got == scaled(u, sizes[s]));
        }
    }
}

static void test_permutation(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 2, 3, 8, 17, 1000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s];
        int64_t *order = malloc((size_t)(n + 1) * sizeof *order);
        char *seen = calloc((size_t)n + 1, 1);
        assert_non_null(order);
        assert_non_null(seen);
        order[n] = -77;
        qy_random_permutation(order, n, 5, QY_PHASE_SHUFFLE_BLOCK, 9);
        assert_int_equal(order[n], -77);
        for (int64_t i = 0; i < n; i++) {
            assert_in_range(order[i], 0, n - 1);
            assert_int_equal(seen[order[i]]++, 0);
            if (i > 0)
                assert_true(qy_random_u64(5, QY_PHASE_SHUFFLE_BLOCK, (uint64_t)order[i - 1], 9) <
                            qy_random_u64(5, QY_PHASE_SHUFFLE_BLOCK, (uint64_t)order[i], 9));
        }
        free(seen);
        free(order);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_u64_layout),
        cmocka_unit_test(test_below),
        cmocka_unit_test(test_permutation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
