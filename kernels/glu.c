#include "kernels/glu.h"

#include "kernels/check.h"

qy_status_t qy_silu_mul_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *gate,
                            const qy_tensor_t *up, qy_error_t *err)
{
    static const char op[] = "silu_mul_fwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "y", y, compute, err));
    int64_t n = qy_tensor_count(y);
    QY_TRY(qy_check_count(op, "gate", gate, compute, n, err));
    QY_TRY(qy_check_count(op, "up", up, compute, n, err));
    return dev->ops->silu_mul_fwd(dev, y, gate, up, err);
}

qy_status_t qy_silu_mul_bwd(const qy_device_t *dev, qy_tensor_t *dgate, qy_tensor_t *dup,
                            const qy_tensor_t *dy, const qy_tensor_t *gate, const qy_tensor_t *up,
                            qy_error_t *err)
{
    static const char op[] = "silu_mul_bwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "dy", dy, compute, err));
    int64_t n = qy_tensor_count(dy);
    QY_TRY(qy_check_count(op, "gate", gate, compute, n, err));
    QY_TRY(qy_check_count(op, "up", up, compute, n, err));
    QY_TRY(qy_check_count(op, "dgate", dgate, compute, n, err));
    QY_TRY(qy_check_count(op, "dup", dup, compute, n, err));
    QY_TRY(qy_check_apart(op, "dgate", dgate, "dup", dup, err));
    return dev->ops->silu_mul_bwd(dev, dgate, dup, dy, gate, up, err);
}

qy_status_t qy_relu_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                        qy_error_t *err)
{
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given("relu_fwd", "y", y, compute, err));
    QY_TRY(qy_check_count("relu_fwd", "x", x, compute, qy_tensor_count(y), err));
    return dev->ops->relu_fwd(dev, y, x, err);
}

qy_status_t qy_relu_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                        const qy_tensor_t *y, qy_error_t *err)
{
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given("relu_bwd", "dx", dx, compute, err));
    int64_t n = qy_tensor_count(dx);
    QY_TRY(qy_check_count("relu_bwd", "dy", dy, compute, n, err));
    QY_TRY(qy_check_count("relu_bwd", "y", y, compute, n, err));
    return dev->ops->relu_bwd(dev, dx, dy, y, err);
}
