#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/gguf_model.h"
#include "model/json.h"
#include "model/st_header.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file's byte order is the machine's");

enum {
    HEADER_MAX = 100000000, /* the reference implementation's limit */
    INDEX_MAX = 100000000,
    SHARDS_MAX = 4096,
    LENGTH_BYTES = 8
};

typedef struct {
    char *path;
    int fd;
    uint64_t header_bytes, file_bytes;
} shard_t;

struct qy_st_set {
    qy_st_list_t tensors;
    shard_t *shards;
    int n_shards;
    qy_gguf_t *gguf; /* where the tensors are a GGUF file's; then there are no shards */
};

/* --- one shard --- */

static int by_name(const void *a, const void *b)
{
    const qy_st_entry_t *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static qy_status_t read_header(qy_st_set_t *set, shard_t *shard, qy_error_t *err)
{
    uint64_t length;
    if (shard->file_bytes < LENGTH_BYTES)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %llu bytes are no safetensors file", shard->path,
                       (unsigned long long)shard->file_bytes);
    QY_TRY(qy_pread(shard->fd, shard->path, &length, sizeof length, 0, err));
    if (length > HEADER_MAX || length > shard->file_bytes - LENGTH_BYTES)
        return qy_fail(err, QY_ERR_FORMAT,
                       "%s: a header of %llu bytes in a file of %llu (at most %d)", shard->path,
                       (unsigned long long)length, (unsigned long long)shard->file_bytes,
                       HEADER_MAX);
    shard->header_bytes = LENGTH_BYTES + length;

    char *text = malloc((size_t)length + 1);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its header", shard->path);
    qy_status_t status = qy_pread(shard->fd, shard->path, text, (size_t)length, LENGTH_BYTES, err);
    if (status == QY_OK)
        status = qy_st_header_parse(&set->tensors, set->n_shards - 1, shard->path, text,
                                    (size_t)length, shard->file_bytes, err);
    free(text);
    return status;
}

/* Opens one shard and reads its header. There is room for it in set->shards. */
static qy_status_t add_shard(qy_st_set_t *set, const char *path, qy_error_t *err)
{
    /* O_NONBLOCK: a named pipe must not make open wait; it does nothing to a regular file. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return qy_fail(err, QY_ERR_IO, "%s: open: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return qy_fail(err, QY_ERR_IO, "%s: is not a regular file", path);
    }
    shard_t *shard = &set->shards[set->n_shards++];
    *shard = (shard_t){.path = strdup(path), .fd = fd, .file_bytes = (uint64_t)st.st_size};
    if (!shard->path)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its name", path);
    return read_header(set, shard, err);
}

/* --- the index of a sharded checkpoint --- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static qy_status_t check_shard_name(const char *index, const char *tensor, const json_t *value,
                                    qy_error_t *err)
{
    const char *name = json_string_value(value);
    if (!name)
        return qy_fail(err, QY_ERR_FORMAT, "%s: the file of tensor %.100s is not a string", index,
                       tensor);
    if (name[0] == '\0' || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: \"%.100s\" is not a bare file name", index, name);
    return QY_OK;
}

/* Both must name the same tensors, in the same files. */
static qy_status_t check_index(const qy_st_set_t *set, const char *index, const json_t *map,
                               qy_error_t *err)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value)
    {
        const qy_st_entry_t *entry = qy_st_find(set, name);
        const char *file = entry ? strrchr(set->shards[entry->file].path, '/') + 1 : NULL;
        if (!file || strcmp(file, json_string_value(value)) != 0)
            return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %.200s is not in %.200s", index, name,
                           json_string_value(value));
    }
    for (int64_t i = 0; i < set->tensors.n; i++)
        if (!json_object_get(map, set->tensors.entries[i].name))
            return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %.200s of %.200s is not listed", index,
                           set->tensors.entries[i].name,
                           set->shards[set->tensors.entries[i].file].path);
    return QY_OK;
}

static qy_status_t sort_entries(qy_st_set_t *set, qy_error_t *err)
{
    if (set->tensors.n)
        qsort(set->tensors.entries, (size_t)set->tensors.n, sizeof *set->tensors.entries, by_name);
    for (int64_t i = 1; i < set->tensors.n; i++) {
        const qy_st_entry_t *a = &set->tensors.entries[i - 1], *b = &set->tensors.entries[i];
        if (strcmp(a->name, b->name) == 0)
            return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %.200s is also in %.200s",
                           set->shards[b->file].path, b->name, set->shards[a->file].path);
    }
    return QY_OK;
}

/* Opens the shards that the map names, each once, in name order. */
static qy_status_t add_shards(qy_st_set_t *set, const char *dir, const char *index,
                              const json_t *map, const char **files, qy_error_t *err)
{
    size_t n = 0, n_unique = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value)
    {
        QY_TRY(check_shard_name(index, name, value, err));
        files[n++] = json_string_value(value);
    }
    qsort(files, n, sizeof *files, by_text);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(files[i], files[n_unique - 1]) != 0)
            files[n_unique++] = files[i];
    if (n_unique == 0 || n_unique > SHARDS_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: names %zu files, 1 to %d expected", index, n_unique,
                       SHARDS_MAX);
    set->shards = calloc(n_unique, sizeof *set->shards);
    if (!set->shards)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %zu shards", index, n_unique);
    for (size_t i = 0; i < n_unique; i++) {
        char path[QY_PATH_MAX];
        QY_TRY(qy_path(path, err, "%s/%s", dir, files[i]));
        QY_TRY(add_shard(set, path, err));
    }
    QY_TRY(sort_entries(set, err));
    return check_index(set, index, map, err);
}

static qy_status_t open_sharded(qy_st_set_t *set, const char *dir, const char *index,
                                qy_error_t *err)
{
    json_t *root;
    const json_t *map = NULL;
    QY_TRY(qy_json_read(&root, index, INDEX_MAX, err));
    qy_status_t status = qy_json_object(root, index, "weight_map", &map, err);
    if (status == QY_OK && !map)
        status = qy_fail(err, QY_ERR_FORMAT, "%s: no weight_map", index);
    if (status == QY_OK) {
        const char **files = malloc((json_object_size(map) + 1) * sizeof *files);
        status = files ? add_shards(set, dir, index, map, files, err)
                       : qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its names", index);
        free(files);
    }
    json_decref(root);
    return status;
}

static qy_status_t open_single(qy_st_set_t *set, const char *path, qy_error_t *err)
{
    set->shards = calloc(1, sizeof *set->shards);
    if (!set->shards)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", path);
    QY_TRY(add_shard(set, path, err));
    return sort_entries(set, err);
}

static qy_status_t fail_absent(const char *dir, qy_error_t *err)
{
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
    for (size_t i = 0; i < 2; i++) {
        char path[QY_PATH_MAX];
        QY_TRY(qy_path(path, err, "%s/%s", dir, pickles[i]));
        if (qy_file_exists(path))
            return qy_fail(err, QY_ERR_UNSUPPORTED,
                           "%s: holds %s and no model.safetensors; convert it first (in Python: "
                           "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR))",
                           dir, pickles[i]);
    }
    return qy_fail(err, QY_ERR_IO, "%s: %s", dir,
                   qy_is_dir(dir) ? "no model.safetensors and no model.safetensors.index.json"
                                  : "is not a directory");
}

static qy_status_t open_gguf(qy_st_set_t *set, const char *path, qy_error_t *err)
{
    QY_TRY(qy_gguf_open(&set->gguf, path, err));
    QY_TRY(qy_gguf_entries(&set->tensors, set->gguf, err));
    qsort(set->tensors.entries, (size_t)set->tensors.n, sizeof *set->tensors.entries, by_name);
    return QY_OK;
}

/* What dir holds, into a fresh set. */
static qy_status_t open_set(qy_st_set_t *set, const char *dir, qy_error_t *err)
{
    char single[QY_PATH_MAX], index[QY_PATH_MAX];
    if (qy_gguf_is_name(dir))
        return open_gguf(set, dir, err);
    QY_TRY(qy_path(single, err, "%s/model.safetensors", dir));
    QY_TRY(qy_path(index, err, "%s/model.safetensors.index.json", dir));
    if (qy_file_exists(single))
        return open_single(set, single, err);
    return qy_file_exists(index) ? open_sharded(set, dir, index, err) : fail_absent(dir, err);
}

qy_status_t qy_st_open(qy_st_set_t **out, const char *dir, qy_error_t *err)
{
    qy_st_set_t *set = calloc(1, sizeof *set);
    if (!set)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", dir);
    qy_status_t status = open_set(set, dir, err);
    if (status != QY_OK) {
        qy_st_close(&set);
        return status;
    }
    *out = set;
    return QY_OK;
}

void qy_st_close(qy_st_set_t **set)
{
    if (!set || !*set)
        return;
    for (int i = 0; i < (*set)->n_shards; i++) {
        close((*set)->shards[i].fd);
        free((*set)->shards[i].path);
    }
    qy_gguf_close(&(*set)->gguf);
    qy_st_list_free(&(*set)->tensors);
    free((*set)->shards);
    free(*set);
    *set = NULL;
}

/* --- what callers see --- */

int64_t qy_st_count(const qy_st_set_t *set)
{
    return set->tensors.n;
}

const qy_st_entry_t *qy_st_at(const qy_st_set_t *set, int64_t i)
{
    return i >= 0 && i < set->tensors.n ? &set->tensors.entries[i] : NULL;
}

const qy_st_entry_t *qy_st_find(const qy_st_set_t *set, const char *name)
{
    int64_t low = 0, high = set->tensors.n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(name, set->tensors.entries[middle].name);
        if (order == 0)
            return &set->tensors.entries[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

qy_status_t qy_st_read(const qy_st_set_t *set, const qy_st_entry_t *entry, void *dst,
                       uint64_t begin, uint64_t bytes, qy_error_t *err)
{
    const shard_t *shard = set->gguf ? NULL : &set->shards[entry->file];
    const char *path = set->gguf ? set->gguf->path : shard->path;
    if (begin > entry->bytes || bytes > entry->bytes - begin)
        return qy_fail(err, QY_ERR_ARG, "%s: tensor %.200s: %llu bytes at %llu of its %llu wanted",
                       path, entry->name, (unsigned long long)bytes, (unsigned long long)begin,
                       (unsigned long long)entry->bytes);
    if (set->gguf)
        return qy_gguf_read(set->gguf, entry, dst, begin, bytes, err);
    return qy_pread(shard->fd, path, dst, (size_t)bytes, entry->offset + begin, err);
}

int qy_st_files(const qy_st_set_t *set)
{
    return set->gguf ? 1 : set->n_shards;
}

const char *qy_st_file(const qy_st_set_t *set, int i, uint64_t *header_bytes, uint64_t *file_bytes)
{
    if (i < 0 || i >= qy_st_files(set))
        return NULL;
    if (set->gguf) {
        *header_bytes = set->gguf->header.data_begin;
        *file_bytes = set->gguf->file_bytes;
        return set->gguf->path;
    }
    *header_bytes = set->shards[i].header_bytes;
    *file_bytes = set->shards[i].file_bytes;
    return set->shards[i].path;
}
