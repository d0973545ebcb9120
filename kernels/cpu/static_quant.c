#include "kernels/static_quant.h"

#include "base/quant_rule.h"
#include "kernels/cpu/cpu.h"

static QY_CLONES void quantize_row(float *y, const float *x, const float *s, const float *z,
                                   int64_t n, float q_max)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = (qy_code(x[i], s[i], z[i], q_max) - z[i]) * s[i];
}

qy_status_t qy_cpu_static_quant_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                                    const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                                    qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(x), c = qy_tensor_cols(x);
    float q_max = qy_quant_max(bits);
#pragma omp parallel for num_threads(dev->threads) if (m * c > QY_CPU_CHUNK)
    for (int64_t row = 0; row < m; row++)
        quantize_row(qy_f32(y) + row * c, qy_f32(x) + row * c, s->data, z->data, c, q_max);
    return QY_OK;
}

static QY_CLONES void gradient_row(float *dx, const float *dy, const float *x, const float *s,
                                   const float *z, int64_t n, float q_max)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float u = qy_code_free(x[i], s[i], z[i]);
        dx[i] = u >= 0.0f && u <= q_max ? dy[i] : 0.0f;
    }
}

qy_status_t qy_cpu_static_quant_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                                    const qy_tensor_t *x, const qy_tensor_t *s,
                                    const qy_tensor_t *z, int bits, qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(x), c = qy_tensor_cols(x);
    float q_max = qy_quant_max(bits);
#pragma omp parallel for num_threads(dev->threads) if (m * c > QY_CPU_CHUNK)
    for (int64_t row = 0; row < m; row++)
        gradient_row(qy_f32(dx) + row * c, qy_f32(dy) + row * c, qy_f32(x) + row * c, s->data,
                     z->data, c, q_max);
    return QY_OK;
}
