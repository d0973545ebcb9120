/*
 * lock.json: who runs in this run directory. Host and boot, pid and the process's start time (so
 * that a pid that was given to another process is seen), Slurm job; the file's modification time is
 * the heartbeat. On the same host the lock is stale as soon as that process is gone; from another
 * host after 60 s without a heartbeat. No flock: file systems are shared.
 */
#ifndef QY_COORDINATOR_LOCK_H
#define QY_COORDINATOR_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct qy_lock qy_lock_t;

/* ARG naming host, pid and Slurm job of the other run where it is live. A thread renews the
 * heartbeat every 10 s until release. Creates run_dir where it is not there. */
qy_status_t qy_lock_take(qy_lock_t **out, const char *run_dir, qy_error_t *err);
void qy_lock_release(qy_lock_t **lock);

/* Another run has taken the directory over, which it may after this process was suspended for over
 * a minute: nothing may be written any more. */
bool qy_lock_lost(qy_lock_t *lock);

/* A heartbeat, as the thread gives one; sees whether the lock is lost. */
void qy_lock_renew(qy_lock_t *lock);

/* What lock.json says of the run that holds it. */
typedef struct {
    char host[64], slurm_job[32]; /* slurm_job empty outside Slurm */
    int64_t pid;
    double age_s; /* since the last heartbeat, by the file system's clock */
    bool live;
} qy_lock_holder_t;

/* False where nobody holds it. Changes nothing. */
bool qy_lock_inspect(const char *run_dir, qy_lock_holder_t *out);

#endif
