/* The stages of a pre-tokenizer: made by tokenizer_split.c, run by tokenizer_split_run.c. */
#ifndef QY_MODEL_TOKENIZER_SPLIT_INNER_H
#define QY_MODEL_TOKENIZER_SPLIT_INNER_H

#include "model/tokenizer_pattern.h"
#include "model/tokenizer_split.h"

enum { QY_SPLIT_STAGES_MAX = 16, QY_SPLIT_MARK_BYTES_MAX = 4 };

/* What becomes of the matches of a pattern, and of what lies between them. */
typedef enum {
    QY_SPLIT_ISOLATED, /* each a piece of its own */
    QY_SPLIT_REMOVED,
    QY_SPLIT_CONTIGUOUS,           /* adjacent matches are one piece */
    QY_SPLIT_MERGED_WITH_PREVIOUS, /* a match ends the piece before it */
    QY_SPLIT_MERGED_WITH_NEXT
} qy_split_behavior_t;

typedef enum {
    QY_SPLIT_CUT,          /* at the matches of a pattern */
    QY_SPLIT_PREFIX_SPACE, /* a space before what has none */
    QY_SPLIT_BYTES,        /* GPT-2's alphabet: each byte becomes a printable character */
    QY_SPLIT_METASPACE     /* a mark for every space, and one before what does not begin with it */
} qy_split_kind_t;

/* Before which pieces Metaspace puts its mark. */
typedef enum {
    QY_SPLIT_PREPEND_ALWAYS,
    QY_SPLIT_PREPEND_FIRST,
    QY_SPLIT_PREPEND_NEVER
} qy_split_prepend_t;

typedef struct {
    qy_split_kind_t kind;
    qy_pattern_t *pattern;
    qy_split_behavior_t behavior;
    bool invert; /* what lies between the matches is the match */
    qy_split_prepend_t prepend;
    char mark[QY_SPLIT_MARK_BYTES_MAX + 1]; /* Metaspace's: one character */
} qy_split_stage_t;

struct qy_split {
    qy_split_stage_t stages[QY_SPLIT_STAGES_MAX];
    int n;
};

#endif
