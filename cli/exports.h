/* Exports of a run: what `run` and `export` share. */
#ifndef QY_CLI_EXPORTS_H
#define QY_CLI_EXPORTS_H

#include "jobs/plan.h"

/* The stitched model must be there, and E2E-QP's last step where the plan has the phase; else ARG.
 */
qy_status_t qy_check_finished(const qy_plan_t *plan, qy_error_t *err);

/* Writes the finished run as FORMAT into dir. With existing_ok a folder that is already there is
 * left as it is (an export is committed whole). The card tells the perplexities in the ledger. */
qy_status_t qy_export_of_run(const qy_plan_t *plan, const char *format, const char *dir,
                             int overwrite, int existing_ok, qy_error_t *err);

/* RUN_DIR/export/FORMAT. */
qy_status_t qy_export_dir(char out[QY_PATH_MAX], const qy_plan_t *plan, const char *format,
                          qy_error_t *err);

#endif
