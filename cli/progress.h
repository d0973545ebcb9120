/* What a person sees of a run: a line that is rewritten on a terminal, plain lines elsewhere; the
 * closing table. */
#ifndef QY_CLI_PROGRESS_H
#define QY_CLI_PROGRESS_H

#include "coordinator/dispatch.h"
#include "jobs/plan.h"

typedef struct {
    int quiet, terminal, line_open;
    double last_plain; /* when the last plain line was printed */
} qy_progress_view_t;

void qy_progress_init(qy_progress_view_t *view, int quiet);
void qy_progress_show(void *view, int worker, const char *task, const qy_progress_t *progress);
void qy_progress_phase(void *view, const char *phase, double seconds);
/* Ends an open line. */
void qy_progress_end(qy_progress_view_t *view);

/* Perplexities by variant, sizes, and where the exports lie. */
qy_status_t qy_print_results(const qy_plan_t *plan, FILE *file, qy_error_t *err);

#endif
