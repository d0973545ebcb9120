#include "kernels/gptq.h"

#include "kernels/check.h"

static const unsigned f32 = QY_TYPE(QY_F32);

enum { BITS_MIN = 2, BITS_MAX = 8 };

/* The libraries below count in int. */
static qy_status_t check_square(const char *op, const char *name, const qy_tensor_t *t, int64_t n,
                                qy_error_t *err)
{
    QY_TRY(qy_check_matrix(op, name, t, f32, n, n, err));
    if (n > INT32_MAX)
        return qy_fail(err, QY_ERR_SHAPE, "%s: %lld columns, at most %lld", op, (long long)n,
                       (long long)INT32_MAX);
    return QY_OK;
}

qy_status_t qy_gram(const qy_device_t *dev, qy_tensor_t *h, const qy_tensor_t *x, float scale,
                    int accumulate, qy_error_t *err)
{
    static const char op[] = "gram";
    QY_TRY(qy_check_given(op, "x", x, QY_TYPE(dev->compute), err));
    QY_TRY(check_square(op, "h", h, qy_tensor_cols(x), err));
    QY_TRY(qy_check_apart(op, "h", h, "x", x, err));
    if (qy_tensor_rows(x) > INT32_MAX)
        return qy_fail(err, QY_ERR_SHAPE, "%s: %lld rows, at most %lld", op,
                       (long long)qy_tensor_rows(x), (long long)INT32_MAX);
    return dev->ops->gram(dev, h, x, scale, accumulate, err);
}

qy_status_t qy_diagonal(const qy_device_t *dev, qy_tensor_t *d, const qy_tensor_t *h,
                        qy_error_t *err)
{
    QY_TRY(qy_check_given("diagonal", "h", h, f32, err));
    QY_TRY(check_square("diagonal", "h", h, qy_tensor_cols(h), err));
    QY_TRY(qy_check_count("diagonal", "d", d, f32, qy_tensor_cols(h), err));
    return dev->ops->diagonal(dev, d, h, err);
}

qy_status_t qy_gather_columns(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                              const qy_tensor_t *index, qy_error_t *err)
{
    static const char op[] = "gather_columns";
    QY_TRY(qy_check_given(op, "x", x, f32, err));
    QY_TRY(qy_check_given(op, "index", index, QY_TYPE(QY_I32), err));
    QY_TRY(qy_check_matrix(op, "y", y, f32, qy_tensor_rows(x), qy_tensor_count(index), err));
    QY_TRY(qy_check_apart(op, "y", y, "x", x, err));
    return dev->ops->gather_columns(dev, y, x, index, err);
}

static qy_status_t check_span(const char *op, const char *name, int64_t first, int64_t n,
                              int64_t cols, qy_error_t *err)
{
    if (first < 0 || n < 1 || first > cols - n)
        return qy_fail(err, QY_ERR_SHAPE, "%s: columns %lld to %lld of %s, which has %lld", op,
                       (long long)first, (long long)(first + n - 1), name, (long long)cols);
    return QY_OK;
}

qy_status_t qy_copy_columns(const qy_device_t *dev, qy_tensor_t *y, int64_t to,
                            const qy_tensor_t *x, int64_t from, int64_t n, qy_error_t *err)
{
    static const char op[] = "copy_columns";
    QY_TRY(qy_check_given(op, "x", x, f32, err));
    QY_TRY(qy_check_given(op, "y", y, f32, err));
    QY_TRY(qy_check_matrix(op, "y", y, f32, qy_tensor_rows(x), qy_tensor_cols(y), err));
    QY_TRY(check_span(op, "y", to, n, qy_tensor_cols(y), err));
    QY_TRY(check_span(op, "x", from, n, qy_tensor_cols(x), err));
    QY_TRY(qy_check_apart(op, "y", y, "x", x, err));
    return dev->ops->copy_columns(dev, y, to, x, from, n, err);
}

qy_status_t qy_inverse_factor(const qy_device_t *dev, qy_tensor_t *u, int *definite,
                              const qy_tensor_t *h, const qy_tensor_t *order,
                              const qy_tensor_t *shift, qy_error_t *err)
{
    static const char op[] = "inverse_factor";
    QY_TRY(qy_check_given(op, "h", h, f32, err));
    int64_t n = qy_tensor_cols(h);
    QY_TRY(check_square(op, "h", h, n, err));
    QY_TRY(check_square(op, "u", u, n, err));
    QY_TRY(qy_check_apart(op, "u", u, "h", h, err));
    QY_TRY(qy_check_count(op, "order", order, QY_TYPE(QY_I32), n, err));
    QY_TRY(qy_check_count(op, "shift", shift, f32, n, err));
    return dev->ops->inverse_factor(dev, u, definite, h, order, shift, err);
}

qy_status_t qy_gptq_columns(const qy_device_t *dev, qy_tensor_t *w, qy_tensor_t *e,
                            const qy_tensor_t *u, const qy_tensor_t *s, const qy_tensor_t *z,
                            const qy_tensor_t *group, int64_t first, int bits, qy_error_t *err)
{
    static const char op[] = "gptq_columns";
    QY_TRY(qy_check_given(op, "w", w, f32, err));
    QY_TRY(qy_check_given(op, "e", e, f32, err));
    QY_TRY(qy_check_given(op, "s", s, f32, err));
    int64_t o = qy_tensor_rows(w), i = qy_tensor_cols(w), n = qy_tensor_cols(e);
    QY_TRY(check_square(op, "u", u, i, err));
    QY_TRY(qy_check_matrix(op, "e", e, f32, o, n, err));
    QY_TRY(qy_check_matrix(op, "s", s, f32, o, qy_tensor_cols(s), err));
    QY_TRY(qy_check_matrix(op, "z", z, f32, o, qy_tensor_cols(s), err));
    QY_TRY(qy_check_count(op, "group", group, QY_TYPE(QY_I32), i, err));
    QY_TRY(check_span(op, "w", first, n, i, err));
    if (n > QY_GPTQ_BLOCK_MAX || o > INT32_MAX)
        return qy_fail(err, QY_ERR_SHAPE, "%s: %lld columns at once, at most %d", op, (long long)n,
                       QY_GPTQ_BLOCK_MAX);
    if (bits < BITS_MIN || bits > BITS_MAX)
        return qy_fail(err, QY_ERR_ARG, "%s: %d bits, expected %d to %d", op, bits, BITS_MIN,
                       BITS_MAX);
    return dev->ops->gptq_columns(dev, w, e, u, s, z, group, first, bits, err);
}
