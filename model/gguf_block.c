#include "model/gguf_block.h"

#include <string.h>

#include "base/half.h"

enum { K_ELEMENTS = 256, SMALL = 32 };

static float load_f16(const unsigned char *src)
{
    uint16_t h;
    memcpy(&h, src, sizeof h);
    return qy_f16_to_f32(h);
}

/* --- numbers --- */

static void decode_f32(float *dst, const unsigned char *src)
{
    memcpy(dst, src, sizeof *dst);
}

static void decode_f16(float *dst, const unsigned char *src)
{
    *dst = load_f16(src);
}

static void decode_bf16(float *dst, const unsigned char *src)
{
    uint16_t h;
    memcpy(&h, src, sizeof h);
    *dst = qy_bf16_to_f32(h);
}

/* --- blocks of 32: a step, and a least value or a middle --- */

/* Byte j: element j in its lower half, element j + 16 in its upper half. */
static void decode_q4_0(float *dst, const unsigned char *src)
{
    const float d = load_f16(src);
    const unsigned char *codes = src + 2;
    for (int j = 0; j < SMALL / 2; j++) {
        dst[j] = (float)((codes[j] & 15) - 8) * d;
        dst[j + SMALL / 2] = (float)((codes[j] >> 4) - 8) * d;
    }
}

static void decode_q4_1(float *dst, const unsigned char *src)
{
    const float d = load_f16(src), m = load_f16(src + 2);
    const unsigned char *codes = src + 4;
    for (int j = 0; j < SMALL / 2; j++) {
        dst[j] = (float)(codes[j] & 15) * d + m;
        dst[j + SMALL / 2] = (float)(codes[j] >> 4) * d + m;
    }
}

/* The fifth bit of element j is bit j of `high`. */
static int code5(const unsigned char *codes, uint32_t high, int j)
{
    int half = j < SMALL / 2 ? codes[j] & 15 : codes[j - SMALL / 2] >> 4;
    return half | (int)(high >> j & 1u) << 4;
}

static void decode_q5_0(float *dst, const unsigned char *src)
{
    const float d = load_f16(src);
    uint32_t high;
    memcpy(&high, src + 2, sizeof high);
    for (int j = 0; j < SMALL; j++)
        dst[j] = (float)(code5(src + 6, high, j) - 16) * d;
}

static void decode_q5_1(float *dst, const unsigned char *src)
{
    const float d = load_f16(src), m = load_f16(src + 2);
    uint32_t high;
    memcpy(&high, src + 4, sizeof high);
    for (int j = 0; j < SMALL; j++)
        dst[j] = (float)code5(src + 8, high, j) * d + m;
}

static void decode_q8_0(float *dst, const unsigned char *src)
{
    const float d = load_f16(src);
    for (int j = 0; j < SMALL; j++) {
        int8_t code;
        memcpy(&code, src + 2 + j, sizeof code);
        dst[j] = (float)code * d;
    }
}

/* --- two bits, blocks of 64: codes −1 to 2 --- */

static void decode_q2_0(float *dst, const unsigned char *src)
{
    const float d = load_f16(src);
    for (int j = 0; j < 64; j++)
        dst[j] = (float)((src[2 + j / 4] >> 2 * (j % 4) & 3) - 1) * d;
}

/* --- blocks of 256, with whole-numbered steps of their parts --- */

/* Parts of 16. Element e of a half of 128 has the two bits 2 (e / 32) of byte e mod 32. */
static void decode_q2_k(float *dst, const unsigned char *src)
{
    const unsigned char *codes = src + 16;
    const float d = load_f16(src + 80), least = load_f16(src + 82);
    for (int j = 0; j < K_ELEMENTS; j++) {
        int scale = src[j / 16], e = j % 128;
        float step = d * (float)(scale & 15), m = least * (float)(scale >> 4);
        int code = codes[j / 128 * 32 + e % 32] >> 2 * (e / 32) & 3;
        dst[j] = step * (float)code - m;
    }
}

/* Part i of 16: its six bits are four of byte i mod 8 and two of byte 8 + i mod 4. */
static int scale6_of_16(const unsigned char *packed, int i)
{
    int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
    return low | (packed[8 + i % 4] >> 2 * (i / 4) & 3) << 4;
}

/* As Q2_K's codes, less 4 where the bit j / 32 of byte j mod 32 of the mask is not set. */
static void decode_q3_k(float *dst, const unsigned char *src)
{
    const unsigned char *mask = src, *codes = src + 32, *scales = src + 96;
    const float d = load_f16(src + 108);
    for (int j = 0; j < K_ELEMENTS; j++) {
        int e = j % 128;
        float step = d * (float)(scale6_of_16(scales, j / 16) - 32);
        int code = codes[j / 128 * 32 + e % 32] >> 2 * (e / 32) & 3;
        dst[j] = step * (float)(code - (mask[j % 32] >> j / 32 & 1 ? 0 : 4));
    }
}

/* Part i of 8: step and least value of six bits each, the upper parts' upper bits in those of the
 * lower ones. */
static void scales_of_8(const unsigned char *packed, int i, int *scale, int *least)
{
    if (i < 4) {
        *scale = packed[i] & 63;
        *least = packed[i + 4] & 63;
    } else {
        *scale = (packed[i + 4] & 15) | packed[i - 4] >> 6 << 4;
        *least = packed[i + 4] >> 4 | packed[i] >> 6 << 4;
    }
}

/* Parts of 32, each two in the halves of 32 bytes. */
static void decode_q4_k(float *dst, const unsigned char *src)
{
    const float d = load_f16(src), m = load_f16(src + 2);
    for (int i = 0; i < 8; i++) {
        int scale, least;
        scales_of_8(src + 4, i, &scale, &least);
        const unsigned char *codes = src + 16 + i / 2 * 32;
        float step = d * (float)scale, base = m * (float)least;
        for (int j = 0; j < 32; j++)
            dst[32 * i + j] = step * (float)(codes[j] >> 4 * (i % 2) & 15) - base;
    }
}

/* Halves of 128: 64 bytes of lower bits, 32 of upper ones, 8 signed steps. */
static void decode_q6_k(float *dst, const unsigned char *src)
{
    const float d = load_f16(src + 208);
    for (int j = 0; j < K_ELEMENTS; j++) {
        int half = j / 128, e = j % 128, quarter = e / 32, l = e % 32;
        int low = src[64 * half + 32 * (quarter % 2) + l] >> 4 * (quarter / 2) & 15;
        int high = src[128 + 32 * half + l] >> 2 * quarter & 3;
        int8_t scale;
        memcpy(&scale, src + 192 + j / 16, sizeof scale);
        dst[j] = d * (float)scale * (float)((low | high << 4) - 32);
    }
}

/* --- the table --- */

static const qy_gguf_block_t blocks[] = {
    {QY_GGML_F32, "F32", 1, 4, decode_f32},        {QY_GGML_F16, "F16", 1, 2, decode_f16},
    {QY_GGML_BF16, "BF16", 1, 2, decode_bf16},     {QY_GGML_Q2_0, "Q2_0", 64, 18, decode_q2_0},
    {QY_GGML_Q4_0, "Q4_0", 32, 18, decode_q4_0},   {QY_GGML_Q4_1, "Q4_1", 32, 20, decode_q4_1},
    {QY_GGML_Q5_0, "Q5_0", 32, 22, decode_q5_0},   {QY_GGML_Q5_1, "Q5_1", 32, 24, decode_q5_1},
    {QY_GGML_Q8_0, "Q8_0", 32, 34, decode_q8_0},   {QY_GGML_Q2_K, "Q2_K", 256, 84, decode_q2_k},
    {QY_GGML_Q3_K, "Q3_K", 256, 110, decode_q3_k}, {QY_GGML_Q4_K, "Q4_K", 256, 144, decode_q4_k},
    {QY_GGML_Q6_K, "Q6_K", 256, 210, decode_q6_k},
};

const qy_gguf_block_t *qy_gguf_block_find(uint32_t type)
{
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if ((uint32_t)blocks[i].type == type)
            return &blocks[i];
    return NULL;
}

const char *qy_gguf_block_names(void)
{
    return "F32, F16, BF16, Q2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q6_K";
}

void qy_gguf_decode(const qy_gguf_block_t *block, float *dst, const unsigned char *src, int64_t n)
{
    for (int64_t i = 0; i < n / block->elements; i++)
        block->decode(dst + i * block->elements, src + i * block->bytes);
}
