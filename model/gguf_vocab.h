/* The vocabulary in a GGUF's keys: texts, types, scores, and the tokens with a name. */
#ifndef QY_MODEL_GGUF_VOCAB_H
#define QY_MODEL_GGUF_VOCAB_H

#include <jansson.h>

#include "model/gguf.h"

/* Types of tokens, by their numbers in the file. */
enum {
    QY_TOKEN_NORMAL = 1,
    QY_TOKEN_UNKNOWN = 2,
    QY_TOKEN_CONTROL = 3,
    QY_TOKEN_USER = 4,
    QY_TOKEN_UNUSED = 5,
    QY_TOKEN_BYTE = 6
};

enum { QY_TOKEN_BYTES_MAX = 1024 }; /* of one token's text */

typedef struct {
    const qy_gguf_t *gguf;
    bool pieces; /* SentencePiece's; else BPE of bytes */
    qy_gguf_text_t *tokens;
    int64_t n;
    const unsigned char *types, *scores; /* i32 and f32; NULL where there are none */
    json_t *ids;                         /* text → id; without padding of the vocabulary */
    int64_t bos, eos, unknown, pad;      /* −1: none */
} qy_gguf_vocab_t;

/* FORMAT: no tokens, one that is there twice, is not UTF-8 or is too long, lists that differ in
 * length. UNSUPPORTED: another model than gpt2 and llama. */
qy_status_t qy_gguf_vocab_read(qy_gguf_vocab_t *out, const qy_gguf_t *gguf, qy_error_t *err);
void qy_gguf_vocab_free(qy_gguf_vocab_t *vocab);

/* A new object that fill makes of the vocabulary; the caller decrefs. Errors: read's and fill's. */
typedef qy_status_t (*qy_gguf_fill_fn)(json_t *root, const qy_gguf_vocab_t *vocab, qy_error_t *err);
qy_status_t qy_gguf_vocab_object(json_t **out, const qy_gguf_t *gguf, qy_gguf_fill_fn fill,
                                 qy_error_t *err);

/* −1 where there is no such token. */
int64_t qy_gguf_vocab_find(const qy_gguf_vocab_t *vocab, qy_gguf_text_t text);
int qy_gguf_vocab_type(const qy_gguf_vocab_t *vocab, int64_t id);
float qy_gguf_vocab_score(const qy_gguf_vocab_t *vocab, int64_t id);

/* Looked for in a text before everything else: control and user-defined ones. */
bool qy_gguf_vocab_is_added(const qy_gguf_vocab_t *vocab, int64_t id);
/* {"content": …, "special": …}, without its id. */
json_t *qy_gguf_added_token(const qy_gguf_vocab_t *vocab, int64_t id);

/* --- words and merges --- */

extern const char qy_gguf_space[]; /* U+2581, SentencePiece's space */

/* What a name in tokenizer.ggml.pre stands for. */
typedef struct {
    const char *name;
    const char *words; /* pattern; NULL: GPT-2's, which ByteLevel has itself */
    bool digits;       /* each digit alone */
    bool nfc, ignore_merges, bos;
} qy_gguf_pre_t;

/* Each known one; NULL behind the last. And the file's; UNSUPPORTED where it is not known. */
const qy_gguf_pre_t *qy_gguf_pre(int i);
qy_status_t qy_gguf_pre_find(const qy_gguf_pre_t **out, const qy_gguf_t *gguf, qy_error_t *err);

typedef struct {
    float score; /* of the token that it makes */
    int32_t left, right;
} qy_gguf_merge_t;

typedef struct {
    qy_gguf_merge_t *items; /* the caller's to free, in any case */
    int64_t n, capacity;
} qy_gguf_merges_t;

/* Every pair of tokens that together are a token: better scores first, then lower ids. */
qy_status_t qy_gguf_merges_find(qy_gguf_merges_t *out, const qy_gguf_vocab_t *vocab,
                                qy_error_t *err);

#endif
