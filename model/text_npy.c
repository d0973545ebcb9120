#include "model/text_npy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { MAGIC_BYTES = 6, HEADER_MAX = 1 << 16, PREAMBLE_MAX = 12, TYPES = 4 };

static const size_t file_bytes_max = (size_t)1 << 38;

/* What a header says. */
typedef struct {
    size_t data; /* where the numbers begin */
    int64_t rows, cols;
    int type; /* index into types */
} layout_t;

static const struct {
    const char *name;
    size_t bytes;
} types[TYPES] = {{"<i4", 4}, {"<i8", 8}, {"<u2", 2}, {"<u4", 4}};

/* --- the header, a Python dict: {'descr': '<i4', 'fortran_order': False, 'shape': (3, 4), } --- */

/* The text behind 'key': in the header, NULL where it is not there. */
static const char *value_of(const char *header, const char *key)
{
    const char *at = strstr(header, key);
    if (!at)
        return NULL;
    at += strlen(key);
    at += strspn(at, " ");
    if (*at != ':')
        return NULL;
    return at + 1 + strspn(at + 1, " ");
}

/* A whole number without sign, then what follows it; NULL where there is none or it is too big. */
static const char *read_number(const char *at, int64_t *out)
{
    size_t digits = strspn(at, "0123456789");
    if (digits == 0 || digits > 18)
        return NULL;
    *out = strtoll(at, NULL, 10);
    at += digits;
    return at + strspn(at, " ");
}

static const char *expect(const char *at, char c)
{
    return at && *at == c ? at + 1 + strspn(at + 1, " ") : NULL;
}

static qy_status_t read_dict(layout_t *out, const char *path, const char *header, qy_error_t *err)
{
    const char *descr = value_of(header, "'descr'");
    const char *order = value_of(header, "'fortran_order'");
    const char *shape = value_of(header, "'shape'");
    if (!descr || *descr != '\'' || !order || !shape)
        return qy_fail(err, QY_ERR_FORMAT, "%s: its header lacks descr, fortran_order or shape",
                       path);
    size_t n = strcspn(descr + 1, "'");
    out->type = -1;
    for (int i = 0; i < TYPES; i++)
        if (n == strlen(types[i].name) && strncmp(descr + 1, types[i].name, n) == 0)
            out->type = i;
    if (out->type < 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "%s: numbers of type %.*s (known: <i4, <i8, <u2, <u4)", path,
                       n > 40 ? 40 : (int)n, descr + 1);
    if (strncmp(order, "False", 5) != 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: not in C order", path);
    const char *at = expect(shape, '(');
    at = at ? read_number(at, &out->rows) : NULL;
    at = expect(at, ',');
    at = at ? read_number(at, &out->cols) : NULL;
    at = at && *at == ',' ? expect(at, ',') : at;
    if (!expect(at, ')'))
        return qy_fail(err, QY_ERR_FORMAT, "%s: its shape is not (samples, length)", path);
    return QY_OK;
}

static qy_status_t read_header(layout_t *out, const char *path, const char *text, size_t bytes,
                               qy_error_t *err)
{
    static const char magic[] = "\x93NUMPY";
    if (bytes < 12 || memcmp(text, magic, MAGIC_BYTES) != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: is not a .npy file", path);
    const unsigned char *u = (const unsigned char *)text;
    unsigned version = u[6];
    if (version != 1 && version != 2)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: .npy version %u (known: 1, 2)", path, version);
    size_t start = version == 1 ? 10 : 12;
    size_t length = u[8] | (size_t)u[9] << 8;
    if (version == 2)
        length |= (size_t)u[10] << 16 | (size_t)u[11] << 24;
    if (length > HEADER_MAX || length > bytes - start)
        return qy_fail(err, QY_ERR_FORMAT, "%s: a header of %zu bytes in a file of %zu", path,
                       length, bytes);
    char *header = calloc(1, length + 1);
    if (!header)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", path);
    memcpy(header, text + start, length);
    qy_status_t status = read_dict(out, path, header, err);
    free(header);
    out->data = start + length;
    return status;
}

/* --- the numbers --- */

/* Number i as 64 bits; those above 2^63 of no type here. */
static int64_t number_at(const char *data, int type, int64_t i)
{
    const char *at = data + (size_t)i * types[type].bytes;
    int32_t i4;
    int64_t i8;
    uint16_t u2;
    uint32_t u4;
    switch (type) {
    case 0:
        memcpy(&i4, at, sizeof i4);
        return i4;
    case 1:
        memcpy(&i8, at, sizeof i8);
        return i8;
    case 2:
        memcpy(&u2, at, sizeof u2);
        return u2;
    default:
        memcpy(&u4, at, sizeof u4);
        return u4;
    }
}

static qy_status_t copy_ids(qy_text_t *out, const char *path, const char *data,
                            const layout_t *layout, int64_t vocab, qy_error_t *err)
{
    for (int64_t i = 0; i < out->n; i++) {
        int64_t id = number_at(data, layout->type, i);
        if (id < 0 || id >= vocab)
            return qy_fail(err, QY_ERR_FORMAT, "%s: row %lld has token %lld, 0 to %lld expected",
                           path, (long long)(i / layout->cols), (long long)id,
                           (long long)vocab - 1);
        out->ids[i] = (int32_t)id;
    }
    for (int64_t i = 0; i <= layout->rows; i++)
        out->starts[i] = i * layout->cols;
    return QY_OK;
}

/* Is there as much behind the header as it says, in a file of so many bytes? */
static qy_status_t check_size(const layout_t *layout, const char *path, size_t bytes,
                              qy_error_t *err)
{
    size_t there = bytes - layout->data, size = types[layout->type].bytes;
    if (layout->rows < 1 || layout->cols < 1 ||
        (uint64_t)layout->rows > there / size / (uint64_t)layout->cols ||
        (uint64_t)layout->rows * (uint64_t)layout->cols * size != there)
        return qy_fail(err, QY_ERR_FORMAT,
                       "%s: a shape of %lld × %lld of %zu bytes each, but %zu "
                       "bytes of data",
                       path, (long long)layout->rows, (long long)layout->cols, size, there);
    return QY_OK;
}

static qy_status_t parse(qy_text_t *out, const char *path, const char *text, size_t bytes,
                         int64_t vocab, qy_error_t *err)
{
    layout_t layout = {0};
    QY_TRY(read_header(&layout, path, text, bytes, err));
    QY_TRY(check_size(&layout, path, bytes, err));
    out->n = layout.rows * layout.cols;
    out->n_documents = layout.rows;
    out->row_length = layout.cols;
    out->ids = malloc((size_t)out->n * sizeof *out->ids);
    out->starts = malloc((size_t)(layout.rows + 1) * sizeof *out->starts);
    if (!out->ids || !out->starts)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %lld tokens", path,
                       (long long)out->n);
    return copy_ids(out, path, text + layout.data, &layout, vocab, err);
}

qy_status_t qy_text_read_npy(qy_text_t *out, const char *path, int64_t vocab, qy_error_t *err)
{
    char *text;
    size_t bytes;
    qy_text_t made = {0};
    QY_TRY(qy_file_read(path, file_bytes_max, &text, &bytes, err));
    qy_status_t status = parse(&made, path, text, bytes, vocab, err);
    free(text);
    if (status != QY_OK) {
        qy_text_free(&made);
        return status;
    }
    *out = made;
    return QY_OK;
}

/* The header of an open file; its size is checked against all of it. */
static qy_status_t peek(layout_t *out, int fd, const char *path, qy_error_t *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return qy_fail(err, QY_ERR_IO, "%s: is not a regular file", path);
    size_t bytes = (size_t)st.st_size, most = PREAMBLE_MAX + HEADER_MAX;
    size_t n = bytes < most ? bytes : most;
    char *text = malloc(n + 1);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", path);
    qy_status_t status = qy_pread(fd, path, text, n, 0, err);
    if (status == QY_OK)
        status = read_header(out, path, text, n, err);
    if (status == QY_OK)
        status = check_size(out, path, bytes, err);
    free(text);
    return status;
}

qy_status_t qy_text_npy_shape(int64_t *rows, int64_t *cols, const char *path, qy_error_t *err)
{
    layout_t layout = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return qy_fail(err, QY_ERR_IO, "%s: open: %s", path, strerror(errno));
    qy_status_t status = peek(&layout, fd, path, err);
    close(fd);
    *rows = layout.rows;
    *cols = layout.cols;
    return status;
}
