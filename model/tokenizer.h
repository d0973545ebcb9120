/*
 * tokenizer.json: BPE, of bytes (GPT-2 and its descendants) or of characters (Llama-2), exactly as
 * Hugging Face tokenizers reads the file. The file is input from strangers: bounded, and refused
 * with the reason where a part is not known.
 *
 * Source: github.com/huggingface/tokenizers; Sennrich et al., arXiv:1508.07909 (BPE).
 */
#ifndef QY_MODEL_TOKENIZER_H
#define QY_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct qy_tokenizer qy_tokenizer_t;

/* Reads DIR/tokenizer.json, or vocab.json + merges.txt where that is absent. */
qy_status_t qy_tokenizer_open(qy_tokenizer_t **out, const char *model_dir, qy_error_t *err);
void qy_tokenizer_close(qy_tokenizer_t **tokenizer);

/* Token ids of UTF-8 text (invalid bytes count as U+FFFD), without special tokens added. *ids is
 * allocated, the caller frees. */
qy_status_t qy_tokenizer_encode(const qy_tokenizer_t *tokenizer, const char *text, size_t bytes,
                                int32_t **ids, int64_t *n, qy_error_t *err);

/* Tokens that the post-processor puts before a text (BOS), at most max; returns their number. */
int qy_tokenizer_prefix(const qy_tokenizer_t *tokenizer, int32_t *ids, int max);

/* Largest id + 1. */
int64_t qy_tokenizer_size(const qy_tokenizer_t *tokenizer);

#endif
