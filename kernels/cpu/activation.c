#include "kernels/activation.h"

#include "kernels/cpu/cpu.h"

/* Rows at a time: few, so that what is made of them stays in the cache until it is used. */
enum { ROWS = 64 };

/* Work space for the rows at hand. */
typedef struct {
    qy_tensor_t made, mixed, gradient, mean, rstd;
} rows_t;

static qy_status_t take_rows(const qy_device_t *dev, rows_t *rows, int64_t c, qy_error_t *err)
{
    int64_t part = ROWS * (c + 1);
    float *at;
    QY_TRY(qy_cpu_scratch(dev, &at, 3, &part, err));
    rows->made = qy_tensor_2d(at, QY_F32, ROWS, c);
    rows->mixed = qy_tensor_2d(at + part, QY_F32, ROWS, c);
    rows->gradient = qy_tensor_2d(at + 2 * part, QY_F32, ROWS, c);
    rows->mean = qy_tensor_1d(at + ROWS * c, QY_F32, ROWS);
    rows->rstd = qy_tensor_1d(at + part + ROWS * c, QY_F32, ROWS);
    return QY_OK;
}

/* The same for n rows. */
static rows_t narrow(const rows_t *rows, int64_t n)
{
    return (rows_t){qy_tensor_slice(&rows->made, 0, n), qy_tensor_slice(&rows->mixed, 0, n),
                    qy_tensor_slice(&rows->gradient, 0, n),
                    qy_tensor_1d(rows->mean.data, QY_F32, n),
                    qy_tensor_1d(rows->rstd.data, QY_F32, n)};
}

static qy_status_t mix(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                       const qy_column_plan_t *plan, qy_error_t *err)
{
    return qy_cpu_column_mix(dev, y, x, plan->offsets, plan->items, plan->weights, err);
}

/* rows->made of rows [first, first + n), and in *out what the quantizer reads. */
static qy_status_t make(const qy_device_t *dev, rows_t *rows, const qy_activation_t *a,
                        int64_t first, int64_t n, qy_tensor_t **out, qy_error_t *err)
{
    const qy_tensor_t x = qy_tensor_slice(a->x, first, n);
    switch (a->make) {
    case QY_MAKE_RMSNORM:
        QY_TRY(qy_cpu_rmsnorm_fwd(dev, &rows->made, &rows->rstd, &x, a->w, a->eps, err));
        break;
    case QY_MAKE_LAYERNORM:
        QY_TRY(qy_cpu_layernorm_fwd(dev, &rows->made, &rows->mean, &rows->rstd, &x, a->w, a->b,
                                    a->eps, err));
        break;
    case QY_MAKE_SILU_MUL: {
        const qy_tensor_t up = qy_tensor_slice(a->up, first, n);
        QY_TRY(qy_cpu_silu_mul_fwd(dev, &rows->made, &x, &up, err));
        break;
    }
    case QY_MAKE_RELU:
        QY_TRY(qy_cpu_relu_fwd(dev, &rows->made, &x, err));
        break;
    }
    *out = a->map ? &rows->mixed : &rows->made;
    return a->map ? mix(dev, &rows->mixed, &rows->made, a->map, err) : QY_OK;
}

qy_status_t qy_cpu_activation_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *mean,
                                  qy_tensor_t *rstd, const qy_activation_t *a, qy_error_t *err)
{
    int64_t m = qy_tensor_rows(y);
    rows_t whole;
    QY_TRY(take_rows(dev, &whole, qy_tensor_cols(y), err));
    for (int64_t first = 0; first < m; first += ROWS) {
        int64_t n = qy_min(ROWS, m - first);
        qy_tensor_t to = qy_tensor_slice(y, first, n), *from;
        rows_t rows = narrow(&whole, n);
        if (a->make == QY_MAKE_LAYERNORM)
            rows.mean = qy_tensor_1d(qy_f32(mean) + first, QY_F32, n);
        if (a->make == QY_MAKE_LAYERNORM || a->make == QY_MAKE_RMSNORM)
            rows.rstd = qy_tensor_1d(qy_f32(rstd) + first, QY_F32, n);
        QY_TRY(make(dev, &rows, a, first, n, &from, err));
        QY_TRY(qy_cpu_act_quant_fwd(dev, &to, from, a->bits, err));
    }
    return QY_OK;
}

/* From the gradient g of what was made to dx, and dup. */
static qy_status_t unmake(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dup,
                          const qy_tensor_t *g, const qy_tensor_t *made, const qy_activation_t *a,
                          int64_t first, int64_t n, qy_error_t *err)
{
    const qy_tensor_t x = qy_tensor_slice(a->x, first, n);
    if (a->make == QY_MAKE_RELU)
        return qy_cpu_relu_bwd(dev, dx, g, made, err);
    if (a->make != QY_MAKE_SILU_MUL)
        return qy_cpu_convert(dev, dx, g, err);
    const qy_tensor_t up = qy_tensor_slice(a->up, first, n);
    qy_tensor_t up_part = qy_tensor_slice(dup, first, n);
    return qy_cpu_silu_mul_bwd(dev, dx, &up_part, g, &x, &up, err);
}

/* The norms' statistics come out of the same sums again. */
qy_status_t qy_cpu_activation_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dup,
                                  const qy_tensor_t *dy, const qy_tensor_t *mean,
                                  const qy_tensor_t *rstd, const qy_activation_t *a,
                                  qy_error_t *err)
{
    (void)mean;
    (void)rstd;
    int64_t m = qy_tensor_rows(dy);
    rows_t whole;
    QY_TRY(take_rows(dev, &whole, qy_tensor_cols(dy), err));
    for (int64_t first = 0; first < m; first += ROWS) {
        int64_t n = qy_min(ROWS, m - first);
        rows_t rows = narrow(&whole, n);
        qy_tensor_t *quantized, to = qy_tensor_slice(dx, first, n);
        const qy_tensor_t from = qy_tensor_slice(dy, first, n);
        QY_TRY(make(dev, &rows, a, first, n, &quantized, err));
        QY_TRY(qy_cpu_act_quant_bwd(dev, &rows.gradient, &from, quantized, a->bits, err));
        const qy_tensor_t *g = &rows.gradient;
        if (a->map) {
            QY_TRY(mix(dev, &rows.mixed, &rows.gradient, a->back, err));
            g = &rows.mixed;
        }
        QY_TRY(unmake(dev, &to, dup, g, &rows.made, a, first, n, err));
    }
    return QY_OK;
}
