/*
 * What config.json and the tensor names of each known family say: one row a family, no code. A new
 * family is a new row (and a new field where it asks something that no other one does).
 */
#ifndef QY_MODEL_ARCH_FAMILY_H
#define QY_MODEL_ARCH_FAMILY_H

#include "model/arch.h"

/* A switch: a key of config.json with its default, or with key NULL a constant of the family. */
typedef struct {
    const char *key;
    bool value;
} qy_family_switch_t;

/* A switch that must have the value; reason ends the sentence "KEY is …: ". */
typedef struct {
    const char *key;
    bool value;
    const char *reason;
} qy_family_demand_t;

enum { QY_MAX_DEMANDS = 4 };

typedef struct {
    const char *architecture, *model_type;
    qy_family_t family;
    qy_norm_kind_t norm_kind;
    qy_act_kind_t act_kind;

    /* keys of config.json; NULL where the family has none */
    const char *intermediate_key;
    const char *kv_heads_key; /* absent or null: as many as heads */
    const char *head_dim_key; /* absent or null: hidden / heads */
    const char *act_key, *act_name;
    const char *eps_key;
    double eps;                     /* the default, or the constant */
    const char *same_as_hidden_key; /* must equal hidden_size */
    bool tied;                      /* default of tie_word_embeddings */
    bool rope;
    int64_t position_offset; /* of learned positions; where rope is false */
    qy_family_switch_t qkv_bias, o_bias, mlp_bias;
    qy_family_demand_t demand[QY_MAX_DEMANDS];

    /* tensor names: inside a block, and full ones */
    const char *linear[QY_N_LINEARS]; /* NULL: the block has none */
    const char *norm[QY_N_NORMS];
    const char *block_prefix, *embedding, *position, *final_norm, *head;
} qy_family_row_t;

extern const qy_family_row_t qy_families[QY_N_FAMILIES];

#endif
