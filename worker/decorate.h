/* What the sites of a block do in a pass, set from the form of a quantized model. */
#ifndef QY_WORKER_DECORATE_H
#define QY_WORKER_DECORATE_H

#include "model/qmodel.h"
#include "worker/block.h"

/* The full-precision block: every site idle. */
void qy_decorate_plain(qy_block_params_t *params);

/* Quantizers of activations as the form has them; maps stay as they are. */
void qy_decorate_quantizers(qy_block_params_t *params, const qy_quant_form_t *form);

#endif
