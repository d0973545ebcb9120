#include "kernels/gptq.h"

#ifdef QUARRY_HAVE_CUSOLVER
#include <cusolverDn.h>
#endif
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/group.cuh"
#include "kernels/cuda/reduce.cuh"

/* This file is compiled without fused multiply-add: within a block of columns both devices agree.
 */

enum { THREADS = 256, WARPS = THREADS / 32 };

/* xᵀ x as columns: h (I, I) = (x as (I, M)) (x as (I, M))ᵀ */
qy_status_t qy_cuda_gram(const qy_device_t *dev, qy_tensor_t *h, const qy_tensor_t *x, float scale,
                         int accumulate, qy_error_t *err)
{
    qy_cuda_product_t p = {};
    p.m = p.n = qy_tensor_cols(x);
    p.k = qy_tensor_rows(x);
    p.transpose_b = 1;
    p.accumulate = accumulate;
    p.alpha = scale;
    p.a = p.b = x;
    p.d = h;
    return qy_cuda_multiply(dev, &p, err);
}

static __global__ void __launch_bounds__(THREADS)
    diagonal_kernel(float *d, const float *h, int64_t n)
{
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i < n)
        d[i] = h[i * n + i];
}

qy_status_t qy_cuda_diagonal(const qy_device_t *dev, qy_tensor_t *d, const qy_tensor_t *h,
                             qy_error_t *err)
{
    int64_t n = qy_tensor_cols(h);
    QY_LAUNCH(diagonal_kernel<<<(unsigned)qy_blocks(n, THREADS), THREADS, 0, qy_stream(dev)>>>(
        qy_data<float>(d), qy_data<float>(h), n));
    return QY_OK;
}

struct gather_t {
    float *y;
    const float *x;
    const int32_t *index;
    int64_t to_cols, from_cols;
    template <int V> __device__ void run(int64_t i) const
    {
        int32_t at = index[i % to_cols];
        y[i] = at < 0 ? 0.0f : x[i / to_cols * from_cols + at];
    }
};

qy_status_t qy_cuda_gather_columns(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                                   const qy_tensor_t *index, qy_error_t *err)
{
    const gather_t body = {qy_data<float>(y), qy_data<float>(x), qy_data<int32_t>(index),
                           qy_tensor_cols(y), qy_tensor_cols(x)};
    return qy_each<1>(dev, qy_tensor_count(y), true, body, err);
}

qy_status_t qy_cuda_copy_columns(const qy_device_t *dev, qy_tensor_t *y, int64_t to,
                                 const qy_tensor_t *x, int64_t from, int64_t n, qy_error_t *err)
{
    size_t to_pitch = (size_t)qy_tensor_cols(y) * sizeof(float);
    size_t from_pitch = (size_t)qy_tensor_cols(x) * sizeof(float);
    QY_CUDA(cudaMemcpy2DAsync(qy_data<float>(y) + to, to_pitch, qy_data<float>(x) + from,
                              from_pitch, (size_t)n * sizeof(float), (size_t)qy_tensor_rows(y),
                              cudaMemcpyDeviceToDevice, qy_stream(dev)));
    return QY_OK;
}

/* --- the factor ------------------------------------------------------------------------------ */

#ifdef QUARRY_HAVE_CUSOLVER

#define QY_CUSOLVER(call)                                                                          \
    do {                                                                                           \
        cusolverStatus_t qy_cusolver_status_ = (call);                                             \
        if (qy_cusolver_status_ != CUSOLVER_STATUS_SUCCESS)                                        \
            return qy_fail(err, QY_ERR_DEVICE, "cuda: %.300s: cuSOLVER status %d", #call,          \
                           (int)qy_cusolver_status_);                                              \
    } while (0)

/* a = J A J: rows and columns in the reverse of the order. */
struct arrange_t {
    float *a;
    const float *h, *shift;
    const int32_t *order;
    int64_t n;
    template <int V> __device__ void run(int64_t k) const
    {
        int64_t i = k / n, j = k % n, row = order[n - 1 - i];
        float value = h[row * n + order[n - 1 - j]];
        a[k] = i == j ? value + shift[row] : value;
    }
};

/* a = J a J in place, which reverses all of it, and 0 below the diagonal. A thread owns a pair. */
struct reverse_t {
    float *a;
    int64_t n;
    __device__ float kept(int64_t k, float value) const
    {
        return k / n > k % n ? 0.0f : value;
    }
    template <int V> __device__ void run(int64_t k) const
    {
        int64_t other = n * n - 1 - k;
        float mine = a[k], theirs = a[other];
        a[k] = kept(k, theirs);
        a[other] = kept(other, mine);
    }
};

static qy_status_t open_solver(qy_cuda_impl *impl, qy_error_t *err)
{
    if (impl->solver)
        return QY_OK;
    QY_CUSOLVER(cusolverDnCreate(&impl->solver));
    QY_CUSOLVER(cusolverDnSetStream(impl->solver, impl->stream));
    QY_CUSOLVER(cusolverDnSetDeterministicMode(impl->solver, CUSOLVER_DETERMINISTIC_RESULTS));
    return QY_OK;
}

void qy_cuda_solver_name(char out[32])
{
    int version[3] = {};
    cusolverGetProperty(MAJOR_VERSION, &version[0]);
    cusolverGetProperty(MINOR_VERSION, &version[1]);
    cusolverGetProperty(PATCH_LEVEL, &version[2]);
    snprintf(out, 32, "cuSOLVER %d.%d.%d", version[0], version[1], version[2]);
}

void qy_cuda_solver_destroy(qy_cuda_impl *impl)
{
    if (impl->solver)
        cusolverDnDestroy(impl->solver);
    impl->solver = NULL;
}

/* What the two calls need: device memory for both, one after the other, and host memory. */
typedef struct {
    size_t potrf_device, trtri_device, potrf_host, trtri_host;
} work_t;

static qy_status_t measure(const qy_cuda_impl *impl, float *a, int64_t n, work_t *work,
                           qy_error_t *err)
{
    QY_CUSOLVER(cusolverDnXpotrf_bufferSize(impl->solver, NULL, CUBLAS_FILL_MODE_UPPER, n,
                                            CUDA_R_32F, a, n, CUDA_R_32F, &work->potrf_device,
                                            &work->potrf_host));
    QY_CUSOLVER(cusolverDnXtrtri_bufferSize(impl->solver, CUBLAS_FILL_MODE_UPPER,
                                            CUBLAS_DIAG_NON_UNIT, n, CUDA_R_32F, a, n,
                                            &work->trtri_device, &work->trtri_host));
    return QY_OK;
}

/* Upper by columns is lower by rows. info[0]: of the factor, info[1]: of its inverse. */
static qy_status_t factor(const qy_device_t *dev, float *a, int64_t n, const work_t *work,
                          void *host, int info[2], qy_error_t *err)
{
    const qy_cuda_impl *impl = qy_impl(dev);
    enum { INFO_BYTES = 256 };
    size_t most = work->potrf_device > work->trtri_device ? work->potrf_device : work->trtri_device;
    void *scratch;
    QY_TRY(qy_cuda_scratch(dev, &scratch, INFO_BYTES + most, err));
    int *device_info = static_cast<int *>(scratch);
    void *memory = static_cast<char *>(scratch) + INFO_BYTES;
    QY_CUSOLVER(cusolverDnXpotrf(impl->solver, NULL, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_32F, a, n,
                                 CUDA_R_32F, memory, work->potrf_device, host, work->potrf_host,
                                 device_info));
    QY_CUDA(cudaMemcpyAsync(info, device_info, sizeof *info, cudaMemcpyDeviceToHost, impl->stream));
    QY_CUDA(cudaStreamSynchronize(impl->stream));
    if (info[0])
        return QY_OK;
    QY_CUSOLVER(cusolverDnXtrtri(impl->solver, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n,
                                 CUDA_R_32F, a, n, memory, work->trtri_device, host,
                                 work->trtri_host, device_info + 1));
    QY_CUDA(cudaMemcpyAsync(info + 1, device_info + 1, sizeof *info, cudaMemcpyDeviceToHost,
                            impl->stream));
    QY_CUDA(cudaStreamSynchronize(impl->stream));
    return QY_OK;
}

qy_status_t qy_cuda_inverse_factor(const qy_device_t *dev, qy_tensor_t *u, int *definite,
                                   const qy_tensor_t *h, const qy_tensor_t *order,
                                   const qy_tensor_t *shift, qy_error_t *err)
{
    int64_t n = qy_tensor_cols(h);
    float *a = qy_data<float>(u);
    work_t work = {};
    int info[2] = {};
    const arrange_t arrange = {a, qy_data<float>(h), qy_data<float>(shift), qy_data<int32_t>(order),
                               n};
    QY_TRY(qy_each<1>(dev, n * n, true, arrange, err));
    QY_TRY(open_solver(qy_impl(dev), err));
    QY_TRY(measure(qy_impl(dev), a, n, &work, err));
    void *host =
        malloc(1 + (work.potrf_host > work.trtri_host ? work.potrf_host : work.trtri_host));
    if (!host)
        return qy_fail(err, QY_ERR_MEMORY, "cuda: out of host memory");
    qy_status_t status = factor(dev, a, n, &work, host, info, err);
    free(host);
    QY_TRY(status);
    *definite = info[0] == 0 && info[1] == 0;
    const reverse_t reverse = {a, n};
    return qy_each<1>(dev, (n * n + 1) / 2, true, reverse, err);
}

#else

/* Without cuSOLVER: by the CPU device's LAPACK. */
static qy_status_t factor_on_host(const qy_device_t *dev, qy_tensor_t *u, int *definite,
                                  const qy_tensor_t *h, const qy_tensor_t *order,
                                  const qy_tensor_t *shift, char *memory, qy_error_t *err)
{
    const qy_tensor_t *from[] = {h, order, shift};
    qy_tensor_t host[4];
    qy_device_t cpu = {};
    cpu.threads = 1;
    for (int i = 0; i < 3; i++) {
        host[i] = *from[i];
        host[i].data = memory;
        memory += qy_tensor_bytes(from[i]);
        QY_TRY(qy_device_download(dev, host[i].data, from[i]->data, qy_tensor_bytes(from[i]), err));
    }
    host[3] = *u;
    host[3].data = memory;
    QY_TRY(qy_cpu_inverse_factor(&cpu, &host[3], definite, &host[0], &host[1], &host[2], err));
    QY_TRY(qy_device_upload(dev, u->data, memory, qy_tensor_bytes(u), err));
    return qy_device_wait(dev, err);
}

void qy_cuda_solver_name(char out[32])
{
    snprintf(out, 32, "no cuSOLVER");
}

void qy_cuda_solver_destroy(qy_cuda_impl *impl)
{
    (void)impl;
}

qy_status_t qy_cuda_inverse_factor(const qy_device_t *dev, qy_tensor_t *u, int *definite,
                                   const qy_tensor_t *h, const qy_tensor_t *order,
                                   const qy_tensor_t *shift, qy_error_t *err)
{
    size_t bytes = 2 * qy_tensor_bytes(h) + qy_tensor_bytes(order) + qy_tensor_bytes(shift);
    char *memory = static_cast<char *>(malloc(bytes));
    if (!memory)
        return qy_fail(err, QY_ERR_MEMORY, "cuda: no host memory for %zu bytes", bytes);
    qy_status_t status = factor_on_host(dev, u, definite, h, order, shift, memory, err);
    free(memory);
    return status;
}

#endif

/* --- the columns ----------------------------------------------------------------------------- */

struct columns_t {
    float *w, *e;
    const float *u, *s, *z;
    const int32_t *group;
    int64_t rows, cols, n_groups, first;
    int n;
    float q_max;
};

enum { HELD = QY_GPTQ_BLOCK_MAX / 32 };

/* A warp owns a row; lane l holds the block's columns l, l + 32, … */
static __global__ void __launch_bounds__(THREADS) columns_kernel(columns_t a)
{
    int64_t row = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    if (row >= a.rows)
        return;
    float *w = a.w + row * a.cols + a.first, *e = a.e + row * a.n;
    const float *s = a.s + row * a.n_groups, *z = a.z + row * a.n_groups;
    float held[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++)
        held[i] = 32 * i + lane < a.n ? w[32 * i + lane] : 0.0f;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        for (int l = 0; l < 32 && 32 * i + l < a.n; l++) {
            int j = 32 * i + l;
            const float *u = a.u + (a.first + j) * a.cols + a.first;
            int32_t g = a.group[a.first + j];
            float step = s[g], zero = z[g], mine = __shfl_sync(QY_WARP_ALL, held[i], l);
            float w_hat = (qy_code(mine, step, zero, a.q_max) - zero) * step;
            float error = (mine - w_hat) / u[j];
            if (lane == 0)
                e[j] = error;
#pragma unroll
            for (int k = i; k < HELD; k++) {
                int col = 32 * k + lane;
                if (col > j && col < a.n)
                    held[k] -= error * u[col];
                else if (col == j)
                    held[k] = w_hat;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < HELD; i++)
        if (32 * i + lane < a.n)
            w[32 * i + lane] = held[i];
}

qy_status_t qy_cuda_gptq_columns(const qy_device_t *dev, qy_tensor_t *w, qy_tensor_t *e,
                                 const qy_tensor_t *u, const qy_tensor_t *s, const qy_tensor_t *z,
                                 const qy_tensor_t *group, int64_t first, int bits, qy_error_t *err)
{
    int64_t rows = qy_tensor_rows(w), cols = qy_tensor_cols(w), n = qy_tensor_cols(e);
    int64_t rest = cols - first - n;
    const columns_t a = {qy_data<float>(w),
                         qy_data<float>(e),
                         qy_data<float>(u),
                         qy_data<float>(s),
                         qy_data<float>(z),
                         qy_data<int32_t>(group),
                         rows,
                         cols,
                         qy_tensor_cols(s),
                         first,
                         (int)n,
                         qy_quant_max(bits)};
    QY_LAUNCH(columns_kernel<<<(unsigned)qy_blocks(rows, WARPS), THREADS, 0, qy_stream(dev)>>>(a));
    if (rest == 0)
        return QY_OK;
    /* By columns: w's rest (rest, O) −= u's (rest, n) e (n, O). */
    qy_tensor_t from = *u, to = *w;
    from.data = qy_data<float>(u) + first * cols + first + n;
    to.data = qy_data<float>(w) + first + n;
    qy_cuda_product_t p = {};
    p.m = rest;
    p.n = rows;
    p.k = n;
    p.accumulate = 1;
    p.alpha = -1.0f;
    p.lda = p.ldd = cols;
    p.a = &from;
    p.b = e;
    p.d = &to;
    return qy_cuda_multiply(dev, &p, err);
}
