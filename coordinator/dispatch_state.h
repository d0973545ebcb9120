/* What dispatch.c (the walk through the phases) and inbox.c (what workers say) share; nobody
 * else's. */
#ifndef QY_COORDINATOR_DISPATCH_STATE_H
#define QY_COORDINATOR_DISPATCH_STATE_H

#include "coordinator/dispatch.h"
#include "coordinator/metrics.h"
#include "coordinator/phases.h"
#include "coordinator/schedule.h"
#include "jobs/protocol.h"

typedef struct {
    qy_hello_t hello;
    bool up, retired;
    int n_refused;     /* messages that did not fit */
    bool answered;     /* PHASE_DONE in a phase of all workers */
    double heard;      /* when its last message came */
    double measured;   /* when its progress last went to metrics */
    qy_error_t reason; /* retired: why */
} qy_peer_t;

struct qy_dispatch {
    const qy_plan_t *plan;
    qy_link_t *link;
    qy_dispatch_hooks_t hooks;
    qy_ledger_t *ledger;
    qy_metrics_t *metrics; /* NULL after a failure: the run goes on without */
    qy_peer_t *peer;       /* link->n_peers */
    double polled;         /* when poll last ran */
    double messages[2];    /* how many have been taken in; seconds for them and what followed */

    qy_run_phase_t phase;
    bool entered, called; /* called: E2E was sent to all */
    double phase_began;
    int n_back;         /* times that the run went back because a file of it could not be read */
    qy_error_t damaged; /* in a phase of all workers: such a file */
    qy_task_list_t tasks;
    qy_schedule_t *schedule; /* of a phase with tasks; else NULL */

    bool asked; /* a worker was asked to stop the run */
    bool stopping;
    double stop_began;
    char at_work[384]; /* then */

    bool over;
    qy_error_t end;
};

/* "worker 2 (host n17, pid 4711)". */
void qy_dispatch_peer_name(const qy_dispatch_t *d, int peer, char out[128]);

/* Sends a message to one worker. */
qy_status_t qy_dispatch_send(qy_dispatch_t *d, int peer, qy_msg_kind_t kind, const void *payload,
                             size_t bytes, qy_error_t *err);

/*
 * Takes no more work from this worker and gives it none: it is told to leave, its task is pending
 * again, the ledger says why. Where every worker is needed the phase fails with it.
 */
qy_status_t qy_dispatch_retire(qy_dispatch_t *d, int peer, const qy_error_t *reason,
                               qy_error_t *err);

/* Handles a message from a worker. A failure ends the run: STOPPED where a worker was asked to
 * stop. */
qy_status_t qy_dispatch_receive(qy_dispatch_t *d, int peer, const void *bytes, size_t n,
                                qy_error_t *err);

#endif
