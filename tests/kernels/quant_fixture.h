/* What the tests of group quantization share: the rule in plain C, and weights with all that is
 * odd. */
#ifndef QY_TESTS_KERNELS_QUANT_FIXTURE_H
#define QY_TESTS_KERNELS_QUANT_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/quant.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

static inline void check(const qy_device_t *dev, const char *what, const qy_tensor_t *t,
                         const double *want, double tolerance)
{
    double *got = test_get(dev, t);
    test_close(what, got, want, qy_tensor_count(t), tolerance);
    test_drop(got);
}

/* The rule in f32, written again. */
static inline float clamp(float x, float lo, float hi)
{
    return fminf(fmaxf(x, lo), hi);
}

static inline float step_of(float s)
{
    return clamp(s, 1e-4f, 1e4f);
}

static inline float zero_of(float z, int bits)
{
    return clamp(nearbyintf(z), 0.0f, (float)((1 << bits) - 1));
}

static inline float free_code(float w, float s, float z)
{
    return nearbyintf(w / s) + z;
}

static inline float code_of(float w, float s, float z, int bits)
{
    return clamp(free_code(w, s, z), 0.0f, (float)((1 << bits) - 1));
}

/* O, I, G: one of each, an odd row, groups of 13, the tiny model's, whole rows. */
static const int64_t shapes[][3] = {{1, 1, 1},     {3, 7, 1},    {5, 64, 16},
                                    {17, 130, 10}, {64, 256, 4}, {9, 1000, 1}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* Weights, steps and zero points with all that is odd: floors, ties, zero points out of range. */
typedef struct {
    int64_t o, i, n_groups, n;
    double *w, *s, *z;
    qy_tensor_t tw, ts, tz;
} setup_t;

static inline void set_up(setup_t *u, const qy_device_t *dev, const int64_t shape[3])
{
    *u = (setup_t){.o = shape[0], .i = shape[1], .n_groups = shape[2], .n = shape[1] / shape[2]};
    int64_t groups = u->o * u->n_groups;
    u->w = test_random(u->o * u->i, 1, 1.0, QY_F32);
    u->s = test_random(groups, 2, 0.4, QY_F32);
    u->z = test_random(groups, 3, 5.0, QY_F32);
    for (int64_t g = 0; g < groups; g++) {
        u->s[g] = g % 7 == 6 ? 5e-5 : test_round(fabs(u->s[g]) + 0.1, QY_F32);
        u->z[g] = g % 5 == 4 ? floor(u->z[g]) + 0.5 : u->z[g];
        for (int64_t i = 0; i < u->n; i += 11) /* ties of w/s */
            u->w[g * u->n + i] = test_round(((double)(g % 5) - 1.5) * u->s[g], QY_F32);
    }
    u->tw = test_put_2d(dev, QY_F32, u->o, u->i, u->w);
    u->ts = test_put_2d(dev, QY_F32, u->o, u->n_groups, u->s);
    u->tz = test_put_2d(dev, QY_F32, u->o, u->n_groups, u->z);
}

static inline void tear_down(setup_t *u, const qy_device_t *dev)
{
    test_release_all(dev, &u->tw, &u->ts, &u->tz);
    test_drop(u->w, u->s, u->z);
}

#endif
