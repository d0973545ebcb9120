/* How much longer a run at work will take, from what it has done and what the plan expected. */
#ifndef QY_COORDINATOR_OUTLOOK_H
#define QY_COORDINATOR_OUTLOOK_H

#include "coordinator/run_state.h"

/* Fills eta_s and run_eta_s of a running run; NAN stays where nothing can be said. */
void qy_outlook(qy_run_state_t *state);

/* Seconds that the plan expected of a phase; NAN where it said nothing. */
double qy_outlook_expected(const qy_plan_t *plan, qy_run_phase_t phase);

#endif
