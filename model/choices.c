#include "model/choices.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/grow.h"
#include "model/json.h"

enum { PREFIX_MAX = 16, CONTINUATIONS_MAX = 1024, LENGTH_STEP = 32 };

static const size_t file_bytes_max = (size_t)1 << 32;

/* A task that grows line by line. */
typedef struct {
    const qy_tokenizer_t *tokenizer;
    int64_t max_length;
    int32_t prefix[PREFIX_MAX];
    int n_prefix;
    qy_choices_t task;
    int64_t gold_room, choice_room, ids_room;
} builder_t;

/* --- one item --------------------------------------------------------------------------------- */

/* Length of a text without the white space at its end. */
static size_t trimmed(const char *text, size_t bytes)
{
    while (bytes > 0 && strchr(" \t\r\n", text[bytes - 1]) && text[bytes - 1])
        bytes--;
    return bytes;
}

/* Tokens of the two parts of a sequence: all of them, and how many are the context's. */
static qy_status_t tokenize(const builder_t *b, const char *text, size_t context_bytes,
                            size_t bytes, int32_t **ids, int64_t *n, int64_t *n_context,
                            qy_error_t *err)
{
    int32_t *context;
    QY_TRY(qy_tokenizer_encode(b->tokenizer, text, trimmed(text, context_bytes), &context,
                               n_context, err));
    free(context);
    return qy_tokenizer_encode(b->tokenizer, text, bytes, ids, n, err);
}

static qy_status_t append_ids(builder_t *b, const int32_t *ids, int64_t n, qy_error_t *err)
{
    qy_choices_t *t = &b->task;
    int32_t *grown = qy_grow(t->ids, &b->ids_room, t->n_ids + n, sizeof *ids);
    if (!grown)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %lld tokens", (long long)(t->n_ids + n));
    t->ids = grown;
    memcpy(t->ids + t->n_ids, ids, (size_t)n * sizeof *ids);
    t->n_ids += n;
    return QY_OK;
}

/* The sequence of n tokens, cut at its front to what the model can take. */
static qy_status_t append_sequence(builder_t *b, const int32_t *ids, int64_t n, qy_choice_t *choice,
                                   qy_error_t *err)
{
    int64_t total = n + b->n_prefix;
    int64_t drop = total > b->max_length ? total - b->max_length : 0;
    int64_t of_prefix = drop < b->n_prefix ? drop : b->n_prefix;
    choice->n = (int32_t)(total - drop);
    if (choice->n_scored >= choice->n)
        return qy_fail(err, QY_ERR_FORMAT,
                       "a continuation of %d tokens: nothing is before it in a sequence of %d",
                       (int)choice->n_scored, (int)choice->n);
    choice->first = b->task.n_ids;
    QY_TRY(append_ids(b, b->prefix + of_prefix, b->n_prefix - of_prefix, err));
    return append_ids(b, ids + (drop - of_prefix), n - (drop - of_prefix), err);
}

static qy_status_t append_choice(builder_t *b, const qy_choice_t *choice, qy_error_t *err)
{
    qy_choices_t *t = &b->task;
    qy_choice_t *grown = qy_grow(t->choice, &b->choice_room, t->n + 1, sizeof *choice);
    if (!grown)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %lld sequences", (long long)(t->n + 1));
    t->choice = grown;
    t->choice[t->n++] = *choice;
    return QY_OK;
}

static qy_status_t add_continuation(builder_t *b, const char *context, const char *continuation,
                                    int choice, qy_error_t *err)
{
    size_t context_bytes = strlen(context), bytes = strlen(continuation);
    size_t counted = bytes - (continuation[0] == ' ');
    qy_choice_t added = {.item = (int32_t)b->task.n_items, .choice = choice};
    int64_t n = 0, n_context = 0;
    int32_t *ids = NULL;
    if (counted < 1 || counted > INT32_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "continuation %d is empty", choice);
    char *text = malloc(context_bytes + bytes + 1);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for its text");
    memcpy(text, context, context_bytes);
    memcpy(text + context_bytes, continuation, bytes + 1);
    qy_status_t status =
        tokenize(b, text, context_bytes, context_bytes + bytes, &ids, &n, &n_context, err);
    free(text);
    QY_TRY(status);
    added.bytes = (int32_t)counted;
    added.n_scored = (int32_t)(n - n_context);
    if (n <= n_context)
        status =
            qy_fail(err, QY_ERR_FORMAT, "continuation %d adds no token to its context", choice);
    if (status == QY_OK)
        status = append_sequence(b, ids, n, &added, err);
    free(ids);
    return status == QY_OK ? append_choice(b, &added, err) : status;
}

static qy_status_t add_item(builder_t *b, const json_t *item, const char *where, qy_error_t *err)
{
    const char *context = NULL;
    const json_t *continuations = NULL;
    int64_t gold = -1;
    QY_TRY(qy_json_string(item, where, "context", &context, err));
    QY_TRY(qy_json_array(item, where, "continuations", &continuations, err));
    QY_TRY(qy_json_i64(item, where, "gold", &gold, err));
    int64_t n = continuations ? (int64_t)json_array_size(continuations) : 0;
    if (!context || n < 1 || n > CONTINUATIONS_MAX || gold < 0 || gold >= n)
        return qy_fail(
            err, QY_ERR_FORMAT,
            "%s: \"context\", 1 to %d \"continuations\" and the \"gold\" one of them are "
            "expected",
            where, CONTINUATIONS_MAX);
    int32_t *grown = qy_grow(b->task.gold, &b->gold_room, b->task.n_items + 1, sizeof *grown);
    if (!grown)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for it", where);
    b->task.gold = grown;
    grown[b->task.n_items] = (int32_t)gold;
    for (int64_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(continuations, (size_t)i));
        qy_status_t status =
            text ? add_continuation(b, context, text, (int)i, err)
                 : qy_fail(err, QY_ERR_FORMAT, "continuation %d is no string", (int)i);
        if (status != QY_OK) {
            (void)qy_fail_in(err, "%s", where);
            return status;
        }
    }
    b->task.n_items++;
    return QY_OK;
}

/* --- the file --------------------------------------------------------------------------------- */

static qy_status_t take_line(void *context, const char *line, size_t bytes, const char *where,
                             qy_error_t *err)
{
    json_t *item;
    QY_TRY(qy_json_parse(&item, line, bytes, where, err));
    qy_status_t status = add_item(context, item, where, err);
    json_decref(item);
    return status;
}

static qy_status_t read_lines(builder_t *b, const char *path, const char *text, size_t bytes,
                              qy_error_t *err)
{
    QY_TRY(qy_json_lines(path, text, bytes, take_line, b, err));
    if (b->task.n_items == 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: holds no item", path);
    return QY_OK;
}

static int shorter_first(const void *a, const void *b)
{
    const qy_choice_t *x = a, *y = b;
    if (x->n != y->n)
        return x->n < y->n ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Shortest first, and the tokens in the same order. */
static qy_status_t sort(qy_choices_t *t, qy_error_t *err)
{
    int32_t *ids = malloc((size_t)t->n_ids * sizeof *ids);
    if (!ids)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %lld tokens", (long long)t->n_ids);
    qsort(t->choice, (size_t)t->n, sizeof *t->choice, shorter_first);
    int64_t at = 0;
    for (int64_t i = 0; i < t->n; i++) {
        qy_choice_t *c = &t->choice[i];
        memcpy(ids + at, t->ids + c->first, (size_t)c->n * sizeof *ids);
        c->first = at;
        at += c->n;
    }
    free(t->ids);
    t->ids = ids;
    return QY_OK;
}

qy_status_t qy_choices_read(qy_choices_t *out, const char *path, const qy_tokenizer_t *tokenizer,
                            bool prefix, int64_t max_length, qy_error_t *err)
{
    char *text;
    size_t bytes;
    builder_t b = {.tokenizer = tokenizer,
                   .max_length = max_length < INT32_MAX ? max_length : INT32_MAX};
    if (prefix)
        b.n_prefix = qy_tokenizer_prefix(tokenizer, b.prefix, PREFIX_MAX);
    QY_TRY(qy_file_read(path, file_bytes_max, &text, &bytes, err));
    qy_status_t status = read_lines(&b, path, text, bytes, err);
    free(text);
    if (status == QY_OK)
        status = sort(&b.task, err);
    if (status == QY_OK)
        *out = b.task;
    else
        qy_choices_free(&b.task);
    return status;
}

void qy_choices_free(qy_choices_t *choices)
{
    free(choices->gold);
    free(choices->choice);
    free(choices->ids);
    *choices = (qy_choices_t){0};
}

qy_status_t qy_choices_check(const qy_choices_t *choices, int64_t vocab, const char *where,
                             qy_error_t *err)
{
    int64_t at = 0;
    for (int64_t i = 0; i < choices->n; i++) {
        const qy_choice_t *c = &choices->choice[i];
        if (c->first != at || c->n_scored < 1 || c->n <= c->n_scored || c->bytes < 1 ||
            c->item < 0 || c->item >= choices->n_items || c->choice < 0 ||
            c->n > choices->n_ids - at || (i > 0 && c->n < choices->choice[i - 1].n))
            return qy_fail(err, QY_ERR_FORMAT, "%s: its sequence %lld is none", where,
                           (long long)i);
        at += c->n;
    }
    if (at != choices->n_ids)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %lld tokens for sequences of %lld", where,
                       (long long)choices->n_ids, (long long)at);
    for (int64_t i = 0; i < choices->n_ids; i++)
        if (choices->ids[i] < 0 || choices->ids[i] >= vocab)
            return qy_fail(err, QY_ERR_FORMAT, "%s: token %d, but the model's vocabulary has %lld",
                           where, (int)choices->ids[i], (long long)vocab);
    return QY_OK;
}

int64_t qy_choices_padded(int64_t n, int64_t max_length)
{
    int64_t padded = (n + LENGTH_STEP - 1) / LENGTH_STEP * LENGTH_STEP;
    return padded < max_length ? padded : max_length;
}

int qy_choices_cut(const qy_choices_t *choices, int64_t max_length,
                   int64_t first[QY_CHOICES_RANGES + 1])
{
    int64_t total = 0, used = 0;
    int n = 0;
    for (int64_t i = 0; i < choices->n; i++)
        total += qy_choices_padded(choices->choice[i].n, max_length);
    int64_t wanted = total / QY_CHOICES_TOKENS;
    wanted = wanted < 1 ? 1 : wanted > QY_CHOICES_RANGES ? QY_CHOICES_RANGES : wanted;
    for (int64_t i = 0; i < choices->n; i++) {
        if (used * wanted >= n * total) /* what is before i fills n ranges */
            first[n++] = i;
        used += qy_choices_padded(choices->choice[i].n, max_length);
    }
    first[n] = choices->n;
    return n;
}

/* --- scores ----------------------------------------------------------------------------------- */

/* Is score a of choice i better than b of choice j? Of equals the first choice. */
static bool better(double a, int32_t i, double b, int32_t j)
{
    return j < 0 || a < b || (a == b && i < j);
}

void qy_choices_pick(const qy_choices_t *choices, const double *nll, int32_t *chosen,
                     int32_t *chosen_by_bytes, double *best)
{
    for (int64_t i = 0; i < choices->n_items; i++)
        chosen[i] = chosen_by_bytes[i] = -1;
    for (int64_t i = 0; i < choices->n; i++) {
        const qy_choice_t *c = &choices->choice[i];
        double *least = best + 2 * c->item, by_bytes = nll[i] / (double)c->bytes;
        if (better(nll[i], c->choice, least[0], chosen[c->item])) {
            least[0] = nll[i];
            chosen[c->item] = c->choice;
        }
        if (better(by_bytes, c->choice, least[1], chosen_by_bytes[c->item])) {
            least[1] = by_bytes;
            chosen_by_bytes[c->item] = c->choice;
        }
    }
}

static double standard_error(double p, int64_t n)
{
    return n > 1 ? sqrt(p * (1 - p) / (double)(n - 1)) : 0;
}

static void count(const qy_choices_t *choices, const int32_t *chosen, double *share, double *error)
{
    int64_t right = 0;
    for (int64_t i = 0; i < choices->n_items; i++)
        right += chosen[i] == choices->gold[i];
    *share = (double)right / (double)choices->n_items;
    *error = standard_error(*share, choices->n_items);
}

qy_status_t qy_choices_score(const qy_choices_t *choices, const double *nll, qy_accuracy_t *out,
                             qy_error_t *err)
{
    size_t n = (size_t)choices->n_items;
    for (int64_t i = 0; i < choices->n; i++)
        if (!isfinite(nll[i]))
            return qy_fail(err, QY_ERR_NUMERIC, "item %d: the log likelihood of choice %d is %g",
                           (int)choices->choice[i].item, (int)choices->choice[i].choice, nll[i]);
    int32_t *chosen = malloc(2 * n * sizeof *chosen);
    double *best = malloc(2 * n * sizeof *best);
    qy_status_t status = QY_OK;
    if (chosen && best) {
        qy_accuracy_t score = {.n_items = choices->n_items};
        qy_choices_pick(choices, nll, chosen, chosen + n, best);
        count(choices, chosen, &score.accuracy, &score.error);
        count(choices, chosen + n, &score.by_bytes, &score.by_bytes_error);
        *out = score;
    } else {
        status = qy_fail(err, QY_ERR_MEMORY, "no memory for %zu items", n);
    }
    free(chosen);
    free(best);
    return status;
}
