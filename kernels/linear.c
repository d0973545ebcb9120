#include "kernels/linear.h"

#include <stdint.h>

#include "kernels/check.h"

/* The libraries below count in int. */
static qy_status_t check_sizes(const char *op, int64_t m, int64_t o, int64_t i, qy_error_t *err)
{
    if (m > INT32_MAX || o > INT32_MAX || i > INT32_MAX)
        return qy_fail(err, QY_ERR_SHAPE, "%s: sizes %lld, %lld, %lld: at most %lld each", op,
                       (long long)m, (long long)o, (long long)i, (long long)INT32_MAX);
    return QY_OK;
}

qy_status_t qy_linear_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                          const qy_tensor_t *w, const qy_tensor_t *bias, qy_error_t *err)
{
    static const char op[] = "linear_fwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "x", x, compute, err));
    QY_TRY(qy_check_given(op, "w", w, compute, err));
    int64_t m = qy_tensor_rows(x), o = qy_tensor_rows(w), i = qy_tensor_cols(x);
    QY_TRY(qy_check_matrix(op, "w", w, compute, o, i, err));
    QY_TRY(qy_check_matrix(op, "y", y, compute | QY_TYPE(QY_F32), m, o, err));
    if (bias)
        QY_TRY(qy_check_count(op, "bias", bias, compute, o, err));
    QY_TRY(qy_check_apart(op, "y", y, "x", x, err));
    QY_TRY(qy_check_apart(op, "y", y, "w", w, err));
    QY_TRY(check_sizes(op, m, o, i, err));
    return dev->ops->linear_fwd(dev, y, x, w, bias, err);
}

qy_status_t qy_linear_bwd_x(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                            const qy_tensor_t *w, int accumulate, qy_error_t *err)
{
    static const char op[] = "linear_bwd_x";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "dy", dy, compute, err));
    QY_TRY(qy_check_given(op, "w", w, compute, err));
    int64_t m = qy_tensor_rows(dy), o = qy_tensor_cols(dy), i = qy_tensor_cols(w);
    QY_TRY(qy_check_matrix(op, "w", w, compute, o, i, err));
    QY_TRY(qy_check_matrix(op, "dx", dx, compute, m, i, err));
    QY_TRY(qy_check_apart(op, "dx", dx, "dy", dy, err));
    QY_TRY(qy_check_apart(op, "dx", dx, "w", w, err));
    QY_TRY(check_sizes(op, m, o, i, err));
    return dev->ops->linear_bwd_x(dev, dx, dy, w, accumulate, err);
}

qy_status_t qy_linear_bwd_w(const qy_device_t *dev, qy_tensor_t *dw, const qy_tensor_t *dy,
                            const qy_tensor_t *x, qy_error_t *err)
{
    static const char op[] = "linear_bwd_w";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "dy", dy, compute, err));
    QY_TRY(qy_check_given(op, "x", x, compute, err));
    int64_t m = qy_tensor_rows(dy), o = qy_tensor_cols(dy), i = qy_tensor_cols(x);
    QY_TRY(qy_check_matrix(op, "x", x, compute, m, i, err));
    QY_TRY(qy_check_matrix(op, "dw", dw, compute | QY_TYPE(QY_F32), o, i, err));
    QY_TRY(qy_check_apart(op, "dw", dw, "dy", dy, err));
    QY_TRY(qy_check_apart(op, "dw", dw, "x", x, err));
    QY_TRY(check_sizes(op, m, o, i, err));
    return dev->ops->linear_bwd_w(dev, dw, dy, x, err);
}
