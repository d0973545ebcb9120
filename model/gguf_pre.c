/* The names of ways to cut a text into words, and SentencePiece's scores as merges. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_vocab.h"
#include "model/grow.h"

#define LETTERS_AND_REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CONTRACTIONS     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"

static const char llama3_words[] = CONTRACTIONS "|\\p{N}{1,3}" LETTERS_AND_REST;
static const char qwen2_words[] = CONTRACTIONS "|\\p{N}" LETTERS_AND_REST;
const char qy_gguf_space[] = "\xe2\x96\x81"; /* U+2581, SentencePiece's space */

static const qy_gguf_pre_t pres[] = {
    {.name = "gpt-2"},
    {.name = "smollm", .digits = true},
    {.name = "qwen2", .words = qwen2_words, .nfc = true},
    {.name = "deepseek-r1-qwen", .words = qwen2_words, .nfc = true},
    {.name = "llama-bpe", .words = llama3_words, .ignore_merges = true, .bos = true},
    {.name = "llama3", .words = llama3_words, .ignore_merges = true, .bos = true},
    {.name = "llama-v3", .words = llama3_words, .ignore_merges = true, .bos = true},
};
enum { N_PRES = sizeof pres / sizeof *pres };

const qy_gguf_pre_t *qy_gguf_pre(int i)
{
    return i < N_PRES ? &pres[i] : NULL;
}

qy_status_t qy_gguf_pre_find(const qy_gguf_pre_t **out, const qy_gguf_t *g, qy_error_t *err)
{
    qy_gguf_text_t name = {0};
    char known[256] = "";
    QY_TRY(qy_gguf_text(g, "tokenizer.ggml.pre", &name, err));
    for (int i = 0; i < N_PRES; i++) {
        if (strlen(pres[i].name) == name.n && memcmp(pres[i].name, name.bytes, name.n) == 0) {
            *out = &pres[i];
            return QY_OK;
        }
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 pres[i].name);
    }
    return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: tokenizer.ggml.pre is \"%.*s\" (known: %s)",
                   g->path, (int)(name.n < 60 ? name.n : 60), name.n ? name.bytes : "", known);
}

/* --- merges out of scores --- */

/* Better scores first; between equal ones the lower ids. */
static int by_score(const void *a, const void *b)
{
    const qy_gguf_merge_t *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

/* Every pair of tokens that make up this one. */
static qy_status_t add_pairs(qy_gguf_merges_t *merges, const qy_gguf_vocab_t *vocab, int64_t id,
                             qy_error_t *err)
{
    qy_gguf_text_t whole = vocab->tokens[id];
    for (size_t cut = 1; cut < whole.n; cut++) {
        if (((unsigned char)whole.bytes[cut] & 0xc0u) == 0x80u)
            continue; /* inside of a character */
        int64_t left = qy_gguf_vocab_find(vocab, (qy_gguf_text_t){whole.bytes, cut});
        int64_t right =
            left < 0
                ? -1
                : qy_gguf_vocab_find(vocab, (qy_gguf_text_t){whole.bytes + cut, whole.n - cut});
        if (right < 0)
            continue;
        qy_gguf_merge_t *items =
            qy_grow(merges->items, &merges->capacity, merges->n + 1, sizeof *merges->items);
        if (!items)
            return qy_fail(err, QY_ERR_MEMORY, "no memory for the merges of %lld tokens",
                           (long long)vocab->n);
        merges->items = items;
        items[merges->n++] =
            (qy_gguf_merge_t){qy_gguf_vocab_score(vocab, id), (int32_t)left, (int32_t)right};
    }
    return QY_OK;
}

qy_status_t qy_gguf_merges_find(qy_gguf_merges_t *out, const qy_gguf_vocab_t *vocab,
                                qy_error_t *err)
{
    for (int64_t id = 0; id < vocab->n; id++)
        QY_TRY(add_pairs(out, vocab, id, err));
    if (out->n > 0)
        qsort(out->items, (size_t)out->n, sizeof *out->items, by_score);
    return QY_OK;
}
