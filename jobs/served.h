/* What a model holds in memory where it is served: weights, KV cache, activations of one block. */
#ifndef QY_JOBS_SERVED_H
#define QY_JOBS_SERVED_H

#include <stdio.h>

#include "model/qmodel.h"

typedef struct {
    double weights, kv_cache, activations; /* bytes */
} qy_served_t;

/*
 * batch sequences of length tokens. Weights of linear layers at form's bits and 4 bytes (step and
 * zero point) for each group, everything else at 16 bits; KV cache 2 blocks × kv heads × head_dim ×
 * tokens at kv_bits; activations: what a block's linear layers and its attention read at once, at
 * the bits of their sites, and the residual stream at 16. form NULL: all at 16 bits.
 */
qy_served_t qy_served(const qy_arch_t *arch, const qy_quant_form_t *form, int64_t batch,
                      int64_t length);

/* A table of both, in decimal gigabytes, and what is saved. */
void qy_served_print(const qy_arch_t *arch, const qy_quant_form_t *form, int64_t batch,
                     int64_t length, FILE *file);

#endif
