/*
 * A GGUF file as the Hugging Face checkpoint that it was made from: its configuration, its
 * tokenizer and its tensors under the names, shapes and row orders of that layout.
 *
 * Source: llama.cpp, convert_hf_to_gguf.py and gguf-py's tensor_mapping.py.
 */
#ifndef QY_MODEL_GGUF_MODEL_H
#define QY_MODEL_GGUF_MODEL_H

#include <jansson.h>

#include "model/arch_family.h"
#include "model/gguf.h"
#include "model/st_header.h"

/* Is this a GGUF file's name (and no directory's)? */
bool qy_gguf_is_name(const char *path);

/* The family of general.architecture. UNSUPPORTED where it is not known. */
qy_status_t qy_gguf_family(const qy_gguf_t *gguf, const qy_family_row_t **out, qy_error_t *err);

/* Objects as config.json, generation_config.json, tokenizer.json, tokenizer_config.json and
 * special_tokens_map.json hold them; the caller decrefs. FORMAT, UNSUPPORTED with the key. */
qy_status_t qy_gguf_config(json_t **out, const qy_gguf_t *gguf, qy_error_t *err);
qy_status_t qy_gguf_generation_config(json_t **out, const qy_gguf_t *gguf, qy_error_t *err);
qy_status_t qy_gguf_tokenizer(json_t **out, const qy_gguf_t *gguf, qy_error_t *err);
qy_status_t qy_gguf_tokenizer_config(json_t **out, const qy_gguf_t *gguf, qy_error_t *err);
qy_status_t qy_gguf_special_tokens(json_t **out, const qy_gguf_t *gguf, qy_error_t *err);

/* The scaling of rope that rope_freqs.weight's divisors come from, as "rope_scaling" has it; NULL
 * where they are all 1 or not there. UNSUPPORTED where it is none that is known. */
qy_status_t qy_gguf_rope(json_t **out, const qy_gguf_t *gguf, int64_t head_dim, double theta,
                         qy_error_t *err);

/* --- tensors --- */

/*
 * Adds the tensors of a model. Types are the file's where safetensors have them (F32, F16, BF16);
 * blocks appear as F32, which holds all that they decode to. entry->stored is the tensor's index in
 * the file's list. UNSUPPORTED: a tensor that has no place in the layout.
 */
qy_status_t qy_gguf_entries(qy_st_list_t *list, const qy_gguf_t *gguf, qy_error_t *err);

/* Bytes [begin, begin + bytes) of such an entry's data. */
qy_status_t qy_gguf_read(const qy_gguf_t *gguf, const qy_st_entry_t *entry, void *dst,
                         uint64_t begin, uint64_t bytes, qy_error_t *err);

/* Names inside a block, by qy_linear_id_t and qy_norm_id_t, and outside: "attn_q". */
extern const char *const qy_gguf_linears[QY_N_LINEARS];
extern const char *const qy_gguf_norms[QY_N_NORMS];

#endif
