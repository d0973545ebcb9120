/*
 * The blocks of E2E-QP that one rank holds: packed codes, steps in training, and one set of weights
 * in the compute type that each block is dequantized into when its turn comes. Blocks' inputs are
 * kept for the backward pass, and the activations inside as many blocks as memory has room for; in
 * the others they are recomputed. The bytes of the result are the same either way.
 */
#ifndef QY_WORKER_E2E_STAGE_H
#define QY_WORKER_E2E_STAGE_H

#include "jobs/finished.h"
#include "worker/block.h"
#include "worker/outer.h"

/* One quantized layer in training. */
typedef struct {
    qy_tensor_t codes, zeros; /* u32 (O, W), u8 (O, G); zeros i32 with clusters */
    qy_tensor_t s, s_m, s_v;  /* f32 (O, G) */
    qy_tensor_t ds, unit;     /* f32 (O, G); unit.data NULL with absolute rates */
} qy_e2e_layer_t;

typedef struct {
    qy_e2e_layer_t layer[QY_N_LINEARS];
    qy_block_params_t params; /* .w of all blocks share one set of tensors */
    /* With clusters, of the sites that layers read: i32 (C), the cluster of each channel, and (K +
     * 1), where each begins. */
    qy_tensor_t group[QY_N_SITES], offsets[QY_N_SITES];
    qy_tensor_t x; /* compute (slots × batch × length, hidden): the block's inputs, kept */
} qy_e2e_block_t;

typedef struct {
    const qy_plan_t *plan;
    qy_device_t *dev;
    const qy_model_t *model;
    int64_t first, n; /* blocks [first, first + n) */
    int64_t n_slots;  /* micro-batches that may be under way at once */
    void *memory;
    qy_arena_t arena;
    qy_block_t block;
    qy_e2e_block_t *blocks;
    qy_block_params_t shared;
    qy_block_acts_t acts;  /* of one block and micro-batch at a time */
    qy_block_acts_t *kept; /* of the first n_kept blocks: [block × n_slots + slot] */
    int64_t n_kept;
    qy_block_grads_t grads;
    qy_tensor_t y, dy, teacher;   /* compute (batch × length, hidden) */
    qy_tensor_t dw, scratch, sum; /* f32: largest layer; largest (O, G); 1 */
    qy_tensor_t staging, hyper;
    qy_outer_t outer;
    qy_ids_t ids;
    qy_head_work_t head;
    int has_embedding, has_head;
    int64_t acts_block, acts_micro; /* what acts holds; −1: nothing */
    int64_t weights_block;          /* whose weights are dequantized; −1: nobody's */
    float scale;                    /* of the loss and all gradients: 1 but in f16 */
    int fresh;                      /* 1: ds holds nothing yet in this batch */
    int current;                    /* block that backward is in, for the gradient hook */
} qy_e2e_stage_t;

/*
 * Blocks of each of n_stages stages, contiguous, the costliest stage as cheap as it can be: a block
 * counts its four products per weight, the head two (three when it distills) per weight of its own.
 * first: n_stages + 1 numbers; the last stages are empty where there are more stages than blocks.
 */
void qy_e2e_split(const qy_plan_t *plan, int n_stages, int64_t *first);

/* Micro-batches that a rank has under way at most: as many as there are stages from it to the last.
 */
int64_t qy_e2e_slots(const qy_plan_t *plan, int n_stages, int rank);

/*
 * Takes memory for blocks [first, first + n) with n_slots micro-batches under way and loads them
 * from the stitched model. Activations are kept in as many blocks as fit into room bytes
 * altogether.
 */
qy_status_t qy_e2e_stage_open(qy_e2e_stage_t *s, const qy_plan_t *plan, qy_device_t *dev,
                              const qy_model_t *model, int64_t first, int64_t n, int64_t n_slots,
                              size_t room, qy_error_t *err);
/* Device memory that it takes without room for any block's activations, beside the device's own. */
qy_status_t qy_e2e_stage_bytes(size_t *bytes, const qy_plan_t *plan, qy_device_t *dev,
                               const qy_model_t *model, int64_t first, int64_t n, int64_t n_slots,
                               qy_error_t *err);
void qy_e2e_stage_close(qy_e2e_stage_t *s);

/* Steps and moments of a saved step, into and out of the stage. */
qy_status_t qy_e2e_stage_load(qy_e2e_stage_t *s, int64_t step, qy_error_t *err);
qy_status_t qy_e2e_stage_save(qy_e2e_stage_t *s, int64_t step, qy_error_t *err);

/* The stage's input of micro-batch m, n sequences. */
qy_tensor_t qy_e2e_stage_input(const qy_e2e_stage_t *s, int64_t m, int64_t n);

/* Micro-batch m, n sequences, through the stage's blocks, from its input to s->y. */
qy_status_t qy_e2e_stage_forward(qy_e2e_stage_t *s, int64_t m, int64_t n, qy_error_t *err);

/* Back through them from s->dy (overwritten by the gradient of the stage's input); steps' gradients
 * are added to ds, or start it when s->fresh. */
qy_status_t qy_e2e_stage_backward(qy_e2e_stage_t *s, int64_t m, int64_t n, qy_error_t *err);

/* Σ of squares of the gradients with respect to the trained variables, per block: sums[n], f32. */
qy_status_t qy_e2e_stage_norms(qy_e2e_stage_t *s, float *sums, qy_error_t *err);

/* AdamW of every step with rate lr at update k (from 0; updates that were skipped count in its bias
 * correction), gradients times clip (1/scale in it); steps stay ≥ 2^-14. */
qy_status_t qy_e2e_stage_update(qy_e2e_stage_t *s, int64_t k, double lr, float clip,
                                qy_error_t *err);

#endif
