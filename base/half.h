/* f16 and bf16 as bit patterns, converted to and from f32; to nearest, ties to even. */
#ifndef QY_BASE_HALF_H
#define QY_BASE_HALF_H

#include <stdint.h>

float qy_f16_to_f32(uint16_t h);
uint16_t qy_f32_to_f16(float x); /* overflow gives infinity, NaN stays NaN */
float qy_bf16_to_f32(uint16_t h);
uint16_t qy_f32_to_bf16(float x);

/* n numbers into f32; the arrays do not overlap. */
void qy_f16_widen(float *dst, const uint16_t *src, int64_t n);
void qy_bf16_widen(float *dst, const uint16_t *src, int64_t n);

/* x rounded to f16 and back. */
float qy_round_f16(float x);

#endif
