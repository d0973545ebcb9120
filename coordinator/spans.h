/* Who worked on what from when to when, over all starts of a run: the ledger as bars of a timeline.
 */
#ifndef QY_COORDINATOR_SPANS_H
#define QY_COORDINATOR_SPANS_H

#include "coordinator/history.h"

typedef enum {
    QY_SPAN_DONE,
    QY_SPAN_FAILED,
    QY_SPAN_CUT /* its start ended first */
} qy_span_end_t;

typedef struct {
    int32_t rank; /* −1: all ranks */
    qy_run_phase_t phase;
    const char *task, *host; /* the ledger's */
    double from, to;         /* seconds since the epoch */
    qy_span_end_t end;
} qy_span_t;

typedef struct {
    qy_span_t *span;
    int64_t n;
    int32_t n_ranks;
    double from, to; /* first and last event */
} qy_spans_t;

/* The caller frees by qy_spans_free; strings live as long as the ledger. */
qy_status_t qy_spans_read(qy_spans_t *out, const qy_ledger_t *ledger, qy_error_t *err);
void qy_spans_free(qy_spans_t *spans);

#endif
