/*
 * exp in f32 that loops can vectorize: at most 2 ulp off, 0 far below, infinity far above, NaN
 * stays NaN, subnormal results are rounded once. The same bytes on every machine.
 *
 * exp(x) = 2^n exp(r), n = rint(x / ln 2), |r| ≤ ln 2 / 2, exp(r) by the polynomial of Cephes' expf
 * (S. Moshier, netlib.org/cephes).
 */
#ifndef QY_KERNELS_CPU_VEXP_H
#define QY_KERNELS_CPU_VEXP_H

#include <stdint.h>
#include <string.h>

static inline uint32_t qy_bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* 2^n, −126 ≤ n ≤ 127; unsigned, so that the garbage a NaN leaves in n does not overflow. */
static inline float qy_power_of_two(int32_t n)
{
    uint32_t u = ((uint32_t)n + 127u) << 23;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float qy_exp(float x)
{
    const float per_ln2 = 1.44269504088896341f;
    const float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    const float shift = 12582912.0f; /* 1.5 2^23: adding it rounds to a whole number */
    /* Comparisons that let NaN through; at −104 the result is 0, at 89 infinity. */
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * per_ln2 + shift;
    float whole = shifted - shift;
    int32_t n = (int32_t)(qy_bits_of(shifted) - qy_bits_of(shift));
    float r = (x - whole * ln2_high) - whole * ln2_low;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float y = p * (r * r) + r + 1.0f;
    /* In two factors, for 2^n may lie outside the range of f32 where the product does not. */
    int32_t half = n >> 1;
    return y * qy_power_of_two(half) * qy_power_of_two((int32_t)((uint32_t)n - (uint32_t)half));
}

#endif
