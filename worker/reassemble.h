/*
 * Channel reassembly of a block: what the full-precision block's activations look like at its three
 * sites (inputs of q k v, of gate up, of down), and a search at each.
 *
 * Source: QLLM, arXiv:2310.08041, section 4.
 */
#ifndef QY_WORKER_REASSEMBLE_H
#define QY_WORKER_REASSEMBLE_H

#include "jobs/finished.h"
#include "worker/forward.h"
#include "worker/site_search.h"

enum { QY_REASSEMBLED = 3 };

typedef struct {
    const qy_plan_t *plan;
    qy_forward_t *f;
    int64_t n_samples, seen; /* windows looked at closely; so many have been seen of this block */
    qy_tensor_t lo[QY_REASSEMBLED], hi[QY_REASSEMBLED]; /* f32 (C) */
    qy_tensor_t x[QY_REASSEMBLED];                      /* compute (n_samples × length, C) */
    qy_block_acts_t acts;                               /* of n_samples windows */
    qy_tensor_t w, w_hat, goal; /* f32, compute: readers' weights; compute: what they should give */
    qy_site_search_t search;
} qy_reassemble_t;

/* Tensors into arena (which may only measure); f runs the full-precision block. */
qy_status_t qy_reassemble_take(qy_reassemble_t *r, const qy_plan_t *plan, qy_forward_t *f,
                               qy_arena_t *arena, qy_error_t *err);

/* A new block; then the activations of its full-precision pass, batch by batch from sample 0 on. */
void qy_reassemble_begin(qy_reassemble_t *r);
qy_status_t qy_reassemble_see(qy_reassemble_t *r, const qy_block_acts_t *acts, qy_error_t *err);

/* The plans of its sites into q. f->params still holds the full-precision block. */
qy_status_t qy_reassemble_search(qy_reassemble_t *r, int64_t block,
                                 const qy_block_weights_t *weights, qy_qblock_t *q,
                                 qy_error_t *err);

#endif
