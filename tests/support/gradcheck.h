/* Finite differences in f64: proves the backward passes of tests/support/reference64. */
#ifndef QY_TESTS_SUPPORT_GRADCHECK_H
#define QY_TESTS_SUPPORT_GRADCHECK_H

#include <stdint.h>

/* A scalar function of numbers that lie in its context. */
typedef double (*test_function_t)(void *context);

/*
 * x, n numbers that f reads through its context, are moved one by one; the central differences must
 * agree with gradient to 1e-6 of the largest of them.
 */
void test_gradient(const char *what, test_function_t f, void *context, double *x, int64_t n,
                   const double *gradient);

#endif
