#include "base/half.h"

#include <string.h>

enum { F32_SIGN_SHIFT = 16, F16_MANTISSA_SHIFT = 13 };
static const uint32_t f32_infinity = 0x7f800000u;

static uint32_t to_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float qy_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << F32_SIGN_SHIFT;
    uint32_t rest = (uint32_t)(h & 0x7fffu) << F16_MANTISSA_SHIFT;
    /* The exponents' biases differ by 112; the product also makes subnormals normal. Infinity and
     * NaN come out with an exponent of 143, whose bits are among those of 255: no branch, for
     * vectors. */
    uint32_t special = (h & 0x7c00u) == 0x7c00u ? f32_infinity : 0;
    return from_bits(sign | special | to_bits(from_bits(rest) * 0x1p112f));
}

uint16_t qy_f32_to_f16(float x)
{
    uint32_t u = to_bits(x), sign = (u >> F32_SIGN_SHIFT) & 0x8000u, a = u & 0x7fffffffu, h;
    if (a > f32_infinity)
        h = 0x7e00u | ((a >> F16_MANTISSA_SHIFT) & 0x1ffu);
    else if (a >= 0x47800000u) /* 2^16 */
        h = 0x7c00u;
    else if (a < 0x38800000u) /* 2^-14: adding 1/2 puts the f16 grid's last place at f32's */
        h = to_bits(from_bits(a) + 0.5f) - to_bits(0.5f);
    else /* half a place less one, plus one where the kept part is odd: ties go to even */
        h = (a - (112u << 23) + 0x0fffu + ((a >> F16_MANTISSA_SHIFT) & 1u)) >> F16_MANTISSA_SHIFT;
    return (uint16_t)(sign | h);
}

float qy_bf16_to_f32(uint16_t h)
{
    return from_bits((uint32_t)h << 16);
}

uint16_t qy_f32_to_bf16(float x)
{
    uint32_t u = to_bits(x);
    if ((u & 0x7fffffffu) > f32_infinity)
        return (uint16_t)((u >> 16) | 0x0040u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

void qy_f16_widen(float *restrict dst, const uint16_t *restrict src, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dst[i] = qy_f16_to_f32(src[i]);
}

void qy_bf16_widen(float *restrict dst, const uint16_t *restrict src, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dst[i] = qy_bf16_to_f32(src[i]);
}

float qy_round_f16(float x)
{
    return qy_f16_to_f32(qy_f32_to_f16(x));
}
