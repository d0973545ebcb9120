/* A GGUF header out of memory: reads no file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file's byte order is the machine's");

enum {
    VALUES_MAX = 1 << 16,
    TENSORS_MAX = 1 << 16,
    VALUE_LEAST = 8 + 4 + 1,      /* bytes: key of no length, kind, one byte */
    TENSOR_LEAST = 8 + 4 + 4 + 8, /* bytes: name of no length, dims, type, offset */
    ALIGNMENT = 32,               /* where general.alignment does not say otherwise */
    ALIGNMENT_MAX = 1 << 20,
    OLDEST = 2,
    NEWEST = 3
};

/* What is left to read. */
typedef struct {
    const unsigned char *data;
    size_t bytes, at;
    uint64_t file_bytes;
    const char *path;
    bool *cut;
} cursor_t;

/* n bytes, which the cursor moves over. */
static qy_status_t take(cursor_t *c, const unsigned char **out, uint64_t n, qy_error_t *err)
{
    if (n > c->bytes - c->at) {
        *c->cut = n <= c->file_bytes - c->at;
        return qy_fail(err, QY_ERR_FORMAT, "%s: %llu bytes at %zu of its header, the file has %llu",
                       c->path, (unsigned long long)n, c->at, (unsigned long long)c->file_bytes);
    }
    *out = c->data + c->at;
    c->at += (size_t)n;
    return QY_OK;
}

static qy_status_t take_number(cursor_t *c, void *out, size_t bytes, qy_error_t *err)
{
    const unsigned char *from = NULL;
    QY_TRY(take(c, &from, bytes, err));
    memcpy(out, from, bytes);
    return QY_OK;
}

static qy_status_t take_text(cursor_t *c, qy_gguf_text_t *out, qy_error_t *err)
{
    uint64_t n = 0;
    const unsigned char *from = NULL;
    QY_TRY(take_number(c, &n, sizeof n, err));
    QY_TRY(take(c, &from, n, err));
    *out = (qy_gguf_text_t){.bytes = (const char *)from, .n = (size_t)n};
    return QY_OK;
}

/* A count of things of at least `least` bytes each, so that what is allocated for them is in
 * proportion to the file. */
static qy_status_t take_count(cursor_t *c, uint64_t *out, uint64_t least, uint64_t max,
                              const char *what, qy_error_t *err)
{
    uint64_t n;
    QY_TRY(take_number(c, &n, sizeof n, err));
    if (n > max || n > (c->file_bytes - c->at) / least)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %llu %s in a file of %llu bytes (at most %llu)",
                       c->path, (unsigned long long)n, what, (unsigned long long)c->file_bytes,
                       (unsigned long long)max);
    *out = n;
    return QY_OK;
}

/* --- values --- */

/* Bytes of a value of this kind; 0 of a string. */
static size_t kind_bytes(uint32_t kind)
{
    static const unsigned char bytes[QY_N_GGUF_KINDS] = {
        [QY_GGUF_U8] = 1,  [QY_GGUF_I8] = 1,  [QY_GGUF_U16] = 2, [QY_GGUF_I16] = 2,
        [QY_GGUF_U32] = 4, [QY_GGUF_I32] = 4, [QY_GGUF_F32] = 4, [QY_GGUF_BOOL] = 1,
        [QY_GGUF_U64] = 8, [QY_GGUF_I64] = 8, [QY_GGUF_F64] = 8,
    };
    return bytes[kind];
}

static qy_status_t take_kind(cursor_t *c, qy_gguf_text_t key, uint32_t *out, qy_error_t *err)
{
    uint32_t kind;
    QY_TRY(take_number(c, &kind, sizeof kind, err));
    if (kind >= QY_N_GGUF_KINDS)
        return qy_fail(err, QY_ERR_FORMAT, "%s: key %.*s has a value of type %u", c->path,
                       (int)(key.n < 100 ? key.n : 100), key.bytes, kind);
    *out = kind;
    return QY_OK;
}

static qy_status_t take_value(cursor_t *c, qy_gguf_value_t *v, qy_error_t *err)
{
    uint32_t kind = 0;
    v->count = 1;
    QY_TRY(take_text(c, &v->key, err));
    QY_TRY(take_kind(c, v->key, &kind, err));
    v->array = kind == QY_GGUF_ARRAY;
    if (v->array) {
        QY_TRY(take_kind(c, v->key, &kind, err));
        if (kind == QY_GGUF_ARRAY)
            return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: key %.*s is an array of arrays", c->path,
                           (int)(v->key.n < 100 ? v->key.n : 100), v->key.bytes);
        size_t least = kind_bytes(kind) ? kind_bytes(kind) : sizeof(uint64_t);
        QY_TRY(take_count(c, &v->count, least, UINT64_MAX, "elements of an array", err));
    }
    v->kind = (qy_gguf_kind_t)kind;
    v->data = c->data + c->at;
    const unsigned char *unused;
    if (kind != QY_GGUF_STRING)
        return take(c, &unused, v->count * kind_bytes(kind), err);
    for (uint64_t i = 0; i < v->count; i++) {
        qy_gguf_text_t text;
        QY_TRY(take_text(c, &text, err));
    }
    return QY_OK;
}

static int compare_text(qy_gguf_text_t a, qy_gguf_text_t b)
{
    int order = memcmp(a.bytes, b.bytes, a.n < b.n ? a.n : b.n);
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_key(const void *a, const void *b)
{
    const qy_gguf_value_t *x = a, *y = b;
    return compare_text(x->key, y->key);
}

static qy_status_t take_values(cursor_t *c, qy_gguf_header_t *h, uint64_t n, qy_error_t *err)
{
    h->values = calloc((size_t)n + 1, sizeof *h->values);
    if (!h->values)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %llu keys", c->path,
                       (unsigned long long)n);
    for (; h->n_values < (int64_t)n; h->n_values++)
        QY_TRY(take_value(c, &h->values[h->n_values], err));
    qsort(h->values, (size_t)n, sizeof *h->values, by_key);
    for (uint64_t i = 1; i < n; i++) {
        qy_gguf_text_t key = h->values[i].key;
        if (by_key(&h->values[i - 1], &h->values[i]) == 0)
            return qy_fail(err, QY_ERR_FORMAT, "%s: key %.*s is there twice", c->path,
                           (int)(key.n < 100 ? key.n : 100), key.bytes);
    }
    return QY_OK;
}

static qy_status_t find_alignment(const cursor_t *c, const qy_gguf_header_t *h, uint64_t *out,
                                  qy_error_t *err)
{
    static const char key[] = "general.alignment";
    *out = ALIGNMENT;
    for (int64_t i = 0; i < h->n_values; i++) {
        const qy_gguf_value_t *v = &h->values[i];
        uint32_t alignment;
        if (v->key.n != sizeof key - 1 || memcmp(v->key.bytes, key, v->key.n) != 0)
            continue;
        if (v->array || v->kind != QY_GGUF_U32)
            return qy_fail(err, QY_ERR_FORMAT, "%s: %s is no u32", c->path, key);
        memcpy(&alignment, v->data, sizeof alignment);
        if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > ALIGNMENT_MAX)
            return qy_fail(err, QY_ERR_FORMAT, "%s: %s is %u, a power of two up to %d expected",
                           c->path, key, alignment, ALIGNMENT_MAX);
        *out = alignment;
    }
    return QY_OK;
}

/* --- tensors --- */

static qy_status_t take_name(cursor_t *c, qy_gguf_tensor_t *t, qy_error_t *err)
{
    qy_gguf_text_t name;
    QY_TRY(take_text(c, &name, err));
    if (name.n == 0 || name.n >= QY_GGUF_NAME_MAX || memchr(name.bytes, '\0', name.n))
        return qy_fail(err, QY_ERR_FORMAT, "%s: a tensor's name of %zu bytes (1 to %d, no NUL)",
                       c->path, name.n, QY_GGUF_NAME_MAX - 1);
    memcpy(t->name, name.bytes, name.n);
    return QY_OK;
}

static qy_status_t take_dims(cursor_t *c, qy_gguf_tensor_t *t, int64_t *n_elements, qy_error_t *err)
{
    uint32_t n_dims;
    QY_TRY(take_number(c, &n_dims, sizeof n_dims, err));
    if (n_dims < 1 || n_dims > QY_GGUF_DIMS)
        return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %s has %u dimensions (1 to %d)", c->path,
                       t->name, n_dims, QY_GGUF_DIMS);
    t->n_dims = (int)n_dims;
    *n_elements = 1;
    for (int i = 0; i < t->n_dims; i++) {
        QY_TRY(take_number(c, &t->dims[i], sizeof t->dims[i], err));
        if (t->dims[i] < 1 || t->dims[i] > INT64_MAX / 8 / *n_elements)
            return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %s: dimension %d is %lld", c->path,
                           t->name, i, (long long)t->dims[i]);
        *n_elements *= t->dims[i];
    }
    return QY_OK;
}

/* Its offset stays relative to the data until it is known where they begin. */
static qy_status_t take_tensor(cursor_t *c, qy_gguf_tensor_t *t, qy_error_t *err)
{
    int64_t n = 0;
    uint32_t type = 0;
    QY_TRY(take_name(c, t, err));
    QY_TRY(take_dims(c, t, &n, err));
    QY_TRY(take_number(c, &type, sizeof type, err));
    QY_TRY(take_number(c, &t->offset, sizeof t->offset, err));
    t->block = qy_gguf_block_find(type);
    if (!t->block)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: tensor %s is of ggml type %u (known: %s)",
                       c->path, t->name, type, qy_gguf_block_names());
    if (t->dims[0] % t->block->elements != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %s: rows of %lld are no whole blocks of %s",
                       c->path, t->name, (long long)t->dims[0], t->block->name);
    t->bytes = (uint64_t)(n / t->block->elements) * (uint64_t)t->block->bytes;
    return QY_OK;
}

static int by_name(const void *a, const void *b)
{
    const qy_gguf_tensor_t *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static qy_status_t take_tensors(cursor_t *c, qy_gguf_header_t *h, uint64_t n, qy_error_t *err)
{
    h->tensors = calloc((size_t)n + 1, sizeof *h->tensors);
    if (!h->tensors)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %llu tensors", c->path,
                       (unsigned long long)n);
    for (; h->n_tensors < (int64_t)n; h->n_tensors++)
        QY_TRY(take_tensor(c, &h->tensors[h->n_tensors], err));
    qsort(h->tensors, (size_t)n, sizeof *h->tensors, by_name);
    for (uint64_t i = 1; i < n; i++)
        if (by_name(&h->tensors[i - 1], &h->tensors[i]) == 0)
            return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %s is there twice", c->path,
                           h->tensors[i].name);
    return QY_OK;
}

static qy_status_t place_tensors(const cursor_t *c, qy_gguf_header_t *h, qy_error_t *err)
{
    uint64_t alignment;
    QY_TRY(find_alignment(c, h, &alignment, err));
    h->data_begin = (c->at + alignment - 1) / alignment * alignment;
    uint64_t room = c->file_bytes > h->data_begin ? c->file_bytes - h->data_begin : 0;
    for (int64_t i = 0; i < h->n_tensors; i++) {
        qy_gguf_tensor_t *t = &h->tensors[i];
        if (t->offset % alignment != 0 || t->offset > room || t->bytes > room - t->offset)
            return qy_fail(err, QY_ERR_FORMAT,
                           "%s: tensor %s: %llu bytes at %llu of %llu bytes of data (aligned to "
                           "%llu)",
                           c->path, t->name, (unsigned long long)t->bytes,
                           (unsigned long long)t->offset, (unsigned long long)room,
                           (unsigned long long)alignment);
        t->offset += h->data_begin;
    }
    return QY_OK;
}

/* --- the whole --- */

static qy_status_t check_version(const char *path, uint32_t version, qy_error_t *err)
{
    if ((version & 0xffffu) == 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: a big-endian GGUF file", path);
    if (version < OLDEST || version > NEWEST)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: GGUF version %u (known: %d, %d)", path,
                       version, OLDEST, NEWEST);
    return QY_OK;
}

qy_status_t qy_gguf_parse(qy_gguf_header_t *out, const unsigned char *data, size_t bytes,
                          uint64_t file_bytes, const char *path, qy_error_t *err)
{
    *out = (qy_gguf_header_t){0};
    cursor_t c = {
        .data = data, .bytes = bytes, .file_bytes = file_bytes, .path = path, .cut = &out->cut};
    const unsigned char *magic;
    uint32_t version;
    uint64_t n_tensors, n_values;
    if (file_bytes < 4 || bytes < 4 || memcmp(data, "GGUF", 4) != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: is no GGUF file", path);
    QY_TRY(take(&c, &magic, 4, err));
    QY_TRY(take_number(&c, &version, sizeof version, err));
    QY_TRY(check_version(path, version, err));
    QY_TRY(take_count(&c, &n_tensors, TENSOR_LEAST, TENSORS_MAX, "tensors", err));
    QY_TRY(take_count(&c, &n_values, VALUE_LEAST, VALUES_MAX, "keys", err));
    out->version = (int)version;
    QY_TRY(take_values(&c, out, n_values, err));
    QY_TRY(take_tensors(&c, out, n_tensors, err));
    return place_tensors(&c, out, err);
}

void qy_gguf_header_free(qy_gguf_header_t *header)
{
    free(header->values);
    free(header->tensors);
    *header = (qy_gguf_header_t){0};
}
