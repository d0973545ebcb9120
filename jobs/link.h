/*
 * How whole messages travel between the coordinator and the workers: an interface with two transports,
 * queues inside one process (here) and MPI (coordinator/ and worker/). Never blocks.
 */
#ifndef QY_JOBS_LINK_H
#define QY_JOBS_LINK_H

#include <stddef.h>

#include "base/status.h"

typedef struct qy_link {
    /* Queues bytes for the peer (copied). COMM where the peer cannot be reached. */
    qy_status_t (*send)(struct qy_link *link, int peer, const void *bytes, size_t n,
                        qy_error_t *err);
    /* Takes the next message that has arrived whole, from any peer: *bytes is NULL where there is
     * none; the caller frees it. Also moves pending sends along. */
    qy_status_t (*poll)(struct qy_link *link, int *peer, void **bytes, size_t *n, qy_error_t *err);
    void (*destroy)(struct qy_link *link);
    int n_peers; /* coordinator's end: number of workers; worker's end: 1 (peer 0) */
} qy_link_t;

/* The two ends of queues inside one process: one coordinator, one worker (peer 0 of each other). */
qy_status_t qy_link_pair(qy_link_t **coordinator_end, qy_link_t **worker_end, qy_error_t *err);
void qy_link_destroy(qy_link_t **link);

#endif
