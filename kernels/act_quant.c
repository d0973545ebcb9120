#include "kernels/act_quant.h"

#include "kernels/check.h"

static qy_status_t check_bits(const char *op, int bits, qy_error_t *err)
{
    if (bits < 2 || bits > 8)
        return qy_fail(err, QY_ERR_ARG, "%s: %d bits, 2 to 8 expected", op, bits);
    return QY_OK;
}

qy_status_t qy_act_quant_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x, int bits,
                             qy_error_t *err)
{
    static const char op[] = "act_quant_fwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "x", x, compute, err));
    QY_TRY(qy_check_matrix(op, "y", y, compute, qy_tensor_rows(x), qy_tensor_cols(x), err));
    QY_TRY(check_bits(op, bits, err));
    return dev->ops->act_quant_fwd(dev, y, x, bits, err);
}

qy_status_t qy_act_quant_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                             const qy_tensor_t *x, int bits, qy_error_t *err)
{
    static const char op[] = "act_quant_bwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "x", x, compute, err));
    QY_TRY(qy_check_matrix(op, "dy", dy, compute, qy_tensor_rows(x), qy_tensor_cols(x), err));
    QY_TRY(qy_check_matrix(op, "dx", dx, compute, qy_tensor_rows(x), qy_tensor_cols(x), err));
    QY_TRY(qy_check_apart(op, "dx", dx, "x", x, err));
    QY_TRY(check_bits(op, bits, err));
    return dev->ops->act_quant_bwd(dev, dx, dy, x, bits, err);
}
