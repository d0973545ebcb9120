/*
 * The kernels that bench_ops times, as cases: how to make a kernel's tensors, how to run it, and
 * what it costs.
 */
#ifndef QY_TESTS_BENCH_OPS_H
#define QY_TESTS_BENCH_OPS_H

#include "kernels/quant.h"
#include "tests/bench/data.h"

enum { OPS_BITS = 2, OPS_MAX_TENSORS = 16 };

typedef struct {
    bench_common_t on;
    char only[32];
    long tokens, group, gbs, tflops;
} ops_config_t;

/* One kernel at work: its tensors, outputs first, and what it costs. */
typedef struct {
    const qy_device_t *dev;
    qy_dtype_t rounded; /* type that operands of the compute type are rounded to */
    ops_config_t c;
    int variant; /* the case's */
    qy_tensor_t t[OPS_MAX_TENSORS];
    int n, n_outputs;
    double flops, bytes;
    qy_quant_vars_t vars;
} ops_work_t;

typedef struct {
    const char *name;
    void (*make)(ops_work_t *w);
    void (*run)(ops_work_t *w);
    int variant;
} ops_case_t;

/* Of a block's forward and backward, and of its quantized weights; each ends with a name NULL. */
extern const ops_case_t ops_layers[], ops_weights[];

/* The next tensor: compute type, or dtype where it is not QY_N_DTYPES; size 0 fills with 0. */
qy_tensor_t *ops_tensor(ops_work_t *w, qy_dtype_t dtype, int n_dims, const int64_t *shape,
                        float size);
qy_tensor_t *ops_compute(ops_work_t *w, int64_t rows, int64_t cols, float size);
qy_tensor_t *ops_f32(ops_work_t *w, int64_t rows, int64_t cols, float size);
void ops_drop(ops_work_t *w);

/* Of tensors [first, first + n). */
double ops_bytes(const ops_work_t *w, int first, int n);
/* What a call costs; bytes 0: all tensors once. */
void ops_cost(ops_work_t *w, int n_outputs, double flops, double bytes);

#endif
