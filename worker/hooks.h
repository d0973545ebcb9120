/* What a task tells the outside while it works, and how it is told to stop. */
#ifndef QY_WORKER_HOOKS_H
#define QY_WORKER_HOOKS_H

#include <stdatomic.h>

#include "worker/fault.h"

typedef struct {
    void (*progress)(void *context, const qy_progress_t *progress);
    void *context;
    const atomic_int *stop; /* ≠ 0: end with STOPPED at the next step; may be NULL */
    qy_fault_t *fault;      /* on purpose; may be NULL */
} qy_hooks_t;

/* Passes progress on, at most about twice a second unless it is a finished block; *last is the
 * caller's memory of when, 0 at first. */
void qy_hooks_progress(const qy_hooks_t *hooks, double *last, const qy_progress_t *progress);

/* 1 where a stop was asked for. */
int qy_hooks_asked(const qy_hooks_t *hooks);

/* STOPPED where a stop was asked for; a fault where one is wanted. */
qy_status_t qy_hooks_check(const qy_hooks_t *hooks, qy_error_t *err);

#endif
