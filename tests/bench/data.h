/*
 * Numbers and clocks of the benchmarks. The numbers are a formula of (stream, index), so that
 * bench_torch.py makes the same ones without a file between them.
 */
#ifndef QY_TESTS_BENCH_DATA_H
#define QY_TESTS_BENCH_DATA_H

#include "kernels/device.h"
#include "model/arch.h"

typedef struct {
    int64_t hidden, intermediate, heads, kv_heads, head_dim, length;
} bench_shape_t;

/* Shapes of published models by name; 0 where there is none of that name. */
int bench_preset(bench_shape_t *out, const char *name);

/* One block of a llama of this shape. */
qy_arch_t bench_arch(const bench_shape_t *shape);

/* x[i] = size (u / 2^23 − 1), u the top 24 bits of splitmix64 at (stream << 40) + i. */
void bench_uniform(float *x, int64_t n, uint64_t stream, float size);

/* The same, rounded to the tensor's float type, in device memory; the tensor's data is there. */
void bench_put(const qy_device_t *dev, const qy_tensor_t *t, uint64_t stream, float size);

/* A tensor with memory of its own and those numbers; size 0 fills it with 0. */
qy_tensor_t bench_make(const qy_device_t *dev, qy_dtype_t dtype, int n_dims, const int64_t *shape,
                       uint64_t stream, float size);
void bench_free(const qy_device_t *dev, qy_tensor_t *t);

/* Numbers of a tensor of any float type as f32; the caller frees them. */
float *bench_get(const qy_device_t *dev, const qy_tensor_t *t);

/* Ends the program with the error's text where the call failed. */
#define bench_need(call, err) bench_check((call), &(err))
void bench_check(qy_status_t status, const qy_error_t *err);

double bench_median(double *samples, int n);

#endif
