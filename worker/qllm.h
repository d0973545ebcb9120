/*
 * QLLM: a round of consecutive blocks is reassembled site by site, then low-rank corrections beside
 * their frozen low-bit weights (and their norms) are trained together, merged into the weights, and
 * these quantized again.
 *
 * Source: QLLM, arXiv:2310.08041, and its official code.
 */
#ifndef QY_WORKER_QLLM_H
#define QY_WORKER_QLLM_H

#include "kernels/optim.h"
#include "worker/hooks.h"
#include "worker/reassemble.h"
#include "worker/segment_streams.h"

/* A linear layer in training. R: the rank, rounded up to 8 with zeros that stay zeros. */
typedef struct {
    qy_tensor_t w_hat;              /* compute (O, I): the quantized weights */
    qy_tensor_t a, a_m, a_v, da;    /* f32 (R, I) */
    qy_tensor_t b, b_m, b_v, db;    /* f32 (O, R) */
    qy_tensor_t a_scaled, b_scaled; /* compute */
} qy_qllm_layer_t;

typedef struct {
    qy_block_params_t params; /* w: corrected weights */
    qy_block_acts_t acts;
    qy_qllm_layer_t layer[QY_N_LINEARS];
    qy_tensor_t dnorm[QY_N_NORMS], norm_m[QY_N_NORMS], norm_v[QY_N_NORMS];
    qy_tensor_t dbias[QY_N_NORMS], bias_m[QY_N_NORMS], bias_v[QY_N_NORMS];
    qy_tensor_t y; /* compute (batch × length, hidden) */
} qy_qllm_block_t;

typedef struct {
    const qy_plan_t *plan;
    qy_forward_t
        *f; /* full-precision passes, finished blocks, staging; its batch is the training's */
    int training, reassembling;
    int64_t n;               /* blocks of the round at hand */
    qy_qllm_block_t *blocks; /* owned: blocks_per_round of them */
    qy_reassemble_t sites;
    qy_tensor_t w, mixed, s, z; /* f32: the largest layer, twice; its steps and zero points */
    qy_tensor_t ones;           /* f32 (2 C) */
    qy_tensor_t t, u;           /* compute (batch × length, R) */
    qy_block_grads_t grads;
    int64_t current; /* block that the backward pass is in */
    qy_tensor_t goal, dy, hyper, state, flag, losses;
    int scaled; /* dynamic loss scaling (f16) */
} qy_qllm_t;

/* Tensors into arena (which may only measure). Free releases host memory only. */
qy_status_t qy_qllm_take(qy_qllm_t *q, const qy_plan_t *plan, qy_forward_t *f, qy_arena_t *arena,
                         qy_error_t *err);
void qy_qllm_free(qy_qllm_t *q);

/* A block of the round: the target stream's pass through it, and its channel maps into out. */
qy_status_t qy_qllm_look(qy_qllm_t *q, int64_t block, const qy_block_weights_t *weights,
                         qy_segment_streams_t *streams, qy_qblock_t *out, qy_error_t *err);

/* Quantizes it and sets it up as block i of the round; out holds its maps. */
qy_status_t qy_qllm_start(qy_qllm_t *q, int64_t i, int64_t block, const qy_block_weights_t *weights,
                          const qy_qblock_t *out, qy_error_t *err);

/* Trains the first n blocks set up, which begin at block `first` of the model, from the round's
 * checkpoint (blocks/FIRST.partial.h5) where there is one. losses: means over the first and the
 * last eighth of the steps. NUMERIC where a loss is not finite; STOPPED, after saving, at the first
 * step after a stop request. */
qy_status_t qy_qllm_train(qy_qllm_t *q, int64_t first, int64_t n, qy_stream_t *source,
                          qy_stream_t *goal, const qy_hooks_t *hooks, double losses[2],
                          qy_error_t *err);

/* Mean squared error at the end of the round over samples [first, first + n), as it would be
 * without merging. NAN for n = 0 or where nothing is trained. */
qy_status_t qy_qllm_error(qy_qllm_t *q, int64_t n_blocks, qy_stream_t *source, qy_stream_t *goal,
                          int64_t first, int64_t n, double *mse, qy_error_t *err);

/* Merges the corrections of block i and finishes its weights into out, and into the round. */
qy_status_t qy_qllm_freeze(qy_qllm_t *q, int64_t i, const qy_block_weights_t *weights,
                           qy_qblock_t *out, qy_error_t *err);

#endif
