/* What the files of the plan share among themselves. */
#ifndef QY_JOBS_PLAN_INNER_H
#define QY_JOBS_PLAN_INNER_H

#include "jobs/plan.h"
#include "model/json.h"
#include "model/weights.h"

/* An empty plan for this spec and arch; group is set. */
qy_status_t qy_plan_new(qy_plan_t **out, const qy_spec_t *spec, const qy_arch_t *arch,
                        qy_error_t *err);

/* Everything that follows from spec, arch, segments and workers: ranges, steps, rates, bytes. */
void qy_plan_derive(qy_plan_t *plan, int64_t n_segments, int64_t n_workers);
void qy_plan_resolve_rates(qy_plan_t *plan);
void qy_plan_size(qy_plan_t *plan);

/* Canonical form and hash, the derived numbers being there. */
qy_status_t qy_plan_seal(qy_plan_t *plan, qy_digest_fn digest_of, void *context, qy_error_t *err);

/* Everything that can be refused before a run. */
qy_status_t qy_plan_check(const qy_plan_t *plan, const qy_model_t *model, qy_error_t *err);
/* The same of disk, the sizes being there. */
qy_status_t qy_plan_check_fit(const qy_plan_t *plan, qy_error_t *err);

/* The estimate as plan.json has it, null where there is none; and back, from the whole file's
 * object: *out stays where it has none. */
json_t *qy_plan_time_object(const qy_plan_time_t *time);
qy_status_t qy_plan_time_read(qy_plan_time_t *out, const json_t *root, const char *path,
                              qy_error_t *err);

#endif
