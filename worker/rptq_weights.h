/* Weights of a block with clusters on their way to GPTQ's variables and, rounded, back as codes. */
#ifndef QY_WORKER_RPTQ_WEIGHTS_H
#define QY_WORKER_RPTQ_WEIGHTS_H

#include "kernels/optim.h"
#include "model/qmodel.h"

/* Host memory for the largest layer of an arch: weights, steps, zero points, a row of codes for
 * each of the device's threads. */
typedef struct {
    float *weight, *s, *z;
    uint8_t *codes;
} qy_rptq_weights_t;

qy_status_t qy_rptq_weights_create(qy_rptq_weights_t *out, const qy_arch_t *arch,
                                   const qy_quant_form_t *form, int threads, qy_error_t *err);
void qy_rptq_weights_destroy(qy_rptq_weights_t *h);

/*
 * weight, host f32 (O, I) in the order of q's clusters, into v.w. With published the steps of each
 * row and cluster (qy_cluster_step, rounded to f16) into v.s and v.z; else 1 and 0, which clusters
 * without channels keep. Waits for the device.
 */
qy_status_t qy_rptq_weights_load(qy_rptq_weights_t *h, const qy_device_t *dev,
                                 const qy_quant_vars_t *v, const qy_tensor_t *weight,
                                 const qy_qblock_t *q, int linear, bool published, qy_error_t *err);

/* Codes, steps and zero points of v's rounded weight, a whole number of steps from its zero point,
 * into q. group: the cluster of each column. NUMERIC where a weight is not finite. */
qy_status_t qy_rptq_weights_freeze(qy_rptq_weights_t *h, const qy_device_t *dev,
                                   const qy_quant_vars_t *v, const int32_t *group, qy_qblock_t *q,
                                   int linear, qy_error_t *err);

#endif
