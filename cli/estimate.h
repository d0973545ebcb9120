/* How long a plan will take, as `plan`, `submit` and `run` say it. */
#ifndef QY_CLI_ESTIMATE_H
#define QY_CLI_ESTIMATE_H

#include "jobs/plan.h"

/* Fills plan->time from what is known of the plan's device; left empty where nothing is, or where
 * the files that it looks at cannot be read: the run itself will say so. */
void qy_estimate(qy_plan_t *plan);

/* Measures the plan's device, keeps the outcome in the user's cache and prints it. */
qy_status_t qy_estimate_calibrate(const qy_plan_t *plan, qy_error_t *err);

/* One line, go or no-go with the reason; false: no-go. per_node: workers that share a node. */
bool qy_estimate_verdict(const qy_plan_t *plan, int64_t per_node, char *text, size_t size);

#endif
