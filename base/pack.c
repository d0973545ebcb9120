#include "base/pack.h"

enum { WORD_BITS = 32 };

int64_t qy_pack_words(int64_t n, int bits)
{
    return (n * bits + WORD_BITS - 1) / WORD_BITS;
}

/* Codes that fill a word; 0 where some straddle words. */
static int codes_of_word(int bits)
{
    return WORD_BITS % bits == 0 ? WORD_BITS / bits : 0;
}

void qy_pack(uint32_t *words, const uint8_t *codes, int64_t n, int bits)
{
    uint32_t mask = (1u << bits) - 1u;
    uint64_t held = 0;
    int n_held = 0, whole = codes_of_word(bits);
    for (; whole && n >= whole; n -= whole, codes += whole) {
        uint32_t word = 0;
        for (int i = 0; i < whole; i++)
            word |= (codes[i] & mask) << (i * bits);
        *words++ = word;
    }
    for (int64_t i = 0; i < n; i++) {
        held |= (uint64_t)(codes[i] & mask) << n_held;
        n_held += bits;
        if (n_held >= WORD_BITS) {
            *words++ = (uint32_t)held;
            held >>= WORD_BITS;
            n_held -= WORD_BITS;
        }
    }
    if (n_held > 0)
        *words = (uint32_t)held;
}

void qy_unpack(uint8_t *codes, const uint32_t *words, int64_t n, int bits)
{
    uint32_t mask = (1u << bits) - 1u;
    uint64_t held = 0;
    int n_held = 0, whole = codes_of_word(bits);
    for (; whole && n >= whole; n -= whole, codes += whole) {
        uint32_t word = *words++;
        for (int i = 0; i < whole; i++)
            codes[i] = (uint8_t)(word >> (i * bits) & mask);
    }
    for (int64_t i = 0; i < n; i++) {
        if (n_held < bits) {
            held |= (uint64_t)*words++ << n_held;
            n_held += WORD_BITS;
        }
        codes[i] = (uint8_t)(held & mask);
        held >>= bits;
        n_held -= bits;
    }
}
