/* The pipe of E2E-QP between GPUs: tensors by NCCL, numbers by the pipe beneath. */
#ifndef QY_WORKER_PIPE_PEERS_H
#define QY_WORKER_PIPE_PEERS_H

#include "worker/pipe.h"

/*
 * All ranks call it together. *out is NULL where not every rank has a GPU of its own and NCCL, or
 * where NCCL does not come up: then `numbers` carries tensors as well. numbers must outlive it; it
 * is destroyed before the device is closed.
 */
qy_status_t qy_pipe_peers_create(qy_pipe_t **out, qy_pipe_t *numbers, const qy_device_t *dev,
                                 qy_error_t *err);

#endif
