/*
 * A decoder block as rows of operations, made from the arch: what the worker executes forward by
 * walking down and backward by walking up. Families and decorations of activations (quantizers,
 * channel maps at a site) are other rows, never other code. Also says how many bytes a block needs.
 */
#ifndef QY_MODEL_PROGRAM_H
#define QY_MODEL_PROGRAM_H

#include "model/arch.h"

/*
 * Sites: the activations that may be decorated, by what reads them. First a channel map, then a
 * quantizer stands between the slot that a site begins at and its readers.
 */
typedef enum {
    QY_SITE_ATTENTION_IN, /* N1 → q, k, v */
    QY_SITE_O_IN,         /* A → o */
    QY_SITE_MLP_IN,       /* N2 → gate, up (or fc1) */
    QY_SITE_DOWN_IN,      /* M → down (or fc2) */
    QY_SITE_Q,            /* queries, keys and values as attention sees them, per head */
    QY_SITE_K,
    QY_SITE_V,
    QY_N_SITES
} qy_site_t;

/* Activations of a block; M tokens. The comment gives the columns. */
typedef enum {
    QY_SLOT_X,      /* hidden: the block's input (borrowed from the caller) */
    QY_SLOT_N1,     /* hidden: after the first norm */
    QY_SLOT_Q,      /* heads × head_dim: projection */
    QY_SLOT_K,      /* kv heads × head_dim */
    QY_SLOT_V,      /* kv heads × head_dim */
    QY_SLOT_QN,     /* as Q: after the head norm */
    QY_SLOT_KN,     /* as K */
    QY_SLOT_QR,     /* as Q: after rotation */
    QY_SLOT_KR,     /* as K */
    QY_SLOT_A,      /* heads × head_dim: attention output */
    QY_SLOT_O,      /* hidden */
    QY_SLOT_H,      /* hidden: after the first residual */
    QY_SLOT_N2,     /* hidden: after the second norm */
    QY_SLOT_GATE,   /* intermediate */
    QY_SLOT_UP,     /* intermediate */
    QY_SLOT_M,      /* intermediate: after the activation */
    QY_SLOT_D,      /* hidden */
    QY_SLOT_Y,      /* hidden: the block's output (borrowed from the caller) */
    QY_SLOT_MAPPED, /* and one for each site: after its channel map */
    QY_SLOT_QUANTIZED = QY_SLOT_MAPPED + QY_N_SITES, /* … after its quantizer */
    QY_N_SLOTS = QY_SLOT_QUANTIZED + QY_N_SITES,
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
    QY_ROW_ADD,       /* out = in + in2; in is the residual stream, in2 the branch */
    QY_ROW_MAP,       /* out = in with its channels mixed by the site's plan */
    QY_ROW_QUANTIZE   /* out = in as the site's quantizer leaves it */
} qy_row_kind_t;

typedef struct {
    qy_row_kind_t kind;
    qy_slot_t out, in, in2, in3; /* QY_SLOT_NONE where unused */
    int id;                      /* qy_linear_id_t, qy_norm_id_t or qy_site_t */
} qy_row_t;

enum { QY_MAX_ROWS = 48 };

/* What a site may carry. A row that is in the program may still be idle in a pass (worker/block.h).
 */
typedef struct {
    bool mapped[QY_N_SITES];
    bool quantized[QY_N_SITES];
} qy_decoration_t;

typedef struct {
    qy_arch_t arch;
    int n_rows;
    qy_row_t row[QY_MAX_ROWS];
    bool used[QY_N_SLOTS];
    qy_slot_t source[QY_N_SLOTS]; /* of a decorated slot the slot it stands for, else NONE */
} qy_program_t;

/* decoration may be NULL: none. */
void qy_program_build(qy_program_t *program, const qy_arch_t *arch,
                      const qy_decoration_t *decoration);

/* Columns of a slot, elements per token. */
int64_t qy_program_cols(const qy_program_t *program, qy_slot_t slot);

/*
 * The slot whose gradient buffer also holds this slot's gradient: a residual sum passes its
 * gradient on untouched (everything on the residual stream shares Y's, the caller's), and rows that
 * can work in place do. A slot that has a buffer of its own is its own home. idle, QY_N_SLOTS
 * flags: decorated slots that a pass leaves out, so that they are their sources; NULL: none.
 */
qy_slot_t qy_program_gradient_home(const qy_program_t *program, const bool *idle, qy_slot_t slot);

/* Bytes of the slots that a forward pass keeps for the backward pass (X and Y are the caller's, not
 * counted), and of the gradient slots of a backward pass; n_tokens = batch × length. */
int64_t qy_program_activation_bytes(const qy_program_t *program, int64_t batch, int64_t length,
                                    int64_t element_bytes);
int64_t qy_program_gradient_bytes(const qy_program_t *program, int64_t batch, int64_t length,
                                  int64_t element_bytes);

#endif
