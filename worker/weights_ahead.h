/*
 * The checkpoint's weights for a walk from block to block: while one is computed with, the next is
 * read and widened on a thread of its own.
 */
#ifndef QY_WORKER_WEIGHTS_AHEAD_H
#define QY_WORKER_WEIGHTS_AHEAD_H

#include "model/weights.h"

typedef struct qy_weights_ahead qy_weights_ahead_t;

/*
 * A block's weights, the caller's to free, then begins with block + 1 where that is before end.
 * *ahead is NULL before the first call. Host memory: those of two blocks.
 */
qy_status_t qy_weights_ahead_take(qy_weights_ahead_t **ahead, const qy_model_t *model,
                                  int64_t block, int64_t end, qy_block_weights_t *out,
                                  qy_error_t *err);

/* Waits for what is being read and drops it. */
void qy_weights_ahead_free(qy_weights_ahead_t **ahead);

#endif
