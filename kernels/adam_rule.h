/*
 * One AdamW step of one number, written once for the CPU and the CUDA device and for the plain and
 * the fused update, so that they agree.
 */
#ifndef QY_KERNELS_ADAM_RULE_H
#define QY_KERNELS_ADAM_RULE_H

#include "base/quant_rule.h"
#include "kernels/optim.h"

/* ε, by whether the update's rates are in units. */
QY_RULE float qy_adam_eps(bool in_units)
{
    return (float)(in_units ? QY_ADAM_EPS_UNIT : QY_ADAM_EPS);
}

/*
 * p, m, v in/out. g: gradient with respect to the trained variable p/unit; rate: unit (lr/bias1);
 * eps: qy_adam_eps.
 * Each product and sum is rounded on its own: no fused multiply-add.
 */
QY_RULE void qy_adam_rule(float *p, float *m, float *v, float g, float rate, float bias2, float eps,
                          float floor)
{
    const float beta1 = (float)QY_ADAM_BETA1, rest1 = (float)(1.0 - QY_ADAM_BETA1);
    const float beta2 = (float)QY_ADAM_BETA2, rest2 = (float)(1.0 - QY_ADAM_BETA2);
    float m_new = beta1 * *m + rest1 * g;
    float v_new = beta2 * *v + rest2 * (g * g);
    float p_new = *p - rate * (m_new / (qy_ratio(sqrtf(v_new), bias2) + eps));
    *m = m_new;
    *v = v_new;
    *p = p_new < floor ? floor : p_new;
}

#endif
