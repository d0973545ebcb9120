#include "kernels/loss.h"

#include "kernels/check.h"
#include "kernels/optim.h"

static const unsigned f32 = QY_TYPE(QY_F32);

qy_status_t qy_mse(const qy_device_t *dev, qy_tensor_t *loss, qy_tensor_t *dy, const qy_tensor_t *y,
                   const qy_tensor_t *target, const qy_tensor_t *hyper, qy_error_t *err)
{
    const unsigned compute = QY_TYPE(dev->compute);
    QY_TRY(qy_check_given("mse", "y", y, compute, err));
    int64_t n = qy_tensor_count(y);
    QY_TRY(qy_check_count("mse", "loss", loss, f32, 1, err));
    QY_TRY(qy_check_count("mse", "target", target, compute, n, err));
    if (dy)
        QY_TRY(qy_check_count("mse", "dy", dy, compute, n, err));
    if (hyper)
        QY_TRY(qy_check_count("mse", "hyper", hyper, f32, QY_N_HYPER, err));
    return dev->ops->mse(dev, loss, dy, y, target, hyper, err);
}

qy_status_t qy_softmax_stats(const qy_device_t *dev, qy_tensor_t *stats, qy_tensor_t *picked,
                             const qy_tensor_t *logits, const qy_tensor_t *targets,
                             int64_t first_col, qy_error_t *err)
{
    static const char op[] = "softmax_stats";
    QY_TRY(qy_check_given(op, "logits", logits, f32 | QY_TYPE(dev->compute), err));
    int64_t m = qy_tensor_rows(logits);
    QY_TRY(qy_check_matrix(op, "stats", stats, f32, m, 2, err));
    if (!picked != !targets)
        return qy_fail(err, QY_ERR_ARG, "%s: picked and targets must be given together", op);
    if (targets) {
        QY_TRY(qy_check_count(op, "picked", picked, f32, m, err));
        QY_TRY(qy_check_count(op, "targets", targets, QY_TYPE(QY_I32), m, err));
    }
    if (first_col < 0)
        return qy_fail(err, QY_ERR_ARG, "%s: first column %lld", op, (long long)first_col);
    return dev->ops->softmax_stats(dev, stats, picked, logits, targets, first_col, err);
}

qy_status_t qy_cross_entropy_loss(const qy_device_t *dev, qy_tensor_t *nll,
                                  const qy_tensor_t *stats, const qy_tensor_t *picked,
                                  const qy_tensor_t *targets, qy_error_t *err)
{
    static const char op[] = "cross_entropy_loss";
    QY_TRY(qy_check_given(op, "targets", targets, QY_TYPE(QY_I32), err));
    int64_t m = qy_tensor_count(targets);
    QY_TRY(qy_check_count(op, "nll", nll, f32, m, err));
    QY_TRY(qy_check_matrix(op, "stats", stats, f32, m, 2, err));
    QY_TRY(qy_check_count(op, "picked", picked, f32, m, err));
    return dev->ops->cross_entropy_loss(dev, nll, stats, picked, targets, err);
}

qy_status_t qy_cross_entropy_bwd(const qy_device_t *dev, qy_tensor_t *dlogits,
                                 const qy_tensor_t *logits, const qy_tensor_t *stats,
                                 const qy_tensor_t *targets, int64_t first_col, float scale,
                                 qy_error_t *err)
{
    static const char op[] = "cross_entropy_bwd";
    const unsigned types = f32 | QY_TYPE(dev->compute);
    QY_TRY(qy_check_given(op, "logits", logits, types, err));
    int64_t m = qy_tensor_rows(logits), c = qy_tensor_cols(logits);
    QY_TRY(qy_check_matrix(op, "dlogits", dlogits, types, m, c, err));
    QY_TRY(qy_check_matrix(op, "stats", stats, f32, m, 2, err));
    QY_TRY(qy_check_count(op, "targets", targets, QY_TYPE(QY_I32), m, err));
    if (first_col < 0)
        return qy_fail(err, QY_ERR_ARG, "%s: first column %lld", op, (long long)first_col);
    return dev->ops->cross_entropy_bwd(dev, dlogits, logits, stats, targets, first_col, scale, err);
}

/* Logits of student and teacher, of one type and shape, and their statistics. */
static qy_status_t check_kl(const qy_device_t *dev, const char *op, const qy_tensor_t *student,
                            const qy_tensor_t *student_stats, const qy_tensor_t *teacher,
                            const qy_tensor_t *teacher_stats, qy_error_t *err)
{
    QY_TRY(qy_check_given(op, "student", student, f32 | QY_TYPE(dev->compute), err));
    int64_t m = qy_tensor_rows(student), c = qy_tensor_cols(student);
    QY_TRY(qy_check_matrix(op, "teacher", teacher, QY_TYPE(student->dtype), m, c, err));
    QY_TRY(qy_check_matrix(op, "student_stats", student_stats, f32, m, 2, err));
    QY_TRY(qy_check_matrix(op, "teacher_stats", teacher_stats, f32, m, 2, err));
    return QY_OK;
}

qy_status_t qy_kl_loss(const qy_device_t *dev, qy_tensor_t *kl, const qy_tensor_t *student,
                       const qy_tensor_t *student_stats, const qy_tensor_t *teacher,
                       const qy_tensor_t *teacher_stats, int accumulate, qy_error_t *err)
{
    QY_TRY(check_kl(dev, "kl_loss", student, student_stats, teacher, teacher_stats, err));
    QY_TRY(qy_check_count("kl_loss", "kl", kl, f32, qy_tensor_rows(student), err));
    return dev->ops->kl_loss(dev, kl, student, student_stats, teacher, teacher_stats, accumulate,
                             err);
}

qy_status_t qy_kl_bwd(const qy_device_t *dev, qy_tensor_t *dlogits, const qy_tensor_t *student,
                      const qy_tensor_t *student_stats, const qy_tensor_t *teacher,
                      const qy_tensor_t *teacher_stats, float scale, qy_error_t *err)
{
    QY_TRY(check_kl(dev, "kl_bwd", student, student_stats, teacher, teacher_stats, err));
    QY_TRY(qy_check_matrix("kl_bwd", "dlogits", dlogits, f32 | QY_TYPE(dev->compute),
                           qy_tensor_rows(student), qy_tensor_cols(student), err));
    return dev->ops->kl_bwd(dev, dlogits, student, student_stats, teacher, teacher_stats, scale,
                            err);
}

qy_status_t qy_sum(const qy_device_t *dev, qy_tensor_t *out, const qy_tensor_t *x, int squared,
                   int accumulate, qy_error_t *err)
{
    QY_TRY(qy_check_given("sum", "x", x, f32, err));
    QY_TRY(qy_check_count("sum", "out", out, f32, 1, err));
    QY_TRY(qy_check_apart("sum", "out", out, "x", x, err));
    return dev->ops->sum(dev, out, x, squared, accumulate, err);
}
