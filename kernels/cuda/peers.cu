/*
 * Tensors between the GPUs of neighbouring ranks, by NCCL. One communicator for each direction:
 * what goes up the row never waits for what comes down. Sends leave from buffers, on a stream of
 * their own, while the device goes on; receives are in the order of the device's stream.
 */
#ifdef QUARRY_HAVE_NCCL

#include <nccl.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"
#include "kernels/peers.h"

static_assert(QY_PEERS_ID >= 2 * sizeof(ncclUniqueId), "the id holds one for each direction");

static const size_t ID_HALF = QY_PEERS_ID / 2;
enum { UP, DOWN, N_WAYS, N_BUFFERS = 2 }; /* towards higher ranks, towards lower ones */

#define QY_NCCL(call)                                                                              \
    do {                                                                                           \
        ncclResult_t qy_nccl_result_ = (call);                                                     \
        if (qy_nccl_result_ != ncclSuccess)                                                        \
            return qy_fail(err, QY_ERR_COMM, "nccl: %.200s: %s (%s)", #call,                       \
                           ncclGetErrorString(qy_nccl_result_), ncclGetLastError(NULL));           \
    } while (0)

struct way_t {
    ncclComm_t comm;
    cudaStream_t stream;
    void *buffer[N_BUFFERS];
    size_t bytes[N_BUFFERS];
    cudaEvent_t filled, left[N_BUFFERS];
    unsigned n_sent;
};

struct qy_peers {
    const qy_device_t *dev;
    int rank, n_ranks;
    way_t way[N_WAYS];
};

qy_status_t qy_cuda_peers_id(unsigned char id[QY_PEERS_ID], qy_error_t *err)
{
    for (int i = 0; i < N_WAYS; i++) {
        ncclUniqueId one;
        QY_NCCL(ncclGetUniqueId(&one));
        memcpy(id + (size_t)i * ID_HALF, &one, sizeof one);
    }
    return QY_OK;
}

/* The first exchange connects neighbours; it is made here, where all ranks are together. */
static qy_status_t greet(qy_peers *p, int i, qy_error_t *err)
{
    way_t *w = &p->way[i];
    int next = i == UP ? p->rank + 1 : p->rank - 1, last = i == UP ? p->rank - 1 : p->rank + 1;
    char *at = static_cast<char *>(w->buffer[0]);
    QY_NCCL(ncclGroupStart());
    if (next >= 0 && next < p->n_ranks)
        QY_NCCL(ncclSend(at, 1, ncclInt8, next, w->comm, w->stream));
    if (last >= 0 && last < p->n_ranks)
        QY_NCCL(ncclRecv(at + 1, 1, ncclInt8, last, w->comm, w->stream));
    QY_NCCL(ncclGroupEnd());
    QY_CUDA(cudaStreamSynchronize(w->stream));
    return QY_OK;
}

/* A buffer that holds so much; called where nothing is on its way from it. */
static qy_status_t hold(qy_peers *p, way_t *w, int b, size_t bytes, qy_error_t *err)
{
    if (bytes <= w->bytes[b])
        return QY_OK;
    QY_CUDA(cudaStreamSynchronize(w->stream));
    w->bytes[b] = 0;
    qy_device_free(p->dev, &w->buffer[b]);
    QY_TRY(qy_device_alloc(p->dev, &w->buffer[b], bytes, err));
    w->bytes[b] = bytes;
    return QY_OK;
}

static qy_status_t open_way(qy_peers *p, int i, const unsigned char *id, qy_error_t *err)
{
    way_t *w = &p->way[i];
    ncclUniqueId one;
    memcpy(&one, id + (size_t)i * ID_HALF, sizeof one);
    QY_NCCL(ncclCommInitRank(&w->comm, p->n_ranks, one, p->rank));
    QY_CUDA(cudaStreamCreateWithFlags(&w->stream, cudaStreamNonBlocking));
    QY_CUDA(cudaEventCreateWithFlags(&w->filled, cudaEventDisableTiming));
    for (int b = 0; b < N_BUFFERS; b++)
        QY_CUDA(cudaEventCreateWithFlags(&w->left[b], cudaEventDisableTiming));
    QY_TRY(hold(p, w, 0, 2, err));
    return greet(p, i, err);
}

qy_status_t qy_cuda_peers_open(qy_peers **out, const qy_device_t *dev,
                               const unsigned char id[QY_PEERS_ID], int rank, int n_ranks,
                               qy_error_t *err)
{
    QY_CUDA(cudaSetDevice(qy_impl(dev)->index));
    qy_peers *p = static_cast<qy_peers *>(calloc(1, sizeof *p));
    if (!p)
        return qy_fail(err, QY_ERR_MEMORY, "peers: out of host memory");
    p->dev = dev;
    p->rank = rank;
    p->n_ranks = n_ranks;
    qy_status_t status = QY_OK;
    for (int i = 0; i < N_WAYS && status == QY_OK; i++)
        status = open_way(p, i, id, err);
    if (status == QY_OK)
        *out = p;
    else
        qy_cuda_peers_close(p);
    return status;
}

/* Whether all that was sent and asked for has come; receives are in the device's own stream. */
static bool all_through(const qy_peers *p)
{
    bool through = cudaStreamQuery(qy_stream(p->dev)) == cudaSuccess;
    for (const way_t &w : p->way)
        through = through && (!w.stream || cudaStreamQuery(w.stream) == cudaSuccess);
    return through;
}

/*
 * What is still on its way after a failure is given up: nobody may ever take it. Both ways are,
 * before any memory is freed, which waits for all of the device.
 */
void qy_cuda_peers_close(qy_peers *p)
{
    bool through = all_through(p);
    for (way_t &w : p->way) {
        if (w.comm && through)
            ncclCommDestroy(w.comm);
        else if (w.comm)
            ncclCommAbort(w.comm);
    }
    for (way_t &w : p->way) {
        for (int b = 0; b < N_BUFFERS; b++) {
            qy_device_free(p->dev, &w.buffer[b]);
            if (w.left[b])
                cudaEventDestroy(w.left[b]);
        }
        if (w.filled)
            cudaEventDestroy(w.filled);
        if (w.stream)
            cudaStreamDestroy(w.stream);
    }
    cudaGetLastError();
    free(p);
}

qy_status_t qy_cuda_peers_send(qy_peers *p, int to, const qy_tensor_t *t, qy_error_t *err)
{
    way_t *w = &p->way[to > p->rank ? UP : DOWN];
    cudaStream_t stream = qy_stream(p->dev);
    size_t bytes = qy_tensor_bytes(t);
    int b = (int)(w->n_sent++ % N_BUFFERS);
    QY_CUDA(cudaSetDevice(qy_impl(p->dev)->index));
    QY_TRY(hold(p, w, b, bytes, err));
    QY_CUDA(cudaStreamWaitEvent(stream, w->left[b], 0));
    QY_CUDA(cudaMemcpyAsync(w->buffer[b], t->data, bytes, cudaMemcpyDeviceToDevice, stream));
    QY_CUDA(cudaEventRecord(w->filled, stream));
    QY_CUDA(cudaStreamWaitEvent(w->stream, w->filled, 0));
    QY_NCCL(ncclSend(w->buffer[b], bytes, ncclInt8, to, w->comm, w->stream));
    QY_CUDA(cudaEventRecord(w->left[b], w->stream));
    return QY_OK;
}

qy_status_t qy_cuda_peers_receive(qy_peers *p, int from, qy_tensor_t *t, qy_error_t *err)
{
    way_t *w = &p->way[from < p->rank ? UP : DOWN];
    QY_CUDA(cudaSetDevice(qy_impl(p->dev)->index));
    QY_NCCL(ncclRecv(t->data, qy_tensor_bytes(t), ncclInt8, from, w->comm, qy_stream(p->dev)));
    return QY_OK;
}

#endif
