#include "kernels/static_quant.h"

#include "kernels/check.h"

enum { BITS_MIN = 2, BITS_MAX = 8 };

/* What both directions share: out, like x, and a step and a zero point for each column. */
static qy_status_t check_static(const qy_device_t *dev, const char *op, const char *out_name,
                                const qy_tensor_t *out, const qy_tensor_t *x, const qy_tensor_t *s,
                                const qy_tensor_t *z, int bits, qy_error_t *err)
{
    const unsigned compute = QY_TYPE(dev->compute), f32 = QY_TYPE(QY_F32);
    QY_TRY(qy_check_given(op, "x", x, compute, err));
    int64_t c = qy_tensor_cols(x);
    QY_TRY(qy_check_matrix(op, out_name, out, compute, qy_tensor_rows(x), c, err));
    QY_TRY(qy_check_count(op, "s", s, f32, c, err));
    QY_TRY(qy_check_count(op, "z", z, f32, c, err));
    if (bits < BITS_MIN || bits > BITS_MAX)
        return qy_fail(err, QY_ERR_ARG, "%s: %d bits, expected %d to %d", op, bits, BITS_MIN,
                       BITS_MAX);
    return QY_OK;
}

qy_status_t qy_static_quant_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                                const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                                qy_error_t *err)
{
    QY_TRY(check_static(dev, "static_quant_fwd", "y", y, x, s, z, bits, err));
    return dev->ops->static_quant_fwd(dev, y, x, s, z, bits, err);
}

qy_status_t qy_static_quant_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                                const qy_tensor_t *x, const qy_tensor_t *s, const qy_tensor_t *z,
                                int bits, qy_error_t *err)
{
    static const char op[] = "static_quant_bwd";
    QY_TRY(check_static(dev, op, "dx", dx, x, s, z, bits, err));
    QY_TRY(qy_check_matrix(op, "dy", dy, QY_TYPE(dev->compute), qy_tensor_rows(x),
                           qy_tensor_cols(x), err));
    return dev->ops->static_quant_bwd(dev, dx, dy, x, s, z, bits, err);
}

qy_status_t qy_attention_levels_fwd(const qy_device_t *dev, qy_tensor_t *o, const qy_tensor_t *lse,
                                    const qy_tensor_t *q, const qy_tensor_t *k,
                                    const qy_tensor_t *v, float scale, int64_t window, int levels,
                                    qy_error_t *err)
{
    static const char op[] = "attention_levels_fwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "q", q, compute, err));
    QY_TRY(qy_check_given(op, "k", k, compute, err));
    if (q->n_dims != 4 || k->n_dims != 4 || q->shape[2] % k->shape[2] != 0)
        return qy_fail(err, QY_ERR_SHAPE, "%s: q and k are not (B, T, heads, d) of one grouping",
                       op);
    int64_t b = q->shape[0], t = q->shape[1], h = q->shape[2], d = q->shape[3];
    QY_TRY(qy_check_shape(op, "k", k, compute, 4, (int64_t[]){b, t, k->shape[2], d}, err));
    QY_TRY(qy_check_shape(op, "v", v, compute, 4, k->shape, err));
    QY_TRY(qy_check_shape(op, "o", o, compute, 4, q->shape, err));
    QY_TRY(qy_check_shape(op, "lse", lse, QY_TYPE(QY_F32), 3, (int64_t[]){b, h, t}, err));
    QY_TRY(qy_check_apart(op, "o", o, "q", q, err));
    QY_TRY(qy_check_apart(op, "o", o, "v", v, err));
    if (levels < 1 || window < 0)
        return qy_fail(err, QY_ERR_ARG, "%s: %d levels, window %lld", op, levels,
                       (long long)window);
    return dev->ops->attention_levels_fwd(dev, o, lse, q, k, v, scale, window, levels, err);
}
