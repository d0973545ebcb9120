/*
 * A GGUF file (version 2 or 3): its header as keys with values and a list of tensors, every number
 * checked against the file before it is used; and its numbers, by large preads. What a model makes
 * of them is model/gguf_model.h's.
 *
 * Source: github.com/ggml-org/ggml, docs/gguf.md and src/gguf.cpp.
 */
#ifndef QY_MODEL_GGUF_H
#define QY_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/gguf_block.h"

/* Types of values, by their numbers in the file. */
typedef enum {
    QY_GGUF_U8,
    QY_GGUF_I8,
    QY_GGUF_U16,
    QY_GGUF_I16,
    QY_GGUF_U32,
    QY_GGUF_I32,
    QY_GGUF_F32,
    QY_GGUF_BOOL,
    QY_GGUF_STRING,
    QY_GGUF_ARRAY,
    QY_GGUF_U64,
    QY_GGUF_I64,
    QY_GGUF_F64,
    QY_N_GGUF_KINDS
} qy_gguf_kind_t;

/* Bytes of the file, without a NUL behind them. */
typedef struct {
    const char *bytes;
    size_t n;
} qy_gguf_text_t;

typedef struct {
    qy_gguf_text_t key;
    qy_gguf_kind_t kind;       /* of the value; of an array, of its elements */
    bool array;                /* never of arrays */
    uint64_t count;            /* 1 where it is no array */
    const unsigned char *data; /* as in the file; of strings, each u64 length + bytes */
} qy_gguf_value_t;

enum { QY_GGUF_NAME_MAX = 64, QY_GGUF_DIMS = 4 };

typedef struct {
    char name[QY_GGUF_NAME_MAX];
    int n_dims;
    int64_t dims[QY_GGUF_DIMS]; /* as in the file: dims[0] is the length of a row */
    const qy_gguf_block_t *block;
    uint64_t offset; /* from the start of the file */
    uint64_t bytes;
} qy_gguf_tensor_t;

/* Values in key order, tensors in name order; all of it borrows from the bytes that were parsed. */
typedef struct {
    int version;
    qy_gguf_value_t *values;
    qy_gguf_tensor_t *tensors;
    int64_t n_values, n_tensors;
    uint64_t data_begin; /* where the tensors' data start */
    bool cut;            /* a parse failed only because it was given a part of the header */
} qy_gguf_header_t;

/*
 * Parses data[0…bytes), the beginning of a file of file_bytes bytes; path names it in errors.
 * FORMAT: not the format, or a number that cannot be; UNSUPPORTED: another version, a tensor's
 * type. To be freed in either case.
 */
qy_status_t qy_gguf_parse(qy_gguf_header_t *out, const unsigned char *data, size_t bytes,
                          uint64_t file_bytes, const char *path, qy_error_t *err);
void qy_gguf_header_free(qy_gguf_header_t *header);

/* --- a file --- */

typedef struct {
    char *path;
    int fd;
    uint64_t file_bytes;
    unsigned char *bytes; /* the header's */
    qy_gguf_header_t header;
} qy_gguf_t;

qy_status_t qy_gguf_open(qy_gguf_t **out, const char *path, qy_error_t *err);
void qy_gguf_close(qy_gguf_t **gguf);

/* NULL where there is none. */
const qy_gguf_value_t *qy_gguf_find(const qy_gguf_t *gguf, const char *key);
const qy_gguf_tensor_t *qy_gguf_tensor(const qy_gguf_t *gguf, const char *name);

/* Optional values: an absent key leaves *out as it is; FORMAT where it is of another kind. */
qy_status_t qy_gguf_i64(const qy_gguf_t *gguf, const char *key, int64_t *out, qy_error_t *err);
qy_status_t qy_gguf_f32(const qy_gguf_t *gguf, const char *key, float *out, qy_error_t *err);
qy_status_t qy_gguf_bool(const qy_gguf_t *gguf, const char *key, bool *out, qy_error_t *err);
qy_status_t qy_gguf_text(const qy_gguf_t *gguf, const char *key, qy_gguf_text_t *out,
                         qy_error_t *err);

/* An array of strings: the one at *at, which moves on; a parse has checked them all. */
qy_gguf_text_t qy_gguf_next_text(const unsigned char **at);

#endif
