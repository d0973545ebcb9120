#include "kernels/norm.h"

#include <string.h>

#include "kernels/cpu/cpu.h"

static QY_CLONES void rms_row(float *y, float *rstd, const float *x, const float *w, int64_t d,
                              float eps)
{
    float sum;
    QY_LANE_SUM(sum, i, d, x[i] * x[i]);
    float r = 1.0f / sqrtf(sum / (float)d + eps);
#pragma omp simd
    for (int64_t i = 0; i < d; i++)
        y[i] = x[i] * r * w[i];
    *rstd = r;
}

qy_status_t qy_cpu_rmsnorm_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *rstd,
                               const qy_tensor_t *x, const qy_tensor_t *w, float eps,
                               qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(x), d = qy_tensor_cols(x);
#pragma omp parallel for num_threads(dev->threads) if (m > 1)
    for (int64_t r = 0; r < m; r++)
        rms_row(qy_f32(y) + r * d, qy_f32(rstd) + r, qy_f32(x) + r * d, qy_f32(w), d, eps);
    return QY_OK;
}

static QY_CLONES void layer_row(float *y, float *mean, float *rstd, const float *x, const float *w,
                                const float *b, int64_t d, float eps)
{
    float sum;
    QY_LANE_SUM(sum, i, d, x[i]);
    float mu = sum / (float)d;
    QY_LANE_SUM(sum, i, d, (x[i] - mu) * (x[i] - mu));
    float r = 1.0f / sqrtf(sum / (float)d + eps);
#pragma omp simd
    for (int64_t i = 0; i < d; i++)
        y[i] = (x[i] - mu) * r * w[i] + b[i];
    *mean = mu;
    *rstd = r;
}

qy_status_t qy_cpu_layernorm_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *mean,
                                 qy_tensor_t *rstd, const qy_tensor_t *x, const qy_tensor_t *w,
                                 const qy_tensor_t *b, float eps, qy_error_t *err)
{
    (void)err;
    int64_t m = qy_tensor_rows(x), d = qy_tensor_cols(x);
#pragma omp parallel for num_threads(dev->threads) if (m > 1)
    for (int64_t r = 0; r < m; r++)
        layer_row(qy_f32(y) + r * d, qy_f32(mean) + r, qy_f32(rstd) + r, qy_f32(x) + r * d,
                  qy_f32(w), qy_f32(b), d, eps);
    return QY_OK;
}

/* Gradients of one norm; mean and db are NULL for RMSNorm, dx or dw where they are not wanted. */
typedef struct {
    float *dx;
    const float *dy, *x, *w, *mean, *rstd;
    int64_t m, d;
    int accumulate;
} backward_t;

/* dx of a row: rstd (g − mean(g) − h mean(g h)); RMSNorm lacks the middle term. */
static QY_CLONES void dx_row(float *dx, const float *dy, const float *x, const float *w, float mu,
                             float rstd, int centered, int64_t d, int accumulate)
{
    float g_mean = 0.0f, gh_mean;
    QY_LANE_SUM(gh_mean, i, d, dy[i] * w[i] * ((x[i] - mu) * rstd));
    gh_mean /= (float)d;
    if (centered) {
        QY_LANE_SUM(g_mean, i, d, dy[i] * w[i]);
        g_mean /= (float)d;
    }
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
        float change = rstd * (dy[i] * w[i] - g_mean - (x[i] - mu) * rstd * gh_mean);
        dx[i] = accumulate ? dx[i] + change : change;
    }
}

static QY_CLONES void add_dw(float *dw, float *db, const float *dy, const float *x, float mu,
                             float rstd, int64_t d)
{
#pragma omp simd
    for (int64_t i = 0; i < d; i++)
        dw[i] += dy[i] * ((x[i] - mu) * rstd);
    if (!db)
        return;
#pragma omp simd
    for (int64_t i = 0; i < d; i++)
        db[i] += dy[i];
}

/* QY_NORM_ROWS rows: their dx, and their share of dw and db where part_dw is given. */
static void run_chunk(const backward_t *b, int64_t first, float *part_dw, float *part_db)
{
    int64_t d = b->d, end = qy_min(first + QY_NORM_ROWS, b->m);
    if (part_dw)
        memset(part_dw, 0, (size_t)d * sizeof *part_dw);
    if (part_db)
        memset(part_db, 0, (size_t)d * sizeof *part_db);
    for (int64_t r = first; r < end; r++) {
        float mu = b->mean ? b->mean[r] : 0.0f;
        const float *dy = b->dy + r * d, *x = b->x + r * d;
        if (b->dx)
            dx_row(b->dx + r * d, dy, x, b->w, mu, b->rstd[r], b->mean != NULL, d, b->accumulate);
        if (part_dw)
            add_dw(part_dw, part_db, dy, x, mu, b->rstd[r], d);
    }
}

static qy_status_t run_backward(const qy_device_t *dev, const backward_t *b, float *dw, float *db,
                                qy_error_t *err)
{
    int64_t n_chunks = qy_chunks(b->m, QY_NORM_ROWS), part = b->d,
            n_parts = (db ? 2 : 1) * n_chunks;
    float *parts = NULL;
    if (dw)
        QY_TRY(qy_cpu_scratch(dev, &parts, n_parts, &part, err));
#pragma omp parallel for num_threads(dev->threads) if (n_chunks > 1)
    for (int64_t c = 0; c < n_chunks; c++)
        run_chunk(b, c * QY_NORM_ROWS, dw ? parts + c * part : NULL,
                  db ? parts + (n_chunks + c) * part : NULL);
    for (int64_t i = 0; dw && i < b->d; i++) {
        float sum = 0.0f;
        for (int64_t c = 0; c < n_chunks; c++)
            sum += parts[c * part + i];
        dw[i] = sum;
    }
    for (int64_t i = 0; db && i < b->d; i++) {
        float sum = 0.0f;
        for (int64_t c = 0; c < n_chunks; c++)
            sum += parts[(n_chunks + c) * part + i];
        db[i] = sum;
    }
    return QY_OK;
}

qy_status_t qy_cpu_rmsnorm_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dw,
                               const qy_tensor_t *dy, const qy_tensor_t *x, const qy_tensor_t *rstd,
                               const qy_tensor_t *w, int accumulate, qy_error_t *err)
{
    const backward_t b = {.dx = dx ? dx->data : NULL,
                          .dy = dy->data,
                          .x = x->data,
                          .w = w->data,
                          .rstd = rstd->data,
                          .m = qy_tensor_rows(x),
                          .d = qy_tensor_cols(x),
                          .accumulate = accumulate};
    return run_backward(dev, &b, dw ? dw->data : NULL, NULL, err);
}

qy_status_t qy_cpu_layernorm_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dw,
                                 qy_tensor_t *db, const qy_tensor_t *dy, const qy_tensor_t *x,
                                 const qy_tensor_t *mean, const qy_tensor_t *rstd,
                                 const qy_tensor_t *w, int accumulate, qy_error_t *err)
{
    const backward_t b = {.dx = dx ? dx->data : NULL,
                          .dy = dy->data,
                          .x = x->data,
                          .w = w->data,
                          .mean = mean->data,
                          .rstd = rstd->data,
                          .m = qy_tensor_rows(x),
                          .d = qy_tensor_cols(x),
                          .accumulate = accumulate};
    return run_backward(dev, &b, dw ? dw->data : NULL, db ? db->data : NULL, err);
}
