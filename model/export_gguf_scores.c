/* The merges of a tokenizer of SentencePiece's kind as scores of its tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/export_gguf.h"
#include "model/gguf_vocab.h"

typedef struct {
    float *scores;            /* by id */
    const char *const *texts; /* by id; NULL: no token */
    int64_t n;
    const char *where;
} vocab_t;

/* Sides of a merge, "a b" or [a, b], into text as a + b. */
static bool join_merge(char *text, size_t size, const json_t *merge)
{
    const char *line = json_string_value(merge), *space = line ? strchr(line, ' ') : NULL;
    const char *left = json_string_value(json_array_get(merge, 0));
    const char *right = json_string_value(json_array_get(merge, 1));
    int n = -1;
    if (space)
        n = snprintf(text, size, "%.*s%s", (int)(space - line), line, space + 1);
    else if (left && right)
        n = snprintf(text, size, "%s%s", left, right);
    return n >= 0 && (size_t)n < size;
}

/* How many of SentencePiece's spaces a text is made of; 0 where anything else is in it. */
static int64_t count_spaces(const char *text)
{
    int64_t n = 0;
    for (size_t bytes = strlen(qy_gguf_space); strncmp(text, qy_gguf_space, bytes) == 0; n++)
        text += bytes;
    return *text ? 0 : n;
}

static qy_status_t refuse(const vocab_t *v, const char *what, qy_error_t *err)
{
    return qy_fail(err, QY_ERR_UNSUPPORTED, "gguf: %s: %s has no name among GGUF's keys", v->where,
                   what);
}

static qy_status_t refuse_order(const vocab_t *v, qy_error_t *err)
{
    return refuse(v, "an order of merges that no scores give", err);
}

/* Gives every token from run `first` on that run's score. Only runs of spaces may share one. */
static qy_status_t tie(vocab_t *v, int64_t first, qy_error_t *err)
{
    for (int64_t id = 0; id < v->n; id++) {
        if (v->scores[id] > -(float)first)
            continue;
        if (count_spaces(v->texts[id]) < 3)
            return refuse_order(v, err);
        v->scores[id] = -(float)first;
    }
    return QY_OK;
}

/*
 * Equal scores are merged from the left. The merges' own order does the same where every length
 * from 3 to the longest is tied and a pair of single spaces comes after them: then only the run
 * that grows has a merge among them, with the space to its right, until it has the full length.
 */
static qy_status_t check_tie(const vocab_t *v, int64_t first, qy_error_t *err)
{
    int64_t n = 0, longest = 0;
    for (int64_t id = 0; id < v->n; id++) {
        int64_t length = v->texts[id] ? count_spaces(v->texts[id]) : 0;
        if (length == 2 && v->scores[id] >= -(float)first)
            return refuse_order(v, err);
        if (v->scores[id] != -(float)first)
            continue;
        longest = length > longest ? length : longest;
        n++;
    }
    return n == longest - 2 ? QY_OK : refuse_order(v, err);
}

/*
 * SentencePiece merges by the score of the token that is made. Merges that come in runs of one
 * token each are that: minus the run's number is the score. Its runs of spaces share one score, and
 * lists made of it have the merges of these by their sides: such a token comes back, and all that
 * came since its first run are tied with it.
 */
static qy_status_t read_scores(vocab_t *v, const json_t *ids, const json_t *merges, qy_error_t *err)
{
    char text[2048];
    int64_t run = 0, tied = 0;
    for (int64_t id = 0; id < v->n; id++)
        v->scores[id] = 1;
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *made = join_merge(text, sizeof text, json_array_get(merges, i))
                                 ? json_object_get(ids, text)
                                 : NULL;
        int64_t id = made ? json_integer_value(made) : -1;
        if (id < 0 || id >= v->n)
            return qy_fail(err, QY_ERR_FORMAT, "%s: merge %zu makes no token", v->where, i);
        if (v->scores[id] > 0) {
            v->scores[id] = -(float)++run;
        } else if (v->scores[id] > -(float)run) { /* not the last run's */
            run = tied = -(int64_t)v->scores[id];
            QY_TRY(tie(v, tied, err));
        }
    }
    for (int64_t id = 0; id < v->n; id++)
        if (v->scores[id] > 0)
            v->scores[id] = -(float)(run + 1);
    return tied ? check_tie(v, tied, err) : QY_OK;
}

static qy_status_t set_vocab_token(qy_gguf_text_t *tokens, const vocab_t *v, const json_t *ids,
                                   int64_t id, qy_error_t *err)
{
    if (!v->texts[id] || !json_object_get(ids, v->texts[id]))
        return QY_OK;
    tokens[id] = (qy_gguf_text_t){.bytes = v->texts[id], .n = strlen(v->texts[id])};
    return tokens[id].n <= QY_TOKEN_BYTES_MAX
               ? QY_OK
               : qy_fail(err, QY_ERR_UNSUPPORTED,
                         "gguf: %s: token %lld is of %zu bytes (at most %d)", v->where,
                         (long long)id, tokens[id].n, QY_TOKEN_BYTES_MAX);
}

/* Every pair that makes a token must be a merge: SentencePiece knows no others. */
static qy_status_t check_complete(const vocab_t *v, json_t *ids, size_t n_merges, qy_error_t *err)
{
    qy_gguf_merges_t all = {0};
    qy_gguf_text_t *tokens = calloc((size_t)v->n, sizeof *tokens);
    qy_gguf_vocab_t view = {.ids = ids, .tokens = tokens, .n = v->n};
    if (!tokens)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", v->where);
    qy_status_t status = QY_OK;
    for (int64_t id = 0; id < v->n && status == QY_OK; id++)
        status = set_vocab_token(tokens, v, ids, id, err);
    if (status == QY_OK)
        status = qy_gguf_merges_find(&all, &view, err);
    if (status == QY_OK && (size_t)all.n != n_merges)
        status = refuse(v, "a list of merges that leaves out pairs which make a token", err);
    free(all.items);
    free(tokens);
    return status;
}

qy_status_t qy_gguf_scores(float *scores, const char *const *texts, int64_t n, const json_t *model,
                           const char *where, qy_error_t *err)
{
    vocab_t v = {.scores = scores, .texts = texts, .n = n, .where = where};
    json_t *ids = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    QY_TRY(read_scores(&v, ids, merges, err));
    return check_complete(&v, ids, json_array_size(merges), err);
}
