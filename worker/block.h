/*
 * Executes a block program on a device: forward down the rows, backward up. It knows nothing of
 * quantization: each linear row multiplies by whatever weight tensor it is given, and a hook hears
 * when a weight's gradient is there. Whoever trains or freezes a weight owns that tensor.
 */
#ifndef QY_WORKER_BLOCK_H
#define QY_WORKER_BLOCK_H

#include "base/arena.h"
#include "kernels/activation.h"
#include "model/channels.h"
#include "model/program.h"
#include "model/weights.h"

/*
 * A site's channel map: column_mix plans forward and, transposed, backward (kernels/columns.h). It
 * has as many channels behind it as before.
 */
typedef struct {
    bool active;
    qy_tensor_t offsets, back_offsets; /* i32 (C + 1) */
    qy_tensor_t items, back_items;     /* i32 (QY_MAP_ITEMS C) */
    qy_tensor_t weights, back_weights; /* f32 (QY_MAP_ITEMS C) */
    qy_tensor_t special, back_special; /* i32 (C): kernels/activation.h, which has so many: */
    int64_t n_special, n_back_special;
} qy_channel_map_t;

/* A site's quantizer of activations. */
typedef enum {
    QY_ACT_NONE,
    QY_ACT_PER_ROW, /* kernels/act_quant.h; Q, K, V: of a head */
    QY_ACT_STATIC   /* kernels/static_quant.h */
} qy_act_t;
typedef struct {
    qy_act_t kind;
    int bits;
    qy_tensor_t s, z; /* f32 (C): of a static one */
} qy_site_quantizer_t;

/*
 * Weights as the rows use them, in device memory, and what each site does in a pass with them: a
 * map that is not active and a quantizer of kind NONE are left out. Unused ones have .data NULL.
 */
typedef struct {
    qy_tensor_t w[QY_N_LINEARS];    /* compute (O, I) */
    qy_tensor_t bias[QY_N_LINEARS]; /* compute (O) */
    qy_tensor_t norm[QY_N_NORMS];   /* f32 (D) */
    qy_tensor_t norm_bias[QY_N_NORMS];
    qy_channel_map_t map[QY_N_SITES];
    qy_site_quantizer_t quantizer[QY_N_SITES];
    /* Attention's probabilities are rounded to 1/levels, which gradients pass over; 0: not. */
    int probability_levels;
} qy_block_params_t;

/* What a forward pass leaves for the backward pass, for a batch of one shape. */
typedef struct {
    int64_t batch, length;
    qy_tensor_t slot[QY_N_SLOTS]; /* X and Y are set by the forward call */
    qy_tensor_t mean[QY_N_NORMS], rstd[QY_N_NORMS], lse;
} qy_block_acts_t;

/* Where gradients go; all in device memory. */
typedef struct {
    qy_tensor_t slot[QY_N_SLOTS]; /* work space: gradients of the slots */
    qy_tensor_t dw[QY_N_LINEARS]; /* f32 or compute (O, I); may share memory where after_dw consumes
                                     each at once */
    qy_tensor_t dnorm[QY_N_NORMS]; /* f32 (D); .data NULL: norms are frozen */
    qy_tensor_t dnorm_bias[QY_N_NORMS];
    /* Called with the gradient of a linear row's output and its input; may be NULL. */
    qy_status_t (*at_linear)(void *context, qy_linear_id_t linear, const qy_tensor_t *dy,
                             const qy_tensor_t *x, qy_error_t *err);
    /* Called when dw[linear] is there; may be NULL. */
    qy_status_t (*after_dw)(void *context, qy_linear_id_t linear, const qy_tensor_t *dw,
                            qy_error_t *err);
    void *context;
} qy_block_grads_t;

typedef struct {
    const qy_device_t *dev;
    qy_program_t program;
    qy_tensor_t cosine, sine; /* f32 (max length, head_dim/2), device memory */
    /* Rows up to a quantizer PER_ROW as one op (kernels/activation.h), of the same bytes: where
     * that is the faster way on the device. */
    bool fused;
} qy_block_t;

/* Takes rope tables for sequences up to max_length from the arena (which may only be measuring).
 * decoration, of what may be active at sites, may be NULL. */
qy_status_t qy_block_init(qy_block_t *block, const qy_device_t *dev, const qy_arch_t *arch,
                          const qy_decoration_t *decoration, int64_t max_length, qy_arena_t *arena,
                          qy_error_t *err);

/* Tensors for one set of weights; contents undefined, sites idle. */
qy_status_t qy_block_params_take(qy_block_params_t *params, const qy_block_t *block,
                                 qy_arena_t *arena, qy_error_t *err);
/* Tensors for its channel maps and static quantizers alone, where the program has them (params_take
 * does this too); for one map. */
qy_status_t qy_block_sites_take(qy_block_params_t *params, const qy_block_t *block,
                                qy_arena_t *arena, qy_error_t *err);
qy_status_t qy_block_map_take(qy_channel_map_t *map, int64_t channels, qy_arena_t *arena,
                              qy_error_t *err);
/* A map as the fused op has it, both ways. */
void qy_block_map_plans(const qy_channel_map_t *map, qy_column_plan_t *plan,
                        qy_column_plan_t *back);
/* Fills params from a checkpoint's weights, by way of staging (f32, device, as large as the largest
 * linear layer). With linears 0 only biases and norms are filled. */
qy_status_t qy_block_params_load(const qy_block_params_t *params, const qy_block_t *block,
                                 const qy_block_weights_t *weights, const qy_tensor_t *staging,
                                 int linears, qy_error_t *err);

qy_status_t qy_block_acts_take(qy_block_acts_t *acts, const qy_block_t *block, int64_t batch,
                               int64_t length, qy_arena_t *arena, qy_error_t *err);
/* acts for fewer sequences than it was taken for (a last, partial batch). */
qy_block_acts_t qy_block_acts_narrow(const qy_block_acts_t *acts, int64_t batch);
/* acts for sequences of another length, of no more tokens in all than it was taken for. */
qy_block_acts_t qy_block_acts_reshape(const qy_block_acts_t *acts, int64_t batch, int64_t length);
qy_status_t qy_block_grads_take(qy_block_grads_t *grads, const qy_block_t *block, int64_t batch,
                                int64_t length, qy_arena_t *arena, qy_error_t *err);

/* y = block(x); x and y compute (batch × length, hidden), kept by reference in acts. Where
 * block->fused, the slots of a norm, gated product or ReLU before a quantizer PER_ROW, and of the
 * map between them, are not written. */
qy_status_t qy_block_forward(const qy_block_t *block, const qy_block_params_t *params,
                             qy_block_acts_t *acts, const qy_tensor_t *x, const qy_tensor_t *y,
                             qy_error_t *err);

/* What readers of a slot see after a forward pass with these params: a decorated slot that is left
 * out is its source. */
const qy_tensor_t *qy_block_value(const qy_block_t *block, const qy_block_params_t *params,
                                  const qy_block_acts_t *acts, qy_slot_t slot);

/*
 * Only the rows after the one that makes `from` up to the one that makes `upto`; from's values are
 * there, in acts. Sites of params that are active are so here too, and every slot is written.
 */
qy_status_t qy_block_forward_part(const qy_block_t *block, const qy_block_params_t *params,
                                  const qy_block_acts_t *acts, qy_slot_t from, qy_slot_t upto,
                                  qy_error_t *err);

/*
 * Gradients from dy (compute (batch × length, hidden)), which is overwritten: with want_dx by the
 * gradient of x. Without it no row computes what only that would need.
 */
qy_status_t qy_block_backward(const qy_block_t *block, const qy_block_params_t *params,
                              const qy_block_acts_t *acts, qy_block_grads_t *grads,
                              const qy_tensor_t *dy, int want_dx, qy_error_t *err);

#endif
