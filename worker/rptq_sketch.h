/*
 * What the activations of a block look like, cluster by cluster: how many values of some samples
 * lie where between the least and the largest. The static steps of RPTQ's default are found from
 * it.
 */
#ifndef QY_WORKER_RPTQ_SKETCH_H
#define QY_WORKER_RPTQ_SKETCH_H

#include "kernels/device.h"
#include "model/qmodel.h"

/* Channels [first, first + n) of a site, all of one cluster. */
typedef struct {
    int32_t cluster, first, n;
} qy_rptq_piece_t;

typedef struct {
    uint32_t *bins[QY_N_SITES];             /* (K, QY_CLUSTER_BINS) */
    float *lo[QY_N_SITES], *hi[QY_N_SITES]; /* (K): least and largest value of the cluster */
    void *values;                           /* one sample of the widest site, as it comes */
    qy_rptq_piece_t *piece;                 /* of a site: the most */
    void *memory;
} qy_rptq_sketch_t;

/* Host memory for a block of this arch and form, samples of so many tokens; nothing counted yet. */
qy_status_t qy_rptq_sketch_create(qy_rptq_sketch_t *out, const qy_arch_t *arch,
                                  const qy_quant_form_t *form, int64_t length, qy_error_t *err);
void qy_rptq_sketch_free(qy_rptq_sketch_t *s);

/* The clusters' ranges, from those of the channels as they were before they were ordered. */
void qy_rptq_sketch_bound(qy_rptq_sketch_t *s, const qy_qblock_t *q, float *const lo[QY_N_SITES],
                          float *const hi[QY_N_SITES]);

/* Whether sample i of n is one of those that are looked at: about 8192 tokens in all, evenly
 * spread. */
bool qy_rptq_sketch_wants(int64_t i, int64_t n, int64_t length);

/* One sample's activation at a site, compute (length, C) in the order of the clusters. Waits for
 * the device. A NaN counts as the least value. */
qy_status_t qy_rptq_sketch_add(qy_rptq_sketch_t *s, const qy_device_t *dev, const qy_tensor_t *x,
                               const qy_qblock_t *q, int site, qy_error_t *err);

#endif
