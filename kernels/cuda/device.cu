/* The CUDA device: memory, copies, scratch, and what kernels and libraries are handed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/table.cuh"

/* Small uploads go through a pinned ring in two halves; a half is waited for before it is reused.
 */
static const size_t RING_HALF = (size_t)64 << 10, RING_LARGEST = (size_t)4 << 10;
static const size_t MEMORY_ALIGN = 256;
static const int OLDEST_MAJOR = 8;

static qy_status_t use(const qy_device_t *dev, qy_error_t *err)
{
    QY_CUDA(cudaSetDevice(qy_impl(dev)->index));
    return QY_OK;
}

static qy_status_t memory_alloc(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err)
{
    void *p = NULL;
    QY_TRY(use(dev, err));
    cudaError_t error =
        bytes > SIZE_MAX / 2 ? cudaErrorMemoryAllocation : cudaMalloc(&p, bytes + MEMORY_ALIGN);
    if (error == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total_bytes = 0;
        cudaGetLastError();
        cudaMemGetInfo(&free_bytes, &total_bytes);
        return qy_fail(err, QY_ERR_MEMORY, "cuda:%d: no memory for %zu bytes, %zu of %zu are free",
                       qy_impl(dev)->index, bytes, free_bytes, total_bytes);
    }
    QY_CUDA_NAMED("cudaMalloc", error);
    *out = p;
    return QY_OK;
}

static void memory_release(const qy_device_t *dev, void *p)
{
    (void)dev;
    cudaFree(p);
}

static qy_status_t host_alloc(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err)
{
    void *p = NULL;
    QY_TRY(use(dev, err));
    cudaError_t error = bytes > SIZE_MAX / 2
                            ? cudaErrorMemoryAllocation
                            : cudaHostAlloc(&p, bytes + MEMORY_ALIGN, cudaHostAllocDefault);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return qy_fail(err, QY_ERR_MEMORY, "cuda:%d: no pinned host memory for %zu bytes",
                       qy_impl(dev)->index, bytes);
    }
    QY_CUDA_NAMED("cudaHostAlloc", error);
    *out = p;
    return QY_OK;
}

static void host_release(const qy_device_t *dev, void *p)
{
    (void)dev;
    cudaFreeHost(p);
}

/* bytes ≤ RING_LARGEST from any host memory, without waiting for the stream. */
static qy_status_t upload_small(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                                qy_error_t *err)
{
    qy_cuda_impl *impl = qy_impl(dev);
    if (impl->ring_used + bytes > RING_HALF) {
        QY_CUDA(cudaEventRecord(impl->ring_free[impl->ring_half], impl->stream));
        impl->ring_half = 1 - impl->ring_half;
        impl->ring_used = 0;
        QY_CUDA(cudaEventSynchronize(impl->ring_free[impl->ring_half]));
    }
    char *at = impl->ring + impl->ring_half * RING_HALF + impl->ring_used;
    memcpy(at, src, bytes);
    QY_CUDA(cudaMemcpyAsync(dst, at, bytes, cudaMemcpyHostToDevice, impl->stream));
    impl->ring_used += (bytes + 15) / 16 * 16;
    return QY_OK;
}

/* Larger work space in place of the old, which queued work may still use. */
static qy_status_t grow(const qy_device_t *dev, void **memory, size_t *held, size_t bytes,
                        qy_error_t *err)
{
    if (*memory)
        QY_CUDA(cudaDeviceSynchronize());
    *held = 0;
    qy_device_free(dev, memory);
    QY_TRY(qy_device_alloc(dev, memory, bytes, err));
    *held = bytes;
    return QY_OK;
}

/* The stage of a transfer; there from its first use on. */
static qy_status_t take_stage(const qy_device_t *dev, qy_cuda_stage *stage, qy_error_t *err)
{
    size_t bytes = qy_device_staged(dev);
    if (bytes <= stage->bytes)
        return QY_OK;
    if (!stage->filled)
        QY_CUDA(cudaEventCreateWithFlags(&stage->filled, cudaEventDisableTiming));
    if (!stage->drained)
        QY_CUDA(cudaEventCreateWithFlags(&stage->drained, cudaEventDisableTiming));
    QY_TRY(grow(dev, &stage->memory, &stage->bytes, bytes, err));
    return QY_OK;
}

static bool is_pinned(const void *host)
{
    cudaPointerAttributes attributes;
    bool known = cudaPointerGetAttributes(&attributes, host) == cudaSuccess;
    cudaGetLastError();
    return known && attributes.type == cudaMemoryTypeHost;
}

/*
 * From pinned memory into a stage beside the kernels, from there to dst in the order of the main
 * stream: the host may queue the next step's inputs while this step runs.
 */
static qy_status_t upload_staged(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                                 qy_error_t *err)
{
    qy_cuda_impl *impl = qy_impl(dev);
    qy_cuda_stage *stage = &impl->up[impl->n_up % QY_CUDA_STAGES];
    QY_TRY(take_stage(dev, stage, err));
    QY_CUDA(cudaStreamWaitEvent(impl->uploads, stage->drained, 0));
    QY_CUDA(cudaMemcpyAsync(stage->memory, src, bytes, cudaMemcpyHostToDevice, impl->uploads));
    QY_CUDA(cudaEventRecord(stage->filled, impl->uploads));
    QY_CUDA(cudaStreamWaitEvent(impl->stream, stage->filled, 0));
    QY_CUDA(cudaMemcpyAsync(dst, stage->memory, bytes, cudaMemcpyDeviceToDevice, impl->stream));
    QY_CUDA(cudaEventRecord(stage->drained, impl->stream));
    impl->n_up++;
    return QY_OK;
}

static qy_status_t upload(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                          qy_error_t *err)
{
    QY_TRY(use(dev, err));
    if (bytes <= RING_LARGEST)
        return upload_small(dev, dst, src, bytes, err);
    if (is_pinned(src)) {
        if (bytes <= qy_device_staged(dev))
            return upload_staged(dev, dst, src, bytes, err);
        qy_impl(dev)->large_up = true;
    }
    QY_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, qy_stream(dev)));
    return QY_OK;
}

static qy_status_t wait(const qy_device_t *dev, qy_error_t *err)
{
    QY_TRY(use(dev, err));
    QY_CUDA(cudaStreamSynchronize(qy_stream(dev)));
    QY_CUDA(cudaStreamSynchronize(qy_impl(dev)->downloads));
    return QY_OK;
}

struct qy_cuda_mark {
    cudaEvent_t staged, large; /* large NULL: no transfer ever went past the stages */
};

static void mark_release(const qy_device_t *dev, void *p)
{
    qy_cuda_mark *mark = static_cast<qy_cuda_mark *>(p);
    (void)dev;
    if (mark->staged)
        cudaEventDestroy(mark->staged);
    if (mark->large)
        cudaEventDestroy(mark->large);
    free(mark);
}

/* Who waits for a mark sleeps: it is a thread that has a disk to serve. */
static qy_status_t record_mark(cudaEvent_t *event, cudaStream_t stream, qy_error_t *err)
{
    if (!*event)
        QY_CUDA(cudaEventCreateWithFlags(event, cudaEventDisableTiming | cudaEventBlockingSync));
    QY_CUDA(cudaEventRecord(*event, stream));
    return QY_OK;
}

static qy_status_t set_mark(const qy_device_t *dev, void **out, qy_direction_t direction,
                            qy_error_t *err)
{
    qy_cuda_impl *impl = qy_impl(dev);
    bool up = direction == QY_UPLOADS;
    QY_TRY(use(dev, err));
    if (!*out)
        *out = calloc(1, sizeof(qy_cuda_mark));
    qy_cuda_mark *mark = static_cast<qy_cuda_mark *>(*out);
    if (!mark)
        return qy_fail(err, QY_ERR_MEMORY, "cuda: out of host memory");
    QY_TRY(record_mark(&mark->staged, up ? impl->uploads : impl->downloads, err));
    if (up ? impl->large_up : impl->large_down)
        QY_TRY(record_mark(&mark->large, impl->stream, err));
    return QY_OK;
}

static qy_status_t mark_wait(const qy_device_t *dev, const void *p, qy_error_t *err)
{
    const qy_cuda_mark *mark = static_cast<const qy_cuda_mark *>(p);
    QY_TRY(use(dev, err));
    QY_CUDA(cudaEventSynchronize(mark->staged));
    if (mark->large)
        QY_CUDA(cudaEventSynchronize(mark->large));
    return QY_OK;
}

/* A failed device counts as idle: the next call reports it. */
static int idle(const qy_device_t *dev)
{
    int busy = cudaStreamQuery(qy_stream(dev)) == cudaErrorNotReady;
    if (busy)
        cudaGetLastError();
    return !busy;
}

static qy_status_t download(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                            qy_error_t *err)
{
    QY_TRY(use(dev, err));
    QY_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, qy_stream(dev)));
    return wait(dev, err);
}

/* Through a stage, so that src may be written again by what is queued next. */
static qy_status_t download_queued(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                                   qy_error_t *err)
{
    qy_cuda_impl *impl = qy_impl(dev);
    QY_TRY(use(dev, err));
    if (bytes > qy_device_staged(dev) || !is_pinned(dst)) {
        impl->large_down = true;
        QY_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, impl->stream));
        return QY_OK;
    }
    qy_cuda_stage *stage = &impl->down[impl->n_down % QY_CUDA_STAGES];
    QY_TRY(take_stage(dev, stage, err));
    QY_CUDA(cudaStreamWaitEvent(impl->stream, stage->drained, 0));
    QY_CUDA(cudaMemcpyAsync(stage->memory, src, bytes, cudaMemcpyDeviceToDevice, impl->stream));
    QY_CUDA(cudaEventRecord(stage->filled, impl->stream));
    QY_CUDA(cudaStreamWaitEvent(impl->downloads, stage->filled, 0));
    QY_CUDA(cudaMemcpyAsync(dst, stage->memory, bytes, cudaMemcpyDeviceToHost, impl->downloads));
    QY_CUDA(cudaEventRecord(stage->drained, impl->downloads));
    impl->n_down++;
    return QY_OK;
}

static qy_status_t copy(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                        qy_error_t *err)
{
    QY_TRY(use(dev, err));
    QY_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, qy_stream(dev)));
    return QY_OK;
}

static qy_status_t memory_state(const qy_device_t *dev, size_t *free_bytes, size_t *total_bytes,
                                qy_error_t *err)
{
    QY_TRY(use(dev, err));
    QY_CUDA(cudaMemGetInfo(free_bytes, total_bytes));
    return QY_OK;
}

static void drop_stages(qy_cuda_stage *stages)
{
    for (int i = 0; i < QY_CUDA_STAGES; i++) {
        cudaFree(stages[i].memory);
        if (stages[i].filled)
            cudaEventDestroy(stages[i].filled);
        if (stages[i].drained)
            cudaEventDestroy(stages[i].drained);
    }
}

/* Also undoes an open that failed half way. */
static void close_device(qy_device_t *dev)
{
    qy_cuda_impl *impl = qy_impl(dev);
    const cudaStream_t streams[] = {impl->stream, impl->uploads, impl->downloads};
    cudaSetDevice(impl->index);
    for (cudaStream_t stream : streams)
        if (stream)
            cudaStreamSynchronize(stream);
    drop_stages(impl->up);
    drop_stages(impl->down);
    qy_cuda_products_destroy(&impl->products);
    qy_cuda_solver_destroy(impl);
    cudaFree(impl->scratch);
    cudaFree(impl->blas_workspace);
    if (impl->blas)
        cublasLtDestroy(impl->blas);
    for (int i = 0; i < 2; i++)
        if (impl->ring_free[i])
            cudaEventDestroy(impl->ring_free[i]);
    cudaFreeHost(impl->ring);
    for (cudaStream_t stream : streams)
        if (stream)
            cudaStreamDestroy(stream);
    free(impl);
    dev->impl = NULL;
}

/* Launches that are waited for one by one cannot be recorded. */
#ifdef QUARRY_SYNC_LAUNCHES
#define REPEAT nullptr
#else
#define REPEAT qy_cuda_repeat
#endif

static const struct qy_device_vtable vtable = {
    close_device, memory_alloc, memory_release, host_alloc,
    host_release, upload,       download,       download_queued,
    copy,         wait,         set_mark,       mark_wait,
    mark_release, idle,         REPEAT,         qy_cuda_graph_free,
    memory_state,
};

qy_status_t qy_cuda_scratch(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err)
{
    qy_cuda_impl *impl = qy_impl(dev);
    if (bytes > impl->scratch_bytes)
        QY_TRY(grow(dev, &impl->scratch, &impl->scratch_bytes, bytes, err));
    *out = impl->scratch;
    return QY_OK;
}

static qy_status_t check_gpu(qy_device_t *dev, int index, cudaDeviceProp *gpu, qy_error_t *err)
{
    int n_devices = 0;
    QY_CUDA(cudaGetDeviceCount(&n_devices));
    if (index >= n_devices)
        return qy_fail(err, QY_ERR_DEVICE, "cuda:%d: there are %d devices", index, n_devices);
    QY_CUDA(cudaSetDevice(index));
    QY_CUDA(cudaGetDeviceProperties(gpu, index));
    if (gpu->major < OLDEST_MAJOR)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "cuda:%d: %s has compute capability %d.%d, at "
                       "least %d.0 is needed",
                       index, gpu->name, gpu->major, gpu->minor, OLDEST_MAJOR);
    snprintf(dev->kind, sizeof dev->kind, "cuda");
    snprintf(dev->model, sizeof dev->model, "%.127s", gpu->name);
    return QY_OK;
}

int qy_cuda_present(void)
{
    int driver = 0, n_devices = 0, major = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
        return 0;
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    cudaGetLastError();
    if (error == cudaErrorNoDevice)
        return 0;
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    return error != cudaSuccess || major >= OLDEST_MAJOR;
}

/* QUARRY_TEST_SHARED, bytes, stands for a GPU that has less. */
static qy_status_t find_shared_memory(qy_cuda_impl *impl, qy_error_t *err)
{
    int bytes = 0;
    const char *less = getenv("QUARRY_TEST_SHARED");
    QY_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, impl->index));
    impl->shared_most = (size_t)bytes;
    if (less && strtoul(less, NULL, 10) < impl->shared_most)
        impl->shared_most = strtoul(less, NULL, 10);
    return QY_OK;
}

static qy_status_t set_up(qy_device_t *dev, qy_error_t *err)
{
    qy_cuda_impl *impl = qy_impl(dev);
    void *ring = NULL;
    QY_TRY(find_shared_memory(impl, err));
    QY_CUDA(cudaStreamCreateWithFlags(&impl->stream, cudaStreamNonBlocking));
    QY_CUDA(cudaStreamCreateWithFlags(&impl->uploads, cudaStreamNonBlocking));
    QY_CUDA(cudaStreamCreateWithFlags(&impl->downloads, cudaStreamNonBlocking));
    for (int i = 0; i < 2; i++)
        QY_CUDA(cudaEventCreateWithFlags(&impl->ring_free[i], cudaEventDisableTiming));
    QY_TRY(host_alloc(dev, &ring, 2 * RING_HALF, err));
    impl->ring = static_cast<char *>(ring);
    QY_CUBLAS(cublasLtCreate(&impl->blas));
    QY_TRY(qy_device_alloc(dev, &impl->blas_workspace, QY_CUDA_BLAS_WORKSPACE, err));
    return grow(dev, &impl->scratch, &impl->scratch_bytes, QY_CUDA_SCRATCH, err);
}

qy_status_t qy_cuda_open(qy_device_t *dev, int index, qy_error_t *err)
{
    cudaDeviceProp gpu;
    int runtime = 0;
    QY_TRY(check_gpu(dev, index, &gpu, err));
    QY_CUDA(cudaRuntimeGetVersion(&runtime));
    qy_cuda_impl *impl = static_cast<qy_cuda_impl *>(calloc(1, sizeof *impl));
    if (!impl)
        return qy_fail(err, QY_ERR_MEMORY, "cuda:%d: out of host memory", index);
    impl->index = index;
    dev->impl = impl;
    dev->vtable = &vtable;
    qy_status_t status = set_up(dev, err);
    if (status != QY_OK) {
        close_device(dev);
        return status;
    }
    dev->ops = &qy_cuda_ops;
    dev->fuses = true;
    if (dev->compute == QY_N_DTYPES)
        dev->compute = QY_BF16;
    size_t blas = cublasLtGetVersion();
    char solver[32];
    qy_cuda_solver_name(solver);
    snprintf(dev->libraries, sizeof dev->libraries, "CUDA %d.%d; cuBLASLt %zu.%zu.%zu; %s; sm_%d%d",
             runtime / 1000, runtime % 1000 / 10, blas / 10000, blas / 100 % 100, blas % 100,
             solver, gpu.major, gpu.minor);
    return QY_OK;
}
