#include "kernels/norm.h"

#include "kernels/check.h"

static const unsigned f32 = QY_TYPE(QY_F32);

qy_status_t qy_rmsnorm_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *rstd,
                           const qy_tensor_t *x, const qy_tensor_t *w, float eps, qy_error_t *err)
{
    static const char op[] = "rmsnorm_fwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "x", x, compute, err));
    int64_t m = qy_tensor_rows(x), d = qy_tensor_cols(x);
    QY_TRY(qy_check_matrix(op, "y", y, compute, m, d, err));
    QY_TRY(qy_check_count(op, "rstd", rstd, f32, m, err));
    QY_TRY(qy_check_count(op, "w", w, f32, d, err));
    return dev->ops->rmsnorm_fwd(dev, y, rstd, x, w, eps, err);
}

/* What both backward passes ask of their gradients and inputs. */
static qy_status_t check_bwd(const qy_device_t *dev, const char *op, const qy_tensor_t *dx,
                             const qy_tensor_t *dw, const qy_tensor_t *dy, const qy_tensor_t *x,
                             const qy_tensor_t *rstd, const qy_tensor_t *w, qy_error_t *err)
{
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "x", x, compute, err));
    int64_t m = qy_tensor_rows(x), d = qy_tensor_cols(x);
    QY_TRY(qy_check_matrix(op, "dy", dy, compute, m, d, err));
    QY_TRY(qy_check_count(op, "rstd", rstd, f32, m, err));
    QY_TRY(qy_check_count(op, "w", w, f32, d, err));
    if (dx) {
        QY_TRY(qy_check_matrix(op, "dx", dx, compute, m, d, err));
        QY_TRY(qy_check_apart(op, "dx", dx, "dy", dy, err));
        QY_TRY(qy_check_apart(op, "dx", dx, "x", x, err));
    }
    if (dw)
        QY_TRY(qy_check_count(op, "dw", dw, f32, d, err));
    return QY_OK;
}

qy_status_t qy_rmsnorm_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dw,
                           const qy_tensor_t *dy, const qy_tensor_t *x, const qy_tensor_t *rstd,
                           const qy_tensor_t *w, int accumulate, qy_error_t *err)
{
    QY_TRY(check_bwd(dev, "rmsnorm_bwd", dx, dw, dy, x, rstd, w, err));
    return dev->ops->rmsnorm_bwd(dev, dx, dw, dy, x, rstd, w, accumulate, err);
}

qy_status_t qy_layernorm_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *mean,
                             qy_tensor_t *rstd, const qy_tensor_t *x, const qy_tensor_t *w,
                             const qy_tensor_t *b, float eps, qy_error_t *err)
{
    static const char op[] = "layernorm_fwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "x", x, compute, err));
    int64_t m = qy_tensor_rows(x), d = qy_tensor_cols(x);
    QY_TRY(qy_check_matrix(op, "y", y, compute, m, d, err));
    QY_TRY(qy_check_count(op, "mean", mean, f32, m, err));
    QY_TRY(qy_check_count(op, "rstd", rstd, f32, m, err));
    QY_TRY(qy_check_count(op, "w", w, f32, d, err));
    QY_TRY(qy_check_count(op, "b", b, f32, d, err));
    return dev->ops->layernorm_fwd(dev, y, mean, rstd, x, w, b, eps, err);
}

qy_status_t qy_layernorm_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dw,
                             qy_tensor_t *db, const qy_tensor_t *dy, const qy_tensor_t *x,
                             const qy_tensor_t *mean, const qy_tensor_t *rstd, const qy_tensor_t *w,
                             int accumulate, qy_error_t *err)
{
    static const char op[] = "layernorm_bwd";
    QY_TRY(check_bwd(dev, op, dx, dw, dy, x, rstd, w, err));
    QY_TRY(qy_check_count(op, "mean", mean, f32, qy_tensor_rows(x), err));
    if (!dw != !db)
        return qy_fail(err, QY_ERR_ARG, "%s: dw and db must be given together", op);
    if (db)
        QY_TRY(qy_check_count(op, "db", db, f32, qy_tensor_cols(x), err));
    return dev->ops->layernorm_bwd(dev, dx, dw, db, dy, x, mean, rstd, w, accumulate, err);
}
