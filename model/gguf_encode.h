/*
 * Quantized weights (c − z) s in ggml's blocks, where a block holds exactly these numbers: with s
 * as its step and c − z, or z − c and −s, as its code.
 */
#ifndef QY_MODEL_GGUF_ENCODE_H
#define QY_MODEL_GGUF_ENCODE_H

#include <stdbool.h>

#include "model/gguf_block.h"
#include "model/qmodel.h"

/* What a block is made of: as many codes as the format has elements, of one group. */
typedef struct {
    const uint8_t *codes;
    int zero;
    uint16_t step; /* f16 */
} qy_gguf_source_t;

typedef struct {
    qy_ggml_type_t type;
    int low, high; /* differences c − z that it holds */
    int code_bits; /* of formats with a least value, which hold c and z themselves; else 0 */
    int file_type; /* general.file_type of a file that is mostly of this format */
    /* False where the block does not hold these numbers. */
    bool (*encode)(unsigned char *dst, const qy_gguf_source_t *src);
} qy_gguf_encoder_t;

/* The encoders from the smallest block on; NULL behind the last. */
const qy_gguf_encoder_t *qy_gguf_encoder(int i);

/* Bytes of a row of `in` columns in the smallest format that holds this form whatever its codes; 0
 * where there is none. */
int64_t qy_gguf_row_bytes(const qy_quant_form_t *form, int64_t in);

/* UNSUPPORTED, with the nearest form that can be held, unless there is an encoder for every layer
 * of `in` columns quantized in this form, whatever its codes. */
qy_status_t qy_gguf_check_form(const qy_quant_form_t *form, const char *layer, int64_t in,
                               qy_error_t *err);

/* The smallest format that holds all of a layer, and its blocks, rows in order: *data is the
 * caller's to free. FORMAT where there is none. */
qy_status_t qy_gguf_encode(const qy_gguf_encoder_t **encoder, unsigned char **data,
                           const qy_qblock_t *block, const qy_linear_desc_t *desc,
                           qy_linear_id_t linear, qy_error_t *err);

/* Numbers as Q8_0 where it holds them exactly; n is a whole number of blocks. */
bool qy_gguf_encode_q8_0(unsigned char *dst, const float *src, int64_t n);

#endif
