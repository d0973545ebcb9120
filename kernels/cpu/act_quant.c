#include "kernels/act_quant.h"

#include "base/quant_rule.h"
#include "kernels/cpu/cpu.h"

/* Least and largest of a row; NaNs are passed over. */
static QY_CLONES void row_range(const float *x, int64_t n, float *lo, float *hi)
{
    float least[QY_LANES], most[QY_LANES];
    int64_t first = 0;
    for (int lane = 0; lane < QY_LANES; lane++) {
        least[lane] = HUGE_VALF;
        most[lane] = -HUGE_VALF;
    }
    for (; first + QY_LANES <= n; first += QY_LANES) {
#pragma omp simd
        for (int lane = 0; lane < QY_LANES; lane++) {
            float v = x[first + lane];
            least[lane] = v < least[lane] ? v : least[lane];
            most[lane] = v > most[lane] ? v : most[lane];
        }
    }
    for (; first < n; first++) {
        least[0] = x[first] < least[0] ? x[first] : least[0];
        most[0] = x[first] > most[0] ? x[first] : most[0];
    }
    for (int lane = 1; lane < QY_LANES; lane++) {
        least[0] = least[lane] < least[0] ? least[lane] : least[0];
        most[0] = most[lane] > most[0] ? most[lane] : most[0];
    }
    *lo = least[0];
    *hi = most[0];
}

static QY_CLONES void quantize_row(float *y, const float *x, int64_t n, float s, float z,
                                   float q_max)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = (qy_code(x[i], s, z, q_max) - z) * s;
}

static QY_CLONES void forward_row(float *y, const float *x, int64_t n, float q_max)
{
    float lo, hi;
    row_range(x, n, &lo, &hi);
    if (hi - lo < HUGE_VALF && hi > lo) {
        quantize_row(y, x, n, qy_act_step(lo, hi, q_max), qy_act_zero(lo, hi, q_max), q_max);
        return;
    }
    int equal = hi - lo < HUGE_VALF;
    for (int64_t i = 0; i < n; i++)
        y[i] = equal ? x[i] : NAN;
}

/* dy's product with how far the quantized number follows its step. */
static inline float step_part(float dy, float x, float s, float z, float q_max)
{
    float ratio = qy_ratio(x, s), rounded = rintf(ratio), u = rounded + z;
    float inside = rounded - ratio, outside = qy_clampf(u, 0.0f, q_max) - z;
    return dy * (u >= 0.0f && u <= q_max ? inside : outside);
}

static QY_CLONES void backward_row(float *dx, const float *dy, const float *x, int64_t n,
                                   float q_max)
{
    float lo, hi, sum, n_lo, n_hi;
    row_range(x, n, &lo, &hi);
    if (!(hi > lo)) {
        for (int64_t i = 0; i < n; i++)
            dx[i] = dy[i];
        return;
    }
    float s = qy_act_step(lo, hi, q_max), z = qy_act_zero(lo, hi, q_max);
    QY_LANE_SUM(sum, i, n, step_part(dy[i], x[i], s, z, q_max));
    QY_LANE_SUM(n_lo, i, n, x[i] == lo ? 1.0f : 0.0f);
    QY_LANE_SUM(n_hi, i, n, x[i] == hi ? 1.0f : 0.0f);
    float slope = s == (hi - lo) / q_max ? sum / q_max : 0.0f;
    float at_lo = slope / n_lo, at_hi = slope / n_hi;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float u = qy_code_free(x[i], s, z), g = u >= 0.0f && u <= q_max ? dy[i] : 0.0f;
        dx[i] = x[i] == hi ? g + at_hi : (x[i] == lo ? g - at_lo : g);
    }
}

qy_status_t qy_cpu_act_quant_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                                 int bits, qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(x), d = qy_tensor_cols(x);
    float q_max = qy_quant_max(bits);
#pragma omp parallel for num_threads(dev->threads) if (m * d > QY_CPU_CHUNK)
    for (int64_t row = 0; row < m; row++)
        forward_row(qy_f32(y) + row * d, qy_f32(x) + row * d, d, q_max);
    return QY_OK;
}

qy_status_t qy_cpu_act_quant_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                                 const qy_tensor_t *x, int bits, qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(x), d = qy_tensor_cols(x);
    float q_max = qy_quant_max(bits);
#pragma omp parallel for num_threads(dev->threads) if (m * d > QY_CPU_CHUNK)
    for (int64_t row = 0; row < m; row++)
        backward_row(qy_f32(dx) + row * d, qy_f32(dy) + row * d, qy_f32(x) + row * d, d, q_max);
    return QY_OK;
}
