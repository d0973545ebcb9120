/* What a run directory has to tell: perplexities, losses, speed; for the closing table and
 * `status`. */
#ifndef QY_COORDINATOR_RESULTS_H
#define QY_COORDINATOR_RESULTS_H

#include "coordinator/ledger.h"
#include "jobs/plan.h"
#include "model/choices.h"

/* Perplexity of text i by variant from the ledger's evaluation values, NLL added in f64 in window
 * order; NAN where it has not been evaluated whole. exp(Σ nll / (windows (T − 1))). */
double qy_results_perplexity(const qy_ledger_t *ledger, const qy_plan_t *plan, int text,
                             qy_variant_t variant);

/* Accuracy at zero-shot task i of spec.evaluate by variant; false where it has not been evaluated
 * whole. Reads tokens/NAME.h5 for what is right. */
bool qy_results_accuracy(const qy_ledger_t *ledger, const qy_plan_t *plan, int text,
                         qy_variant_t variant, qy_accuracy_t *out);

/* What is known of a block; NAN what is not. */
typedef struct {
    bool done;
    double loss_before, loss_after, validation_before, validation_after, seconds, stall_s;
} qy_block_result_t;

/* out: plan->arch.n_blocks of them. From the ledger (may be NULL); of a block whose file is there
 * although the ledger does not have it (killed in between), from the file. */
void qy_results_blocks(qy_block_result_t *out, const qy_plan_t *plan, const qy_ledger_t *ledger);

/* The table of `quarry status RUN_DIR`: phase, blocks done / running / left with losses,
 * perplexities, ETA; with json one object whose keys do not change. Reads only; works before,
 * during and after a run. */
qy_status_t qy_results_print_status(const char *run_dir, int json, FILE *file, qy_error_t *err);

#endif
