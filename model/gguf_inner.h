/* What the readers of a GGUF's parts share: keys of the architecture, and numbers as JSON. */
#ifndef QY_MODEL_GGUF_INNER_H
#define QY_MODEL_GGUF_INNER_H

#include <jansson.h>

#include "model/arch_family.h"
#include "model/gguf.h"

#define QY_GGUF_ROPE_FREQS "rope_freqs.weight"

/* The value of "ARCH.key", ARCH being the family's name; as qy_gguf_i64 and qy_gguf_f32. */
qy_status_t qy_gguf_arch_i64(const qy_gguf_t *gguf, const qy_family_row_t *row, const char *key,
                             int64_t *out, qy_error_t *err);
qy_status_t qy_gguf_arch_f32(const qy_gguf_t *gguf, const qy_family_row_t *row, const char *key,
                             float *out, qy_error_t *err);

/* Numbers of a head; even, FORMAT where it is not. */
qy_status_t qy_gguf_head_dim(const qy_gguf_t *gguf, const qy_family_row_t *row, int64_t *out,
                             qy_error_t *err);

/* The number with the fewest digits that rounds to x: 1e-05 stays 1e-05. */
json_t *qy_gguf_real(float x);

#endif
