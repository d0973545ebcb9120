/* `quarry status --json`, and what it shares with the text. Keys are documented in docs/status.md
 * and stay; new ones may come. */
#ifndef QY_COORDINATOR_STATUS_JSON_H
#define QY_COORDINATOR_STATUS_JSON_H

#include "coordinator/run_state.h"

qy_status_t qy_status_json(FILE *file, const qy_run_state_t *s, qy_error_t *err);

/* "done", "running", "waiting" */
const char *qy_status_block(const qy_run_state_t *s, int64_t block);
/* NAN, false: not evaluated whole. */
double qy_status_perplexity(const qy_run_state_t *s, int text, int variant);
bool qy_status_accuracy(const qy_run_state_t *s, int text, int variant, qy_accuracy_t *out);

#endif
