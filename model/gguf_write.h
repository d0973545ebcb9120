/*
 * Writes a GGUF file, version 3: first values and the tensors' names and shapes, then the tensors'
 * data in the same order, their types as they come. Sizes of the header do not depend on the types,
 * so that it is written last into the room left for it.
 */
#ifndef QY_MODEL_GGUF_WRITE_H
#define QY_MODEL_GGUF_WRITE_H

#include "model/gguf.h"

typedef struct qy_gguf_writer qy_gguf_writer_t;

qy_status_t qy_gguf_writer_create(qy_gguf_writer_t **out, const char *path, qy_error_t *err);

/* Values; a lack of memory is told by begin. A key is put once. */
void qy_gguf_put_u32(qy_gguf_writer_t *w, const char *key, int64_t value);
/* One whose number is known only later, but before finish; the place to give to set. */
int64_t qy_gguf_reserve_u32(qy_gguf_writer_t *w, const char *key);
void qy_gguf_set_u32(qy_gguf_writer_t *w, int64_t place, int64_t value);
void qy_gguf_put_f32(qy_gguf_writer_t *w, const char *key, double value);
void qy_gguf_put_bool(qy_gguf_writer_t *w, const char *key, bool value);
void qy_gguf_put_string(qy_gguf_writer_t *w, const char *key, const char *text);
/* The values of an array follow its head, n of them, by qy_gguf_put_text or qy_gguf_put_raw. */
void qy_gguf_put_array(qy_gguf_writer_t *w, const char *key, qy_gguf_kind_t kind, int64_t n);
void qy_gguf_put_text(qy_gguf_writer_t *w, const char *text, size_t n);
void qy_gguf_put_raw(qy_gguf_writer_t *w, const void *data, size_t bytes);

/* Adds a tensor; cols is the length of a row, rows 0 where it has one dimension. */
void qy_gguf_declare(qy_gguf_writer_t *w, const char *name, int64_t cols, int64_t rows);

/* Ends the header; the tensors' data come next. MEMORY, IO. */
qy_status_t qy_gguf_writer_begin(qy_gguf_writer_t *w, qy_error_t *err);

/* Starts the data of the next declared tensor, whose name this must be; and goes on with them. */
qy_status_t qy_gguf_tensor_begin(qy_gguf_writer_t *w, const char *name, qy_ggml_type_t type,
                                 qy_error_t *err);
qy_status_t qy_gguf_tensor_data(qy_gguf_writer_t *w, const void *data, size_t bytes,
                                qy_error_t *err);

/* Writes the header, fsyncs and closes. ARG where data are missing. */
qy_status_t qy_gguf_writer_finish(qy_gguf_writer_t **writer, qy_error_t *err);
void qy_gguf_writer_abandon(qy_gguf_writer_t **writer);

#endif
