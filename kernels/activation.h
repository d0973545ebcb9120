/*
 * An activation from what it is made of to what its readers multiply, in one pass over its rows: a
 * norm, SiLU-gated product or ReLU, its channels mixed, each row quantized. Same bytes as the ops
 * of norm.h, glu.h, columns.h and act_quant.h one after the other, with nothing stored between
 * them; the backward pass makes again what it needs.
 */
#ifndef QY_KERNELS_ACTIVATION_H
#define QY_KERNELS_ACTIVATION_H

#include "kernels/device.h"

typedef enum { QY_MAKE_RMSNORM, QY_MAKE_LAYERNORM, QY_MAKE_SILU_MUL, QY_MAKE_RELU } qy_make_t;

/*
 * A plan of columns.h from C columns to as many. special, i32 (≥ n_special): the places, rising,
 * that do not simply hold the column of their own number with weight 1. These alone are mixed, so
 * that a plan should have few (model/channels.h: settle).
 */
typedef struct {
    const qy_tensor_t *special, *offsets, *items, *weights;
    int64_t n_special;
} qy_column_plan_t;

/*
 * x  compute (M, C): what the norm or ReLU reads, or the gate.   up  compute (M, C): of SILU_MUL
 * w, b  f32 (C): of a norm; b of LAYERNORM alone.   map, back  NULL, both: channels stay. back is
 * the transposed plan; forward does not look at it.   bits  2…8
 */
struct qy_activation {
    qy_make_t make;
    const qy_tensor_t *x, *up, *w, *b;
    float eps;
    const qy_column_plan_t *map, *back;
    int bits;
};

/*
 * y  out  compute (M, C).   mean, rstd  out  f32 (M): a norm's statistics, mean of LAYERNORM alone
 */
qy_status_t qy_activation_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *mean,
                              qy_tensor_t *rstd, const qy_activation_t *a, qy_error_t *err);

/*
 * dx  out  compute (M, C), '=': the gradient of the norm's output (norm.h has the rest), of ReLU's
 * input, or of the gate, dup then that of up.   dy  in  compute (M, C); dx and dup may alias it.
 * mean, rstd  in, as the forward pass left them
 */
qy_status_t qy_activation_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dup,
                              const qy_tensor_t *dy, const qy_tensor_t *mean,
                              const qy_tensor_t *rstd, const qy_activation_t *a, qy_error_t *err);

#endif
