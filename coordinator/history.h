/*
 * What the ledger tells of all starts of a run together: how long each phase took, how often it was
 * started, what came of its tasks. For `status` and `report`.
 */
#ifndef QY_COORDINATOR_HISTORY_H
#define QY_COORDINATOR_HISTORY_H

#include "coordinator/ledger.h"
#include "coordinator/phases.h"

typedef struct {
    bool begun[QY_N_RUN_PHASES], done[QY_N_RUN_PHASES];
    double
        took_s[QY_N_RUN_PHASES]; /* over all starts, up to the last event of an interrupted one */
    int64_t starts, idle_starts; /* idle: the latest ones that brought nothing finished so far */
    int64_t failed;              /* attempts of tasks that failed */
} qy_history_t;

/* ledger may be NULL: nothing has happened. now: seconds since the epoch if the run is at work,
 * which is when a phase that has begun ends; NAN where it is not. */
void qy_history_read(qy_history_t *out, const qy_ledger_t *ledger, double now);

/* A time of the ledger as seconds since the epoch; NAN where it is none. */
double qy_history_time(const char *utc);

/* One phase's number, QY_N_RUN_PHASES for a name that is none. */
qy_run_phase_t qy_history_phase(const char *name);

#endif
