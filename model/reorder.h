/*
 * Channels of a block in another order, by their sites: new[i] = old[order[i]]. Orders are folded
 * into rows, columns and biases of the weights wherever that leaves nothing to do at run time; the
 * rest are channel maps: behind both norms (which write their channels to other places), and of
 * queries and keys where something acts on pairs of channels or by channel after the projection.
 *
 * Source: RPTQ, arXiv:2304.01089: R1 attention_in, R2 q and k, R3 v and o_in, R4 mlp_in, R5
 * down_in.
 */
#ifndef QY_MODEL_REORDER_H
#define QY_MODEL_REORDER_H

#include "model/program.h"
#include "model/weights.h"

/* Is this site's order a channel map at run time? The other sites' are folded into weights. */
bool qy_reorder_is_map(const qy_arch_t *arch, qy_site_t site);

/* order[site]: a permutation of the site's channels (the caller checks; q and k by the same
 * positions within heads, v and o_in likewise). Weights and biases are rearranged in place, by so
 * many threads. */
qy_status_t qy_reorder_weights(qy_block_weights_t *weights, const qy_arch_t *arch,
                               const int32_t *const order[QY_N_SITES], int threads,
                               qy_error_t *err);

#endif
