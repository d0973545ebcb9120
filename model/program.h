/*
 * A decoder block as rows of operations, made from the arch: what the worker executes forward by
 * walking down and backward by walking up. Families and, later, decorations of activations
 * (quantizers, channel maps at a site) are other rows, never other code. Also says how many bytes a
 * block needs.
 */
#ifndef QY_MODEL_PROGRAM_H
#define QY_MODEL_PROGRAM_H

#include "model/arch.h"

/* Activations of a block; M tokens. The comment gives the columns. */
typedef enum {
    QY_SLOT_X,    /* hidden: the block's input (borrowed from the caller) */
    QY_SLOT_N1,   /* hidden: after the first norm */
    QY_SLOT_Q,    /* heads × head_dim: projection */
    QY_SLOT_K,    /* kv heads × head_dim */
    QY_SLOT_V,    /* kv heads × head_dim */
    QY_SLOT_QN,   /* as Q: after the head norm */
    QY_SLOT_KN,   /* as K */
    QY_SLOT_QR,   /* as Q: after rotation */
    QY_SLOT_KR,   /* as K */
    QY_SLOT_A,    /* heads × head_dim: attention output */
    QY_SLOT_O,    /* hidden */
    QY_SLOT_H,    /* hidden: after the first residual */
    QY_SLOT_N2,   /* hidden: after the second norm */
    QY_SLOT_GATE, /* intermediate */
    QY_SLOT_UP,   /* intermediate */
    QY_SLOT_M,    /* intermediate: after the activation */
    QY_SLOT_D,    /* hidden */
    QY_SLOT_Y,    /* hidden: the block's output (borrowed from the caller) */
    QY_N_SLOTS,
    QY_SLOT_NONE = -1
} qy_slot_t;

typedef enum {
    QY_ROW_NORM,      /* out = norm(in); stats are kept per norm id */
    QY_ROW_HEAD_NORM, /* the same over each head's head_dim */
    QY_ROW_LINEAR,    /* out = in wᵀ + b */
    QY_ROW_ROPE,      /* out = rotated in */
    QY_ROW_ATTENTION, /* out = attention(in, in2, in3) */
    QY_ROW_SILU_MUL,  /* out = silu(in) in2 */
    QY_ROW_RELU,      /* out = max(in, 0) */
    QY_ROW_ADD        /* out = in + in2; in is the residual stream, in2 the branch */
} qy_row_kind_t;

typedef struct {
    qy_row_kind_t kind;
    qy_slot_t out, in, in2, in3; /* QY_SLOT_NONE where unused */
    int id;                      /* qy_linear_id_t or qy_norm_id_t */
} qy_row_t;

enum { QY_MAX_ROWS = 32 };

typedef struct {
    qy_arch_t arch;
    int n_rows;
    qy_row_t row[QY_MAX_ROWS];
    bool used[QY_N_SLOTS];
} qy_program_t;

void qy_program_build(qy_program_t *program, const qy_arch_t *arch);

/* Columns of a slot, elements per token. */
int64_t qy_program_cols(const qy_program_t *program, qy_slot_t slot);

/*
 * The slot whose gradient buffer also holds this slot's gradient: a residual sum passes its
 * gradient on untouched (everything on the residual stream shares Y's, the caller's), and rows that
 * can work in place do. A slot that has a buffer of its own is its own home.
 */
qy_slot_t qy_program_gradient_home(const qy_program_t *program, qy_slot_t slot);

/* Bytes of the slots that a forward pass keeps for the backward pass (X and Y are the caller's, not
 * counted), and of the gradient slots of a backward pass; n_tokens = batch × length. */
int64_t qy_program_activation_bytes(const qy_program_t *program, int64_t batch, int64_t length,
                                    int64_t element_bytes);
int64_t qy_program_gradient_bytes(const qy_program_t *program, int64_t batch, int64_t length,
                                  int64_t element_bytes);

#endif
