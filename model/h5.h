/*
 * Named tensors and attributes in HDF5, the one place that knows the library. Files are written
 * under a temporary name and committed whole (base/file.h), with libver V110, fletcher32 on every
 * dataset and object times off, so that the same content, written in the same order, gives the same
 * bytes. Errors name file and dataset. Only what is stored as it is here is read: no other filters,
 * types or links. One thread at a time: the library may have been built without locks.
 */
#ifndef QY_MODEL_H5_H
#define QY_MODEL_H5_H

#include "base/status.h"
#include "base/tensor.h"

typedef struct qy_h5 qy_h5_t;

/* Creates a temporary file that becomes path on commit. */
qy_status_t qy_h5_create(qy_h5_t **out, const char *path, qy_error_t *err);
qy_status_t qy_h5_commit(qy_h5_t **file, qy_error_t *err);
/* Closes; an uncommitted new file is removed. */
void qy_h5_close(qy_h5_t **file);

/* FORMAT where it is no HDF5 file or a checksum fails, IO where it cannot be opened. */
qy_status_t qy_h5_open(qy_h5_t **out, const char *path, qy_error_t *err);
const char *qy_h5_path(const qy_h5_t *file);

/* Attributes of the root group. */
qy_status_t qy_h5_set_string(qy_h5_t *file, const char *name, const char *value, qy_error_t *err);
qy_status_t qy_h5_set_i64(qy_h5_t *file, const char *name, int64_t value, qy_error_t *err);
qy_status_t qy_h5_set_f64(qy_h5_t *file, const char *name, double value, qy_error_t *err);
qy_status_t qy_h5_get_string(qy_h5_t *file, const char *name, char *out, size_t size,
                             qy_error_t *err);
qy_status_t qy_h5_get_i64(qy_h5_t *file, const char *name, int64_t *out, qy_error_t *err);
qy_status_t qy_h5_get_f64(qy_h5_t *file, const char *name, double *out, qy_error_t *err);

/* "a/b/c" creates the groups. Written whole; zero-size tensors are refused (ARG). BF16 is stored as
 * 16-bit integers with attribute "dtype" = "bf16". */
qy_status_t qy_h5_write(qy_h5_t *file, const char *name, const qy_tensor_t *t, qy_error_t *err);

/* A dataset of rows, chunked one row a chunk (a sample); rows are then written in any order. */
qy_status_t qy_h5_declare(qy_h5_t *file, const char *name, qy_dtype_t dtype, int n_dims,
                          const int64_t *shape, qy_error_t *err);
qy_status_t qy_h5_write_rows(qy_h5_t *file, const char *name, int64_t first, int64_t n,
                             const void *data, qy_error_t *err);

int qy_h5_has(const qy_h5_t *file, const char *name);
/* Type and shape of a dataset; data is NULL. */
qy_status_t qy_h5_info(qy_h5_t *file, const char *name, qy_tensor_t *out, qy_error_t *err);
/* Reads into t->data; type and shape must be the dataset's (SHAPE, FORMAT otherwise). */
qy_status_t qy_h5_read(qy_h5_t *file, const char *name, const qy_tensor_t *t, qy_error_t *err);
/* Rows [first, first + n) of the first dimension. */
qy_status_t qy_h5_read_rows(qy_h5_t *file, const char *name, int64_t first, int64_t n, void *data,
                            qy_error_t *err);

#endif
