/*
 * Byte pair encoding of one word: vocabulary, ranked merges, and what happens to characters that
 * the vocabulary lacks. Knows nothing of how a text becomes words.
 *
 * Source: Sennrich et al., arXiv:1508.07909; github.com/huggingface/tokenizers, models/bpe (details
 * where several readings are possible: ties, unknown characters).
 */
#ifndef QY_MODEL_TOKENIZER_BPE_H
#define QY_MODEL_TOKENIZER_BPE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct qy_bpe qy_bpe_t;

/* From the "model" object of a tokenizer.json; where names it in errors. FORMAT, UNSUPPORTED. */
qy_status_t qy_bpe_create(qy_bpe_t **out, const json_t *model, const char *where, qy_error_t *err);
void qy_bpe_destroy(qy_bpe_t **bpe);

/* Id of a token, -1 where it is none. */
int32_t qy_bpe_find(const qy_bpe_t *bpe, const char *token, size_t bytes);

/* Largest id + 1. */
int64_t qy_bpe_size(const qy_bpe_t *bpe);

/* A growing list of token ids; zero it to begin. */
typedef struct {
    int32_t *ids;
    int64_t n, capacity;
} qy_ids_t;

qy_status_t qy_ids_add(qy_ids_t *list, const int32_t *ids, int64_t n, qy_error_t *err);

/* Scratch of one encoding, and the words that it has seen already. */
typedef struct qy_bpe_run qy_bpe_run_t;

qy_status_t qy_bpe_run_create(qy_bpe_run_t **out, const qy_bpe_t *bpe, qy_error_t *err);
void qy_bpe_run_destroy(qy_bpe_run_t **run);

/* Adds the tokens of one word (well-formed UTF-8) to ids. */
qy_status_t qy_bpe_word(qy_bpe_run_t *run, const char *word, size_t bytes, qy_ids_t *ids,
                        qy_error_t *err);

#endif
