#include "tests/support/gradcheck.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/compare.h"

void test_gradient(const char *what, test_function_t f, void *context, double *x, int64_t n,
                   const double *gradient)
{
    /* f64 leaves about 1e-16/step of noise and step² of curvature: both near 1e-10 here. */
    const double step = 1e-5, tolerance = 1e-6 * fmax(1e-3, test_max_abs(gradient, n));
    for (int64_t i = 0; i < n; i++) {
        double kept = x[i];
        x[i] = kept + step;
        double above = f(context);
        x[i] = kept - step;
        double below = f(context);
        x[i] = kept;
        double difference = (above - below) / (2.0 * step);
        if (!(fabs(difference - gradient[i]) <= tolerance))
            fail_msg("%s: derivative %lld is %.9g, finite difference %.9g", what, (long long)i,
                     gradient[i], difference);
    }
}
