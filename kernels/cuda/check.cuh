/*
 * Calls into CUDA and its libraries, checked: a failure carries the text of the call. Out of memory
 * is MEMORY, everything else DEVICE.
 */
#ifndef QY_KERNELS_CUDA_CHECK_CUH
#define QY_KERNELS_CUDA_CHECK_CUH

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "base/status.h"

static inline qy_status_t qy_cuda_failed(cudaError_t error, const char *call, qy_error_t *err)
{
    cudaGetLastError(); /* an error that is not sticky does not show up at the next launch */
    return qy_fail(err, error == cudaErrorMemoryAllocation ? QY_ERR_MEMORY : QY_ERR_DEVICE,
                   "cuda: %.300s: %s", call, cudaGetErrorString(error));
}

#define QY_CUDA(call) QY_CUDA_NAMED(#call, call)
#define QY_CUDA_NAMED(text, call)                                                                  \
    do {                                                                                           \
        cudaError_t qy_cuda_error_ = (call);                                                       \
        if (qy_cuda_error_ != cudaSuccess)                                                         \
            return qy_cuda_failed(qy_cuda_error_, (text), err);                                    \
    } while (0)

#define QY_CUBLAS(call)                                                                            \
    do {                                                                                           \
        cublasStatus_t qy_cublas_status_ = (call);                                                 \
        if (qy_cublas_status_ != CUBLAS_STATUS_SUCCESS)                                            \
            return qy_fail(err, QY_ERR_DEVICE, "cuda: %.300s: %s", #call,                          \
                           cublasLtGetStatusString(qy_cublas_status_));                            \
    } while (0)

/*
 * A launch, and whether it was taken. With QUARRY_SYNC_LAUNCHES it is waited for as well, so that a
 * kernel that fails is the one named.
 */
#ifdef QUARRY_SYNC_LAUNCHES
#define QY_LAUNCH(...)                                                                             \
    do {                                                                                           \
        __VA_ARGS__;                                                                               \
        QY_CUDA_NAMED(#__VA_ARGS__, cudaGetLastError());                                           \
        QY_CUDA_NAMED(#__VA_ARGS__, cudaDeviceSynchronize());                                      \
    } while (0)
#else
#define QY_LAUNCH(...)                                                                             \
    do {                                                                                           \
        __VA_ARGS__;                                                                               \
        QY_CUDA_NAMED(#__VA_ARGS__, cudaGetLastError());                                           \
    } while (0)
#endif

#endif
