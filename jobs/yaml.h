/*
 * YAML documents as nodes that know where they stand: file, line, column. The one place that knows
 * libyaml. Refused with the place: tabs in indentation, duplicate keys, anchors, aliases and tags, several
 * documents, depth above 64, more than 100,000 nodes, more than 1 MiB.
 */
#ifndef QY_JOBS_YAML_H
#define QY_JOBS_YAML_H

#include <stddef.h>

#include "base/status.h"

typedef enum { QY_YAML_SCALAR, QY_YAML_LIST, QY_YAML_MAP } qy_yaml_kind_t;

typedef struct qy_yaml {
    qy_yaml_kind_t kind;
    char *text;             /* scalar: its value */
    int quoted;             /* scalar: written in quotes, so always a string */
    int n;                  /* list: items; map: pairs */
    struct qy_yaml **items; /* list: items; map: values */
    struct qy_yaml **keys;  /* map: scalar nodes */
    const char *file;       /* borrowed from the root of the document that it was read in */
    int line, column;       /* from 1 */
    char *owned_file;       /* such a root's only */
} qy_yaml_t;

qy_status_t qy_yaml_read(qy_yaml_t **out, const char *path, qy_error_t *err);
qy_status_t qy_yaml_parse(qy_yaml_t **out, const char *text, size_t bytes, const char *file,
                          qy_error_t *err);
void qy_yaml_destroy(qy_yaml_t **node);

/* Value of a map's key, or NULL. */
const qy_yaml_t *qy_yaml_get(const qy_yaml_t *map, const char *key);

/* Replaces the node at "a.b.0" (maps by key, lists by index) in *root by value, creating maps on the
 * way; takes value, also when it fails. ARG names the part of the path that is not there (a list index
 * past the end, a key inside a scalar). */
qy_status_t qy_yaml_replace(qy_yaml_t **root, const char *path, qy_yaml_t *value, qy_error_t *err);

/* qy_fail(FORMAT) with "file:line:column: " in front. */
qy_status_t qy_yaml_fail(const qy_yaml_t *node, qy_error_t *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
