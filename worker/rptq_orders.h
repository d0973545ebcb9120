/* Clusters of a block's channels and the orders that put them side by side (model/clusters.h). */
#ifndef QY_WORKER_RPTQ_ORDERS_H
#define QY_WORKER_RPTQ_ORDERS_H

#include "model/qmodel.h"

/*
 * Orders and counts of every site of q from the least and largest value of each channel there. What
 * reads both norms and the last layer's input: one problem each. Queries and keys share one for
 * each key head, values and contexts too (by the contexts' ranges); the query heads that read a key
 * head share its order. ARG where a range is not finite, with the block named.
 */
qy_status_t qy_rptq_orders(qy_qblock_t *q, const qy_arch_t *arch, float *const lo[QY_N_SITES],
                           float *const hi[QY_N_SITES], int64_t seed, int64_t block, int threads,
                           qy_error_t *err);

#endif
