/*
 * Block formats of ggml: so many elements of a row in so many bytes, and what they decode to. Only
 * the formats that are read or written here.
 *
 * Source: ggml, src/ggml-common.h and src/ggml-quants.c (dequantize_row_*); numbers of types:
 * ggml.h.
 */
#ifndef QY_MODEL_GGUF_BLOCK_H
#define QY_MODEL_GGUF_BLOCK_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    QY_GGML_F32 = 0,
    QY_GGML_F16 = 1,
    QY_GGML_Q4_0 = 2,
    QY_GGML_Q4_1 = 3,
    QY_GGML_Q5_0 = 6,
    QY_GGML_Q5_1 = 7,
    QY_GGML_Q8_0 = 8,
    QY_GGML_Q2_K = 10,
    QY_GGML_Q3_K = 11,
    QY_GGML_Q4_K = 12,
    QY_GGML_Q6_K = 14,
    QY_GGML_BF16 = 30,
    QY_GGML_Q2_0 = 42
} qy_ggml_type_t;

typedef struct {
    qy_ggml_type_t type;
    const char *name; /* "Q4_1" */
    int elements, bytes;
    /* One block into f32, in ggml's own order of operations. */
    void (*decode)(float *dst, const unsigned char *src);
} qy_gguf_block_t;

/* NULL where the number is not known. */
const qy_gguf_block_t *qy_gguf_block_find(uint32_t type);
/* "F32, F16, …" for messages. */
const char *qy_gguf_block_names(void);

/* n elements, a whole number of blocks. */
void qy_gguf_decode(const qy_gguf_block_t *block, float *dst, const unsigned char *src, int64_t n);

#endif
