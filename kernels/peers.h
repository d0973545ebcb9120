/*
 * Tensors from one process's GPU to another's without a way through host memory: neighbours in a
 * row of ranks, each with a GPU of its own. By NCCL, where it was built with it.
 *
 * The bytes arrive as they are. Sends towards higher and towards lower ranks go their own ways, so
 * that neither waits for the other.
 */
#ifndef QY_KERNELS_PEERS_H
#define QY_KERNELS_PEERS_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qy_peers qy_peers_t;

/* What the ranks of a row know each other by: made by one, told to all. */
enum { QY_PEERS_ID = 256 };

/* Whether this device can be in a row at all: a GPU, built with NCCL. */
bool qy_peers_possible(const qy_device_t *dev);

/* UNSUPPORTED where it was built without NCCL. */
qy_status_t qy_peers_id(unsigned char id[QY_PEERS_ID], qy_error_t *err);

/* All n_ranks call it together, each with its own GPU. It fails on all or on none, but for a
 * failure of memory. Closed before the device is. */
qy_status_t qy_peers_open(qy_peers_t **out, const qy_device_t *dev,
                          const unsigned char id[QY_PEERS_ID], int rank, int n_ranks,
                          qy_error_t *err);
void qy_peers_close(qy_peers_t **peers);

/* Queued after what is queued on the device; t may be overwritten by what is queued next. At most
 * two are on their way in a direction: the third waits for the first, on the device. */
qy_status_t qy_peers_send(qy_peers_t *peers, int to, const qy_tensor_t *t, qy_error_t *err);
/* Queued; t must have the bytes of the next tensor that rank `from` sends. */
qy_status_t qy_peers_receive(qy_peers_t *peers, int from, qy_tensor_t *t, qy_error_t *err);

/* The CUDA device's, called by the above only. */
qy_status_t qy_cuda_peers_id(unsigned char id[QY_PEERS_ID], qy_error_t *err);
qy_status_t qy_cuda_peers_open(qy_peers_t **out, const qy_device_t *dev,
                               const unsigned char id[QY_PEERS_ID], int rank, int n_ranks,
                               qy_error_t *err);
void qy_cuda_peers_close(qy_peers_t *peers);
qy_status_t qy_cuda_peers_send(qy_peers_t *peers, int to, const qy_tensor_t *t, qy_error_t *err);
qy_status_t qy_cuda_peers_receive(qy_peers_t *peers, int from, qy_tensor_t *t, qy_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
