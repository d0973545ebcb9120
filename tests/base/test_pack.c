/* The bit stream: published words, a reader of single bits, round trips, and no write past the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/pack.h"
#include "base/random.h"

enum { MAX_CODES = 200, SENTINEL = 0x5a };

/* Code i by the definition: bits [i b, i b + b) of the stream. */
static unsigned code_at(const uint32_t *words, int64_t i, int bits)
{
    unsigned code = 0;
    for (int k = 0; k < bits; k++) {
        int64_t bit = i * bits + k;
        code |= ((words[bit / 32] >> (bit % 32)) & 1u) << k;
    }
    return code;
}

/* EfficientQAT's golden words: code(o, i) = (i + o) mod 2^N. */
static void test_golden(void **state)
{
    (void)state;
    static const uint32_t w2[4] = {0xe4e4e4e4, 0x39393939, 0x4e4e4e4e, 0x93939393};
    static const uint32_t w4[4] = {0x76543210, 0x87654321, 0x98765432, 0xa9876543};
    uint8_t codes[16];
    uint32_t word;
    for (int o = 0; o < 4; o++) {
        for (int i = 0; i < 16; i++)
            codes[i] = (uint8_t)((i + o) % 4);
        qy_pack(&word, codes, 16, 2);
        assert_int_equal(word, w2[o]);
        for (int i = 0; i < 8; i++)
            codes[i] = (uint8_t)((i + o) % 16);
        qy_pack(&word, codes, 8, 4);
        assert_int_equal(word, w4[o]);
    }
}

static void test_streams(void **state)
{
    (void)state;
    for (int bits = 1; bits <= 8; bits++) {
        for (int64_t n = 0; n <= MAX_CODES; n = n < 40 ? n + 1 : n + 53) {
            uint8_t codes[MAX_CODES + 1], back[MAX_CODES + 1];
            uint32_t words[MAX_CODES + 1];
            for (int64_t i = 0; i < n; i++)
                codes[i] = (uint8_t)qy_random_u64(7, QY_PHASE_E2E, (uint64_t)i, (uint64_t)bits);
            int64_t n_words = qy_pack_words(n, bits);
            assert_int_equal(n_words, (n * bits + 31) / 32);
            words[n_words] = 0xabcdef01u;
            back[n] = SENTINEL;
            qy_pack(words, codes, n, bits);
            qy_unpack(back, words, n, bits);
            for (int64_t i = 0; i < n; i++) {
                assert_int_equal(code_at(words, i, bits), codes[i] & ((1 << bits) - 1));
                assert_int_equal(back[i], codes[i] & ((1 << bits) - 1));
            }
            for (int64_t bit = n * bits; bit < 32 * n_words; bit++)
                assert_int_equal((words[bit / 32] >> (bit % 32)) & 1u, 0);
            assert_int_equal(words[n_words], 0xabcdef01u);
            assert_int_equal(back[n], SENTINEL);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
