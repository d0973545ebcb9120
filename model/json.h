/*
 * JSON from strangers: whole files within a size limit, duplicate keys refused, and look-ups whose
 * errors name file, key and what was found. Parsing itself is jansson's.
 */
#ifndef QY_MODEL_JSON_H
#define QY_MODEL_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* One JSON object of `bytes` bytes of text; where names it in errors. The caller decrefs *out. */
qy_status_t qy_json_parse(json_t **out, const char *text, size_t bytes, const char *where,
                          qy_error_t *err);

/* The object that is the whole of a file. IO, FORMAT. */
qy_status_t qy_json_read(json_t **out, const char *path, size_t max_bytes, qy_error_t *err);

/* The same of a file whose whole numbers nobody asks for: they come as real ones, because
 * tokenizer_config.json writes "no limit" as a model_max_length of 10^30. */
qy_status_t qy_json_read_settings(json_t **out, const char *path, size_t max_bytes,
                                  qy_error_t *err);

/* What becomes of a line of a .jsonl; where names file and line. */
typedef qy_status_t (*qy_json_line_fn)(void *context, const char *line, size_t bytes,
                                       const char *where, qy_error_t *err);
/* Gives take each line of text that is not blank, until one fails. A NUL must follow the text. */
qy_status_t qy_json_lines(const char *path, const char *text, size_t bytes, qy_json_line_fn take,
                          void *context, qy_error_t *err);

/*
 * Optional keys: absent or null leaves *out as it is; another type than the wanted one is FORMAT.
 * Strings and objects are borrowed from the object. A whole number counts as a real one.
 */
qy_status_t qy_json_bool(const json_t *object, const char *where, const char *key, bool *out,
                         qy_error_t *err);
qy_status_t qy_json_i64(const json_t *object, const char *where, const char *key, int64_t *out,
                        qy_error_t *err);
qy_status_t qy_json_f64(const json_t *object, const char *where, const char *key, double *out,
                        qy_error_t *err);
qy_status_t qy_json_string(const json_t *object, const char *where, const char *key,
                           const char **out, qy_error_t *err);
qy_status_t qy_json_object(const json_t *object, const char *where, const char *key,
                           const json_t **out, qy_error_t *err);
qy_status_t qy_json_array(const json_t *object, const char *where, const char *key,
                          const json_t **out, qy_error_t *err);

#endif
