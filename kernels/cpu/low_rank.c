#include "kernels/low_rank.h"

#include "kernels/cpu/cpu.h"

static QY_CLONES void add_row(float *w, const float *w_hat, const float *a, const float *b,
                              int64_t r, int64_t n, float scale)
{
    enum { PART = 256 };
    float sum[PART];
    for (int64_t at = 0; at < n; at += PART) {
        int64_t count = qy_min(PART, n - at);
        for (int64_t i = 0; i < count; i++)
            sum[i] = 0.0f;
        for (int64_t k = 0; k < r; k++) {
            const float *line = a + k * n + at;
#pragma omp simd
            for (int64_t i = 0; i < count; i++)
                sum[i] += b[k] * line[i];
        }
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            w[at + i] = w_hat[at + i] + scale * sum[i];
    }
}

static void scaled(qy_tensor_t *y, const qy_tensor_t *x, float scale)
{
    int64_t n = qy_tensor_count(x);
    for (int64_t i = 0; i < n; i++)
        qy_f32(y)[i] = scale * qy_f32(x)[i];
}

qy_status_t qy_cpu_low_rank_fwd(const qy_device_t *dev, qy_tensor_t *w, qy_tensor_t *a_scaled,
                                qy_tensor_t *b_scaled, const qy_tensor_t *w_hat,
                                const qy_tensor_t *a, const qy_tensor_t *b, float scale,
                                qy_error_t *err)
{
    (void)err;
    int64_t o = qy_tensor_rows(w_hat), n = qy_tensor_cols(w_hat), r = qy_tensor_rows(a);
#pragma omp parallel for num_threads(dev->threads) if (o * n > QY_CPU_CHUNK)
    for (int64_t row = 0; row < o; row++)
        add_row(qy_f32(w) + row * n, qy_f32(w_hat) + row * n, a->data, qy_f32(b) + row * r, r, n,
                scale);
    if (a_scaled) {
        scaled(a_scaled, a, scale);
        scaled(b_scaled, b, scale);
    }
    return QY_OK;
}
