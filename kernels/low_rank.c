#include "kernels/low_rank.h"

#include "kernels/check.h"

qy_status_t qy_low_rank_fwd(const qy_device_t *dev, qy_tensor_t *w, qy_tensor_t *a_scaled,
                            qy_tensor_t *b_scaled, const qy_tensor_t *w_hat, const qy_tensor_t *a,
                            const qy_tensor_t *b, float scale, qy_error_t *err)
{
    static const char op[] = "low_rank_fwd";
    const unsigned f32 = QY_TYPE(QY_F32), compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "w_hat", w_hat, f32 | compute, err));
    QY_TRY(qy_check_given(op, "a", a, f32, err));
    int64_t o = qy_tensor_rows(w_hat), i = qy_tensor_cols(w_hat), r = qy_tensor_rows(a);
    QY_TRY(qy_check_matrix(op, "w", w, QY_TYPE(w_hat->dtype), o, i, err));
    QY_TRY(qy_check_matrix(op, "a", a, f32, r, i, err));
    QY_TRY(qy_check_matrix(op, "b", b, f32, o, r, err));
    if ((a_scaled == NULL) != (b_scaled == NULL))
        return qy_fail(err, QY_ERR_ARG, "%s: a_scaled and b_scaled are given both or none", op);
    if (a_scaled) {
        QY_TRY(qy_check_matrix(op, "a_scaled", a_scaled, compute, r, i, err));
        QY_TRY(qy_check_matrix(op, "b_scaled", b_scaled, compute, o, r, err));
    }
    return dev->ops->low_rank_fwd(dev, w, a_scaled, b_scaled, w_hat, a, b, scale, err);
}
