#include "kernels/optim.h"

#include <math.h>

#include "kernels/check.h"

static const unsigned f32 = QY_TYPE(QY_F32);

qy_status_t qy_nonfinite(const qy_device_t *dev, qy_tensor_t *flag, const qy_tensor_t *x,
                         int accumulate, qy_error_t *err)
{
    QY_TRY(qy_check_given("nonfinite", "x", x, QY_FLOATS, err));
    QY_TRY(qy_check_count("nonfinite", "flag", flag, f32, 1, err));
    return dev->ops->nonfinite(dev, flag, x, accumulate, err);
}

qy_status_t qy_step_begin(const qy_device_t *dev, qy_tensor_t *hyper, qy_tensor_t *state,
                          const qy_tensor_t *flag, qy_error_t *err)
{
    QY_TRY(qy_check_count("step_begin", "hyper", hyper, f32, QY_N_HYPER, err));
    QY_TRY(qy_check_count("step_begin", "state", state, QY_TYPE(QY_F64), QY_N_STATE, err));
    if (flag)
        QY_TRY(qy_check_count("step_begin", "flag", flag, f32, 1, err));
    return dev->ops->step_begin(dev, hyper, state, flag, err);
}

qy_status_t qy_adamw(const qy_device_t *dev, qy_tensor_t *p, qy_tensor_t *m, qy_tensor_t *v,
                     const qy_tensor_t *g, const qy_tensor_t *unit, const qy_tensor_t *hyper,
                     int lr_index, float floor, qy_error_t *err)
{
    static const char op[] = "adamw";
    QY_TRY(qy_check_given(op, "p", p, f32, err));
    int64_t n = qy_tensor_count(p);
    QY_TRY(qy_check_count(op, "m", m, f32, n, err));
    QY_TRY(qy_check_count(op, "v", v, f32, n, err));
    QY_TRY(qy_check_count(op, "g", g, f32, n, err));
    if (unit) {
        QY_TRY(qy_check_given(op, "unit", unit, f32, err));
        if (n % qy_tensor_count(unit) != 0)
            return qy_fail(err, QY_ERR_SHAPE, "%s: %lld units do not divide %lld elements", op,
                           (long long)qy_tensor_count(unit), (long long)n);
    }
    QY_TRY(qy_check_count(op, "hyper", hyper, f32, QY_N_HYPER, err));
    if (lr_index < QY_HYPER_LR_WEIGHT || lr_index > QY_HYPER_LR_NORM || isnan(floor))
        return qy_fail(err, QY_ERR_ARG, "%s: rate %d, floor %g", op, lr_index, (double)floor);
    return dev->ops->adamw(dev, p, m, v, g, unit, hyper, lr_index, floor, err);
}

qy_status_t qy_quant_update(const qy_device_t *dev, qy_tensor_t *w_hat, qy_quant_vars_t *vars,
                            const qy_tensor_t *dw_hat, const qy_tensor_t *unit,
                            const qy_tensor_t *hyper, int bits, int train_zero, qy_error_t *err)
{
    static const char op[] = "quant_update";
    QY_TRY(qy_check_given(op, "w", &vars->w, f32, err));
    int64_t o = qy_tensor_rows(&vars->w), i = qy_tensor_cols(&vars->w);
    QY_TRY(qy_check_groups(op, o, i, "s", &vars->s, bits, err));
    int64_t n_groups = qy_tensor_cols(&vars->s);
    QY_TRY(qy_check_matrix(op, "w_m", &vars->w_m, f32, o, i, err));
    QY_TRY(qy_check_matrix(op, "w_v", &vars->w_v, f32, o, i, err));
    QY_TRY(qy_check_matrix(op, "s_m", &vars->s_m, f32, o, n_groups, err));
    QY_TRY(qy_check_matrix(op, "s_v", &vars->s_v, f32, o, n_groups, err));
    QY_TRY(qy_check_matrix(op, "z", &vars->z, f32, o, n_groups, err));
    if (train_zero) {
        QY_TRY(qy_check_matrix(op, "z_m", &vars->z_m, f32, o, n_groups, err));
        QY_TRY(qy_check_matrix(op, "z_v", &vars->z_v, f32, o, n_groups, err));
    }
    if (unit)
        QY_TRY(qy_check_matrix(op, "unit", unit, f32, o, n_groups, err));
    QY_TRY(qy_check_matrix(op, "w_hat", w_hat, QY_TYPE(dev->compute), o, i, err));
    QY_TRY(qy_check_matrix(op, "dw_hat", dw_hat, f32 | QY_TYPE(dev->compute), o, i, err));
    QY_TRY(qy_check_apart(op, "w_hat", w_hat, "w", &vars->w, err));
    QY_TRY(qy_check_count(op, "hyper", hyper, f32, QY_N_HYPER, err));
    return dev->ops->quant_update(dev, w_hat, vars, dw_hat, unit, hyper, bits, train_zero, err);
}
