/*
 * The coordinator's hands: walks a run through its phases, sends tasks over a link, takes results
 * in, keeps ledger and metrics. Never blocks for long: the door calls qy_dispatch_poll until it is
 * done.
 */
#ifndef QY_COORDINATOR_DISPATCH_H
#define QY_COORDINATOR_DISPATCH_H

#include <stdatomic.h>

#include "coordinator/ledger.h"
#include "jobs/link.h"
#include "jobs/plan.h"

typedef struct qy_dispatch qy_dispatch_t;

/* What the door gives: exports are run by it (they need the door's version and card). */
typedef struct {
    /* Progress for people; may be NULL. worker −1: the coordinator's own phase. */
    void (*on_progress)(void *context, int worker, const char *task, const qy_progress_t *progress);
    void (*on_phase)(void *context, const char *phase, double seconds); /* seconds < 0: begins */
    qy_status_t (*run_export)(void *context, const qy_plan_t *plan, const char *format,
                              qy_error_t *err);
    void *context;
} qy_dispatch_hooks_t;

/*
 * Opens the ledger and finds what is already done. link: the coordinator's end, one peer per
 * worker. The phases: tokens, capture, quantize, stitch, e2e_qp, evaluate, export; each is entered
 * only when the one before is done, and each is skipped where its results are all there.
 */
qy_status_t qy_dispatch_create(qy_dispatch_t **out, const qy_plan_t *plan, qy_link_t *link,
                               const qy_dispatch_hooks_t *hooks, qy_error_t *err);
void qy_dispatch_destroy(qy_dispatch_t **dispatch);

/* Takes in what arrived and does what follows. *done: the run is over (all phases, or it failed;
 * then the status says how). A stop request (*stop ≠ 0, or of a worker) tells all workers to save
 * what they are at and, when they have, ends with STOPPED. */
qy_status_t qy_dispatch_poll(qy_dispatch_t *dispatch, const atomic_int *stop, int *done,
                             qy_error_t *err);

#endif
