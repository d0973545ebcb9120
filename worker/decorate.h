/* What the sites of a block do in a pass, set from the form of a quantized model. */
#ifndef QY_WORKER_DECORATE_H
#define QY_WORKER_DECORATE_H

#include "model/qmodel.h"
#include "worker/block.h"

/* The full-precision block: every site idle. */
void qy_decorate_plain(qy_block_params_t *params);

/* Quantizers of activations as the form has them; maps stay as they are. */
void qy_decorate_quantizers(qy_block_params_t *params, const qy_quant_form_t *form);

/* Channel maps of the orders of q, which has clusters, and attention's probabilities as its form
 * has them; quantizers stay as they are. */
qy_status_t qy_decorate_orders(qy_block_params_t *params, const qy_device_t *dev,
                               const qy_arch_t *arch, const qy_qblock_t *q, qy_error_t *err);
/* Its static quantizers. */
qy_status_t qy_decorate_clusters(qy_block_params_t *params, const qy_device_t *dev,
                                 const qy_qblock_t *q, qy_error_t *err);

/* One map from a plan (model/channels.h); a plan that changes nothing leaves it idle. Waits for the
 * device. */
qy_status_t qy_decorate_map(qy_channel_map_t *map, const qy_device_t *dev, const int32_t *offsets,
                            const int32_t *items, int64_t channels, qy_error_t *err);

/* The maps of a quantized block; sites without one stay idle. */
qy_status_t qy_decorate_maps(qy_block_params_t *params, const qy_device_t *dev,
                             const qy_qblock_t *q, qy_error_t *err);

#endif
