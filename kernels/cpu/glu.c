#include "kernels/glu.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vexp.h"

static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + qy_exp(-x));
}

static QY_CLONES void silu_fwd(float *y, const float *gate, const float *up, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

static QY_CLONES void silu_bwd(float *dgate, float *dup, const float *dy, const float *gate,
                               const float *up, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float g = gate[i], sigma = sigmoid(g), u = up[i], d = dy[i];
        dgate[i] = d * u * (sigma * (1.0f + g * (1.0f - sigma)));
        dup[i] = d * (g * sigma);
    }
}

static QY_CLONES void relu_forward(float *y, const float *x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] < 0.0f ? 0.0f : x[i];
}

static QY_CLONES void relu_backward(float *dx, const float *dy, const float *y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

qy_status_t qy_cpu_silu_mul_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *gate,
                                const qy_tensor_t *up, qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_count(y), n_chunks = qy_chunks(n, QY_CPU_CHUNK);
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t at = c * QY_CPU_CHUNK;
        silu_fwd(qy_f32(y) + at, qy_f32(gate) + at, qy_f32(up) + at, qy_min(QY_CPU_CHUNK, n - at));
    }
    return QY_OK;
}

qy_status_t qy_cpu_silu_mul_bwd(const qy_device_t *dev, qy_tensor_t *dgate, qy_tensor_t *dup,
                                const qy_tensor_t *dy, const qy_tensor_t *gate,
                                const qy_tensor_t *up, qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_count(dy), n_chunks = qy_chunks(n, QY_CPU_CHUNK);
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t at = c * QY_CPU_CHUNK;
        silu_bwd(qy_f32(dgate) + at, qy_f32(dup) + at, qy_f32(dy) + at, qy_f32(gate) + at,
                 qy_f32(up) + at, qy_min(QY_CPU_CHUNK, n - at));
    }
    return QY_OK;
}

qy_status_t qy_cpu_relu_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                            qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_count(y), n_chunks = qy_chunks(n, QY_CPU_CHUNK);
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t at = c * QY_CPU_CHUNK;
        relu_forward(qy_f32(y) + at, qy_f32(x) + at, qy_min(QY_CPU_CHUNK, n - at));
    }
    return QY_OK;
}

qy_status_t qy_cpu_relu_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                            const qy_tensor_t *y, qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_count(dx), n_chunks = qy_chunks(n, QY_CPU_CHUNK);
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t at = c * QY_CPU_CHUNK;
        relu_backward(qy_f32(dx) + at, qy_f32(dy) + at, qy_f32(y) + at,
                      qy_min(QY_CPU_CHUNK, n - at));
    }
    return QY_OK;
}
