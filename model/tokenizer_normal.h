/*
 * The normalizer of a tokenizer.json: what is done to a text before it is split into words. A new
 * normalizer is a new row of the table in tokenizer_normal.c.
 *
 * Source: github.com/huggingface/tokenizers, normalizers/.
 */
#ifndef QY_MODEL_TOKENIZER_NORMAL_H
#define QY_MODEL_TOKENIZER_NORMAL_H

#include <jansson.h>
#include <stddef.h>

#include "base/status.h"

typedef struct qy_normal qy_normal_t;

/* From the "normalizer" of a tokenizer.json, NULL or null for none; where names it in errors. */
qy_status_t qy_normal_create(qy_normal_t **out, const json_t *normalizer, const char *where,
                             qy_error_t *err);
void qy_normal_destroy(qy_normal_t **normal);

/*
 * The text normalized: *owned for the caller to free, *out_bytes long; NULL where the text needs no
 * change.
 */
qy_status_t qy_normal_apply(const qy_normal_t *normal, const char *text, size_t bytes, char **owned,
                            size_t *out_bytes, qy_error_t *err);

#endif
