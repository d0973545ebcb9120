/*
 * What the CPU device's kernels share: their data as f32, scratch memory, sums in a fixed order,
 * and the mark for functions that the compiler builds for several instruction sets.
 *
 * Same bytes for any number of threads: each output element is computed by one thread in an order
 * that depends on shapes alone; sums across rows go by fixed chunks whose parts are added in order.
 */
#ifndef QY_KERNELS_CPU_CPU_H
#define QY_KERNELS_CPU_CPU_H

#include <math.h>

#include "kernels/device.h"

/*
 * A function of elementwise loops and lane sums, built twice: for any x86-64 and for AVX2 (without
 * FMA); the loader takes what the machine has. Lanes and the absence of contraction make both give
 * the same bytes. Sanitizers cannot start before the loader's choice, so they get the plain one.
 */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) &&       \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define QY_CLONES __attribute__((target_clones("default", "avx2"), noinline))
#else
#define QY_CLONES
#endif

enum {
    QY_LANES = 16,       /* partial sums that a lane sum keeps side by side */
    QY_CPU_CHUNK = 4096, /* elements that one thread takes at a time in flat loops */
    QY_SUM_CHUNK = 4096  /* elements of one partial sum, as loss.h promises */
};

/*
 * out = Σ expression for i = 0…n−1 in a fixed order: element i goes to lane i mod QY_LANES, then
 * the lanes are added in pairs. The expression may store as well.
 */
#define QY_LANE_SUM(out, i, n, expression) QY_LANE_SUM_OF(float, out, i, n, expression)
#define QY_LANE_SUM_OF(type, out, i, n, expression)                                                \
    do {                                                                                           \
        type lanes_[QY_LANES] = {0};                                                               \
        int64_t first_ = 0;                                                                        \
        for (; first_ + QY_LANES <= (n); first_ += QY_LANES) {                                     \
            _Pragma("omp simd") for (int lane_ = 0; lane_ < QY_LANES; lane_++)                     \
            {                                                                                      \
                int64_t i = first_ + lane_;                                                        \
                lanes_[lane_] += (expression);                                                     \
            }                                                                                      \
        }                                                                                          \
        for (int64_t i = first_; i < (n); i++)                                                     \
            lanes_[i - first_] += (expression);                                                    \
        for (int half_ = QY_LANES / 2; half_ > 0; half_ /= 2)                                      \
            for (int lane_ = 0; lane_ < half_; lane_++)                                            \
                lanes_[lane_] += lanes_[lane_ + half_];                                            \
        (out) = lanes_[0];                                                                         \
    } while (0)

/* Largest of n numbers; NaNs are passed over. −INFINITY where n is 0. */
static inline float qy_lane_max(const float *x, int64_t n)
{
    float lanes[QY_LANES];
    int64_t first = 0;
    for (int lane = 0; lane < QY_LANES; lane++)
        lanes[lane] = -HUGE_VALF;
    for (; first + QY_LANES <= n; first += QY_LANES) {
#pragma omp simd
        for (int lane = 0; lane < QY_LANES; lane++)
            lanes[lane] = x[first + lane] > lanes[lane] ? x[first + lane] : lanes[lane];
    }
    for (int64_t i = first; i < n; i++)
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    for (int lane = 1; lane < QY_LANES; lane++)
        lanes[0] = lanes[lane] > lanes[0] ? lanes[lane] : lanes[0];
    return lanes[0];
}

static inline float *qy_f32(const qy_tensor_t *t)
{
    return t->data;
}

static inline int64_t qy_chunks(int64_t n, int64_t chunk)
{
    return (n + chunk - 1) / chunk;
}

static inline int64_t qy_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Scratch that holds until the next call: parts × floats, each part 64-byte aligned. */
qy_status_t qy_cpu_scratch(const qy_device_t *dev, float **out, int64_t n_parts,
                           int64_t *part_floats, qy_error_t *err);

#endif
