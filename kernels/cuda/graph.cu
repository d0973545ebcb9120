/*
 * Ops that are queued again and again, as a CUDA graph: one launch instead of one for each kernel.
 * The first time they run as they come, so that products are prepared and scratch has grown; the
 * second time they are recorded.
 */
#include <stdlib.h>

#include "kernels/cuda/cuda.cuh"

struct qy_graph {
    cudaGraphExec_t run;
    const void *scratch; /* what the recording uses */
};

/* The graph of what queue queues. A capture that was begun is always ended. */
static qy_status_t record(const qy_device_t *dev, cudaGraph_t *out,
                          qy_status_t (*queue)(void *context, qy_error_t *err), void *context,
                          qy_error_t *err)
{
    cudaStream_t stream = qy_stream(dev);
    cudaGraph_t recorded = NULL;
    QY_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    qy_status_t status = queue(context, err);
    cudaError_t error = cudaStreamEndCapture(stream, &recorded);
    if (status == QY_OK && error != cudaSuccess)
        status = qy_cuda_failed(error, "cudaStreamEndCapture", err);
    if (status != QY_OK && recorded)
        cudaGraphDestroy(recorded);
    if (status == QY_OK)
        *out = recorded;
    return status;
}

static qy_status_t prepare(const qy_device_t *dev, qy_graph *graph,
                           qy_status_t (*queue)(void *context, qy_error_t *err), void *context,
                           qy_error_t *err)
{
    cudaGraph_t recorded = NULL;
    if (graph->run)
        QY_CUDA(cudaGraphExecDestroy(graph->run));
    graph->run = NULL;
    QY_TRY(record(dev, &recorded, queue, context, err));
    cudaError_t error = cudaGraphInstantiate(&graph->run, recorded, 0);
    cudaGraphDestroy(recorded);
    QY_CUDA_NAMED("cudaGraphInstantiate", error);
    graph->scratch = qy_impl(dev)->scratch;
    return QY_OK;
}

qy_status_t qy_cuda_repeat(const qy_device_t *dev, qy_graph **graph,
                           qy_status_t (*queue)(void *context, qy_error_t *err), void *context,
                           qy_error_t *err)
{
    QY_CUDA(cudaSetDevice(qy_impl(dev)->index));
    if (!*graph) {
        QY_TRY(queue(context, err));
        *graph = static_cast<qy_graph *>(calloc(1, sizeof **graph));
        return *graph ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "cuda: out of host memory");
    }
    if (!(*graph)->run || (*graph)->scratch != qy_impl(dev)->scratch)
        QY_TRY(prepare(dev, *graph, queue, context, err));
    QY_CUDA(cudaGraphLaunch((*graph)->run, qy_stream(dev)));
    return QY_OK;
}

void qy_cuda_graph_free(const qy_device_t *dev, qy_graph *graph)
{
    (void)dev;
    if (graph->run)
        cudaGraphExecDestroy(graph->run);
    free(graph);
}
