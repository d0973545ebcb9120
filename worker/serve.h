/*
 * A rank as a worker: takes tasks from the coordinator over a link, has a child process run them,
 * one after the other as long as they end well, passes progress and results on; E2E-QP runs in the
 * rank itself. Polled, never blocks but in E2E-QP.
 */
#ifndef QY_WORKER_SERVE_H
#define QY_WORKER_SERVE_H

#include <stdatomic.h>

#include "jobs/link.h"
#include "jobs/plan.h"
#include "worker/pipe.h"

typedef struct qy_server qy_server_t;

/* How E2E-QP, which works in the rank itself, talks to the other ranks, lets others have their turn
 * and is told to stop. */
typedef struct {
    qy_pipe_t *pipe;             /* borrowed; NULL: one rank */
    const atomic_int *stop;      /* the rank was asked to stop the run */
    void (*turn)(void *context); /* called after every update; may be NULL */
    void *context;
} qy_server_hooks_t;

/* Says HELLO. link: the worker's end. */
qy_status_t qy_server_create(qy_server_t **out, const qy_plan_t *plan, qy_link_t *link, int rank,
                             const qy_server_hooks_t *hooks, qy_error_t *err);
void qy_server_destroy(qy_server_t **server);

/* Handles what arrived. *done: the coordinator said STOP. A failure is this rank's alone: the
 * others may wait for it and do not know. */
qy_status_t qy_server_poll(qy_server_t *server, int *done, qy_error_t *err);

/* Waits until the child says something, at most timeout_ms. */
void qy_server_wait(const qy_server_t *server, int timeout_ms);

#endif
