#include "kernels/merge.h"

#include "kernels/check.h"

static const unsigned f32 = QY_TYPE(QY_F32);

qy_status_t qy_merge_score(const qy_device_t *dev, qy_tensor_t *score, const qy_tensor_t *gram_x,
                           const qy_tensor_t *gram_w, const qy_tensor_t *sums, qy_error_t *err)
{
    static const char op[] = "merge_score";
    QY_TRY(qy_check_given(op, "score", score, f32, err));
    int64_t c = qy_tensor_cols(score);
    QY_TRY(qy_check_matrix(op, "score", score, f32, c, c, err));
    QY_TRY(qy_check_matrix(op, "gram_x", gram_x, f32, c, c, err));
    if ((gram_w == NULL) == (sums == NULL))
        return qy_fail(err, QY_ERR_ARG, "%s: either gram_w or sums is given", op);
    if (sums)
        QY_TRY(qy_check_count(op, "sums", sums, f32, c, err));
    else
        QY_TRY(qy_check_matrix(op, "gram_w", gram_w, f32, c, c, err));
    return dev->ops->merge_score(dev, score, gram_x, gram_w, sums, err);
}

qy_status_t qy_merge_match(const qy_device_t *dev, qy_tensor_t *best, qy_tensor_t *partner,
                           const qy_tensor_t *score, const qy_tensor_t *origin,
                           const qy_tensor_t *free, qy_error_t *err)
{
    static const char op[] = "merge_match";
    QY_TRY(qy_check_given(op, "score", score, f32, err));
    QY_TRY(qy_check_matrix(op, "score", score, f32, qy_tensor_cols(score), qy_tensor_cols(score),
                           err));
    QY_TRY(qy_check_given(op, "origin", origin, QY_TYPE(QY_I32), err));
    int64_t n = qy_tensor_count(origin);
    QY_TRY(qy_check_count(op, "free", free, QY_TYPE(QY_U8), n, err));
    QY_TRY(qy_check_count(op, "best", best, f32, n, err));
    QY_TRY(qy_check_count(op, "partner", partner, QY_TYPE(QY_I32), n, err));
    return dev->ops->merge_match(dev, best, partner, score, origin, free, err);
}
