/* Numbers of tests: making them, rounding them to a type, and comparing so that a NaN never passes.
 */
#ifndef QY_TESTS_SUPPORT_COMPARE_H
#define QY_TESTS_SUPPORT_COMPARE_H

#include <stddef.h>
#include <stdint.h>

#include "base/tensor.h"

/* Distance from 1 to the next number of a type: 2^-23, 2^-10, 2^-7; 2^-52 for f64. */
double test_epsilon(qy_dtype_t dtype);

/* x rounded to a float type. */
double test_round(double x, qy_dtype_t dtype);

/* n numbers in [−size, size], the same for the same stream; rounded to dtype. The caller frees. */
double *test_random(int64_t n, uint64_t stream, double size, qy_dtype_t dtype);

/* n whole numbers in [−most, most]. */
double *test_whole(int64_t n, uint64_t stream, int most);

/* n zeros. */
double *test_zeros(int64_t n);

double test_max_abs(const double *x, int64_t n);

/*
 * |got − want| ≤ tolerance for every element, or the test fails with what, index and values. A NaN
 * on one side fails; NaN or the same infinity on both sides does not.
 */
void test_close(const char *what, const double *got, const double *want, int64_t n,
                double tolerance);

/* The same with tolerance 0. */
void test_equal(const char *what, const double *got, const double *want, int64_t n);

/* c eps sqrt(k) max|want|: what sums of k rounded terms of the size of the result may be off. */
double test_tolerance(double c, qy_dtype_t dtype, int64_t k, const double *want, int64_t n);

#endif
