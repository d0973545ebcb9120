/*
 * Rounding and clamping of uniform affine quantization, written once for the CPU device, the CUDA
 * device, training, packing and the exporters. Q = 2^bits - 1.
 *
 * Source: EfficientQAT, arXiv:2407.11062, official code quantize/quantizer.py; section 1 of its
 * forward pass. Rounding is half to even everywhere, as torch.round.
 */
#ifndef QY_BASE_QUANT_RULE_H
#define QY_BASE_QUANT_RULE_H

#include <math.h>

#ifdef __CUDACC__
#define QY_RULE static __host__ __device__ inline
#else
#define QY_RULE static inline
#endif

/* The least step a group may have in training, and the least that f16 holds as a normal number. */
#define QY_STEP_FLOOR     1e-4f
#define QY_STEP_CEILING   1e4f
#define QY_STEP_F16_FLOOR 6.103515625e-05f /* 2^-14 */

QY_RULE float qy_clampf(float x, float lo, float hi)
{
    return x < lo ? lo : (x > hi ? hi : x);
}

QY_RULE float qy_quant_max(int bits)
{
    return (float)((1 << bits) - 1);
}

/* Step as the forward pass sees it: clamp(s, 1e-4, 1e4). */
QY_RULE float qy_step_used(float s)
{
    return qy_clampf(s, QY_STEP_FLOOR, QY_STEP_CEILING);
}

/* Zero point as the forward pass sees it: clamp(round(z), 0, Q). */
QY_RULE float qy_zero_used(float z, float q_max)
{
    return qy_clampf(rintf(z), 0.0f, q_max);
}

/*
 * a / b to nearest, for many a with one b, b an ordinary number. A GPU divides once and corrects
 * each product twice by its remainder: the same quotient where a is 0 or above 1e-30 in size.
 * Source: Markstein, IBM J. Res. Dev. 34 (1990), theorem on division by the rounded reciprocal.
 */
QY_RULE float qy_ratio(float a, float b)
{
#ifdef __CUDA_ARCH__
    float inverse = 1.0f / b, q = a * inverse;
    q = fmaf(fmaf(-q, b, a), inverse, q);
    return fmaf(fmaf(-q, b, a), inverse, q);
#else
    return a / b;
#endif
}

/* Code before the clamp: round(w / s) + z, with s and z as used. */
QY_RULE float qy_code_free(float w, float s, float z)
{
    return rintf(qy_ratio(w, s)) + z;
}

/* Code in [0, Q]. */
QY_RULE float qy_code(float w, float s, float z, float q_max)
{
    return qy_clampf(qy_code_free(w, s, z), 0.0f, q_max);
}

/*
 * Activations: step and zero point of a row with range [lo, hi], hi > lo. The zero point comes from
 * the step before it is clamped and is not confined to [0, Q].
 * Source: QLLM, arXiv:2310.08041, official code, quantizer of activations.
 */
#define QY_ACT_STEP_FLOOR   1e-5f
#define QY_ACT_STEP_CEILING 1e4f
#define QY_ACT_ZERO_LIMIT   1e4f

QY_RULE float qy_act_step(float lo, float hi, float q_max)
{
    return qy_clampf((hi - lo) / q_max, QY_ACT_STEP_FLOOR, QY_ACT_STEP_CEILING);
}

QY_RULE float qy_act_zero(float lo, float hi, float q_max)
{
    float s = (hi - lo) / q_max; /* 0 only where the range is too small for a number */
    return s > 0.0f ? rintf(qy_clampf(-lo / s, -QY_ACT_ZERO_LIMIT, QY_ACT_ZERO_LIMIT)) : 0.0f;
}

#endif
