/*
 * RPTQ over one block: channels of similar ranges are put side by side in clusters, each with one
 * static step and zero point; weights follow the channels' order and are rounded by GPTQ, or
 * plainly, with steps for each row and cluster.
 *
 * Source: RPTQ, arXiv:2304.01089, official code; Llama, rotary positions and grouped heads are
 * ours.
 */
#ifndef QY_WORKER_RPTQ_H
#define QY_WORKER_RPTQ_H

#include "worker/gptq.h"

typedef struct {
    const qy_plan_t *plan;
    qy_block_ap_t *vars;
    qy_gptq_t gptq;
    qy_tensor_t range; /* f32: lo and hi of all sites, one after the other */
    qy_tensor_t lo[QY_N_SITES], hi[QY_N_SITES]; /* f32 (C), in range */
    /* With compat: compute (length, hidden), the sample that was zero before the segment, and the
     * block that it stands before. */
    qy_tensor_t zero;
    int64_t zero_block;
} qy_rptq_t;

/* Tensors into arena (which may only measure); vars has been taken and is never started. */
qy_status_t qy_rptq_take(qy_rptq_t *r, const qy_plan_t *plan, qy_block_ap_t *vars,
                         qy_arena_t *arena, qy_error_t *err);

/*
 * With compat the official code's all-zero sample, which enters at the segment's first block, is
 * brought before this block through the finished ones; else nothing is done. Weights in f->params
 * are lost.
 */
qy_status_t qy_rptq_bring(qy_rptq_t *r, int64_t first, int64_t block, qy_error_t *err);

/*
 * Quantizes a block on the plan's training samples of source (the activations before it) into q.
 * f->params holds the full-precision block; weights are put into the new order. NUMERIC where
 * activations or weights are not finite.
 */
qy_status_t qy_rptq_run(qy_rptq_t *r, int64_t block, qy_block_weights_t *weights,
                        qy_stream_t *source, const qy_hooks_t *hooks, qy_qblock_t *q,
                        qy_error_t *err);

#endif
