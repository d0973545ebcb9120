#include "kernels/linear.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"

/*
 * Edge of the tiles along a side of n: a function of the shape, never of the threads. Small sides
 * are cut finer, to give several threads something to do, which costs a few percent on one.
 */
static int64_t tile_edge(int64_t n)
{
    return n > 1024 ? 256 : 128;
}

/* C (m, n) = op(A) op(B) + beta C, sums over k. Where bias is given it is what C starts from. */
typedef struct {
    CBLAS_TRANSPOSE ta, tb;
    int64_t m, n, k;
    const float *a, *b, *bias;
    float *c;
    int accumulate;
} product_t;

static void run_tile(const product_t *p, int64_t row, int64_t col)
{
    int64_t m = qy_min(tile_edge(p->m), p->m - row), n = qy_min(tile_edge(p->n), p->n - col);
    int64_t lda = p->ta == CblasNoTrans ? p->k : p->m, ldb = p->tb == CblasNoTrans ? p->n : p->k;
    const float *a = p->a + (p->ta == CblasNoTrans ? row * lda : row);
    const float *b = p->b + (p->tb == CblasNoTrans ? col : col * ldb);
    float *c = p->c + row * p->n + col;
    for (int64_t r = 0; p->bias && r < m; r++)
        memcpy(c + r * p->n, p->bias + col, (size_t)n * sizeof *c);
    float beta = p->accumulate || p->bias ? 1.0f : 0.0f;
    qy_gemm(p->ta, p->tb, m, n, p->k, 1.0f, a, lda, b, ldb, beta, c, p->n);
}

static void multiply(const qy_device_t *dev, const product_t *p)
{
    int64_t height = tile_edge(p->m), width = tile_edge(p->n);
    int64_t n_cols = qy_chunks(p->n, width), n_tiles = qy_chunks(p->m, height) * n_cols;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic) if (n_tiles > 1)
    for (int64_t tile = 0; tile < n_tiles; tile++)
        run_tile(p, tile / n_cols * height, tile % n_cols * width);
}

qy_status_t qy_cpu_linear_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                              const qy_tensor_t *w, const qy_tensor_t *bias, qy_error_t *err)
{
    (void)err;
    const product_t p = {.ta = CblasNoTrans,
                         .tb = CblasTrans,
                         .m = qy_tensor_rows(x),
                         .n = qy_tensor_rows(w),
                         .k = qy_tensor_cols(x),
                         .a = x->data,
                         .b = w->data,
                         .bias = bias ? bias->data : NULL,
                         .c = y->data};
    multiply(dev, &p);
    return QY_OK;
}

qy_status_t qy_cpu_linear_bwd_x(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                                const qy_tensor_t *w, int accumulate, qy_error_t *err)
{
    (void)err;
    const product_t p = {.ta = CblasNoTrans,
                         .tb = CblasNoTrans,
                         .m = qy_tensor_rows(dy),
                         .n = qy_tensor_cols(w),
                         .k = qy_tensor_cols(dy),
                         .a = dy->data,
                         .b = w->data,
                         .c = dx->data,
                         .accumulate = accumulate};
    multiply(dev, &p);
    return QY_OK;
}

qy_status_t qy_cpu_linear_bwd_w(const qy_device_t *dev, qy_tensor_t *dw, const qy_tensor_t *dy,
                                const qy_tensor_t *x, qy_error_t *err)
{
    (void)err;
    const product_t p = {.ta = CblasTrans,
                         .tb = CblasNoTrans,
                         .m = qy_tensor_cols(dy),
                         .n = qy_tensor_cols(x),
                         .k = qy_tensor_rows(dy),
                         .a = dy->data,
                         .b = x->data,
                         .c = dw->data};
    multiply(dev, &p);
    return QY_OK;
}
