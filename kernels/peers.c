#include "kernels/peers.h"

#include <string.h>

#ifdef QUARRY_HAVE_NCCL

bool qy_peers_possible(const qy_device_t *dev)
{
    return strcmp(dev->kind, "cuda") == 0;
}

qy_status_t qy_peers_id(unsigned char id[QY_PEERS_ID], qy_error_t *err)
{
    return qy_cuda_peers_id(id, err);
}

qy_status_t qy_peers_open(qy_peers_t **out, const qy_device_t *dev,
                          const unsigned char id[QY_PEERS_ID], int rank, int n_ranks,
                          qy_error_t *err)
{
    if (!qy_peers_possible(dev) || rank < 0 || rank >= n_ranks)
        return qy_fail(err, QY_ERR_ARG, "peers: rank %d of %d on %s", rank, n_ranks, dev->kind);
    return qy_cuda_peers_open(out, dev, id, rank, n_ranks, err);
}

void qy_peers_close(qy_peers_t **peers)
{
    if (*peers)
        qy_cuda_peers_close(*peers);
    *peers = NULL;
}

qy_status_t qy_peers_send(qy_peers_t *peers, int to, const qy_tensor_t *t, qy_error_t *err)
{
    return qy_cuda_peers_send(peers, to, t, err);
}

qy_status_t qy_peers_receive(qy_peers_t *peers, int from, qy_tensor_t *t, qy_error_t *err)
{
    return qy_cuda_peers_receive(peers, from, t, err);
}

#else

static qy_status_t without(qy_error_t *err)
{
    return qy_fail(err, QY_ERR_UNSUPPORTED, "peers: built without NCCL");
}

bool qy_peers_possible(const qy_device_t *dev)
{
    (void)dev;
    return false;
}

qy_status_t qy_peers_id(unsigned char id[QY_PEERS_ID], qy_error_t *err)
{
    memset(id, 0, QY_PEERS_ID);
    return without(err);
}

qy_status_t qy_peers_open(qy_peers_t **out, const qy_device_t *dev,
                          const unsigned char id[QY_PEERS_ID], int rank, int n_ranks,
                          qy_error_t *err)
{
    (void)out, (void)dev, (void)id, (void)rank, (void)n_ranks;
    return without(err);
}

void qy_peers_close(qy_peers_t **peers)
{
    *peers = NULL;
}

qy_status_t qy_peers_send(qy_peers_t *peers, int to, const qy_tensor_t *t, qy_error_t *err)
{
    (void)peers, (void)to, (void)t;
    return without(err);
}

qy_status_t qy_peers_receive(qy_peers_t *peers, int from, qy_tensor_t *t, qy_error_t *err)
{
    (void)peers, (void)from, (void)t;
    return without(err);
}

#endif
