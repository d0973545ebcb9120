/* One value of job.yaml: text to field, checked against the domain of its row. */
#ifndef QY_JOBS_SPEC_VALUE_H
#define QY_JOBS_SPEC_VALUE_H

#include "jobs/spec_table.h"
#include "jobs/yaml.h"

/* Where relative paths start: nodes of the document at one folder, all others (overrides) at
 * another. */
typedef struct {
    const char *document; /* file of the document's nodes, compared as a pointer */
    char document_base[QY_PATH_MAX], current_base[QY_PATH_MAX];
} qy_spec_places_t;

/* node is a scalar. FORMAT with its place, the key's path and what is expected. */
qy_status_t qy_spec_value(qy_spec_t *out, const qy_key_t *key, int item, const qy_yaml_t *node,
                          const qy_spec_places_t *places, qy_error_t *err);

#endif
