/*
 * What files count by in the plan hash: SHA-256 of their content; a checkpoint's shards, which may
 * be hundreds of gigabytes, by header, size and samples.
 */
#ifndef QY_JOBS_DIGEST_H
#define QY_JOBS_DIGEST_H

#include "base/hash.h"
#include "model/weights.h"

/* Shards up to this size count whole; larger ones by every QY_DIGEST_STRIDE-th 4 KiB page of the
 * data behind the header, and the last page. */
enum { QY_DIGEST_WHOLE = 64 << 20, QY_DIGEST_PAGE = 4096, QY_DIGEST_STRIDE = 4096 };

/* config.json, the tokenizer, and every shard in order. */
qy_status_t qy_digest_model(const qy_model_t *model, char hex[QY_SHA256_HEX], qy_error_t *err);

/* tokenizer.json, or where that is absent vocab.json, merges.txt and tokenizer_config.json, those
 * that are there. Of a GGUF file, its header. */
qy_status_t qy_digest_tokenizer(const char *model_dir, char hex[QY_SHA256_HEX], qy_error_t *err);

/* What the evaluation of a text depends on beside the model: its digest, the tokenizer's, the
 * length. */
qy_status_t qy_digest_evaluation(const char *text_hex, const char *tokenizer_hex,
                                 int64_t sequence_length, char hex[QY_SHA256_HEX], qy_error_t *err);

#endif
