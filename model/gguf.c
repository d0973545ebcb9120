#include "model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { FIRST_READ = 4 << 20, READ_GROWTH = 4 };
static const uint64_t header_max = 512u << 20;

/* --- opening --- */

/* Reads the first `bytes` bytes and parses them. */
static qy_status_t read_part(qy_gguf_t *g, size_t bytes, qy_error_t *err)
{
    free(g->bytes);
    g->bytes = malloc(bytes + 1);
    if (!g->bytes)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %zu bytes of header", g->path, bytes);
    QY_TRY(qy_pread(g->fd, g->path, g->bytes, bytes, 0, err));
    qy_gguf_header_free(&g->header);
    return qy_gguf_parse(&g->header, g->bytes, bytes, g->file_bytes, g->path, err);
}

/* How long the header is shows only where it ends: more is read until it has. */
static qy_status_t read_header(qy_gguf_t *g, qy_error_t *err)
{
    uint64_t most = g->file_bytes < header_max ? g->file_bytes : header_max;
    uint64_t bytes = most < FIRST_READ ? most : FIRST_READ;
    for (;;) {
        qy_status_t status = read_part(g, (size_t)bytes, err);
        if (status == QY_OK || !g->header.cut || bytes == most)
            return status;
        bytes = most / READ_GROWTH < bytes ? most : READ_GROWTH * bytes;
    }
}

static qy_status_t open_file(qy_gguf_t *g, const char *path, qy_error_t *err)
{
    struct stat st;
    g->path = strdup(path);
    if (!g->path)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its name", path);
    /* O_NONBLOCK: a named pipe must not make open wait; it does nothing to a regular file. */
    g->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (g->fd < 0)
        return qy_fail(err, QY_ERR_IO, "%s: open: %s", path, strerror(errno));
    if (fstat(g->fd, &st) != 0 || !S_ISREG(st.st_mode))
        return qy_fail(err, QY_ERR_IO, "%s: is not a regular file", path);
    g->file_bytes = (uint64_t)st.st_size;
    return read_header(g, err);
}

qy_status_t qy_gguf_open(qy_gguf_t **out, const char *path, qy_error_t *err)
{
    qy_gguf_t *g = calloc(1, sizeof *g);
    if (!g)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", path);
    g->fd = -1;
    qy_status_t status = open_file(g, path, err);
    if (status != QY_OK) {
        qy_gguf_close(&g);
        return status;
    }
    *out = g;
    return QY_OK;
}

void qy_gguf_close(qy_gguf_t **gguf)
{
    if (!gguf || !*gguf)
        return;
    if ((*gguf)->fd >= 0)
        close((*gguf)->fd);
    qy_gguf_header_free(&(*gguf)->header);
    free((*gguf)->bytes);
    free((*gguf)->path);
    free(*gguf);
    *gguf = NULL;
}

/* --- looking up --- */

static int compare_key(const void *key, const void *value)
{
    const char *a = key;
    const qy_gguf_value_t *v = value;
    size_t n = strlen(a);
    int order = memcmp(a, v->key.bytes, n < v->key.n ? n : v->key.n);
    return order ? order : (n > v->key.n) - (n < v->key.n);
}

const qy_gguf_value_t *qy_gguf_find(const qy_gguf_t *gguf, const char *key)
{
    const qy_gguf_header_t *h = &gguf->header;
    return bsearch(key, h->values, (size_t)h->n_values, sizeof *h->values, compare_key);
}

static int compare_name(const void *name, const void *tensor)
{
    return strcmp(name, ((const qy_gguf_tensor_t *)tensor)->name);
}

const qy_gguf_tensor_t *qy_gguf_tensor(const qy_gguf_t *gguf, const char *name)
{
    const qy_gguf_header_t *h = &gguf->header;
    return bsearch(name, h->tensors, (size_t)h->n_tensors, sizeof *h->tensors, compare_name);
}

/* --- values --- */

static qy_status_t wrong_kind(const qy_gguf_t *g, const char *key, const char *wanted,
                              qy_error_t *err)
{
    return qy_fail(err, QY_ERR_FORMAT, "%s: %s is not %s", g->path, key, wanted);
}

/* A whole number of `bytes` bytes; false where it is above INT64_MAX. */
static bool load_integer(int64_t *out, const unsigned char *data, size_t bytes, bool is_signed)
{
    uint64_t value = 0;
    memcpy(&value, data, bytes);
    unsigned unused_bits = 64 - 8 * (unsigned)bytes;
    if (is_signed)
        *out = (int64_t)(value << unused_bits) >> unused_bits;
    else
        *out = (int64_t)value;
    return is_signed || value <= INT64_MAX;
}

qy_status_t qy_gguf_i64(const qy_gguf_t *gguf, const char *key, int64_t *out, qy_error_t *err)
{
    static const struct {
        unsigned char bytes;
        bool is_signed;
    } kinds[QY_N_GGUF_KINDS] = {
        [QY_GGUF_U8] = {1, false},  [QY_GGUF_I8] = {1, true},   [QY_GGUF_U16] = {2, false},
        [QY_GGUF_I16] = {2, true},  [QY_GGUF_U32] = {4, false}, [QY_GGUF_I32] = {4, true},
        [QY_GGUF_U64] = {8, false}, [QY_GGUF_I64] = {8, true},
    };
    const qy_gguf_value_t *v = qy_gguf_find(gguf, key);
    int64_t value;
    if (!v)
        return QY_OK;
    if (v->array || kinds[v->kind].bytes == 0 ||
        !load_integer(&value, v->data, kinds[v->kind].bytes, kinds[v->kind].is_signed))
        return wrong_kind(gguf, key, "a whole number", err);
    *out = value;
    return QY_OK;
}

qy_status_t qy_gguf_f32(const qy_gguf_t *gguf, const char *key, float *out, qy_error_t *err)
{
    const qy_gguf_value_t *v = qy_gguf_find(gguf, key);
    if (!v)
        return QY_OK;
    if (v->array || v->kind != QY_GGUF_F32)
        return wrong_kind(gguf, key, "an f32", err);
    memcpy(out, v->data, sizeof *out);
    return QY_OK;
}

qy_status_t qy_gguf_bool(const qy_gguf_t *gguf, const char *key, bool *out, qy_error_t *err)
{
    const qy_gguf_value_t *v = qy_gguf_find(gguf, key);
    if (!v)
        return QY_OK;
    if (v->array || v->kind != QY_GGUF_BOOL)
        return wrong_kind(gguf, key, "a bool", err);
    *out = *v->data != 0;
    return QY_OK;
}

qy_status_t qy_gguf_text(const qy_gguf_t *gguf, const char *key, qy_gguf_text_t *out,
                         qy_error_t *err)
{
    const qy_gguf_value_t *v = qy_gguf_find(gguf, key);
    if (!v)
        return QY_OK;
    if (v->array || v->kind != QY_GGUF_STRING)
        return wrong_kind(gguf, key, "a string", err);
    const unsigned char *at = v->data;
    *out = qy_gguf_next_text(&at);
    return QY_OK;
}

qy_gguf_text_t qy_gguf_next_text(const unsigned char **at)
{
    uint64_t n;
    memcpy(&n, *at, sizeof n);
    const char *bytes = (const char *)*at + sizeof n;
    *at += sizeof n + n;
    return (qy_gguf_text_t){.bytes = bytes, .n = (size_t)n};
}
