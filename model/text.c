#include "model/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/grow.h"
#include "model/json.h"
#include "model/text_npy.h"

static const size_t text_bytes_max = (size_t)1 << 38; /* what no memory holds is no text */
static const char separator[] = "\n\n";

enum { PREFIX_MAX = 16 };

/* --- documents into ids --- */

/* A text that grows document by document. */
typedef struct {
    const qy_tokenizer_t *tokenizer;
    qy_text_t text;
    int64_t ids_capacity, starts_capacity;
    bool with_prefix;
} builder_t;

static qy_status_t append(builder_t *b, const int32_t *ids, int64_t n, qy_error_t *err)
{
    int32_t *grown = qy_grow(b->text.ids, &b->ids_capacity, b->text.n + n, sizeof *ids);
    if (!grown)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %lld tokens", (long long)(b->text.n + n));
    b->text.ids = grown;
    if (n > 0)
        memcpy(b->text.ids + b->text.n, ids, (size_t)n * sizeof *ids);
    b->text.n += n;
    return QY_OK;
}

static qy_status_t append_document(builder_t *b, const char *text, size_t bytes, qy_error_t *err)
{
    int32_t prefix[PREFIX_MAX], *ids;
    int64_t n;
    if (b->with_prefix)
        QY_TRY(append(b, prefix, qy_tokenizer_prefix(b->tokenizer, prefix, PREFIX_MAX), err));
    QY_TRY(qy_tokenizer_encode(b->tokenizer, text, bytes, &ids, &n, err));
    qy_status_t status = append(b, ids, n, err);
    free(ids);
    QY_TRY(status);
    int64_t *starts = qy_grow(b->text.starts, &b->starts_capacity, b->text.n_documents + 2,
                              sizeof *b->text.starts);
    if (!starts)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %lld documents",
                       (long long)b->text.n_documents);
    b->text.starts = starts;
    starts[0] = 0;
    starts[++b->text.n_documents] = b->text.n;
    return QY_OK;
}

static qy_status_t add_document(builder_t *b, const char *text, size_t bytes, const char *where,
                                qy_error_t *err)
{
    qy_status_t status = append_document(b, text, bytes, err);
    if (status != QY_OK)
        qy_fail_in(err, "%s", where);
    return status;
}

/* --- .jsonl --- */

/* Where the documents of a .jsonl go: each on its own, or into one string. */
typedef struct {
    builder_t *builder;
    bool join;
    char *joined;
    size_t used;
    int64_t room;
    bool some;
} collector_t;

static qy_status_t join(collector_t *c, const char *text, size_t bytes, qy_error_t *err)
{
    int64_t wanted = (int64_t)(c->used + strlen(separator) + bytes);
    char *grown = qy_grow(c->joined, &c->room, wanted, 1);
    if (!grown)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %lld bytes of text", (long long)wanted);
    c->joined = grown;
    if (c->some) {
        memcpy(c->joined + c->used, separator, strlen(separator));
        c->used += strlen(separator);
    }
    memcpy(c->joined + c->used, text, bytes);
    c->used += bytes;
    c->some = true;
    return QY_OK;
}

static qy_status_t take_line(void *context, const char *line, size_t bytes, const char *where,
                             qy_error_t *err)
{
    collector_t *c = context;
    json_error_t problem;
    /* As real numbers, integers beyond 64 bits pass: only "text" is asked for. */
    size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL;
    json_t *root = json_loadb(line, bytes, flags, &problem);
    if (!root)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s", where, problem.text);
    const json_t *text = json_object_get(root, "text");
    qy_status_t status;
    if (!json_is_string(text))
        status = qy_fail(err, QY_ERR_FORMAT, "%s: no string \"text\"", where);
    else if (c->join)
        status = join(c, json_string_value(text), json_string_length(text), err);
    else
        status =
            add_document(c->builder, json_string_value(text), json_string_length(text), where, err);
    json_decref(root);
    return status;
}

static qy_status_t read_lines(builder_t *b, const char *path, const char *text, size_t bytes,
                              bool joined, qy_error_t *err)
{
    collector_t c = {.builder = b, .join = joined};
    qy_status_t status = qy_json_lines(path, text, bytes, take_line, &c, err);
    if (status == QY_OK && c.some)
        status = add_document(b, c.joined, c.used, path, err);
    free(c.joined);
    return status;
}

/* --- reading --- */

static bool ends_in(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && strcmp(path + n - m, suffix) == 0;
}

static qy_status_t read_documents(builder_t *b, const char *path, bool lines, bool joined,
                                  qy_error_t *err)
{
    char *text;
    size_t bytes;
    QY_TRY(qy_file_read(path, text_bytes_max, &text, &bytes, err));
    qy_status_t status = lines ? read_lines(b, path, text, bytes, joined, err)
                               : add_document(b, text, bytes, path, err);
    free(text);
    if (status == QY_OK && b->text.n_documents == 0)
        status = qy_fail(err, QY_ERR_FORMAT, "%s: holds no document", path);
    return status;
}

qy_status_t qy_text_read(qy_text_t *out, const char *path, const qy_tokenizer_t *tokenizer,
                         qy_text_mode_t mode, qy_error_t *err)
{
    bool lines = ends_in(path, ".jsonl");
    if (ends_in(path, ".npy"))
        return qy_text_read_npy(out, path, tokenizer ? qy_tokenizer_size(tokenizer) : INT32_MAX,
                                err);
    if (!lines && !ends_in(path, ".txt"))
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: a text ends in .txt, .jsonl or .npy", path);
    builder_t b = {.tokenizer = tokenizer, .with_prefix = mode == QY_TEXT_DOCUMENTS};
    qy_status_t status = read_documents(&b, path, lines, mode == QY_TEXT_JOIN, err);
    if (status != QY_OK) {
        qy_text_free(&b.text);
        return status;
    }
    *out = b.text;
    return QY_OK;
}

void qy_text_free(qy_text_t *text)
{
    free(text->ids);
    free(text->starts);
    *text = (qy_text_t){0};
}

/* --- windows --- */

typedef struct {
    const qy_text_t *text;
    int64_t n, length;
    bool held_out;
    uint32_t seed;
    qy_phase_t phase;
} request_t;

/* Where the held out part of n things begins. */
static int64_t training_part(int64_t n)
{
    return n / 10 * 9 + n % 10 * 9 / 10;
}

static void copy_window(int32_t *out, const request_t *r, int64_t i, int64_t first)
{
    memcpy(out + i * r->length, r->text->ids + first, (size_t)r->length * sizeof *out);
}

static uint64_t draw(const request_t *r, int64_t i, uint64_t stream, int64_t n)
{
    return qy_random_below(r->seed, r->phase, (uint64_t)i, stream, (uint64_t)n);
}

static const char *part_name(const request_t *r)
{
    return r->held_out ? "last 10 %" : "first 90 %";
}

static qy_status_t take_rows(int32_t *out, const request_t *r, qy_error_t *err)
{
    const qy_text_t *t = r->text;
    if (r->length != t->row_length)
        return qy_fail(err, QY_ERR_FORMAT, "rows of %lld tokens, windows of %lld wanted",
                       (long long)t->row_length, (long long)r->length);
    if (r->n > t->n_documents)
        return qy_fail(err, QY_ERR_FORMAT, "%lld rows of tokens, %lld wanted",
                       (long long)t->n_documents, (long long)r->n);
    int64_t first = r->held_out ? t->n_documents - r->n : 0;
    for (int64_t i = 0; i < r->n; i++)
        copy_window(out, r, i, t->starts[first + i]);
    return QY_OK;
}

static qy_status_t take_stream(int32_t *out, const request_t *r, qy_error_t *err)
{
    int64_t cut = training_part(r->text->n);
    int64_t first = r->held_out ? cut : 0, end = r->held_out ? r->text->n : cut;
    if (end - first < r->length)
        return qy_fail(err, QY_ERR_FORMAT,
                       "the %s of the text has %lld tokens, a window of %lld is wanted",
                       part_name(r), (long long)(end - first), (long long)r->length);
    for (int64_t i = 0; i < r->n; i++)
        copy_window(out, r, i, first + (int64_t)draw(r, i, 0, end - first - r->length));
    return QY_OK;
}

/* Drawing from the documents that are long enough is drawing from all and skipping the others. */
static qy_status_t take_documents(int32_t *out, const request_t *r, int64_t *chosen,
                                  qy_error_t *err)
{
    const qy_text_t *t = r->text;
    int64_t cut = training_part(t->n_documents), n = 0, longest = 0;
    int64_t first = r->held_out ? cut : 0, end = r->held_out ? t->n_documents : cut;
    for (int64_t i = first; i < end; i++) {
        int64_t length = t->starts[i + 1] - t->starts[i];
        longest = length > longest ? length : longest;
        if (length > r->length)
            chosen[n++] = i;
    }
    if (n == 0)
        return qy_fail(err, QY_ERR_FORMAT,
                       "none of the %s of the documents (%lld) has more than %lld tokens, the "
                       "longest has %lld",
                       part_name(r), (long long)(end - first), (long long)r->length,
                       (long long)longest);
    for (int64_t i = 0; i < r->n; i++) {
        int64_t d = chosen[draw(r, i, 0, n)];
        int64_t room = t->starts[d + 1] - t->starts[d] - r->length;
        copy_window(out, r, i, t->starts[d] + (int64_t)draw(r, i, 1, room));
    }
    return QY_OK;
}

qy_status_t qy_text_windows(int32_t **out, const qy_text_t *text, qy_sampling_t sampling, int64_t n,
                            int64_t length, bool held_out, uint32_t seed, qy_phase_t phase,
                            qy_error_t *err)
{
    if (n < 1 || length < 1 || n > INT64_MAX / (int64_t)sizeof **out / length)
        return qy_fail(err, QY_ERR_ARG, "%lld windows of %lld tokens", (long long)n,
                       (long long)length);
    const request_t r = {
        .text = text, .n = n, .length = length, .held_out = held_out, .seed = seed, .phase = phase};
    int32_t *windows = malloc((size_t)(n * length) * sizeof *windows);
    int64_t *chosen = malloc((size_t)(text->n_documents + 1) * sizeof *chosen);
    qy_status_t status;
    if (!windows || !chosen)
        status = qy_fail(err, QY_ERR_MEMORY, "no memory for %lld windows of %lld tokens",
                         (long long)n, (long long)length);
    else if (text->row_length > 0)
        status = take_rows(windows, &r, err);
    else if (sampling == QY_SAMPLING_STREAM)
        status = take_stream(windows, &r, err);
    else
        status = take_documents(windows, &r, chosen, err);
    free(chosen);
    if (status != QY_OK) {
        free(windows);
        return status;
    }
    *out = windows;
    return QY_OK;
}
