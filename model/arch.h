/*
 * A decoder-only transformer as data: sizes and switches read from config.json. Families differ in
 * the values here and in the rows of the block program, never in code.
 *
 * Source of fields and defaults: transformers 5.17 configuration classes, 4.x and 5.x layouts.
 */
#ifndef QY_MODEL_ARCH_H
#define QY_MODEL_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef enum {
    QY_FAMILY_LLAMA,
    QY_FAMILY_MISTRAL,
    QY_FAMILY_QWEN2,
    QY_FAMILY_QWEN3,
    QY_FAMILY_OPT,
    QY_N_FAMILIES
} qy_family_t;
typedef enum { QY_NORM_RMS, QY_NORM_LAYER } qy_norm_kind_t;
typedef enum { QY_ACT_SILU_GATE, QY_ACT_RELU } qy_act_kind_t;
typedef enum { QY_ROPE_NONE, QY_ROPE_DEFAULT, QY_ROPE_LINEAR, QY_ROPE_LLAMA3 } qy_rope_kind_t;

/* The linear layers of a block. OPT's fc1 is UP and its fc2 DOWN; it has no GATE. */
typedef enum {
    QY_LINEAR_Q,
    QY_LINEAR_K,
    QY_LINEAR_V,
    QY_LINEAR_O,
    QY_LINEAR_GATE,
    QY_LINEAR_UP,
    QY_LINEAR_DOWN,
    QY_N_LINEARS
} qy_linear_id_t;

/* The norms of a block. NORM_Q and NORM_K act on each head after the projection. */
typedef enum { QY_NORM_ATTENTION, QY_NORM_MLP, QY_NORM_Q, QY_NORM_K, QY_N_NORMS } qy_norm_id_t;

enum { QY_NAME_MAX = 64, QY_HEAD_DIM_MAX = 4096 };

typedef struct {
    bool present, bias;
    int64_t out, in;
    char name[QY_NAME_MAX]; /* inside a block: "self_attn.q_proj" */
} qy_linear_desc_t;

typedef struct {
    bool present, bias;
    int64_t size;
    char name[QY_NAME_MAX]; /* inside a block: "input_layernorm" */
} qy_norm_desc_t;

typedef struct {
    qy_family_t family;
    char model_type[QY_NAME_MAX];
    int64_t n_blocks, hidden, intermediate, n_heads, n_kv_heads, head_dim, vocab, max_positions;
    bool tied_head; /* the head is the embedding */

    qy_norm_kind_t norm_kind;
    float norm_eps;
    qy_act_kind_t act_kind;
    int64_t window; /* sliding window of every block's attention; 0: none */

    qy_rope_kind_t rope_kind;
    double rope_theta, rope_factor, rope_low_freq, rope_high_freq;
    int64_t rope_original_positions;

    bool learned_positions; /* OPT: row of position p is p + position_offset */
    int64_t position_offset;

    qy_linear_desc_t linear[QY_N_LINEARS];
    qy_norm_desc_t norm[QY_N_NORMS];
    qy_norm_desc_t final_norm; /* name is the full tensor name without ".weight" */

    char block_prefix[QY_NAME_MAX];   /* "model.layers." */
    char embedding_name[QY_NAME_MAX]; /* full tensor names */
    char position_name[QY_NAME_MAX];
    char head_name[QY_NAME_MAX];
} qy_arch_t;

/*
 * Reads DIR/config.json. UNSUPPORTED names what is not known (architecture, with the list of known
 * ones; rope type; activation; post-norm; windows in some blocks only…); FORMAT names file, key and
 * value; every size is checked to be positive and consistent (heads × head_dim, kv heads divide
 * heads).
 */
qy_status_t qy_arch_read(qy_arch_t *arch, const char *model_dir, qy_error_t *err);

/* Inverse frequencies f[i], i < head_dim/2, with the rope scaling applied; writes none without
 * rope. */
void qy_arch_rope_frequencies(const qy_arch_t *arch, double *f);

/* cos and sin of p f[i], computed in f64 and rounded: f32 (positions, head_dim/2) each; none
 * without. */
void qy_arch_rope_tables(const qy_arch_t *arch, int64_t positions, float *cosine, float *sine);

/* Weights (without biases) of one block's linear layers; parameters of the whole model, a tied head
 * counted once. */
int64_t qy_arch_block_weights(const qy_arch_t *arch);
int64_t qy_arch_parameters(const qy_arch_t *arch);

#endif
