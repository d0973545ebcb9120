/*
 * lock.json: who runs in this run directory. Host, pid, the process's start time (so that a pid that was
 * given to another process is seen), Slurm job, heartbeat. On the same host the lock is stale as soon as
 * that process is gone; from another host after 60 s without a heartbeat. No flock: file systems are shared.
 */
#ifndef QY_COORDINATOR_LOCK_H
#define QY_COORDINATOR_LOCK_H

#include "base/status.h"

typedef struct qy_lock qy_lock_t;

/* ARG naming host, pid and Slurm job of the other run where it is live. A thread renews the heartbeat
 * every 10 s until release. */
qy_status_t qy_lock_take(qy_lock_t **out, const char *run_dir, qy_error_t *err);
void qy_lock_release(qy_lock_t **lock);

#endif
