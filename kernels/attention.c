#include "kernels/attention.h"

#include <math.h>

#include "kernels/check.h"

static const unsigned f32 = QY_TYPE(QY_F32);

qy_status_t qy_rope(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                    const qy_tensor_t *cosine, const qy_tensor_t *sine, int backward,
                    qy_error_t *err)
{
    static const char op[] = "rope";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "x", x, compute, err));
    if (x->n_dims != 4 || x->shape[3] % 2 != 0)
        return qy_fail(err, QY_ERR_SHAPE,
                       "%s: x has %d dimensions and heads of %lld, expected 4 and an even number",
                       op, x->n_dims, (long long)qy_tensor_cols(x));
    QY_TRY(qy_check_shape(op, "y", y, compute, 4, x->shape, err));
    QY_TRY(qy_check_given(op, "cosine", cosine, f32, err));
    int64_t positions = qy_tensor_rows(cosine);
    if (positions < x->shape[1])
        return qy_fail(err, QY_ERR_SHAPE, "%s: %lld positions, the table has %lld", op,
                       (long long)x->shape[1], (long long)positions);
    QY_TRY(qy_check_matrix(op, "cosine", cosine, f32, positions, x->shape[3] / 2, err));
    QY_TRY(qy_check_matrix(op, "sine", sine, f32, positions, x->shape[3] / 2, err));
    return dev->ops->rope(dev, y, x, cosine, sine, backward, err);
}

/* Queries and what has their shape; keys and what has theirs; the statistics. */
static qy_status_t check_attention(const qy_device_t *dev, const char *op, const qy_tensor_t *o,
                                   const qy_tensor_t *lse, const qy_tensor_t *q,
                                   const qy_tensor_t *k, const qy_tensor_t *v, float scale,
                                   int64_t window, qy_error_t *err)
{
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "q", q, compute, err));
    QY_TRY(qy_check_given(op, "k", k, compute, err));
    if (q->n_dims != 4 || k->n_dims != 4)
        return qy_fail(err, QY_ERR_SHAPE, "%s: q has %d dimensions and k %d, expected 4", op,
                       q->n_dims, k->n_dims);
    int64_t b = q->shape[0], t = q->shape[1], h = q->shape[2], d = q->shape[3], n_kv = k->shape[2];
    if (h % n_kv != 0)
        return qy_fail(err, QY_ERR_SHAPE, "%s: %lld key heads do not divide %lld query heads", op,
                       (long long)n_kv, (long long)h);
    QY_TRY(qy_check_shape(op, "k", k, compute, 4, (int64_t[]){b, t, n_kv, d}, err));
    QY_TRY(qy_check_shape(op, "v", v, compute, 4, k->shape, err));
    QY_TRY(qy_check_shape(op, "o", o, compute, 4, q->shape, err));
    QY_TRY(qy_check_shape(op, "lse", lse, f32, 3, (int64_t[]){b, h, t}, err));
    if (!isfinite(scale) || window < 0)
        return qy_fail(err, QY_ERR_ARG, "%s: scale %g, window %lld", op, (double)scale,
                       (long long)window);
    return QY_OK;
}

qy_status_t qy_attention_fwd(const qy_device_t *dev, qy_tensor_t *o, qy_tensor_t *lse,
                             const qy_tensor_t *q, const qy_tensor_t *k, const qy_tensor_t *v,
                             float scale, int64_t window, qy_error_t *err)
{
    static const char op[] = "attention_fwd";
    QY_TRY(check_attention(dev, op, o, lse, q, k, v, scale, window, err));
    QY_TRY(qy_check_apart(op, "o", o, "q", q, err));
    QY_TRY(qy_check_apart(op, "o", o, "k", k, err));
    QY_TRY(qy_check_apart(op, "o", o, "v", v, err));
    return dev->ops->attention_fwd(dev, o, lse, q, k, v, scale, window, err);
}

qy_status_t qy_attention_bwd(const qy_device_t *dev, qy_tensor_t *dq, qy_tensor_t *dk,
                             qy_tensor_t *dv, const qy_tensor_t *d_o, const qy_tensor_t *o,
                             const qy_tensor_t *lse, const qy_tensor_t *q, const qy_tensor_t *k,
                             const qy_tensor_t *v, float scale, int64_t window, qy_error_t *err)
{
    static const char op[] = "attention_bwd";
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(check_attention(dev, op, o, lse, q, k, v, scale, window, err));
    QY_TRY(qy_check_shape(op, "d_o", d_o, compute, 4, q->shape, err));
    QY_TRY(qy_check_shape(op, "dq", dq, compute, 4, q->shape, err));
    QY_TRY(qy_check_shape(op, "dk", dk, compute, 4, k->shape, err));
    QY_TRY(qy_check_shape(op, "dv", dv, compute, 4, k->shape, err));
    const struct {
        const char *name;
        const qy_tensor_t *t;
    } outs[] = {{"dq", dq}, {"dk", dk}, {"dv", dv}},
      ins[] = {{"d_o", d_o}, {"o", o}, {"q", q}, {"k", k}, {"v", v}};
    for (size_t i = 0; i < sizeof outs / sizeof *outs; i++)
        for (size_t j = 0; j < sizeof ins / sizeof *ins; j++)
            QY_TRY(qy_check_apart(op, outs[i].name, outs[i].t, ins[j].name, ins[j].t, err));
    return dev->ops->attention_bwd(dev, dq, dk, dv, d_o, o, lse, q, k, v, scale, window, err);
}
