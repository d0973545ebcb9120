/*
 * Dense little-endian bit stream: code i of a row occupies bits [i b, i b + b) of the row's words, so
 * 3-bit codes straddle words. The one packer of block files, GPTQ and compressed-tensors.
 */
#ifndef QY_BASE_PACK_H
#define QY_BASE_PACK_H

#include <stdint.h>

/* Words that n codes of b bits take: ⌈n b / 32⌉. */
int64_t qy_pack_words(int64_t n, int bits);

/* words[qy_pack_words(n, bits)] from n codes, each < 2^bits (higher bits are ignored); bits 1…8. */
void qy_pack(uint32_t *words, const uint8_t *codes, int64_t n, int bits);
void qy_unpack(uint8_t *codes, const uint32_t *words, int64_t n, int bits);

#endif
