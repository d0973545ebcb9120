#include "kernels/quant.h"

#include <omp.h>

#include "base/half.h"
#include "base/pack.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/group.h"

/* Shrinks of the range that the least-squares start tries: f = 1 − 0.7 i/60. */
enum { N_SHRINKS = 60 };

static QY_CLONES double squared_error(const float *w, int64_t n, float s, float z, float q_max)
{
    double sum;
    QY_LANE_SUM_OF(double, sum, i, n,
                   (double)((qy_code(w[i], s, z, q_max) - z) * s - w[i]) *
                       (double)((qy_code(w[i], s, z, q_max) - z) * s - w[i]));
    return sum;
}

static QY_CLONES void range_of(float *lo, float *hi, const float *w, int64_t n)
{
    float least = 0.0f, most = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        least = w[i] < least ? w[i] : least;
        most = w[i] > most ? w[i] : most;
    }
    *lo = least;
    *hi = most;
}

typedef struct {
    int bits, symmetric, n_shrinks;
} start_t;

static void start_group(float *s_out, float *z_out, const float *w, int64_t n, const start_t *rule)
{
    float q_max = qy_quant_max(rule->bits), lo, hi, best_s = 0.0f, best_z = 0.0f;
    float middle = (float)(1 << (rule->bits - 1));
    double best = HUGE_VAL;
    range_of(&lo, &hi, w, n);
    for (int i = 0; i < rule->n_shrinks; i++) {
        float f = (float)(1.0 - 0.7 * i / N_SHRINKS), s, z;
        if (rule->symmetric) {
            s = (hi > -lo ? hi : -lo) * f / (middle - 0.5f);
            s = s < QY_STEP_FLOOR ? QY_STEP_FLOOR : s;
            z = middle;
        } else {
            s = (hi - lo) * f / q_max;
            s = s < QY_STEP_FLOOR ? QY_STEP_FLOOR : s;
            z = qy_clampf(rintf(-lo * f / s), 0.0f, q_max);
        }
        double error = rule->n_shrinks > 1 ? squared_error(w, n, s, z, q_max) : 0.0;
        if (i == 0 || error < best) {
            best = error;
            best_s = s;
            best_z = z;
        }
    }
    *s_out = best_s;
    *z_out = best_z;
}

qy_status_t qy_cpu_quant_start(const qy_device_t *dev, qy_tensor_t *s, qy_tensor_t *z,
                               const qy_tensor_t *w, int bits, int symmetric, int least_squares,
                               qy_error_t *err)
{
    (void)err;
    const start_t rule = {bits, symmetric, least_squares ? N_SHRINKS : 1};
    int64_t n_groups = qy_tensor_count(s), n = qy_tensor_count(w) / n_groups;
#pragma omp parallel for num_threads(dev->threads) if (n_groups > 1)
    for (int64_t g = 0; g < n_groups; g++)
        start_group(qy_f32(s) + g, qy_f32(z) + g, qy_f32(w) + g * n, n, &rule);
    return QY_OK;
}

static QY_CLONES void forward_group(float *w_hat, const float *w, int64_t n, float s, float z,
                                    float q_max)
{
    qy_group_fwd(w_hat, w, n, s, z, q_max);
}

qy_status_t qy_cpu_fake_quant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat, const qy_tensor_t *w,
                                  const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                                  qy_error_t *err)
{
    (void)err;
    float q_max = qy_quant_max(bits);
    int64_t n_groups = qy_tensor_count(s), n = qy_tensor_count(w) / n_groups;
#pragma omp parallel for num_threads(dev->threads) if (n_groups > 1)
    for (int64_t g = 0; g < n_groups; g++)
        forward_group(qy_f32(w_hat) + g * n, qy_f32(w) + g * n, n, qy_step_used(qy_f32(s)[g]),
                      qy_zero_used(qy_f32(z)[g], q_max), q_max);
    return QY_OK;
}

static QY_CLONES void backward_group(float *dw, float *ds, float *dz, const float *g,
                                     const float *w, int64_t n, float s, float z, float q_max)
{
    qy_group_sums(ds, dz, g, w, n, s, z, q_max);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dw[i] = qy_group_inside(w[i], s, z, q_max) ? g[i] : 0.0f;
}

qy_status_t qy_cpu_fake_quant_bwd(const qy_device_t *dev, qy_tensor_t *dw, qy_tensor_t *ds,
                                  qy_tensor_t *dz, const qy_tensor_t *dw_hat, const qy_tensor_t *w,
                                  const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                                  qy_error_t *err)
{
    (void)err;
    float q_max = qy_quant_max(bits);
    int64_t n_groups = qy_tensor_count(s), n = qy_tensor_count(w) / n_groups;
#pragma omp parallel for num_threads(dev->threads) if (n_groups > 1)
    for (int64_t g = 0; g < n_groups; g++)
        backward_group(qy_f32(dw) + g * n, qy_f32(ds) + g, qy_f32(dz) + g, qy_f32(dw_hat) + g * n,
                       qy_f32(w) + g * n, n, qy_step_used(qy_f32(s)[g]),
                       qy_zero_used(qy_f32(z)[g], q_max), q_max);
    return QY_OK;
}

/* A code as a byte; that of a NaN is 0. */
static inline uint8_t byte_of(float code)
{
    return (uint8_t)(code > 0.0f ? code : 0.0f);
}

/* Returns 0, or NaN where a weight is not finite. */
static QY_CLONES float codes_of(uint8_t *codes, const float *w, int64_t n, float s, float z,
                                float q_max)
{
    float taint;
    QY_LANE_SUM(taint, i, n, w[i] * 0.0f);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        codes[i] = byte_of(qy_code(w[i], s, z, q_max));
    return taint;
}

/* Bytes of scratch for one row of codes to every thread. */
static qy_status_t code_rows(const qy_device_t *dev, uint8_t **out, int64_t *row_bytes,
                             int64_t cols, qy_error_t *err)
{
    int64_t part = qy_chunks(cols, (int64_t)sizeof(float));
    float *scratch;
    QY_TRY(qy_cpu_scratch(dev, &scratch, dev->threads, &part, err));
    *out = (uint8_t *)scratch;
    *row_bytes = part * (int64_t)sizeof(float);
    return QY_OK;
}

qy_status_t qy_cpu_quant_freeze(const qy_device_t *dev, qy_tensor_t *codes, qy_tensor_t *s16,
                                qy_tensor_t *zeros, const qy_tensor_t *w, const qy_tensor_t *s,
                                const qy_tensor_t *z, int bits, qy_error_t *err)
{
    float q_max = qy_quant_max(bits);
    int64_t o = qy_tensor_rows(w), cols = qy_tensor_cols(w), n_groups = qy_tensor_cols(s);
    int64_t n = cols / n_groups, n_words = qy_tensor_cols(codes), row_bytes;
    uint8_t *rows;
    QY_TRY(code_rows(dev, &rows, &row_bytes, cols, err));
#pragma omp parallel for num_threads(dev->threads) if (o > 1)
    for (int64_t r = 0; r < o; r++) {
        uint8_t *row = rows + omp_get_thread_num() * row_bytes;
        for (int64_t g = 0; g < n_groups; g++) {
            int64_t at = r * n_groups + g;
            float step = qy_f32(s)[at], zero = qy_zero_used(qy_f32(z)[at], q_max);
            step = qy_round_f16(step < QY_STEP_F16_FLOOR ? QY_STEP_F16_FLOOR : step);
            float taint = codes_of(row + g * n, qy_f32(w) + r * cols + g * n, n, step, zero, q_max);
            qy_f32(s16)[at] = step + taint;
            ((uint8_t *)zeros->data)[at] = byte_of(zero);
        }
        qy_pack((uint32_t *)codes->data + r * n_words, row, cols, bits);
    }
    return QY_OK;
}

static QY_CLONES void dequant_group(float *w_hat, const uint8_t *codes, int64_t n, float s, float z)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        w_hat[i] = ((float)codes[i] - z) * s;
}

qy_status_t qy_cpu_dequant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat, const qy_tensor_t *codes,
                               const qy_tensor_t *s, const qy_tensor_t *zeros, int bits,
                               int round_f16, qy_error_t *err)
{
    int64_t o = qy_tensor_rows(w_hat), cols = qy_tensor_cols(w_hat), n_groups = qy_tensor_cols(s);
    int64_t n = cols / n_groups, n_words = qy_tensor_cols(codes), row_bytes;
    uint8_t *rows;
    QY_TRY(code_rows(dev, &rows, &row_bytes, cols, err));
#pragma omp parallel for num_threads(dev->threads) if (o > 1)
    for (int64_t r = 0; r < o; r++) {
        uint8_t *row = rows + omp_get_thread_num() * row_bytes;
        float *to = qy_f32(w_hat) + r * cols;
        qy_unpack(row, (const uint32_t *)codes->data + r * n_words, cols, bits);
        for (int64_t g = 0; g < n_groups; g++)
            dequant_group(to + g * n, row + g * n, n, qy_f32(s)[r * n_groups + g],
                          (float)((const uint8_t *)zeros->data)[r * n_groups + g]);
        for (int64_t i = 0; round_f16 && i < cols; i++)
            to[i] = qy_round_f16(to[i]);
    }
    return QY_OK;
}

static QY_CLONES float dequant_sum(const float *g, const uint8_t *codes, int64_t n, float z)
{
    float sum;
    QY_LANE_SUM(sum, i, n, g[i] * ((float)codes[i] - z));
    return sum;
}

qy_status_t qy_cpu_dequant_bwd(const qy_device_t *dev, qy_tensor_t *ds, const qy_tensor_t *dw_hat,
                               const qy_tensor_t *codes, const qy_tensor_t *zeros, int bits,
                               int accumulate, qy_error_t *err)
{
    int64_t o = qy_tensor_rows(dw_hat), cols = qy_tensor_cols(dw_hat);
    int64_t n_groups = qy_tensor_cols(ds), n = cols / n_groups, n_words = qy_tensor_cols(codes);
    int64_t row_bytes;
    uint8_t *rows;
    QY_TRY(code_rows(dev, &rows, &row_bytes, cols, err));
#pragma omp parallel for num_threads(dev->threads) if (o > 1)
    for (int64_t r = 0; r < o; r++) {
        uint8_t *row = rows + omp_get_thread_num() * row_bytes;
        qy_unpack(row, (const uint32_t *)codes->data + r * n_words, cols, bits);
        for (int64_t g = 0; g < n_groups; g++) {
            float *to = qy_f32(ds) + r * n_groups + g;
            float sum = dequant_sum(qy_f32(dw_hat) + r * cols + g * n, row + g * n, n,
                                    (float)((const uint8_t *)zeros->data)[r * n_groups + g]);
            *to = accumulate ? *to + sum : sum;
        }
    }
    return QY_OK;
}

/* --- groups of any size ---------------------------------------------------------------------- */

qy_status_t qy_cpu_cluster_dequant_fwd(const qy_device_t *dev, qy_tensor_t *w_hat,
                                       const qy_tensor_t *codes, const qy_tensor_t *s,
                                       const qy_tensor_t *zeros, const qy_tensor_t *group, int bits,
                                       qy_error_t *err)
{
    int64_t o = qy_tensor_rows(w_hat), cols = qy_tensor_cols(w_hat), n_groups = qy_tensor_cols(s);
    int64_t n_words = qy_tensor_cols(codes), row_bytes;
    const int32_t *of = group->data;
    uint8_t *rows;
    QY_TRY(code_rows(dev, &rows, &row_bytes, cols, err));
#pragma omp parallel for num_threads(dev->threads) if (o > 1)
    for (int64_t r = 0; r < o; r++) {
        uint8_t *row = rows + omp_get_thread_num() * row_bytes;
        float *to = qy_f32(w_hat) + r * cols;
        const float *steps = qy_f32(s) + r * n_groups;
        const int32_t *zero = (const int32_t *)zeros->data + r * n_groups;
        qy_unpack(row, (const uint32_t *)codes->data + r * n_words, cols, bits);
        for (int64_t i = 0; i < cols; i++)
            to[i] = ((float)row[i] - (float)zero[of[i]]) * steps[of[i]];
    }
    return QY_OK;
}

qy_status_t qy_cpu_cluster_dequant_bwd(const qy_device_t *dev, qy_tensor_t *ds,
                                       const qy_tensor_t *dw_hat, const qy_tensor_t *codes,
                                       const qy_tensor_t *zeros, const qy_tensor_t *offsets,
                                       int bits, int accumulate, qy_error_t *err)
{
    int64_t o = qy_tensor_rows(dw_hat), cols = qy_tensor_cols(dw_hat);
    int64_t n_groups = qy_tensor_cols(ds), n_words = qy_tensor_cols(codes), row_bytes;
    const int32_t *first = offsets->data;
    uint8_t *rows;
    QY_TRY(code_rows(dev, &rows, &row_bytes, cols, err));
#pragma omp parallel for num_threads(dev->threads) if (o > 1)
    for (int64_t r = 0; r < o; r++) {
        uint8_t *row = rows + omp_get_thread_num() * row_bytes;
        qy_unpack(row, (const uint32_t *)codes->data + r * n_words, cols, bits);
        for (int64_t g = 0; g < n_groups; g++) {
            float *to = qy_f32(ds) + r * n_groups + g;
            float sum = dequant_sum(qy_f32(dw_hat) + r * cols + first[g], row + first[g],
                                    first[g + 1] - first[g],
                                    (float)((const int32_t *)zeros->data)[r * n_groups + g]);
            *to = accumulate ? *to + sum : sum;
        }
    }
    return QY_OK;
}
