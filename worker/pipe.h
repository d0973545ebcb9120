/*
 * How the ranks of E2E-QP's pipeline talk: activations and gradients between neighbours, a few
 * numbers gathered and spread. An interface, because there are two ways: MPI through host memory
 * (worker/pipe_mpi.c) and, between GPUs, NCCL (worker/pipe_peers.c). The bytes are the same. A run
 * of one rank has no pipe.
 */
#ifndef QY_WORKER_PIPE_H
#define QY_WORKER_PIPE_H

#include "kernels/device.h"

typedef struct qy_pipe {
    int rank, n_ranks;
    /* Queues t for rank `to` and returns; t may be overwritten at once. Messages between two ranks
     * arrive in the order of sending. */
    qy_status_t (*send)(struct qy_pipe *pipe, const qy_device_t *dev, int to, const qy_tensor_t *t,
                        qy_error_t *err);
    /* Waits for the next message from rank `from`, which must have t's bytes. */
    qy_status_t (*receive)(struct qy_pipe *pipe, const qy_device_t *dev, int from, qy_tensor_t *t,
                           qy_error_t *err);
    /* Every rank's n numbers to rank 0, in rank order: counts[r] of them from rank r. */
    qy_status_t (*gather)(struct qy_pipe *pipe, const float *mine, float *all, const int *counts,
                          qy_error_t *err);
    /* n numbers from rank 0 to all. */
    qy_status_t (*spread)(struct qy_pipe *pipe, float *numbers, int n, qy_error_t *err);
    /* Gives back what it holds of the device, which may be closed then. */
    void (*release)(struct qy_pipe *pipe);
    void (*destroy)(struct qy_pipe *pipe);
} qy_pipe_t;

void qy_pipe_destroy(qy_pipe_t **pipe);

#endif
