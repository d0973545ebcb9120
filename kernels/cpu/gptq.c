#include "kernels/gptq.h"

#include <string.h>

#include "base/quant_rule.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"

/* LAPACK of OpenBLAS; its header is not installed everywhere. Column-major. */
void spotrf_(const char *uplo, const blasint *n, float *a, const blasint *lda, blasint *info);
void strtri_(const char *uplo, const char *diag, const blasint *n, float *a, const blasint *lda,
             blasint *info);

enum { TILE = 128 };

/* One tile of h and, off the diagonal, its mirror image. */
static void gram_tile(float *h, const float *x, int64_t m, int64_t n, int64_t row, int64_t col,
                      float scale, int accumulate)
{
    int64_t height = qy_min(TILE, n - row), width = qy_min(TILE, n - col);
    qy_gemm(CblasTrans, CblasNoTrans, height, width, m, scale, x + row, n, x + col, n,
            accumulate ? 1.0f : 0.0f, h + row * n + col, n);
    for (int64_t r = 0; row != col && r < height; r++)
        for (int64_t c = 0; c < width; c++)
            h[(col + c) * n + row + r] = h[(row + r) * n + col + c];
}

qy_status_t qy_cpu_gram(const qy_device_t *dev, qy_tensor_t *h, const qy_tensor_t *x, float scale,
                        int accumulate, qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_cols(x), m = qy_tensor_rows(x), side = qy_chunks(n, TILE);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic) if (side > 1)
    for (int64_t tile = 0; tile < side * side; tile++)
        if (tile / side <= tile % side)
            gram_tile(qy_f32(h), qy_f32(x), m, n, tile / side * TILE, tile % side * TILE, scale,
                      accumulate);
    return QY_OK;
}

qy_status_t qy_cpu_diagonal(const qy_device_t *dev, qy_tensor_t *d, const qy_tensor_t *h,
                            qy_error_t *err)
{
    (void)dev;
    (void)err;
    int64_t n = qy_tensor_cols(h);
    for (int64_t i = 0; i < n; i++)
        qy_f32(d)[i] = qy_f32(h)[i * n + i];
    return QY_OK;
}

qy_status_t qy_cpu_gather_columns(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                                  const qy_tensor_t *index, qy_error_t *err)
{
    (void)err;
    int64_t rows = qy_tensor_rows(y), to_cols = qy_tensor_cols(y), from_cols = qy_tensor_cols(x);
    const int32_t *at = index->data;
#pragma omp parallel for num_threads(dev->threads) if (rows > 1)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < to_cols; c++)
            qy_f32(y)[r * to_cols + c] = at[c] < 0 ? 0.0f : qy_f32(x)[r * from_cols + at[c]];
    return QY_OK;
}

qy_status_t qy_cpu_copy_columns(const qy_device_t *dev, qy_tensor_t *y, int64_t to,
                                const qy_tensor_t *x, int64_t from, int64_t n, qy_error_t *err)
{
    (void)dev;
    (void)err;
    int64_t to_cols = qy_tensor_cols(y), from_cols = qy_tensor_cols(x);
    for (int64_t r = 0; r < qy_tensor_rows(y); r++)
        memcpy(qy_f32(y) + r * to_cols + to, qy_f32(x) + r * from_cols + from,
               (size_t)n * sizeof(float));
    return QY_OK;
}

/* a = J A J: rows and columns in the reverse of the order. */
static void arrange(const qy_device_t *dev, float *a, const float *h, const int32_t *order,
                    const float *shift, int64_t n)
{
#pragma omp parallel for num_threads(dev->threads)
    for (int64_t i = 0; i < n; i++) {
        int64_t row = order[n - 1 - i];
        for (int64_t j = 0; j < n; j++)
            a[i * n + j] = h[row * n + order[n - 1 - j]];
        a[i * n + i] += shift[row];
    }
}

qy_status_t qy_cpu_inverse_factor(const qy_device_t *dev, qy_tensor_t *u, int *definite,
                                  const qy_tensor_t *h, const qy_tensor_t *order,
                                  const qy_tensor_t *shift, qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_cols(h);
    blasint size = (blasint)n, info = 0;
    float *a = qy_f32(u);
    arrange(dev, a, qy_f32(h), order->data, qy_f32(shift), n);
    /* Upper by columns is lower by rows. */
    spotrf_("U", &size, a, &size, &info);
    *definite = info == 0;
    if (*definite)
        strtri_("U", "N", &size, a, &size, &info);
    *definite = *definite && info == 0;
    for (int64_t i = 0; i < n * n / 2; i++) {
        float kept = a[i];
        a[i] = a[n * n - 1 - i];
        a[n * n - 1 - i] = kept;
    }
    for (int64_t i = 1; i < n; i++)
        memset(a + i * n, 0, (size_t)i * sizeof *a);
    return QY_OK;
}

typedef struct {
    float *w, *e;
    const float *u, *s, *z;
    const int32_t *group;
    int64_t cols, n_groups, first, n;
    float q_max;
} columns_t;

static QY_CLONES void spread(float *w, const float *u, int64_t n, float e)
{
#pragma omp simd
    for (int64_t k = 0; k < n; k++)
        w[k] -= e * u[k];
}

/* The block's columns of one row. */
static void columns_of_row(const columns_t *a, int64_t r)
{
    float *w = a->w + r * a->cols + a->first, *e = a->e + r * a->n;
    const float *s = a->s + r * a->n_groups, *z = a->z + r * a->n_groups;
    for (int64_t j = 0; j < a->n; j++) {
        const float *u = a->u + (a->first + j) * a->cols + a->first + j;
        int32_t g = a->group[a->first + j];
        float w_hat = (qy_code(w[j], s[g], z[g], a->q_max) - z[g]) * s[g];
        e[j] = (w[j] - w_hat) / u[0];
        spread(w + j + 1, u + 1, a->n - 1 - j, e[j]);
        w[j] = w_hat;
    }
}

/* One tile of the columns after the block: w −= e u. */
static void rest_tile(const columns_t *a, int64_t rows, int64_t row, int64_t col)
{
    int64_t height = qy_min(TILE, rows - row), width = qy_min(TILE, a->cols - col);
    qy_gemm(CblasNoTrans, CblasNoTrans, height, width, a->n, -1.0f, a->e + row * a->n, a->n,
            a->u + a->first * a->cols + col, a->cols, 1.0f, a->w + row * a->cols + col, a->cols);
}

qy_status_t qy_cpu_gptq_columns(const qy_device_t *dev, qy_tensor_t *w, qy_tensor_t *e,
                                const qy_tensor_t *u, const qy_tensor_t *s, const qy_tensor_t *z,
                                const qy_tensor_t *group, int64_t first, int bits, qy_error_t *err)
{
    (void)err;
    const columns_t a = {.w = qy_f32(w),
                         .e = qy_f32(e),
                         .u = qy_f32(u),
                         .s = qy_f32(s),
                         .z = qy_f32(z),
                         .group = group->data,
                         .cols = qy_tensor_cols(w),
                         .n_groups = qy_tensor_cols(s),
                         .first = first,
                         .n = qy_tensor_cols(e),
                         .q_max = qy_quant_max(bits)};
    int64_t rows = qy_tensor_rows(w), next = first + a.n;
#pragma omp parallel for num_threads(dev->threads) if (rows > 1)
    for (int64_t r = 0; r < rows; r++)
        columns_of_row(&a, r);
    int64_t tall = qy_chunks(rows, TILE), wide = qy_chunks(a.cols - next, TILE);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic) if (tall * wide > 1)
    for (int64_t tile = 0; tile < tall * wide; tile++)
        rest_tile(&a, rows, tile / wide * TILE, next + tile % wide * TILE);
    return QY_OK;
}
