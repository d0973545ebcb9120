/* The tables of a BPE model: made by tokenizer_bpe_load.c, used by tokenizer_bpe.c. */
#ifndef QY_MODEL_TOKENIZER_BPE_INNER_H
#define QY_MODEL_TOKENIZER_BPE_INNER_H

#include <stdbool.h>

#include "model/tokenizer_bpe.h"

typedef struct {
    uint32_t offset, bytes; /* in the text of all tokens */
    int32_t id;
} qy_bpe_token_t;

typedef struct {
    int32_t left, right; /* left < 0: a free slot */
    uint32_t rank;
    int32_t id; /* of what they become */
} qy_bpe_merge_t;

struct qy_bpe {
    char *text;
    qy_bpe_token_t *tokens;
    uint32_t *slots; /* open addressing: index into tokens + 1, 0 where free */
    uint64_t slot_mask;
    qy_bpe_merge_t *merges; /* open addressing */
    uint64_t merge_mask;
    int64_t size;
    int32_t byte_ids[256]; /* of "<0x00>" … "<0xFF>"; -1 where there is none */
    int32_t unknown_id;    /* -1: characters without a token vanish, unless the name is wrong */
    bool
        unknown_is_missing; /* an unk_token that the vocabulary lacks: an error once it is needed */
    bool byte_fallback, fuse_unknown, ignore_merges;
};

/* NULL where the pair does not merge. */
const qy_bpe_merge_t *qy_bpe_merge(const qy_bpe_t *bpe, int32_t left, int32_t right);

#endif
