/* What the parts of the GGUF exporter share. */
#ifndef QY_MODEL_EXPORT_GGUF_H
#define QY_MODEL_EXPORT_GGUF_H

#include <jansson.h>

#include "model/gguf_write.h"
#include "model/weights.h"

/* Name of llama.cpp's architecture for a family; NULL where it has none. */
const char *qy_gguf_arch_name(const qy_arch_t *arch);

/* The keys of the architecture. */
void qy_gguf_put_arch(qy_gguf_writer_t *w, const qy_arch_t *arch);

/* The keys of the tokenizer. FORMAT, UNSUPPORTED: one that these keys cannot tell. With w NULL it
 * only says whether they can. */
qy_status_t qy_gguf_put_tokenizer(qy_gguf_writer_t *w, const qy_model_t *model, qy_error_t *err);

/* Scores of a tokenizer's n tokens that merge as tokenizer.json's model does. FORMAT; UNSUPPORTED
 * where none do. */
qy_status_t qy_gguf_scores(float *scores, const char *const *texts, int64_t n, const json_t *model,
                           const char *where, qy_error_t *err);

/* The templates of chats in tokenizer_config.json (NULL: there is none), or in the model's folder.
 */
qy_status_t qy_gguf_put_chat(qy_gguf_writer_t *w, const json_t *config, const char *dir,
                             qy_error_t *err);

#endif
