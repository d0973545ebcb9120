/*
 * GPTQ over one block: second moments of every linear layer's inputs, then each layer rounded
 * column by column with the errors made good (kernels/gptq.h). Works on the variables of a
 * qy_block_ap_t that was started for rounding and leaves them finished there: its freeze then
 * gives exactly these codes.
 *
 * Source: GPTQ, arXiv:2210.17323; keys gptq.* of the job. Groups are of consecutive columns of the
 * checkpoint whatever the order of work, so every exporter holds the result.
 */
#ifndef QY_WORKER_GPTQ_H
#define QY_WORKER_GPTQ_H

#include "worker/block_ap.h"

/* Activations that linear layers read: each has second moments of its own. */
enum { QY_GPTQ_SITES = 4 };

typedef struct {
    const qy_plan_t *plan;
    qy_block_ap_t *vars;
    qy_tensor_t h[QY_GPTQ_SITES];              /* f32 (I, I) */
    qy_tensor_t u;                             /* f32, the largest (I, I) */
    qy_tensor_t errors;                        /* f32, the most rows × block_size */
    qy_tensor_t order, inverse, gather, group; /* i32, the most columns */
    qy_tensor_t diagonal, shift;               /* f32, likewise */
    qy_tensor_t s, z;                          /* f32: a group's, the most rows */
    /* Host, borrowed: the group of each column of a site's layers; NULL: of consecutive columns. */
    const int32_t *groups[QY_GPTQ_SITES];
    bool given_steps;      /* steps are the caller's; else they are found when a group is reached */
    bool plain;            /* no moments, no errors made good: only the steps are found */
    int read_by_attention; /* the site of q, k and v; −1: gptq.first_token is not the method's */
} qy_gptq_t;

/* Tensors into arena (which may only measure); vars has been taken. */
qy_status_t qy_gptq_take(qy_gptq_t *g, const qy_plan_t *plan, qy_block_ap_t *vars,
                         qy_arena_t *arena, qy_error_t *err);

/*
 * Quantizes the block whose weights vars was started with, on the plan's training samples of source
 * (the activations before the block). NUMERIC where inputs are not finite or no damping helps.
 */
qy_status_t qy_gptq_run(qy_gptq_t *g, int64_t block, const qy_block_weights_t *weights,
                        qy_stream_t *source, const qy_hooks_t *hooks, qy_error_t *err);

/*
 * The same in pieces, for a method that looks at the activations itself and brings its own groups
 * (those of equal number side by side) and perhaps steps (vars' s and z): a batch that went through
 * the block, in order; then all layers at once. The rounded weights are left in vars alone; with
 * plain rounding the weights as they are, for the caller to round.
 */
qy_status_t qy_gptq_add(qy_gptq_t *g, const qy_block_acts_t *acts, int accumulate, qy_error_t *err);
qy_status_t qy_gptq_round(qy_gptq_t *g, int64_t block, qy_error_t *err);

/* The activation that a linear layer reads, counted from the block's first: its second moments'
 * place. */
int qy_gptq_site(const qy_program_t *program, int linear);

#endif
