#include "model/gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "model/grow.h"

enum { ALIGNMENT = 32, VERSION = 3, HEAD_BYTES = 24 };

typedef struct {
    char name[QY_GGUF_NAME_MAX];
    int64_t cols, rows;
    const qy_gguf_block_t *block; /* NULL until its data begin */
    uint64_t offset, bytes;
} tensor_t;

struct qy_gguf_writer {
    char *path;
    int fd;
    unsigned char *values;
    int64_t n_bytes, bytes_capacity, n_values;
    tensor_t *tensors;
    int64_t n_tensors, tensors_capacity, n_begun;
    uint64_t data_begin, written; /* bytes of data, padding included */
    bool no_memory;
};

qy_status_t qy_gguf_writer_create(qy_gguf_writer_t **out, const char *path, qy_error_t *err)
{
    qy_gguf_writer_t *w = calloc(1, sizeof *w);
    if (w) {
        w->fd = -1;
        w->path = strdup(path);
    }
    if (!w || !w->path) {
        qy_gguf_writer_abandon(&w);
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", path);
    }
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        qy_gguf_writer_abandon(&w);
        return qy_fail(err, QY_ERR_IO, "%s: open: %s", path, strerror(errno));
    }
    *out = w;
    return QY_OK;
}

/* --- values --- */

void qy_gguf_put_raw(qy_gguf_writer_t *w, const void *data, size_t bytes)
{
    unsigned char *values =
        w->no_memory ? NULL
                     : qy_grow(w->values, &w->bytes_capacity, w->n_bytes + (int64_t)bytes, 1);
    if (!values) {
        w->no_memory = true;
        return;
    }
    w->values = values;
    memcpy(values + w->n_bytes, data, bytes);
    w->n_bytes += (int64_t)bytes;
}

void qy_gguf_put_text(qy_gguf_writer_t *w, const char *text, size_t n)
{
    uint64_t length = n;
    qy_gguf_put_raw(w, &length, sizeof length);
    qy_gguf_put_raw(w, text, n);
}

static void put_key(qy_gguf_writer_t *w, const char *key, qy_gguf_kind_t kind)
{
    uint32_t number = (uint32_t)kind;
    qy_gguf_put_text(w, key, strlen(key));
    qy_gguf_put_raw(w, &number, sizeof number);
    w->n_values++;
}

void qy_gguf_put_u32(qy_gguf_writer_t *w, const char *key, int64_t value)
{
    uint32_t number = (uint32_t)value;
    put_key(w, key, QY_GGUF_U32);
    qy_gguf_put_raw(w, &number, sizeof number);
}

void qy_gguf_put_f32(qy_gguf_writer_t *w, const char *key, double value)
{
    float number = (float)value;
    put_key(w, key, QY_GGUF_F32);
    qy_gguf_put_raw(w, &number, sizeof number);
}

void qy_gguf_put_bool(qy_gguf_writer_t *w, const char *key, bool value)
{
    unsigned char byte = value;
    put_key(w, key, QY_GGUF_BOOL);
    qy_gguf_put_raw(w, &byte, sizeof byte);
}

void qy_gguf_put_string(qy_gguf_writer_t *w, const char *key, const char *text)
{
    put_key(w, key, QY_GGUF_STRING);
    qy_gguf_put_text(w, text, strlen(text));
}

void qy_gguf_put_array(qy_gguf_writer_t *w, const char *key, qy_gguf_kind_t kind, int64_t n)
{
    uint32_t number = (uint32_t)kind;
    uint64_t count = (uint64_t)n;
    put_key(w, key, QY_GGUF_ARRAY);
    qy_gguf_put_raw(w, &number, sizeof number);
    qy_gguf_put_raw(w, &count, sizeof count);
}

int64_t qy_gguf_reserve_u32(qy_gguf_writer_t *w, const char *key)
{
    qy_gguf_put_u32(w, key, 0);
    return w->n_bytes - (int64_t)sizeof(uint32_t);
}

void qy_gguf_set_u32(qy_gguf_writer_t *w, int64_t place, int64_t value)
{
    uint32_t number = (uint32_t)value;
    if (!w->no_memory)
        memcpy(w->values + place, &number, sizeof number);
}

/* --- tensors --- */

void qy_gguf_declare(qy_gguf_writer_t *w, const char *name, int64_t cols, int64_t rows)
{
    tensor_t *tensors =
        w->no_memory ? NULL
                     : qy_grow(w->tensors, &w->tensors_capacity, w->n_tensors + 1, sizeof *tensors);
    if (!tensors) {
        w->no_memory = true;
        return;
    }
    w->tensors = tensors;
    tensor_t *t = &tensors[w->n_tensors++];
    *t = (tensor_t){.cols = cols, .rows = rows};
    snprintf(t->name, sizeof t->name, "%s", name);
}

static uint64_t align(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static uint64_t info_bytes(const tensor_t *t)
{
    return 8 + strlen(t->name) + 4 + (t->rows ? 16 : 8) + 4 + 8;
}

qy_status_t qy_gguf_writer_begin(qy_gguf_writer_t *w, qy_error_t *err)
{
    uint64_t bytes = HEAD_BYTES + (uint64_t)w->n_bytes;
    if (w->no_memory)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its header", w->path);
    for (int64_t i = 0; i < w->n_tensors; i++)
        bytes += info_bytes(&w->tensors[i]);
    w->data_begin = align(bytes);
    if (lseek(w->fd, (off_t)w->data_begin, SEEK_SET) < 0)
        return qy_fail(err, QY_ERR_IO, "%s: seek: %s", w->path, strerror(errno));
    return QY_OK;
}

/* The tensor whose data are being written must be whole; pads behind it. */
static qy_status_t end_tensor(qy_gguf_writer_t *w, qy_error_t *err)
{
    static const unsigned char zeros[ALIGNMENT];
    if (w->n_begun == 0)
        return QY_OK;
    const tensor_t *t = &w->tensors[w->n_begun - 1];
    uint64_t rows = (uint64_t)(t->rows ? t->rows : 1);
    uint64_t wanted = rows * (uint64_t)(t->cols / t->block->elements) * (uint64_t)t->block->bytes;
    if (t->bytes != wanted)
        return qy_fail(err, QY_ERR_ARG, "%s: tensor %s got %llu bytes of %llu", w->path, t->name,
                       (unsigned long long)t->bytes, (unsigned long long)wanted);
    uint64_t padding = align(w->written) - w->written;
    QY_TRY(qy_write_all(w->fd, w->path, zeros, (size_t)padding, err));
    w->written += padding;
    return QY_OK;
}

qy_status_t qy_gguf_tensor_begin(qy_gguf_writer_t *w, const char *name, qy_ggml_type_t type,
                                 qy_error_t *err)
{
    QY_TRY(end_tensor(w, err));
    const qy_gguf_block_t *block = qy_gguf_block_find((uint32_t)type);
    const char *next = w->n_begun < w->n_tensors ? w->tensors[w->n_begun].name : "none";
    if (strcmp(next, name) != 0)
        return qy_fail(err, QY_ERR_ARG, "%s: tensor %s, next is %s", w->path, name, next);
    tensor_t *t = &w->tensors[w->n_begun];
    if (t->cols % block->elements != 0)
        return qy_fail(err, QY_ERR_ARG, "%s: tensor %s: rows of %lld in %s", w->path, name,
                       (long long)t->cols, block->name);
    t->block = block;
    t->offset = w->written;
    w->n_begun++;
    return QY_OK;
}

qy_status_t qy_gguf_tensor_data(qy_gguf_writer_t *w, const void *data, size_t bytes,
                                qy_error_t *err)
{
    QY_TRY(qy_write_all(w->fd, w->path, data, bytes, err));
    w->tensors[w->n_begun - 1].bytes += bytes;
    w->written += bytes;
    return QY_OK;
}

/* --- the end --- */

static void put_info(qy_gguf_writer_t *w, const tensor_t *t)
{
    uint32_t n_dims = t->rows ? 2 : 1, type = (uint32_t)t->block->type;
    qy_gguf_put_text(w, t->name, strlen(t->name));
    qy_gguf_put_raw(w, &n_dims, sizeof n_dims);
    qy_gguf_put_raw(w, &t->cols, sizeof t->cols);
    if (t->rows)
        qy_gguf_put_raw(w, &t->rows, sizeof t->rows);
    qy_gguf_put_raw(w, &type, sizeof type);
    qy_gguf_put_raw(w, &t->offset, sizeof t->offset);
}

static qy_status_t write_header(qy_gguf_writer_t *w, qy_error_t *err)
{
    unsigned char head[HEAD_BYTES] = "GGUF";
    uint32_t version = VERSION;
    memcpy(head + 4, &version, sizeof version);
    memcpy(head + 8, &w->n_tensors, sizeof w->n_tensors);
    memcpy(head + 16, &w->n_values, sizeof w->n_values);
    for (int64_t i = 0; i < w->n_tensors; i++)
        put_info(w, &w->tensors[i]);
    if (w->no_memory)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its header", w->path);
    if (lseek(w->fd, 0, SEEK_SET) < 0)
        return qy_fail(err, QY_ERR_IO, "%s: seek: %s", w->path, strerror(errno));
    QY_TRY(qy_write_all(w->fd, w->path, head, sizeof head, err));
    return qy_write_all(w->fd, w->path, w->values, (size_t)w->n_bytes, err);
}

static qy_status_t finish(qy_gguf_writer_t *w, qy_error_t *err)
{
    QY_TRY(end_tensor(w, err));
    if (w->n_begun != w->n_tensors)
        return qy_fail(err, QY_ERR_ARG, "%s: no data of tensor %s", w->path,
                       w->tensors[w->n_begun].name);
    QY_TRY(write_header(w, err));
    if (fsync(w->fd) != 0)
        return qy_fail(err, QY_ERR_IO, "%s: fsync: %s", w->path, strerror(errno));
    return QY_OK;
}

qy_status_t qy_gguf_writer_finish(qy_gguf_writer_t **writer, qy_error_t *err)
{
    qy_gguf_writer_t *w = *writer;
    qy_status_t status = finish(w, err);
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0 && status == QY_OK)
        status = qy_fail(err, QY_ERR_IO, "%s: close: %s", w->path, strerror(errno));
    qy_gguf_writer_abandon(writer);
    return status;
}

void qy_gguf_writer_abandon(qy_gguf_writer_t **writer)
{
    if (!writer || !*writer)
        return;
    if ((*writer)->fd >= 0)
        close((*writer)->fd);
    free((*writer)->values);
    free((*writer)->tensors);
    free((*writer)->path);
    free(*writer);
    *writer = NULL;
}
