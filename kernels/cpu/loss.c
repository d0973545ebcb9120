#include "kernels/loss.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vexp.h"
#include "kernels/optim.h"

/* n partial sums in order. f64: a long row of parts keeps the digits that each of them has. */
static double add_parts(const float *parts, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)parts[i];
    return sum;
}

static QY_CLONES float squared_distance(const float *y, const float *target, int64_t n)
{
    float sum;
    QY_LANE_SUM(sum, i, n, (y[i] - target[i]) * (y[i] - target[i]));
    return sum;
}

static QY_CLONES void mse_gradient(float *dy, const float *y, const float *target, float factor,
                                   int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dy[i] = factor * (y[i] - target[i]);
}

qy_status_t qy_cpu_mse(const qy_device_t *dev, qy_tensor_t *loss, qy_tensor_t *dy,
                       const qy_tensor_t *y, const qy_tensor_t *target, const qy_tensor_t *hyper,
                       qy_error_t *err)
{
    int64_t n = qy_tensor_count(y), n_chunks = qy_chunks(n, QY_SUM_CHUNK), part = n_chunks;
    float scale = hyper ? qy_f32(hyper)[QY_HYPER_SCALE] : 1.0f, *parts;
    float factor = (float)(2.0 * (double)scale / (double)n);
    QY_TRY(qy_cpu_scratch(dev, &parts, 1, &part, err));
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t at = c * QY_SUM_CHUNK, count = qy_min(QY_SUM_CHUNK, n - at);
        parts[c] = squared_distance(qy_f32(y) + at, qy_f32(target) + at, count);
        if (dy)
            mse_gradient(qy_f32(dy) + at, qy_f32(y) + at, qy_f32(target) + at, factor, count);
    }
    *qy_f32(loss) = (float)(add_parts(parts, n_chunks) / (double)n);
    return QY_OK;
}

/* Σ exp(x − max); where every x is −∞ so is max, and the sum is 0. */
static QY_CLONES float sum_exp(const float *x, float max, int64_t n)
{
    float sum, shift = max == -HUGE_VALF ? 0.0f : max;
    QY_LANE_SUM(sum, i, n, qy_exp(x[i] - shift));
    return sum;
}

static QY_CLONES float max_of(const float *x, int64_t n)
{
    return qy_lane_max(x, n);
}

static void stats_row(float stats[2], const float *x, int64_t n, int first)
{
    float max = max_of(x, n);
    if (!first && !(stats[0] < max))
        max = stats[0];
    float sum = sum_exp(x, max, n);
    if (!first)
        sum += stats[1] * qy_exp(stats[0] - (max == -HUGE_VALF ? 0.0f : max));
    stats[0] = max;
    stats[1] = sum;
}

qy_status_t qy_cpu_softmax_stats(const qy_device_t *dev, qy_tensor_t *stats, qy_tensor_t *picked,
                                 const qy_tensor_t *logits, const qy_tensor_t *targets,
                                 int64_t first_col, qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(logits), n = qy_tensor_cols(logits);
#pragma omp parallel for num_threads(dev->threads) if (m > 1)
    for (int64_t r = 0; r < m; r++) {
        const float *row = qy_f32(logits) + r * n;
        stats_row(qy_f32(stats) + 2 * r, row, n, first_col == 0);
        if (targets) {
            int64_t col = ((const int32_t *)targets->data)[r] - first_col;
            if (col >= 0 && col < n)
                qy_f32(picked)[r] = row[col];
        }
    }
    return QY_OK;
}

qy_status_t qy_cpu_cross_entropy_loss(const qy_device_t *dev, qy_tensor_t *nll,
                                      const qy_tensor_t *stats, const qy_tensor_t *picked,
                                      const qy_tensor_t *targets, qy_error_t *err)
{
    (void)dev;
    (void)err;
    const int32_t *target = targets->data;
    for (int64_t r = 0; r < qy_tensor_count(nll); r++) {
        const float *s = qy_f32(stats) + 2 * r;
        qy_f32(nll)[r] = target[r] < 0 ? 0.0f : s[0] + logf(s[1]) - qy_f32(picked)[r];
    }
    return QY_OK;
}

/* dlogits = scale (exp(x − max)/Σ − [column is hit]); hit outside [0, n): no such column. */
static QY_CLONES void cross_entropy_row(float *dlogits, const float *x, const float stats[2],
                                        int64_t hit, float scale, int64_t n)
{
    float max = stats[0], inverse = 1.0f / stats[1];
    int has_hit = hit >= 0 && hit < n;
    float at_hit = has_hit ? scale * (qy_exp(x[hit] - max) * inverse - 1.0f) : 0.0f;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dlogits[i] = scale * (qy_exp(x[i] - max) * inverse);
    if (has_hit)
        dlogits[hit] = at_hit;
}

qy_status_t qy_cpu_cross_entropy_bwd(const qy_device_t *dev, qy_tensor_t *dlogits,
                                     const qy_tensor_t *logits, const qy_tensor_t *stats,
                                     const qy_tensor_t *targets, int64_t first_col, float scale,
                                     qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(logits), n = qy_tensor_cols(logits);
    const int32_t *target = targets->data;
#pragma omp parallel for num_threads(dev->threads) if (m > 1)
    for (int64_t r = 0; r < m; r++) {
        float *to = qy_f32(dlogits) + r * n;
        if (target[r] < 0)
            memset(to, 0, (size_t)n * sizeof *to);
        else
            cross_entropy_row(to, qy_f32(logits) + r * n, qy_f32(stats) + 2 * r,
                              target[r] - first_col, scale, n);
    }
    return QY_OK;
}

/* p_t (log p_t − log p_s); where the teacher gives nothing the share is 0, whatever the logits. */
static inline float kl_term(float log_p_t, float log_p_s)
{
    float p_t = qy_exp(log_p_t);
    return p_t == 0.0f ? 0.0f : p_t * (log_p_t - log_p_s);
}

static QY_CLONES float kl_row(const float *student, const float *teacher, float s_max, float s_log,
                              float t_max, float t_log, int64_t n)
{
    float sum;
    QY_LANE_SUM(sum, i, n, kl_term(teacher[i] - t_max - t_log, student[i] - s_max - s_log));
    return sum;
}

qy_status_t qy_cpu_kl_loss(const qy_device_t *dev, qy_tensor_t *kl, const qy_tensor_t *student,
                           const qy_tensor_t *student_stats, const qy_tensor_t *teacher,
                           const qy_tensor_t *teacher_stats, int accumulate, qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(student), n = qy_tensor_cols(student);
#pragma omp parallel for num_threads(dev->threads) if (m > 1)
    for (int64_t r = 0; r < m; r++) {
        const float *s = qy_f32(student_stats) + 2 * r, *t = qy_f32(teacher_stats) + 2 * r;
        float sum = kl_row(qy_f32(student) + r * n, qy_f32(teacher) + r * n, s[0], logf(s[1]), t[0],
                           logf(t[1]), n);
        qy_f32(kl)[r] = accumulate ? qy_f32(kl)[r] + sum : sum;
    }
    return QY_OK;
}

static QY_CLONES void kl_gradient_row(float *dlogits, const float *student, const float *teacher,
                                      const float s_stats[2], const float t_stats[2], float scale,
                                      int64_t n)
{
    float s_max = s_stats[0], s_inverse = 1.0f / s_stats[1];
    float t_max = t_stats[0], t_inverse = 1.0f / t_stats[1];
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dlogits[i] = scale * (qy_exp(student[i] - s_max) * s_inverse -
                              qy_exp(teacher[i] - t_max) * t_inverse);
}

qy_status_t qy_cpu_kl_bwd(const qy_device_t *dev, qy_tensor_t *dlogits, const qy_tensor_t *student,
                          const qy_tensor_t *student_stats, const qy_tensor_t *teacher,
                          const qy_tensor_t *teacher_stats, float scale, qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(student), n = qy_tensor_cols(student);
#pragma omp parallel for num_threads(dev->threads) if (m > 1)
    for (int64_t r = 0; r < m; r++)
        kl_gradient_row(qy_f32(dlogits) + r * n, qy_f32(student) + r * n, qy_f32(teacher) + r * n,
                        qy_f32(student_stats) + 2 * r, qy_f32(teacher_stats) + 2 * r, scale, n);
    return QY_OK;
}

static QY_CLONES float sum_of(const float *x, int64_t n, int squared)
{
    float sum;
    if (squared)
        QY_LANE_SUM(sum, i, n, x[i] * x[i]);
    else
        QY_LANE_SUM(sum, i, n, x[i]);
    return sum;
}

qy_status_t qy_cpu_sum(const qy_device_t *dev, qy_tensor_t *out, const qy_tensor_t *x, int squared,
                       int accumulate, qy_error_t *err)
{
    int64_t n = qy_tensor_count(x), n_chunks = qy_chunks(n, QY_SUM_CHUNK), part = n_chunks;
    float *parts;
    QY_TRY(qy_cpu_scratch(dev, &parts, 1, &part, err));
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++) {
        int64_t at = c * QY_SUM_CHUNK;
        parts[c] = sum_of(qy_f32(x) + at, qy_min(QY_SUM_CHUNK, n - at), squared);
    }
    float sum = (float)add_parts(parts, n_chunks);
    *qy_f32(out) = accumulate ? *qy_f32(out) + sum : sum;
    return QY_OK;
}
