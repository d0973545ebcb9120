/*
 * Numbers and clocks of the benchmarks. The numbers are a formula of (stream, index), so that
 * bench_torch.py makes the same ones without a file between them.
 */
#ifndef QY_TESTS_BENCH_DATA_H
#define QY_TESTS_BENCH_DATA_H

#include "jobs/plan.h"
#include "kernels/device.h"
#include "model/arch.h"
#include "model/weights.h"

/* Streams of numbers below: the weights of linear i, the inputs of batch i. */
enum { BENCH_STREAM_WEIGHT = 1, BENCH_STREAM_INPUT = 100 };
#define BENCH_WEIGHT_SIZE 0.05f
#define BENCH_INPUT_SIZE  1.0f

typedef struct {
    int64_t hidden, intermediate, heads, kv_heads, head_dim, length;
} bench_shape_t;

/* Shapes of published models by name; 0 where there is none of that name. */
int bench_preset(bench_shape_t *out, const char *name);

/* What all benchmarks of a device are told. */
typedef struct {
    char device[32], compute[8];
    bench_shape_t shape;
} bench_common_t;

/* On "cuda:0" in bf16, the shape of this name. */
bench_common_t bench_common(const char *preset);

/* A word key=value of a benchmark's command line: a number, or text of size bytes. */
typedef struct {
    const char *key;
    long *number;
    char *text;
    size_t size;
} bench_key_t;

/* A key of the name of a member of *c. */
#define BENCH_NUMBER(c, member) {#member, &(c)->member, NULL, 0}
#define BENCH_TEXT(c, member)   {#member, NULL, (c)->member, sizeof(c)->member}

/* The words into what the keys point to; device, compute, preset=NAME and the shape's own sizes go
 * into common. Calls usage, which does not return, at any other word. */
void bench_read_keys(bench_common_t *common, const bench_key_t *keys, size_t n, int argc,
                     char **argv, void (*usage)(void));

/* One block of a llama of this shape. */
qy_arch_t bench_arch(const bench_shape_t *shape);

/* x[i] = size (u / 2^23 − 1), u the top 24 bits of splitmix64 at (stream << 40) + i. */
void bench_uniform(float *x, int64_t n, uint64_t stream, float size);

/* A block's weights on the host, the numbers of stream BENCH_STREAM_WEIGHT + linear; norms are 1,
 * but for channels 5, 133, … of 128 each, which are `outlier`. */
void bench_weights_make(qy_block_weights_t *w, const qy_arch_t *arch, float outlier);
void bench_weights_drop(qy_block_weights_t *w);

/* A plan for one block of this shape alone over so many samples, that rounds weights to bits in
 * groups; the rest, 0, is the caller's. free() frees it. */
qy_plan_t *bench_plan(const qy_arch_t *arch, const bench_shape_t *shape, int64_t samples, int bits,
                      int64_t group);

/* The same numbers, rounded to the tensor's float type, in device memory; the tensor's data is
 * there. */
void bench_put(const qy_device_t *dev, const qy_tensor_t *t, uint64_t stream, float size);
/* The weights of linear i, the inputs of batch i. */
void bench_put_weights(const qy_device_t *dev, const qy_tensor_t *t, int64_t i);
void bench_put_inputs(const qy_device_t *dev, const qy_tensor_t *t, int64_t i);

/* A tensor with memory of its own and those numbers; size 0 fills it with 0. */
qy_tensor_t bench_make(const qy_device_t *dev, qy_dtype_t dtype, int n_dims, const int64_t *shape,
                       uint64_t stream, float size);
void bench_free(const qy_device_t *dev, qy_tensor_t *t);

/* Numbers of a tensor of any float type as f32; the caller frees them. */
float *bench_get(const qy_device_t *dev, const qy_tensor_t *t);

/* Ends the program with the error's text where the call failed. */
#define bench_need(call, err) bench_check((call), &(err))
void bench_check(qy_status_t status, const qy_error_t *err);

/* A channel plan (model/channels.h) that, of each 64 channels, merges the first two and splits the
 * sixth; the caller frees both. */
void bench_channels(int32_t **offsets, int32_t **items, int64_t c);

double bench_median(double *samples, int n);

#endif
