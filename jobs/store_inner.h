/* What the files of tokens/ share: the marks of a set. */
#ifndef QY_JOBS_STORE_INNER_H
#define QY_JOBS_STORE_INNER_H

#include "jobs/store.h"
#include "model/tokenizer.h"

/* Opens tokens/NAME.h5 of kind "tokens" or "choices": FORMAT where it is of another text than the
 * plan's. */
qy_status_t qy_store_open_set(qy_h5_t **out, const qy_plan_t *plan, const char *name,
                              const char *kind, qy_error_t *err);
/* A new one with its marks; the caller writes the rest and commits. */
qy_status_t qy_store_create_set(qy_h5_t **out, const qy_plan_t *plan, const char *name,
                                const char *kind, qy_error_t *err);
bool qy_store_has_set(const qy_plan_t *plan, const char *name, const char *kind);

/* Makes the file of a zero-shot task, which is not there yet. */
qy_status_t qy_store_make_choices(const qy_plan_t *plan, const qy_evaluate_spec_t *e,
                                  const qy_tokenizer_t *tokenizer, qy_error_t *err);

#endif
