#include "kernels/columns.h"

#include "kernels/check.h"

qy_status_t qy_column_mix(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                          const qy_tensor_t *offsets, const qy_tensor_t *items,
                          const qy_tensor_t *weights, qy_error_t *err)
{
    static const char op[] = "column_mix";
    QY_TRY(qy_check_given(op, "x", x, QY_TYPE(QY_F32) | QY_TYPE(dev->compute), err));
    QY_TRY(qy_check_given(op, "offsets", offsets, QY_TYPE(QY_I32), err));
    int64_t cols = qy_tensor_count(offsets) - 1;
    QY_TRY(qy_check_matrix(op, "y", y, QY_TYPE(x->dtype), qy_tensor_rows(x), cols, err));
    QY_TRY(qy_check_given(op, "items", items, QY_TYPE(QY_I32), err));
    QY_TRY(qy_check_count(op, "weights", weights, QY_TYPE(QY_F32), qy_tensor_count(items), err));
    QY_TRY(qy_check_apart(op, "y", y, "x", x, err));
    return dev->ops->column_mix(dev, y, x, offsets, items, weights, err);
}

qy_status_t qy_column_range(const qy_device_t *dev, qy_tensor_t *lo, qy_tensor_t *hi,
                            const qy_tensor_t *x, int accumulate, qy_error_t *err)
{
    static const char op[] = "column_range";
    QY_TRY(qy_check_given(op, "x", x, QY_TYPE(QY_F32) | QY_TYPE(dev->compute), err));
    QY_TRY(qy_check_count(op, "lo", lo, QY_TYPE(QY_F32), qy_tensor_cols(x), err));
    QY_TRY(qy_check_count(op, "hi", hi, QY_TYPE(QY_F32), qy_tensor_cols(x), err));
    return dev->ops->column_range(dev, lo, hi, x, accumulate, err);
}
