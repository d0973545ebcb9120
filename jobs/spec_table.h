/* The table of jobs/spec_keys.def as data, for the files that read, write and print specs by it. */
#ifndef QY_JOBS_SPEC_TABLE_H
#define QY_JOBS_SPEC_TABLE_H

#include "jobs/spec.h"

typedef enum {
    QY_KIND_PATH,
    QY_KIND_NAME,
    QY_KIND_CHOICE,
    QY_KIND_WORD,
    QY_KIND_WHOLE,
    QY_KIND_REAL,
    QY_KIND_BYTES,
    QY_KIND_BOOL
} qy_key_kind_t;

typedef struct {
    const char *path; /* "quantize.weights.bits", "evaluate[].name", "export[]" */
    qy_key_kind_t kind;
    size_t offset, size; /* of the field; in a list of item 0 */
    const char *domain;
    const char *fallback; /* NULL: required */
    const char *unit;
    bool result;
    const char *help;
} qy_key_t;

int qy_key_count(void);
const qy_key_t *qy_key_at(int i);
const qy_key_t *qy_key_find(const char *path, size_t length);

/* A list of the spec: "evaluate[]" has rows for its items' keys, "export[]" is its items' row. */
typedef struct {
    const char *path; /* with the brackets */
    size_t n_offset;  /* of its int count */
    int max;
    size_t stride;
} qy_key_list_t;

/* The list that a path lies in, or NULL. */
const qy_key_list_t *qy_key_list(const char *path);
int *qy_key_list_count(qy_spec_t *spec, const qy_key_list_t *list);

/* Field of a row; item only counts in a list. */
void *qy_key_field(qy_spec_t *spec, const qy_key_t *key, int item);
const void *qy_key_field_of(const qy_spec_t *spec, const qy_key_t *key, int item);

/* The alternatives of a domain, one after the other. */
typedef struct {
    const char *word; /* length characters; not terminated */
    size_t length;
    bool built; /* false: known, but not built yet */
    const char *rest;
    bool rest_built;
} qy_domain_t;

qy_domain_t qy_domain_start(const char *domain);
bool qy_domain_next(qy_domain_t *domain);
/* Has the domain this word among what is built? Its place, or -1. */
int qy_domain_place(const char *domain, const char *word);
bool qy_domain_known_later(const char *domain, const char *word);
/* "auto, 1 to 1024": the built alternatives, for people. */
void qy_domain_text(const char *domain, char *out, size_t size);

/* The value of a field as it stands in job.yaml, "auto" included; text in double quotes. The caller
 * frees. FORMAT where a path is no UTF-8. */
qy_status_t qy_key_text(const qy_spec_t *spec, const qy_key_t *key, int item, char **out,
                        qy_error_t *err);

/* Does this row take part in the result of this spec: RESULT, and its section is in use? */
bool qy_key_active(const qy_key_t *key, const qy_spec_t *spec);

/* Does this method look at activations, so that calibration windows are needed? */
bool qy_spec_calibrates(const qy_spec_t *spec);

#endif
