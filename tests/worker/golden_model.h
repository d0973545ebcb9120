/* A golden model of tests/golden/models, open on a device, with what PyTorch computed of it. */
#ifndef QY_TESTS_WORKER_GOLDEN_MODEL_H
#define QY_TESTS_WORKER_GOLDEN_MODEL_H

#include "worker/forward.h"

typedef struct {
    const qy_device_t *dev;
    qy_model_t *model;
    qy_st_set_t *golden;
    qy_forward_t forward;
    void *memory; /* of the rim */
    qy_outer_t outer;
    qy_ids_t ids;
    qy_head_work_t head;
    int32_t *tokens; /* (batch, length) */
    int64_t batch, length, rows;
} golden_t;

void golden_open(golden_t *g, const qy_device_t *dev, const char *name);
void golden_close(golden_t *g);

/* A golden array as f64; the caller frees. NULL where the file does not have it. */
double *golden_get(const golden_t *g, const char *name, int64_t *n);

/* got (a device tensor) is within tolerance × the largest golden value. tolerance is f32's; f16 and
 * bf16 get their own multiples of it. */
void golden_close_to(const golden_t *g, const qy_tensor_t *got, const char *name, double tolerance);

#endif
