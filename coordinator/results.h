/* What a run directory has to tell: perplexities, losses, sizes; for the closing table and
 * `status`. */
#ifndef QY_COORDINATOR_RESULTS_H
#define QY_COORDINATOR_RESULTS_H

#include "coordinator/ledger.h"
#include "jobs/plan.h"

/* Perplexity of text i by variant from the ledger's evaluation values, NLL added in f64 in window
 * order; NAN where it has not been evaluated whole. exp(Σ nll / (windows (T − 1))). */
double qy_results_perplexity(const qy_ledger_t *ledger, const qy_plan_t *plan, int text,
                             qy_variant_t variant);

/* The table of `quarry status RUN_DIR`: phases, blocks done / running / left with losses, ETA. */
qy_status_t qy_results_print_status(const char *run_dir, int json, FILE *file, qy_error_t *err);

#endif
