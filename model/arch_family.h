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

/* Sliding windows: which blocks have one, and how far it reaches. */
typedef struct {
    const char *key;        /* its length, null for none; NULL: the family has no windows */
    int64_t length;         /* where the key is absent */
    const char *switch_key; /* must be true for any window; NULL: no such key */
    const char *first_key;  /* blocks before this one have none; NULL: all have it */
    int64_t first;          /* where that key is absent */
    bool by_layer_types;    /* the list layer_types, where it is there, decides in place of first */
} qy_family_window_t;

enum { QY_MAX_DEMANDS = 4 };

typedef struct {
    const char *architecture, *model_type;
    qy_family_t family;
    qy_norm_kind_t norm_kind;
    qy_act_kind_t act_kind;

    /* keys of config.json; NULL where the family has none */
    const char *intermediate_key;
    const char *kv_heads_key; /* null: as many as heads */
    int64_t kv_heads;         /* where the key is absent; 0: as null */
    const char *head_dim_key; /* null: hidden / heads */
    int64_t head_dim;         /* where the key is absent; 0: as null */
    const char *act_key, *act_name;
    const char *eps_key;
    double eps;                     /* the default, or the constant */
    const char *same_as_hidden_key; /* must equal hidden_size */
    bool tied;                      /* default of tie_word_embeddings */
    qy_family_window_t window;
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
