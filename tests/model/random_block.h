/* Quantized blocks of any arch and form with random content, the same for the same stream. */
#ifndef QY_TESTS_MODEL_RANDOM_BLOCK_H
#define QY_TESTS_MODEL_RANDOM_BLOCK_H

#include <stdlib.h>

#include "base/half.h"
#include "base/pack.h"
#include "base/random.h"
#include "model/qmodel.h"

typedef struct {
    uint64_t stream, n;
} random_source_t;

static inline uint64_t random_below(random_source_t *r, uint64_t n)
{
    return qy_random_below(1, QY_PHASE_CALIBRATION, r->n++, r->stream, n);
}

/* A number that f16 holds exactly, in [−4, 4). */
static inline float random_half(random_source_t *r)
{
    return (float)((double)random_below(r, 1024) / 128.0 - 4.0);
}

static inline void random_vector(random_source_t *r, qy_tensor_t *t)
{
    for (int64_t i = 0; t->data && i < qy_tensor_count(t); i++)
        ((float *)t->data)[i] = random_half(r);
}

static inline void random_linear(random_source_t *r, qy_qblock_t *block, int linear, int64_t in)
{
    int bits = block->form.bits;
    int64_t rows = block->codes[linear].shape[0], words = block->codes[linear].shape[1];
    uint8_t *codes = malloc((size_t)in);
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = 0; i < in; i++)
            codes[i] = (uint8_t)random_below(r, 1u << bits);
        qy_pack((uint32_t *)block->codes[linear].data + row * words, codes, in, bits);
    }
    free(codes);
    for (int64_t i = 0; i < qy_tensor_count(&block->zeros[linear]); i++) {
        uint64_t z = block->form.symmetric ? 1u << (bits - 1) : random_below(r, 1u << bits);
        ((uint8_t *)block->zeros[linear].data)[i] = (uint8_t)z;
        /* steps of 2^-10 to 2^-3, all bits of the fraction used */
        ((uint16_t *)block->scales[linear].data)[i] = (uint16_t)(0x1400 + random_below(r, 0x1c00));
    }
    random_vector(r, &block->bias[linear]);
}

static inline qy_status_t random_block(qy_qblock_t *out, const qy_arch_t *arch,
                                       const qy_quant_form_t *form, uint64_t stream,
                                       qy_error_t *err)
{
    random_source_t r = {.stream = stream};
    QY_TRY(qy_qblock_create(out, arch, form, err));
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (arch->linear[i].present)
            random_linear(&r, out, i, arch->linear[i].in);
    for (int i = 0; i < QY_N_NORMS; i++) {
        random_vector(&r, &out->norm[i]);
        random_vector(&r, &out->norm_bias[i]);
    }
    return QY_OK;
}

#endif
