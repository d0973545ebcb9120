#include "kernels/activation.h"

#include "kernels/check.h"

static const unsigned f32 = QY_TYPE(QY_F32), i32 = QY_TYPE(QY_I32);

static qy_status_t check_plan(const char *op, const qy_column_plan_t *p, int64_t c, qy_error_t *err)
{
    QY_TRY(qy_check_given(op, "special", p->special, i32, err));
    if (p->n_special < 0 || p->n_special > c || p->n_special > qy_tensor_count(p->special))
        return qy_fail(err, QY_ERR_SHAPE, "%s: %lld special places of %lld, %lld listed", op,
                       (long long)p->n_special, (long long)c,
                       (long long)qy_tensor_count(p->special));
    QY_TRY(qy_check_count(op, "offsets", p->offsets, i32, c + 1, err));
    QY_TRY(qy_check_given(op, "items", p->items, i32, err));
    return qy_check_count(op, "weights", p->weights, f32, qy_tensor_count(p->items), err);
}

static qy_status_t check(const qy_device_t *dev, const char *op, const qy_activation_t *a,
                         const qy_tensor_t *mean, const qy_tensor_t *rstd, qy_error_t *err)
{
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "x", a->x, compute, err));
    int64_t m = qy_tensor_rows(a->x), c = qy_tensor_cols(a->x);
    if (a->make == QY_MAKE_RMSNORM || a->make == QY_MAKE_LAYERNORM) {
        QY_TRY(qy_check_count(op, "w", a->w, f32, c, err));
        QY_TRY(qy_check_count(op, "rstd", rstd, f32, m, err));
    }
    if (a->make == QY_MAKE_LAYERNORM) {
        QY_TRY(qy_check_count(op, "b", a->b, f32, c, err));
        QY_TRY(qy_check_count(op, "mean", mean, f32, m, err));
    }
    if (a->make == QY_MAKE_SILU_MUL)
        QY_TRY(qy_check_matrix(op, "up", a->up, compute, m, c, err));
    if (a->map)
        QY_TRY(check_plan(op, a->map, c, err));
    if (a->bits < 2 || a->bits > 8)
        return qy_fail(err, QY_ERR_ARG, "%s: %d bits, 2 to 8 expected", op, a->bits);
    return QY_OK;
}

qy_status_t qy_activation_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *mean,
                              qy_tensor_t *rstd, const qy_activation_t *a, qy_error_t *err)
{
    static const char op[] = "activation_fwd";
    QY_TRY(check(dev, op, a, mean, rstd, err));
    QY_TRY(qy_check_matrix(op, "y", y, QY_TYPE(dev->compute), qy_tensor_rows(a->x),
                           qy_tensor_cols(a->x), err));
    return dev->ops->activation_fwd(dev, y, mean, rstd, a, err);
}

qy_status_t qy_activation_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dup,
                              const qy_tensor_t *dy, const qy_tensor_t *mean,
                              const qy_tensor_t *rstd, const qy_activation_t *a, qy_error_t *err)
{
    static const char op[] = "activation_bwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(check(dev, op, a, mean, rstd, err));
    int64_t m = qy_tensor_rows(a->x), c = qy_tensor_cols(a->x);
    QY_TRY(qy_check_matrix(op, "dy", dy, compute, m, c, err));
    QY_TRY(qy_check_matrix(op, "dx", dx, compute, m, c, err));
    if (a->make == QY_MAKE_SILU_MUL)
        QY_TRY(qy_check_matrix(op, "dup", dup, compute, m, c, err));
    if (a->map && !a->back)
        return qy_fail(err, QY_ERR_ARG, "%s: a map without its transposed plan", op);
    if (a->back)
        QY_TRY(check_plan(op, a->back, c, err));
    return dev->ops->activation_bwd(dev, dx, dup, dy, mean, rstd, a, err);
}
