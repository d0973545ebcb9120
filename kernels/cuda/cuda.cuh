/*
 * What the CUDA device's kernels share: the backend's own state, scratch memory, dispatch over the
 * float types, 16-byte loads and stores, and loops over elements.
 *
 * Same bytes on every run on one GPU model: sums have a fixed order, nothing is added atomically,
 * and no algorithm is chosen by timing. An op queues work on the one stream and returns: it neither
 * waits nor, once it has seen its largest shape, allocates.
 */
#ifndef QY_KERNELS_CUDA_CUDA_CUH
#define QY_KERNELS_CUDA_CUDA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "base/tensor.h"
#include "kernels/cuda/check.cuh"
#include "kernels/device.h"
#include "kernels/device_own.h"

struct qy_cuda_products;  /* linear.cu: prepared matrix products */
struct cusolverDnContext; /* gptq.cu: made when it is first needed */

/* Device memory that a transfer passes through, so that it runs beside the kernels. */
struct qy_cuda_stage {
    void *memory;
    size_t bytes;
    cudaEvent_t filled, drained;
};

struct qy_cuda_impl {
    int index;
    size_t shared_most; /* shared memory that a block may have, bytes */
    cudaStream_t stream;
    cublasLtHandle_t blas;
    qy_cuda_products *products;
    cusolverDnContext *solver;
    void *blas_workspace; /* QY_CUDA_BLAS_WORKSPACE bytes */
    void *scratch;
    size_t scratch_bytes;
    char *ring; /* pinned: small uploads wait here, so that the host need not */
    cudaStream_t uploads, downloads;
    bool large_up, large_down; /* pinned memory was ever copied past the stages, in the main stream */
    qy_cuda_stage up[QY_CUDA_STAGES], down[QY_CUDA_STAGES];
    unsigned n_up,
        n_down; /* transfers so far: the next one's stage is this modulo QY_CUDA_STAGES */
    int ring_half;
    size_t ring_used;
    cudaEvent_t ring_free[2]; /* the copies out of a half of the ring are done */
};

static inline qy_cuda_impl *qy_impl(const qy_device_t *dev)
{
    return static_cast<qy_cuda_impl *>(dev->impl);
}

static inline cudaStream_t qy_stream(const qy_device_t *dev)
{
    return qy_impl(dev)->stream;
}

/* Device memory that holds until the next call. Grows where it must. */
qy_status_t qy_cuda_scratch(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err);

/* qy_device_repeat and qy_graph_free (graph.cu). */
qy_status_t qy_cuda_repeat(const qy_device_t *dev, struct qy_graph **graph,
                           qy_status_t (*queue)(void *context, qy_error_t *err), void *context,
                           qy_error_t *err);
void qy_cuda_graph_free(const qy_device_t *dev, struct qy_graph *graph);

/* Frees the prepared products (linear.cu). */
void qy_cuda_products_destroy(qy_cuda_products **products);

/* D (m, n) = alpha op(A) op(B) (+ D), sums over k in f32, all column-major. The first column's
 * length is what the leading dimensions are where they are 0; bias may be NULL. Only the data and
 * the types of the tensors are looked at. */
typedef struct {
    int64_t m, n, k, lda, ldb, ldd;
    int transpose_a, transpose_b, accumulate;
    float alpha;
    const qy_tensor_t *a, *b, *bias;
    qy_tensor_t *d;
} qy_cuda_product_t;
qy_status_t qy_cuda_multiply(const qy_device_t *dev, const qy_cuda_product_t *c, qy_error_t *err);

/* "cuSOLVER 12.0.9", or that there is none (gptq.cu). */
void qy_cuda_solver_name(char out[32]);

/* Closes the solver's handle where there is one (gptq.cu). */
void qy_cuda_solver_destroy(qy_cuda_impl *impl);

/*
 * QY_WITH_TYPE(dtype, T, statements): the statements with T as dtype's C++ type. They return;
 * wrappers let only the three float types come here.
 */
#define QY_WITH_TYPE(dtype, T, ...)                                                                \
    do {                                                                                           \
        if ((dtype) == QY_F32) {                                                                   \
            using T = float;                                                                       \
            __VA_ARGS__;                                                                           \
        } else if ((dtype) == QY_F16) {                                                            \
            using T = __half;                                                                      \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            using T = __nv_bfloat16;                                                               \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* The same for a tensor that is f32 or of type C, whichever dtype says. */
#define QY_WITH_F32_OR(C, dtype, T, ...)                                                           \
    do {                                                                                           \
        if ((dtype) == QY_F32) {                                                                   \
            using T = float;                                                                       \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            using T = C;                                                                           \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

template <typename T> static inline T *qy_data(const qy_tensor_t *t)
{
    return t ? static_cast<T *>(t->data) : nullptr;
}

__device__ static inline float to_f32(float x)
{
    return x;
}
__device__ static inline float to_f32(__half x)
{
    return __half2float(x);
}
__device__ static inline float to_f32(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

/* x in type T, to nearest, ties to even. */
template <typename T> __device__ static inline T from_f32(float x);
template <> __device__ inline float from_f32<float>(float x)
{
    return x;
}
template <> __device__ inline __half from_f32<__half>(float x)
{
    return __float2half_rn(x);
}
template <> __device__ inline __nv_bfloat16 from_f32<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* V elements side by side, read and written in accesses of up to 16 bytes. */
template <typename T, int V> struct alignas(sizeof(T) * V > 16 ? 16 : sizeof(T) * V) pack_t {
    T at[V];
};

template <int V, typename T> __device__ static inline void load(float (&to)[V], const T *from)
{
    const pack_t<T, V> pack = *reinterpret_cast<const pack_t<T, V> *>(from);
#pragma unroll
    for (int i = 0; i < V; i++)
        to[i] = to_f32(pack.at[i]);
}

template <int V, typename T> __device__ static inline void store(T *to, const float (&from)[V])
{
    pack_t<T, V> pack;
#pragma unroll
    for (int i = 0; i < V; i++)
        pack.at[i] = from_f32<T>(from[i]);
    *reinterpret_cast<pack_t<T, V> *>(to) = pack;
}

/* May these be read in packs of 16 bytes? NULL is no obstacle. */
static inline bool qy_aligned(const void *a, const void *b = nullptr, const void *c = nullptr,
                              const void *d = nullptr, const void *e = nullptr)
{
    return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d | (uintptr_t)e) & 15) == 0;
}

static inline int64_t qy_blocks(int64_t n, int64_t per_block)
{
    return (n + per_block - 1) / per_block;
}

enum { QY_EACH_THREADS = 256 };

/* body.run<V>(i) for every pack of V elements of n, run<1> for what is left over. */
template <int V, typename Body>
static __global__ void __launch_bounds__(QY_EACH_THREADS) each_kernel(int64_t n, Body body)
{
    int64_t i = ((int64_t)blockIdx.x * QY_EACH_THREADS + threadIdx.x) * V;
    if (i + V <= n)
        body.template run<V>(i);
    else
        for (; i < n; i++)
            body.template run<1>(i);
}

template <int V, typename Body>
static qy_status_t qy_each(const qy_device_t *dev, int64_t n, bool aligned, const Body &body,
                           qy_error_t *err)
{
    unsigned blocks = (unsigned)qy_blocks(n, (int64_t)QY_EACH_THREADS * (aligned ? V : 1));
    if (aligned)
        QY_LAUNCH(each_kernel<V><<<blocks, QY_EACH_THREADS, 0, qy_stream(dev)>>>(n, body));
    else
        QY_LAUNCH(each_kernel<1><<<blocks, QY_EACH_THREADS, 0, qy_stream(dev)>>>(n, body));
    return QY_OK;
}

#endif
