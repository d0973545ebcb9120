/*
 * What the quarry.json of an exported folder says of activations: bits of their quantizers, one
 * step for each token, and the channel maps that its weights stand behind. A folder that this
 * program did not export has none.
 */
#ifndef QY_MODEL_EXPORTED_H
#define QY_MODEL_EXPORTED_H

#include "model/qmodel.h"
#include "model/weights.h"

typedef struct {
    qy_quant_form_t form; /* bits of weights and activations, map_sites; groups are not known */
    qy_qblock_t *blocks;  /* n_blocks, of which only maps are there; NULL: activations are plain */
    int64_t n_blocks;
} qy_exported_t;

/* *out is all zero where nothing is done to activations. FORMAT, SHAPE where the file's numbers do
 * not fit the model. */
qy_status_t qy_exported_read(qy_exported_t *out, const qy_model_t *model, qy_error_t *err);
void qy_exported_free(qy_exported_t *exported);

#endif
