#include "kernels/columns.h"

#include "kernels/cpu/cpu.h"

static void mix_row(float *y, const float *x, const int32_t *offsets, const int32_t *items,
                    const float *weights, int64_t cols)
{
    for (int64_t j = 0; j < cols; j++) {
        float sum = 0.0f;
        for (int32_t k = offsets[j]; k < offsets[j + 1]; k++)
            sum += weights[k] * x[items[k]];
        y[j] = sum;
    }
}

qy_status_t qy_cpu_column_mix(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                              const qy_tensor_t *offsets, const qy_tensor_t *items,
                              const qy_tensor_t *weights, qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(x), c = qy_tensor_cols(x), cols = qy_tensor_cols(y);
#pragma omp parallel for num_threads(dev->threads) if (m * c > QY_CPU_CHUNK)
    for (int64_t row = 0; row < m; row++)
        mix_row(qy_f32(y) + row * cols, qy_f32(x) + row * c, offsets->data, items->data,
                weights->data, cols);
    return QY_OK;
}

static QY_CLONES void range_of(float *lo, float *hi, const float *x, int64_t m, int64_t c,
                               int64_t n)
{
    for (int64_t row = 0; row < m; row++) {
        const float *v = x + row * c;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            lo[i] = v[i] < lo[i] ? v[i] : lo[i];
            hi[i] = v[i] > hi[i] ? v[i] : hi[i];
        }
    }
}

qy_status_t qy_cpu_column_range(const qy_device_t *dev, qy_tensor_t *lo, qy_tensor_t *hi,
                                const qy_tensor_t *x, int accumulate, qy_error_t *err)
{
    (void)err;
    enum { COLUMNS = 256 };
    int64_t m = qy_tensor_rows(x), c = qy_tensor_cols(x), n_chunks = qy_chunks(c, COLUMNS);
#pragma omp parallel for num_threads(dev->threads) if (m * c > QY_CPU_CHUNK)
    for (int64_t chunk = 0; chunk < n_chunks; chunk++) {
        int64_t at = chunk * COLUMNS, n = qy_min(COLUMNS, c - at);
        for (int64_t i = at; i < at + n && !accumulate; i++) {
            qy_f32(lo)[i] = HUGE_VALF;
            qy_f32(hi)[i] = -HUGE_VALF;
        }
        range_of(qy_f32(lo) + at, qy_f32(hi) + at, qy_f32(x) + at, m, c, n);
    }
    return QY_OK;
}
