/* `quarry report`: a run as one HTML page that needs nothing beside it. */
#ifndef QY_COORDINATOR_REPORT_H
#define QY_COORDINATOR_REPORT_H

#include "coordinator/run_state.h"

/* Reads the run directory only; works before, during and after a run. version: of this program. */
qy_status_t qy_report_write(FILE *out, const char *run_dir, const char *version, qy_error_t *err);

/* The page's drawings, each an <svg> or a sentence that says why there is none. */
void qy_report_losses(FILE *out, const qy_run_state_t *s);
/* metrics: of the whole run, not only the latest. */
qy_status_t qy_report_e2e(FILE *out, const qy_run_state_t *s, const qy_metric_t *metrics, int64_t n,
                          qy_error_t *err);
void qy_report_phases(FILE *out, const qy_run_state_t *s);
qy_status_t qy_report_timeline(FILE *out, const qy_run_state_t *s, qy_error_t *err);
void qy_report_evaluations(FILE *out, const qy_run_state_t *s);

#endif
