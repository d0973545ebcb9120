/*
 * safetensors files: single or sharded, read by large preads (never mmap: a file truncated under us
 * must be an error, not a SIGBUS), and written in the reference writer's order.
 * Headers are input from strangers: every number is checked before it is used.
 *
 * Source: the safetensors format, github.com/huggingface/safetensors, README.
 */
#ifndef QY_MODEL_SAFETENSORS_H
#define QY_MODEL_SAFETENSORS_H

#include "base/file.h"
#include "base/status.h"
#include "base/tensor.h"

typedef struct {
    char *name;     /* owned by the set */
    char dtype[16]; /* as in the file: "F16" */
    int n_dims;
    int64_t shape[8];
    int file;        /* index of the shard */
    uint64_t offset; /* from the start of the shard */
    uint64_t bytes;
    int64_t stored; /* of a GGUF file: the tensor's index in its list */
} qy_st_entry_t;

/* Bits of one element of a dtype of the format ("F16": 16), 0 where the name is not known. */
int qy_st_dtype_bits(const char *dtype);

/* The tensors of one checkpoint directory. */
typedef struct qy_st_set qy_st_set_t;

/*
 * Opens DIR/model.safetensors, or the shards of DIR/model.safetensors.index.json (bare file names
 * only); or a GGUF file, whose tensors then appear as model/gguf_model.h says. FORMAT with file and
 * reason on: a file too short, header size, JSON, duplicate names, unknown dtype, shape × size ≠
 * offsets, holes, overlaps, an index that disagrees with the shards.
 */
qy_status_t qy_st_open(qy_st_set_t **out, const char *dir, qy_error_t *err);
void qy_st_close(qy_st_set_t **set);

int64_t qy_st_count(const qy_st_set_t *set);
/* Entry i in name order, or the one of that name (NULL where absent). Borrowed until close. */
const qy_st_entry_t *qy_st_at(const qy_st_set_t *set, int64_t i);
const qy_st_entry_t *qy_st_find(const qy_st_set_t *set, const char *name);

/* Bytes [begin, begin + bytes) of a tensor's data. */
qy_status_t qy_st_read(const qy_st_set_t *set, const qy_st_entry_t *entry, void *dst,
                       uint64_t begin, uint64_t bytes, qy_error_t *err);

/* Shards: path, header bytes (8 + N), file size; for the plan hash. */
int qy_st_files(const qy_st_set_t *set);
const char *qy_st_file(const qy_st_set_t *set, int i, uint64_t *header_bytes, uint64_t *file_bytes);

/* --- writing --------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    const char *dtype; /* "F16", "I32", … */
    int n_dims;
    int64_t shape[4];
} qy_st_spec_t;

typedef struct qy_st_writer qy_st_writer_t;

/*
 * Plans DIR/model.safetensors, or shards of at most shard_bytes with their index, for these
 * tensors: within a shard by dtype size descending, then name; metadata {"format":"pt"}; header
 * padded to 8. Tensors may then be put in any order, each exactly once; finish checks that, fsyncs
 * and closes.
 */
qy_status_t qy_st_writer_create(qy_st_writer_t **out, const char *dir, const qy_st_spec_t *specs,
                                int64_t n, uint64_t shard_bytes, qy_error_t *err);
qy_status_t qy_st_writer_put(qy_st_writer_t *writer, const char *name, const void *data,
                             uint64_t bytes, qy_error_t *err);
qy_status_t qy_st_writer_finish(qy_st_writer_t **writer, qy_error_t *err);
void qy_st_writer_abandon(qy_st_writer_t **writer);

#endif
