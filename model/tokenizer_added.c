#include "model/tokenizer_added.h"

#include <stdlib.h>
#include <string.h>

#include "model/grow.h"
#include "model/tokenizer_utf8.h"

qy_status_t qy_added_add(qy_added_t *set, const qy_added_token_t *token, qy_error_t *err)
{
    qy_added_token_t *tokens =
        qy_grow(set->tokens, &set->capacity, (int64_t)set->n + 1, sizeof *tokens);
    if (!tokens)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %zu added tokens", set->n + 1);
    set->tokens = tokens;
    char *text = malloc(token->bytes + 1);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for an added token");
    memcpy(text, token->text, token->bytes);
    set->tokens[set->n] = *token;
    set->tokens[set->n++].text = text;
    return QY_OK;
}

static int by_text(const void *a, const void *b)
{
    const qy_added_token_t *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    if (order)
        return order;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

void qy_added_sort(qy_added_t *set)
{
    if (set->n)
        qsort(set->tokens, set->n, sizeof *set->tokens, by_text);
}

void qy_added_free(qy_added_t *set)
{
    for (size_t i = 0; i < set->n; i++)
        free(set->tokens[i].text);
    free(set->tokens);
    *set = (qy_added_t){0};
}

/* In [low, high), whose tokens agree in their first `depth` bytes and are longer: the first one
 * whose next byte is at least c. */
static size_t lower_bound(const qy_added_t *set, size_t low, size_t high, size_t depth, unsigned c)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)set->tokens[middle].text[depth] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that text begins with, NULL where there is none. */
static const qy_added_token_t *find_at(const qy_added_t *set, const char *text, size_t bytes)
{
    const qy_added_token_t *best = NULL;
    size_t low = 0, high = set->n;
    for (size_t depth = 0; low < high; depth++) {
        if (set->tokens[low].bytes == depth) {
            best = &set->tokens[low];
            while (low < high && set->tokens[low].bytes == depth)
                low++;
        }
        if (depth == bytes)
            break;
        unsigned c = (unsigned char)text[depth];
        low = lower_bound(set, low, high, depth, c);
        high = lower_bound(set, low, high, depth, c + 1);
    }
    return best;
}

static bool stands_alone(const char *text, size_t bytes, size_t begin, size_t end)
{
    return !qy_utf8_ends_in_word(text, begin) && !qy_utf8_begins_word(text + end, bytes - end);
}

qy_status_t qy_added_split(const qy_added_t *set, const char *text, size_t bytes, qy_piece_fn fn,
                           void *context, qy_error_t *err)
{
    bool starts[256] = {false};
    for (size_t i = 0; i < set->n; i++)
        starts[(unsigned char)set->tokens[i].text[0]] = true;

    size_t done = 0;
    for (size_t at = 0; at < bytes;) {
        const qy_added_token_t *token = NULL;
        if (starts[(unsigned char)text[at]])
            token = find_at(set, text + at, bytes - at);
        if (!token) {
            at++;
            continue;
        }
        size_t begin = at, end = at + token->bytes;
        at = end; /* the next one is sought among the spaces that it takes in, too */
        if (token->single_word && !stands_alone(text, bytes, begin, end))
            continue;
        if (token->lstrip && begin > done)
            begin -= qy_utf8_space_after(text + done, begin - done);
        if (token->rstrip)
            end += qy_utf8_space_before(text + end, bytes - end);
        if (begin > done)
            QY_TRY(fn(context, text + done, begin - done, -1, err));
        QY_TRY(fn(context, text + begin, end - begin, token->id, err));
        done = end;
    }
    return bytes > done ? fn(context, text + done, bytes - done, -1, err) : QY_OK;
}
