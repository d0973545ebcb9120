/*
 * From a text to the words that the model sees: the pre_tokenizer of a tokenizer.json as stages
 * that a text runs through, each cutting it smaller or rewriting it. A new pre-tokenizer is a new
 * row of the table in tokenizer_split.c.
 *
 * Source: github.com/huggingface/tokenizers, pre_tokenizers/; GPT-2's pattern from openai/gpt-2.
 */
#ifndef QY_MODEL_TOKENIZER_SPLIT_H
#define QY_MODEL_TOKENIZER_SPLIT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct qy_split qy_split_t;

/* From the "pre_tokenizer" of a tokenizer.json, NULL or null for none; where names it in errors. */
qy_status_t qy_split_create(qy_split_t **out, const json_t *pre_tokenizer, const char *where,
                            qy_error_t *err);
void qy_split_destroy(qy_split_t **split);

/* Scratch of one encoding. */
typedef struct qy_split_run qy_split_run_t;

qy_status_t qy_split_run_create(qy_split_run_t **out, const qy_split_t *split, qy_error_t *err);
void qy_split_run_destroy(qy_split_run_t **run);

/* A word is valid only during the call. */
typedef qy_status_t (*qy_word_fn)(void *context, const char *word, size_t bytes, qy_error_t *err);

/* Gives the words of a text (well-formed UTF-8) to fn, in order. first: nothing is before it, not
 * even an added token. */
qy_status_t qy_split_words(qy_split_run_t *run, const char *text, size_t bytes, bool first,
                           qy_word_fn fn, void *context, qy_error_t *err);

#endif
