/*
 * Added tokens: strings that are found in a text, leftmost and longest first, before anything else
 * is done to it. Source: github.com/huggingface/tokenizers, tokenizer/added_vocabulary.rs.
 */
#ifndef QY_MODEL_TOKENIZER_ADDED_H
#define QY_MODEL_TOKENIZER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    char *text; /* owned by the set */
    size_t bytes;
    int32_t id;
    bool lstrip, rstrip; /* takes the white space before, behind */
    bool single_word;    /* not where it touches another word */
} qy_added_token_t;

/* Zero it to begin; add, then sort, then split. */
typedef struct {
    qy_added_token_t *tokens;
    size_t n;
    int64_t capacity;
} qy_added_t;

qy_status_t qy_added_add(qy_added_t *set, const qy_added_token_t *token, qy_error_t *err);
void qy_added_sort(qy_added_t *set);
void qy_added_free(qy_added_t *set);

/* Called with id < 0 for text between tokens, else with a token's id. */
typedef qy_status_t (*qy_piece_fn)(void *context, const char *text, size_t bytes, int32_t id,
                                   qy_error_t *err);

/* Gives the pieces of a text to fn, in order; none is empty. */
qy_status_t qy_added_split(const qy_added_t *set, const char *text, size_t bytes, qy_piece_fn fn,
                           void *context, qy_error_t *err);

#endif
