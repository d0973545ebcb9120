#include "model/st_header.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/grow.h"
#include "model/json.h"

enum { NAME_BYTES_MAX = 512, LENGTH_BYTES = 8, WHERE_MAX = QY_PATH_MAX + 128 };

int qy_st_dtype_bits(const char *dtype)
{
    static const struct {
        const char *name;
        int bits;
    } known[] = {
        {"BOOL", 8},        {"U8", 8},      {"I8", 8},   {"F8_E4M3", 8}, {"F8_E5M2", 8},
        {"F8_E8M0", 8},     {"I16", 16},    {"U16", 16}, {"F16", 16},    {"F8_E4M3FNUZ", 8},
        {"F8_E5M2FNUZ", 8}, {"BF16", 16},   {"I32", 32}, {"U32", 32},    {"F32", 32},
        {"C64", 64},        {"F64", 64},    {"I64", 64}, {"U64", 64},    {"F4", 4},
        {"F6_E2M3", 6},     {"F6_E3M2", 6},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(dtype, known[i].name) == 0)
            return known[i].bits;
    return 0;
}

static qy_status_t check_name(const char *path, const char *name, qy_error_t *err)
{
    size_t n = strlen(name);
    if (n == 0 || n > NAME_BYTES_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: a tensor name of %zu bytes, 1 to %d expected", path,
                       n, NAME_BYTES_MAX);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
            return qy_fail(err, QY_ERR_FORMAT, "%s: a tensor name with control character %d", path,
                           name[i]);
    return QY_OK;
}

/* Type and shape of an entry; *bytes is what they take. */
static qy_status_t read_shape(qy_st_entry_t *entry, uint64_t *bytes, const char *where,
                              const json_t *value, qy_error_t *err)
{
    const char *dtype = NULL;
    const json_t *shape = NULL;
    QY_TRY(qy_json_string(value, where, "dtype", &dtype, err));
    QY_TRY(qy_json_array(value, where, "shape", &shape, err));
    if (!dtype || !shape)
        return qy_fail(err, QY_ERR_FORMAT, "%s: no %s", where, dtype ? "shape" : "dtype");
    int bits = qy_st_dtype_bits(dtype);
    if (bits == 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: unknown dtype \"%.40s\"", where, dtype);
    snprintf(entry->dtype, sizeof entry->dtype, "%s", dtype);

    size_t n_dims = json_array_size(shape), max_dims = sizeof entry->shape / sizeof *entry->shape;
    if (n_dims > max_dims)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %zu dimensions, at most %zu expected", where,
                       n_dims, max_dims);
    uint64_t total = (uint64_t)bits;
    bool overflow = false;
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return qy_fail(err, QY_ERR_FORMAT, "%s: dimension %zu is not a size", where, i);
        uint64_t d = (uint64_t)json_integer_value(size);
        entry->shape[i] = (int64_t)d;
        overflow |= d != 0 && total > (uint64_t)INT64_MAX / d;
        total *= d;
    }
    if (overflow)
        return qy_fail(err, QY_ERR_FORMAT, "%s: its sizes multiply to more than 2^63 bits", where);
    if (total % 8 != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %llu bits are not whole bytes", where,
                       (unsigned long long)total);
    entry->n_dims = (int)n_dims;
    *bytes = total / 8;
    return QY_OK;
}

static qy_status_t read_offsets(uint64_t out[2], const char *where, const json_t *value,
                                uint64_t data_bytes, qy_error_t *err)
{
    const json_t *offsets = NULL;
    QY_TRY(qy_json_array(value, where, "data_offsets", &offsets, err));
    if (!offsets || json_array_size(offsets) != 2)
        return qy_fail(err, QY_ERR_FORMAT, "%s: data_offsets are not two numbers", where);
    for (size_t i = 0; i < 2; i++) {
        const json_t *offset = json_array_get(offsets, i);
        if (!json_is_integer(offset) || json_integer_value(offset) < 0)
            return qy_fail(err, QY_ERR_FORMAT, "%s: data_offsets are not two numbers", where);
        out[i] = (uint64_t)json_integer_value(offset);
    }
    if (out[0] > out[1] || out[1] > data_bytes)
        return qy_fail(err, QY_ERR_FORMAT, "%s: data_offsets %llu to %llu of %llu bytes", where,
                       (unsigned long long)out[0], (unsigned long long)out[1],
                       (unsigned long long)data_bytes);
    return QY_OK;
}

qy_status_t qy_st_list_add(qy_st_list_t *list, const qy_st_entry_t *entry, const char *name,
                           const char *path, qy_error_t *err)
{
    qy_st_entry_t *entries = qy_grow(list->entries, &list->capacity, list->n + 1, sizeof *entries);
    if (!entries)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %lld tensors", path,
                       (long long)list->n + 1);
    list->entries = entries;
    char *kept = strdup(name);
    if (!kept)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for a name", path);
    entries[list->n] = *entry;
    entries[list->n++].name = kept;
    return QY_OK;
}

static qy_status_t add_tensor(qy_st_list_t *list, int file, const char *path, const char *name,
                              const json_t *value, uint64_t header_bytes, uint64_t data_bytes,
                              qy_error_t *err)
{
    QY_TRY(check_name(path, name, err));
    char where[WHERE_MAX];
    snprintf(where, sizeof where, "%s: tensor %.100s", path, name);
    if (!json_is_object(value))
        return qy_fail(err, QY_ERR_FORMAT, "%s: is not an object", where);
    qy_st_entry_t entry = {.file = file};
    uint64_t bytes = 0, offsets[2];
    QY_TRY(read_shape(&entry, &bytes, where, value, err));
    QY_TRY(read_offsets(offsets, where, value, data_bytes, err));
    if (offsets[1] - offsets[0] != bytes)
        return qy_fail(err, QY_ERR_FORMAT, "%s: its shape takes %llu bytes, its data_offsets %llu",
                       where, (unsigned long long)bytes,
                       (unsigned long long)(offsets[1] - offsets[0]));
    entry.offset = header_bytes + offsets[0];
    entry.bytes = bytes;
    return qy_st_list_add(list, &entry, name, path, err);
}

static int by_offset(const void *a, const void *b)
{
    const qy_st_entry_t *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* The tensors must tile the data: no hole, no overlap, nothing behind the last. */
static qy_status_t check_tiling(qy_st_list_t *list, int64_t first, const char *path,
                                uint64_t header_bytes, uint64_t file_bytes, qy_error_t *err)
{
    qy_st_entry_t *entries = list->entries;
    if (list->n > first)
        qsort(entries + first, (size_t)(list->n - first), sizeof *entries, by_offset);
    uint64_t at = header_bytes;
    for (int64_t i = first; i < list->n; i++) {
        if (entries[i].offset != at)
            return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %.100s begins at byte %llu, %s %llu",
                           path, entries[i].name, (unsigned long long)entries[i].offset,
                           entries[i].offset > at ? "leaving a hole from"
                                                  : "inside one that ends at",
                           (unsigned long long)at);
        at += entries[i].bytes;
    }
    if (at != file_bytes)
        return qy_fail(err, QY_ERR_FORMAT, "%s: its tensors end at byte %llu, the file at %llu",
                       path, (unsigned long long)at, (unsigned long long)file_bytes);
    return QY_OK;
}

static qy_status_t check_metadata(const char *path, const json_t *metadata, qy_error_t *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata) && !json_is_null(metadata))
        return qy_fail(err, QY_ERR_FORMAT, "%s: __metadata__ is not an object", path);
    json_object_foreach((json_t *)metadata, key, value)
    {
        if (!json_is_string(value))
            return qy_fail(err, QY_ERR_FORMAT, "%s: __metadata__ \"%.100s\" is not a string", path,
                           key);
    }
    return QY_OK;
}

static qy_status_t add_tensors(qy_st_list_t *list, int file, const char *path, const json_t *header,
                               uint64_t header_bytes, uint64_t file_bytes, qy_error_t *err)
{
    int64_t first = list->n;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0)
            QY_TRY(check_metadata(path, value, err));
        else
            QY_TRY(add_tensor(list, file, path, name, value, header_bytes,
                              file_bytes - header_bytes, err));
    }
    return check_tiling(list, first, path, header_bytes, file_bytes, err);
}

qy_status_t qy_st_header_parse(qy_st_list_t *list, int file, const char *path, const char *text,
                               size_t length, uint64_t file_bytes, qy_error_t *err)
{
    if (length == 0 || text[0] != '{')
        return qy_fail(err, QY_ERR_FORMAT, "%s: its header does not begin with {", path);
    json_t *header;
    QY_TRY(qy_json_parse(&header, text, length, path, err));
    qy_status_t status =
        add_tensors(list, file, path, header, LENGTH_BYTES + length, file_bytes, err);
    json_decref(header);
    return status;
}

void qy_st_list_free(qy_st_list_t *list)
{
    for (int64_t i = 0; i < list->n; i++)
        free(list->entries[i].name);
    free(list->entries);
    *list = (qy_st_list_t){0};
}
