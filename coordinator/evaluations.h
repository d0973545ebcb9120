/*
 * Evaluation values in the ledger. A DONE entry's text says what its values are of: the first
 * digits of the text's digest, the variant, the range of how many, the window length. So a changed
 * text or length is evaluated again, and one that was only renamed or moved in the list is not.
 */
#ifndef QY_COORDINATOR_EVALUATIONS_H
#define QY_COORDINATOR_EVALUATIONS_H

#include "coordinator/ledger.h"
#include "jobs/plan.h"

enum { QY_EVALUATION_TAG_MAX = 128 };

/* Name of a variant: "original", "rounded", "stitched", "final". */
const char *qy_variant_name(qy_variant_t variant);

/* "0123456789abcdef stitched range 3 of 8 length 256". */
void qy_evaluation_tag(char out[QY_EVALUATION_TAG_MAX], const qy_plan_t *plan,
                       const qy_task_t *task, int64_t n_ranges, int64_t length);

/* The latest DONE entry with this tag, or NULL. Valid until the ledger's next append. */
const qy_entry_t *qy_evaluation_find(const qy_ledger_t *ledger, const char *tag);

#endif
