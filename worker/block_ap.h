/*
 * Block-AP: trains every parameter of one block in low-bit form to reproduce the full-precision
 * block's output, by straight-through gradients. Also holds what plain rounding (rtn) needs: start
 * and freeze.
 *
 * Source: EfficientQAT, arXiv:2407.11062, section 3.2; rates and start as in the plan
 * (jobs/plan.h).
 */
#ifndef QY_WORKER_BLOCK_AP_H
#define QY_WORKER_BLOCK_AP_H

#include "jobs/finished.h"
#include "kernels/optim.h"
#include "worker/block_save.h"
#include "worker/forward.h"
#include "worker/hooks.h"

typedef struct {
    const qy_plan_t *plan;
    qy_forward_t *f; /* runs the block; its params.w hold the fake-quantized weights */
    int training;
    int init; /* qy_init_t; the plan's, unless changed after take */
    qy_quant_vars_t vars[QY_N_LINEARS];
    qy_tensor_t unit[QY_N_LINEARS]; /* initial steps, where rates are in units of them */
    qy_tensor_t norm_m[QY_N_NORMS], norm_v[QY_N_NORMS];
    qy_block_grads_t grads;
    qy_tensor_t goal; /* compute (batch × length, hidden) */
    qy_tensor_t dy;
    qy_tensor_t hyper, state, flag, loss, losses;
    qy_graph_t *graph;     /* of a step, while a block is trained */
    int scaled;            /* dynamic loss scaling (f16) */
    qy_block_save_t *save; /* checkpoints; the owner's to destroy; NULL: none are made */
} qy_block_ap_t;

/* Losses of a training: means of the step losses over the first and the last eighth of the steps.
 */
typedef struct {
    double first, last;
} qy_block_ap_losses_t;

/* Makes t->save, for the blocks that it trains one after the other. */
qy_status_t qy_block_ap_save(qy_block_ap_t *t, qy_error_t *err);

/* Tensors into arena (which may only measure). training 0: start and freeze only. */
qy_status_t qy_block_ap_take(qy_block_ap_t *t, const qy_plan_t *plan, qy_forward_t *f, int training,
                             qy_arena_t *arena, qy_error_t *err);

/* Loads the block's weights as masters, finds starting steps and zero points, and puts the
 * fake-quantized weights into f->params. */
qy_status_t qy_block_ap_start(qy_block_ap_t *t, const qy_block_weights_t *weights, qy_error_t *err);

/*
 * The training: batches of source (the quantized model's activations before the block) against goal
 * (the full-precision ones after it), samples [0, plan's training samples), from the block's
 * checkpoint where there is one. NUMERIC with block, step and last good loss where a loss is not
 * finite; STOPPED, after saving, at the first step after a stop request.
 */
qy_status_t qy_block_ap_train(qy_block_ap_t *t, int64_t block, qy_stream_t *source,
                              qy_stream_t *goal, const qy_hooks_t *hooks,
                              qy_block_ap_losses_t *losses, qy_error_t *err);

/* Finishes the weights: steps to f16 first, then codes from them; norms that were trained to f16.
 */
qy_status_t qy_block_ap_freeze(qy_block_ap_t *t, const qy_block_weights_t *weights,
                               qy_qblock_t *out, qy_error_t *err);

#endif
