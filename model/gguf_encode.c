#include "model/gguf_encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/pack.h"

enum { MOST_ELEMENTS = 256, SIGN_BIT = 0x8000 };

/* --- differences --- */

/*
 * The codes of a block as d (c − z) with d = ±1, and its step s as ±s: whichever sign leaves all of
 * them in low…high. False where neither does.
 */
static bool differences(int *out, const qy_gguf_source_t *src, int n, int low, int high,
                        uint16_t *step)
{
    int least = src->codes[0] - src->zero, most = least;
    for (int j = 0; j < n; j++) {
        out[j] = src->codes[j] - src->zero;
        least = out[j] < least ? out[j] : least;
        most = out[j] > most ? out[j] : most;
    }
    *step = src->step;
    if (least >= low && most <= high)
        return true;
    if (-most < low || -least > high)
        return false;
    for (int j = 0; j < n; j++)
        out[j] = -out[j];
    *step = (uint16_t)(*step ^ SIGN_BIT);
    return true;
}

static void store_f16(unsigned char *dst, uint16_t half)
{
    memcpy(dst, &half, sizeof half);
}

static bool encode_q2_0(unsigned char *dst, const qy_gguf_source_t *src)
{
    int d[64];
    uint16_t step;
    if (!differences(d, src, 64, -1, 2, &step))
        return false;
    store_f16(dst, step);
    for (int j = 0; j < 16; j++)
        dst[2 + j] = (unsigned char)((d[4 * j] + 1) | (d[4 * j + 1] + 1) << 2 |
                                     (d[4 * j + 2] + 1) << 4 | (d[4 * j + 3] + 1) << 6);
    return true;
}

static bool encode_q4_0(unsigned char *dst, const qy_gguf_source_t *src)
{
    int d[32];
    uint16_t step;
    if (!differences(d, src, 32, -8, 7, &step))
        return false;
    store_f16(dst, step);
    for (int j = 0; j < 16; j++)
        dst[2 + j] = (unsigned char)((d[j] + 8) | (d[j + 16] + 8) << 4);
    return true;
}

static bool encode_q5_0(unsigned char *dst, const qy_gguf_source_t *src)
{
    int d[32];
    uint16_t step;
    uint32_t high = 0;
    if (!differences(d, src, 32, -16, 15, &step))
        return false;
    store_f16(dst, step);
    for (int j = 0; j < 32; j++)
        high |= (uint32_t)((d[j] + 16) >> 4) << j;
    memcpy(dst + 2, &high, sizeof high);
    for (int j = 0; j < 16; j++)
        dst[6 + j] = (unsigned char)(((d[j] + 16) & 15) | ((d[j + 16] + 16) & 15) << 4);
    return true;
}

static bool encode_q8_0(unsigned char *dst, const qy_gguf_source_t *src)
{
    int d[32];
    uint16_t step;
    if (!differences(d, src, 32, -128, 127, &step))
        return false;
    store_f16(dst, step);
    for (int j = 0; j < 32; j++)
        dst[2 + j] = (unsigned char)(d[j] & 255);
    return true;
}

/* Two bits of element j of 256, as Q2_K and Q3_K have them; dst is zeroed. */
static void put_two_bits(unsigned char *dst, int j, int bits)
{
    int e = j % 128;
    dst[j / 128 * 32 + e % 32] |= (unsigned char)(bits << 2 * (e / 32));
}

/* All parts' steps are d: their whole number is 1, stored as 33. */
static bool encode_q3_k(unsigned char *dst, const qy_gguf_source_t *src)
{
    int d[MOST_ELEMENTS];
    uint16_t step;
    if (!differences(d, src, MOST_ELEMENTS, -4, 3, &step))
        return false;
    memset(dst, 0, 96);
    for (int j = 0; j < MOST_ELEMENTS; j++) {
        int code = d[j] + 4;
        put_two_bits(dst + 32, j, code & 3);
        dst[j % 32] |= (unsigned char)((code >> 2) << j / 32);
    }
    memset(dst + 96, 0x11, 8);
    memset(dst + 104, 0xaa, 4);
    store_f16(dst + 108, step);
    return true;
}

static bool encode_q6_k(unsigned char *dst, const qy_gguf_source_t *src)
{
    int d[MOST_ELEMENTS];
    uint16_t step;
    if (!differences(d, src, MOST_ELEMENTS, -32, 31, &step))
        return false;
    memset(dst, 0, 192);
    for (int j = 0; j < MOST_ELEMENTS; j++) {
        int half = j / 128, quarter = j % 128 / 32, l = j % 32, code = d[j] + 32;
        dst[64 * half + 32 * (quarter % 2) + l] |=
            (unsigned char)((code & 15) << 4 * (quarter / 2));
        dst[128 + 32 * half + l] |= (unsigned char)((code >> 4) << 2 * quarter);
    }
    memset(dst + 192, 1, 16);
    store_f16(dst + 208, step);
    return true;
}

/* --- codes and zero points themselves: s c − s z --- */

static bool codes_fit(const qy_gguf_source_t *src, int bits)
{
    int all = src->zero;
    for (int j = 0; j < MOST_ELEMENTS; j++)
        all |= src->codes[j];
    return all < 1 << bits;
}

static bool encode_q2_k(unsigned char *dst, const qy_gguf_source_t *src)
{
    if (!codes_fit(src, 2))
        return false;
    memset(dst, 1 | src->zero << 4, 16);
    memset(dst + 16, 0, 64);
    for (int j = 0; j < MOST_ELEMENTS; j++)
        put_two_bits(dst + 16, j, src->codes[j]);
    store_f16(dst + 80, src->step);
    store_f16(dst + 82, src->step);
    return true;
}

static bool encode_q4_k(unsigned char *dst, const qy_gguf_source_t *src)
{
    if (!codes_fit(src, 4))
        return false;
    store_f16(dst, src->step);
    store_f16(dst + 2, src->step);
    memset(dst + 4, 1, 4);
    memset(dst + 8, src->zero, 4);
    memset(dst + 12, 1 | src->zero << 4, 4);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 32; j++)
            dst[16 + 32 * i + j] =
                (unsigned char)(src->codes[64 * i + j] | src->codes[64 * i + 32 + j] << 4);
    return true;
}

/* --- which one --- */

static const qy_gguf_encoder_t encoders[] = {
    {QY_GGML_Q2_0, -1, 2, 0, 41, encode_q2_0},   {QY_GGML_Q2_K, 0, 0, 2, 10, encode_q2_k},
    {QY_GGML_Q3_K, -4, 3, 0, 11, encode_q3_k},   {QY_GGML_Q4_0, -8, 7, 0, 2, encode_q4_0},
    {QY_GGML_Q4_K, 0, 0, 4, 14, encode_q4_k},    {QY_GGML_Q5_0, -16, 15, 0, 8, encode_q5_0},
    {QY_GGML_Q6_K, -32, 31, 0, 18, encode_q6_k}, {QY_GGML_Q8_0, -128, 127, 0, 7, encode_q8_0},
};
enum { N_ENCODERS = sizeof encoders / sizeof *encoders };

const qy_gguf_encoder_t *qy_gguf_encoder(int i)
{
    return i < N_ENCODERS ? &encoders[i] : NULL;
}

/* Does a block lie in one group? */
static bool divides(const qy_gguf_encoder_t *e, const qy_quant_form_t *form, int64_t in)
{
    return qy_quant_group_cols(form, in) % qy_gguf_block_find((uint32_t)e->type)->elements == 0;
}

/* Whatever the codes? */
static bool holds_form(const qy_gguf_encoder_t *e, const qy_quant_form_t *form, int64_t in)
{
    int levels = 1 << form->bits;
    int least = form->symmetric ? -levels / 2 : 1 - levels;
    int most = form->symmetric ? levels / 2 - 1 : levels - 1;
    if (!divides(e, form, in))
        return false;
    return e->code_bits
               ? form->bits <= e->code_bits
               : (least >= e->low && most <= e->high) || (-most >= e->low && -least <= e->high);
}

int64_t qy_gguf_row_bytes(const qy_quant_form_t *form, int64_t in)
{
    for (int i = 0; i < N_ENCODERS; i++) {
        const qy_gguf_block_t *format = qy_gguf_block_find((uint32_t)encoders[i].type);
        if (holds_form(&encoders[i], form, in))
            return in / format->elements * format->bytes;
    }
    return 0;
}

qy_status_t qy_gguf_check_form(const qy_quant_form_t *form, const char *layer, int64_t in,
                               qy_error_t *err)
{
    if (qy_gguf_row_bytes(form, in) > 0)
        return QY_OK;
    int64_t cols = qy_quant_group_cols(form, in);
    if (cols % 32 != 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "gguf: %s has groups of %lld columns, and ggml's blocks hold 32, 64 or 256 "
                       "of one step; a group_size that is a multiple of 32 can be held",
                       layer, (long long)cols);
    return qy_fail(err, QY_ERR_UNSUPPORTED,
                   "gguf: %d-bit asymmetric weights lie up to %d steps from their zero point, and "
                   "Q8_0, the widest of ggml's blocks, holds -128 to 127; symmetric weights or 6 "
                   "bits can be held",
                   form->bits, (1 << form->bits) - 1);
}

/* --- a layer --- */

/* The blocks of one row; false where one does not hold its numbers. */
static bool encode_row(const qy_gguf_encoder_t *e, const qy_gguf_block_t *format,
                       unsigned char *dst, const uint8_t *codes, int64_t cols, int64_t group_cols,
                       const uint8_t *zeros, const uint16_t *steps)
{
    for (int64_t at = 0; at < cols; at += format->elements, dst += format->bytes) {
        int64_t g = at / group_cols;
        const qy_gguf_source_t src = {.codes = codes + at, .zero = zeros[g], .step = steps[g]};
        if (!e->encode(dst, &src))
            return false;
    }
    return true;
}

/* All rows into data, or false; codes is room for a row. */
static bool encode_rows(const qy_gguf_encoder_t *e, unsigned char *data, uint8_t *codes,
                        const qy_qblock_t *block, const qy_linear_desc_t *d, qy_linear_id_t linear)
{
    const qy_gguf_block_t *format = qy_gguf_block_find((uint32_t)e->type);
    const uint32_t *words = block->codes[linear].data;
    const uint8_t *zeros = block->zeros[linear].data;
    const uint16_t *steps = block->scales[linear].data;
    int64_t n_words = qy_pack_words(d->in, block->form.bits);
    int64_t groups = qy_quant_n_groups(&block->form, d->in);
    int64_t row_bytes = d->in / format->elements * format->bytes;
    for (int64_t r = 0; r < d->out; r++) {
        qy_unpack(codes, words + r * n_words, d->in, block->form.bits);
        if (!encode_row(e, format, data + r * row_bytes, codes, d->in, d->in / groups,
                        zeros + r * groups, steps + r * groups))
            return false;
    }
    return true;
}

qy_status_t qy_gguf_encode(const qy_gguf_encoder_t **encoder, unsigned char **data,
                           const qy_qblock_t *block, const qy_linear_desc_t *desc,
                           qy_linear_id_t linear, qy_error_t *err)
{
    /* Room for the largest format: 34 bytes for 32 weights. */
    unsigned char *made = malloc((size_t)(desc->out * desc->in) / 32 * 34 + 1);
    uint8_t *codes = malloc((size_t)desc->in);
    qy_status_t status =
        made && codes
            ? qy_fail(err, QY_ERR_FORMAT, "%s: no block of ggml holds its weights", desc->name)
            : qy_fail(err, QY_ERR_MEMORY, "%s: no memory", desc->name);
    for (int i = 0; i < N_ENCODERS && status == QY_ERR_FORMAT; i++)
        if (divides(&encoders[i], &block->form, desc->in) &&
            encode_rows(&encoders[i], made, codes, block, desc, linear)) {
            *encoder = &encoders[i];
            *data = made;
            made = NULL;
            status = QY_OK;
        }
    free(codes);
    free(made);
    return status;
}

/* --- numbers that were Q8_0 before --- */

/* ggml's quantizer gives the largest number of a block the code ±127: that finds the step again. */
bool qy_gguf_encode_q8_0(unsigned char *dst, const float *src, int64_t n)
{
    for (int64_t at = 0; at < n; at += 32, dst += 34) {
        float most = 0;
        for (int j = 0; j < 32; j++)
            most = fmaxf(most, fabsf(src[at + j]));
        uint16_t half = qy_f32_to_f16(most / 127);
        float step = qy_f16_to_f32(half);
        store_f16(dst, half);
        for (int j = 0; j < 32; j++) {
            float code = step > 0 ? rintf(src[at + j] / step) : 0;
            if (!(fabsf(code) <= 127) || code * step != src[at + j])
                return false;
            dst[2 + j] = (unsigned char)((int)code & 255);
        }
    }
    return true;
}
