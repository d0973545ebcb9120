#include "kernels/fill.h"

#include "kernels/check.h"

qy_status_t qy_fill(const qy_device_t *dev, qy_tensor_t *y, float value, qy_error_t *err)
{
    const unsigned types =
        QY_FLOATS | QY_TYPE(QY_I32) | QY_TYPE(QY_I64) | QY_TYPE(QY_U32) | QY_TYPE(QY_U8);
    QY_TRY(qy_check_given("fill", "y", y, types, err));
    return dev->ops->fill(dev, y, value, err);
}

qy_status_t qy_convert(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                       qy_error_t *err)
{
    QY_TRY(qy_check_given("convert", "x", x, QY_FLOATS, err));
    QY_TRY(qy_check_count("convert", "y", y, QY_FLOATS, qy_tensor_count(x), err));
    if (x->dtype != y->dtype)
        QY_TRY(qy_check_apart("convert", "y", y, "x", x, err));
    return dev->ops->convert(dev, y, x, err);
}

qy_status_t qy_add(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *a,
                   const qy_tensor_t *b, qy_error_t *err)
{
    QY_TRY(qy_check_given("add", "y", y, QY_FLOATS, err));
    int64_t n = qy_tensor_count(y);
    QY_TRY(qy_check_count("add", "a", a, QY_TYPE(y->dtype), n, err));
    QY_TRY(qy_check_count("add", "b", b, QY_TYPE(y->dtype), n, err));
    return dev->ops->add(dev, y, a, b, err);
}

qy_status_t qy_mul(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *a,
                   const qy_tensor_t *b, qy_error_t *err)
{
    QY_TRY(qy_check_given("mul", "y", y, QY_TYPE(QY_F32), err));
    int64_t n = qy_tensor_count(y);
    QY_TRY(qy_check_count("mul", "a", a, QY_TYPE(QY_F32), n, err));
    QY_TRY(qy_check_count("mul", "b", b, QY_TYPE(QY_F32), n, err));
    return dev->ops->mul(dev, y, a, b, err);
}

qy_status_t qy_embedding_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *table,
                             const qy_tensor_t *ids, int accumulate, qy_error_t *err)
{
    static const char op[] = "embedding_fwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "table", table, compute, err));
    QY_TRY(qy_check_given(op, "ids", ids, QY_TYPE(QY_I32), err));
    QY_TRY(qy_check_matrix(op, "y", y, compute, qy_tensor_count(ids), qy_tensor_cols(table), err));
    QY_TRY(qy_check_apart(op, "y", y, "table", table, err));
    return dev->ops->embedding_fwd(dev, y, table, ids, accumulate, err);
}
