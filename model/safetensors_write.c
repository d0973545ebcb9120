#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER_ALIGN = 8, SHARDS_MAX = 99999 };

typedef struct {
    char *name;
    char dtype[16];
    int n_dims, shard;
    int64_t shape[4];
    uint64_t offset, bytes; /* offset: in the shard's data, later in its file */
    bool done;
} item_t;

typedef struct {
    char *path, *temp;
    int fd;
    uint64_t data_bytes;
} shard_t;

struct qy_st_writer {
    char *dir;
    item_t *items;
    int64_t n;
    shard_t *shards;
    int n_shards;
};

/* --- the plan --- */

static qy_status_t fill_item(item_t *item, const qy_st_spec_t *spec, qy_error_t *err)
{
    int bits = qy_st_dtype_bits(spec->dtype);
    if (bits == 0)
        return qy_fail(err, QY_ERR_ARG, "tensor %.200s: unknown dtype \"%.40s\"", spec->name,
                       spec->dtype);
    if (spec->n_dims < 0 || spec->n_dims > 4)
        return qy_fail(err, QY_ERR_ARG, "tensor %.200s: %d dimensions, 0 to 4 expected", spec->name,
                       spec->n_dims);
    uint64_t total = (uint64_t)bits;
    for (int i = 0; i < spec->n_dims; i++) {
        if (spec->shape[i] <= 0 || total > (uint64_t)INT64_MAX / (uint64_t)spec->shape[i])
            return qy_fail(err, QY_ERR_ARG, "tensor %.200s: dimension %d is %lld", spec->name, i,
                           (long long)spec->shape[i]);
        total *= (uint64_t)spec->shape[i];
        item->shape[i] = spec->shape[i];
    }
    if (total % 8 != 0)
        return qy_fail(err, QY_ERR_ARG, "tensor %.200s: %llu bits are not whole bytes", spec->name,
                       (unsigned long long)total);
    snprintf(item->dtype, sizeof item->dtype, "%s", spec->dtype);
    item->n_dims = spec->n_dims;
    item->bytes = total / 8;
    item->name = strdup(spec->name);
    return item->name ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "no memory for a tensor name");
}

/* Deals the tensors to shards in the order given; returns the number of shards. */
static int deal(item_t *items, int64_t n, uint64_t shard_bytes)
{
    int shard = 0;
    uint64_t used = 0;
    for (int64_t i = 0; i < n; i++) {
        if (used > 0 && (used > shard_bytes || items[i].bytes > shard_bytes - used)) {
            shard++;
            used = 0;
        }
        items[i].shard = shard;
        used += items[i].bytes;
    }
    return shard + 1;
}

static int by_name(const void *a, const void *b)
{
    const item_t *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The reference writer's order, shard by shard. */
static int by_place(const void *a, const void *b)
{
    const item_t *x = a, *y = b;
    if (x->shard != y->shard)
        return x->shard - y->shard;
    int bits = qy_st_dtype_bits(y->dtype) - qy_st_dtype_bits(x->dtype);
    return bits ? bits : strcmp(x->name, y->name);
}

static qy_status_t plan_items(qy_st_writer_t *w, const qy_st_spec_t *specs, int64_t n,
                              uint64_t shard_bytes, qy_error_t *err)
{
    w->items = calloc((size_t)n + 1, sizeof *w->items);
    if (!w->items)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %lld tensors", w->dir, (long long)n);
    for (; w->n < n; w->n++)
        QY_TRY(fill_item(&w->items[w->n], &specs[w->n], err));
    w->n_shards = deal(w->items, n, shard_bytes);
    if (w->n_shards > SHARDS_MAX)
        return qy_fail(err, QY_ERR_ARG, "%s: %d shards of %llu bytes, at most %d", w->dir,
                       w->n_shards, (unsigned long long)shard_bytes, SHARDS_MAX);
    qsort(w->items, (size_t)n, sizeof *w->items, by_name);
    for (int64_t i = 1; i < n; i++)
        if (strcmp(w->items[i - 1].name, w->items[i].name) == 0)
            return qy_fail(err, QY_ERR_ARG, "%s: tensor %.200s is listed twice", w->dir,
                           w->items[i].name);
    qsort(w->items, (size_t)n, sizeof *w->items, by_place);
    return QY_OK;
}

/* --- the files --- */

/* The header of one shard as text to free, NULL without memory; sets the offsets of its items. */
static char *make_header(qy_st_writer_t *w, int shard)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint64_t at = 0;
    for (int64_t i = 0; root && i < w->n; i++) {
        item_t *item = &w->items[i];
        if (item->shard != shard)
            continue;
        json_t *shape = json_array();
        for (int d = 0; d < item->n_dims; d++)
            json_array_append_new(shape, json_integer(item->shape[d]));
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", item->dtype, "shape", shape,
                                  "data_offsets", (json_int_t)at, (json_int_t)(at + item->bytes));
        if (json_object_set_new(root, item->name, entry) != 0) {
            json_decref(root);
            root = NULL;
        }
        item->offset = at;
        at += item->bytes;
    }
    w->shards[shard].data_bytes = at;
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return text;
}

static qy_status_t write_header(qy_st_writer_t *w, int shard, qy_error_t *err)
{
    shard_t *s = &w->shards[shard];
    char *text = make_header(w, shard);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its header", s->path);
    size_t used = strlen(text), padded = (used + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN;
    uint64_t length = padded;
    qy_status_t status = qy_write_all(s->fd, s->temp, &length, sizeof length, err);
    if (status == QY_OK)
        status = qy_write_all(s->fd, s->temp, text, used, err);
    if (status == QY_OK)
        status = qy_write_all(s->fd, s->temp, "       ", padded - used, err);
    free(text);
    uint64_t data = sizeof length + padded;
    for (int64_t i = 0; i < w->n; i++)
        if (w->items[i].shard == shard)
            w->items[i].offset += data;
    if (status == QY_OK && ftruncate(s->fd, (off_t)(data + s->data_bytes)) != 0)
        status = qy_fail(err, QY_ERR_IO, "%s: ftruncate: %s", s->temp, strerror(errno));
    return status;
}

static qy_status_t open_shard(qy_st_writer_t *w, int shard, qy_error_t *err)
{
    char path[QY_PATH_MAX], temp[QY_PATH_MAX];
    shard_t *s = &w->shards[shard];
    if (w->n_shards == 1)
        QY_TRY(qy_path(path, err, "%s/model.safetensors", w->dir));
    else
        QY_TRY(qy_path(path, err, "%s/model-%05d-of-%05d.safetensors", w->dir, shard + 1,
                       w->n_shards));
    QY_TRY(qy_temp_name(temp, path, err));
    s->path = strdup(path);
    s->temp = strdup(temp);
    if (!s->path || !s->temp)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its name", path);
    s->fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (s->fd < 0)
        return qy_fail(err, QY_ERR_IO, "%s: open: %s", temp, strerror(errno));
    return write_header(w, shard, err);
}

static qy_status_t open_shards(qy_st_writer_t *w, qy_error_t *err)
{
    w->shards = calloc((size_t)w->n_shards, sizeof *w->shards);
    if (!w->shards)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %d shards", w->dir, w->n_shards);
    for (int i = 0; i < w->n_shards; i++)
        w->shards[i].fd = -1;
    for (int i = 0; i < w->n_shards; i++)
        QY_TRY(open_shard(w, i, err));
    return QY_OK;
}

qy_status_t qy_st_writer_create(qy_st_writer_t **out, const char *dir, const qy_st_spec_t *specs,
                                int64_t n, uint64_t shard_bytes, qy_error_t *err)
{
    qy_st_writer_t *w = calloc(1, sizeof *w);
    if (!w)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", dir);
    w->dir = strdup(dir);
    qy_status_t status = w->dir ? plan_items(w, specs, n, shard_bytes, err)
                                : qy_fail(err, QY_ERR_MEMORY, "%s: no memory", dir);
    if (status == QY_OK)
        status = open_shards(w, err);
    if (status != QY_OK) {
        qy_st_writer_abandon(&w);
        return status;
    }
    *out = w;
    return QY_OK;
}

qy_status_t qy_st_writer_put(qy_st_writer_t *writer, const char *name, const void *data,
                             uint64_t bytes, qy_error_t *err)
{
    item_t *item = NULL;
    for (int64_t i = 0; i < writer->n && !item; i++)
        if (strcmp(writer->items[i].name, name) == 0)
            item = &writer->items[i];
    if (!item)
        return qy_fail(err, QY_ERR_ARG, "%s: tensor %.200s was not planned", writer->dir, name);
    if (item->done)
        return qy_fail(err, QY_ERR_ARG, "%s: tensor %.200s is put twice", writer->dir, name);
    if (item->bytes != bytes)
        return qy_fail(err, QY_ERR_SHAPE, "%s: tensor %.200s: %llu bytes put, %llu planned",
                       writer->dir, name, (unsigned long long)bytes,
                       (unsigned long long)item->bytes);
    shard_t *shard = &writer->shards[item->shard];
    if (lseek(shard->fd, (off_t)item->offset, SEEK_SET) < 0)
        return qy_fail(err, QY_ERR_IO, "%s: lseek: %s", shard->temp, strerror(errno));
    QY_TRY(qy_write_all(shard->fd, shard->temp, data, (size_t)bytes, err));
    item->done = true;
    return QY_OK;
}

/* --- the end --- */

static qy_status_t write_index(const qy_st_writer_t *w, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_path(path, err, "%s/model.safetensors.index.json", w->dir));
    uint64_t total = 0;
    json_t *map = json_object();
    for (int64_t i = 0; i < w->n; i++) {
        const char *file = strrchr(w->shards[w->items[i].shard].path, '/') + 1;
        json_object_set_new(map, w->items[i].name, json_string(file));
        total += w->items[i].bytes;
    }
    bool whole = json_object_size(map) == (size_t)w->n;
    json_t *root =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *text = root && whole ? json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    json_decref(root);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for the index", path);
    qy_status_t status = qy_file_write(path, text, strlen(text), err);
    free(text);
    return status;
}

static qy_status_t commit(qy_st_writer_t *w, qy_error_t *err)
{
    for (int64_t i = 0; i < w->n; i++)
        if (!w->items[i].done)
            return qy_fail(err, QY_ERR_ARG, "%s: tensor %.200s was never put", w->dir,
                           w->items[i].name);
    for (int i = 0; i < w->n_shards; i++) {
        shard_t *s = &w->shards[i];
        int closed = close(s->fd);
        s->fd = -1;
        if (closed != 0)
            return qy_fail(err, QY_ERR_IO, "%s: close: %s", s->temp, strerror(errno));
        QY_TRY(qy_file_commit(s->temp, s->path, err));
        free(s->temp);
        s->temp = NULL;
    }
    return w->n_shards > 1 ? write_index(w, err) : QY_OK;
}

qy_status_t qy_st_writer_finish(qy_st_writer_t **writer, qy_error_t *err)
{
    qy_status_t status = commit(*writer, err);
    qy_st_writer_abandon(writer); /* after a commit nothing is left to remove */
    return status;
}

void qy_st_writer_abandon(qy_st_writer_t **writer)
{
    if (!writer || !*writer)
        return;
    qy_st_writer_t *w = *writer;
    for (int i = 0; w->shards && i < w->n_shards; i++) {
        if (w->shards[i].fd >= 0)
            close(w->shards[i].fd);
        if (w->shards[i].temp)
            unlink(w->shards[i].temp);
        free(w->shards[i].temp);
        free(w->shards[i].path);
    }
    for (int64_t i = 0; i < w->n; i++)
        free(w->items[i].name);
    free(w->shards);
    free(w->items);
    free(w->dir);
    free(w);
    *writer = NULL;
}
