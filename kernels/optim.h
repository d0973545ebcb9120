/*
 * The optimizer: AdamW without weight decay (β = 0.9, 0.999; ε as below), its per-step numbers, and the
 * fused update of a quantized weight.
 *
 * Everything that changes from step to step lives in device memory, so that a step is the same
 * sequence of calls with the same arguments each time (and can be a CUDA graph): the host uploads the
 * step's learning rates into hyper, step_begin fills the rest.
 */
#ifndef QY_KERNELS_OPTIM_H
#define QY_KERNELS_OPTIM_H

#include "kernels/device.h"

#define QY_ADAM_BETA1 0.9
#define QY_ADAM_BETA2 0.999
#define QY_ADAM_EPS   1e-8
/*
 * Where rates are in units of a step, an update is to be the rate whatever the loss's size. Its
 * gradients get smaller with the model (a mean over all outputs) and by the unit: 1e-6 in a model
 * of 6 blocks of 256, 1e-10 in Llama-2-7B's first block, where 1e-8 would be all of the divisor.
 */
#define QY_ADAM_EPS_UNIT 1e-14

/* Places in hyper, f32 (QY_N_HYPER). The host writes the first three. */
enum {
    QY_HYPER_LR_WEIGHT,
    QY_HYPER_LR_QUANT,
    QY_HYPER_LR_NORM,
    QY_HYPER_BIAS1,     /* 1 − β1^t */
    QY_HYPER_BIAS2,     /* sqrt(1 − β2^t) */
    QY_HYPER_SCALE,     /* loss scale of the next backward pass */
    QY_HYPER_INV_SCALE, /* 1 / loss scale of the gradients at hand */
    QY_HYPER_SKIP,      /* 1: gradients were not finite, this update is skipped */
    QY_N_HYPER
};

/* Places in state, f64 (QY_N_STATE): what a resumed run must restore. */
enum {
    QY_STATE_T,          /* updates done (skipped ones not counted) */
    QY_STATE_SCALE,      /* loss scale; 1 where there is none */
    QY_STATE_GOOD,       /* good steps since the scale changed */
    QY_STATE_SKIPPED,    /* updates skipped so far */
    QY_STATE_DYNAMIC,    /* 1: the scale is dynamic (fp16) */
    QY_N_STATE
};
#define QY_LOSS_SCALE_START 65536.0
#define QY_LOSS_SCALE_GOOD  2000.0

/* flag (= or |=) 1.0 where x holds an infinity or NaN, else 0.0.   flag  out  f32 (1) */
qy_status_t qy_nonfinite(const qy_device_t *dev, qy_tensor_t *flag, const qy_tensor_t *x,
                         int accumulate, qy_error_t *err);

/*
 * After the backward pass, before any update. With inv = 1/state.scale:
 *   flag ≠ 0: hyper.skip = 1; skipped += 1; a dynamic scale is halved, good = 0
 *   else:     skip = 0; t += 1; good += 1; a dynamic scale is doubled when good reaches 2000 (good = 0)
 * hyper.bias1, bias2 from t (computed in f64), inv_scale = inv, scale = the new state.scale.
 * flag NULL: as if 0. Source: torch.amp.GradScaler's defaults.
 */
qy_status_t qy_step_begin(const qy_device_t *dev, qy_tensor_t *hyper, qy_tensor_t *state,
                          const qy_tensor_t *flag, qy_error_t *err);

/*
 * g' = g inv_scale unit;  m = β1 m + (1−β1) g';  v = β2 v + (1−β2) g'²;
 * p = max(p − unit (lr/bias1) m / (sqrt(v)/bias2 + ε), floor);   nothing where hyper.skip is 1.
 * So p/unit is the trained variable (unit NULL: 1), and ε is QY_ADAM_EPS_UNIT (QY_ADAM_EPS).
 * floor  −INFINITY: none.
 * p, m, v  in/out  f32 (n).   g  in  f32 (n).   unit  in  f32 (n / k): one for k consecutive elements
 * Source: Loshchilov and Hutter, arXiv:1711.05101, algorithm 2 with λ = 0, as torch.optim.AdamW.
 */
qy_status_t qy_adamw(const qy_device_t *dev, qy_tensor_t *p, qy_tensor_t *m, qy_tensor_t *v,
                     const qy_tensor_t *g, const qy_tensor_t *unit, const qy_tensor_t *hyper,
                     int lr_index, float floor, qy_error_t *err);

/*
 * One pass over a quantized weight: gradients of fake_quant_bwd from dw_hat, AdamW of w (weight rate),
 * s and z (quant rate), then w_hat of fake_quant_fwd for the next step. z only with train_zero.
 * unit  in  f32 (O, G): the initial step where rates are in units of it (w/unit, s/unit and z are the
 * trained variables), or NULL. Where hyper.skip is 1 nothing changes.
 * w_hat  out  compute (O, I).   dw_hat  in  f32 or compute (O, I).   vars in/out
 */
qy_status_t qy_quant_update(const qy_device_t *dev, qy_tensor_t *w_hat, qy_quant_vars_t *vars,
                            const qy_tensor_t *dw_hat, const qy_tensor_t *unit,
                            const qy_tensor_t *hyper, int bits, int train_zero, qy_error_t *err);

#endif
