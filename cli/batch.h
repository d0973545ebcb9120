/* The batch script of a run, from the template slurm/job.sbatch.in. */
#ifndef QY_CLI_BATCH_H
#define QY_CLI_BATCH_H

#include "jobs/plan.h"

typedef enum { QY_LAUNCH_MPIRUN, QY_LAUNCH_SRUN } qy_launcher_t;

typedef struct {
    const qy_plan_t *plan;
    int64_t nodes, ranks, gpus; /* ranks and GPUs on each node; gpus 0: none is asked for */
    int64_t cpus;               /* for each rank; 0: the site's default */
    int64_t max_idle;           /* starts in a row that may bring nothing */
    qy_launcher_t launcher;
    const char *program, *job,
        *folder;                  /* absolute: quarry, JOB.yaml, where relative --set count from */
    const char *const *overrides; /* of --set */
    int n_overrides;
} qy_batch_t;

/* The script; the caller frees. ARG where the run directory's name cannot stand in an #SBATCH line.
 */
qy_status_t qy_batch_script(const qy_batch_t *batch, char **text, qy_error_t *err);

/* RUN_DIR/slurm/job.sbatch. */
qy_status_t qy_batch_path(char out[QY_PATH_MAX], const qy_plan_t *plan, qy_error_t *err);

#endif
