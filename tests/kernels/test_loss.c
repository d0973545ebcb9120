/* Losses against f64: chunks of columns, rows that do not count, far logits, exact cases, refusals.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/loss.h"
#include "kernels/optim.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/reference64.h"

static double one(const qy_device_t *dev, const qy_tensor_t *t)
{
    double *got = test_get(dev, t), value = got[0];
    test_drop(got);
    return value;
}

static void mse(const qy_device_t *dev)
{
    static const int64_t sizes[] = {1, 3, 4096, 4097, 2 * 256 * 256};
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    double hyper[QY_N_HYPER] = {[QY_HYPER_SCALE] = 1024.0};
    qy_tensor_t th = test_put_1d(dev, QY_F32, QY_N_HYPER, hyper);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s];
        double *y = test_random(n, 1, 1.0, c), *target = test_random(n, 2, 1.0, c);
        double *dy = test_zeros(n), want = ref_mse(dy, y, target, n);
        qy_tensor_t ty = test_put_1d(dev, c, n, y), tt = test_put_1d(dev, c, n, target);
        qy_tensor_t tdy = test_put_1d(dev, c, n, NULL), loss = test_put_1d(dev, QY_F32, 1, NULL);
        for (int scaled = 0; scaled < 2; scaled++) {
            for (int64_t i = 0; scaled && i < n; i++)
                dy[i] *= 1024.0;
            test_ok(qy_mse(dev, &loss, &tdy, &ty, &tt, scaled ? &th : NULL, &err), err);
            double got = one(dev, &loss), *got_dy = test_get(dev, &tdy);
            test_close("mse", &got, &want, 1, 4.0 * test_epsilon(QY_F32) * want);
            test_close("mse dy", got_dy, dy, n, test_tolerance(2.0, c, 1, dy, n));
            test_drop(got_dy);
        }
        test_ok(qy_mse(dev, &loss, NULL, &ty, &tt, NULL, &err), err);
        double got = one(dev, &loss);
        test_close("mse alone", &got, &want, 1, 4.0 * test_epsilon(QY_F32) * want);
        test_release_all(dev, &ty, &tt, &tdy, &loss);
        test_drop(y, target, dy);
    }
    test_release(dev, &th);
}

/* Differences of ±1 and ±2, half each: the mean of squares is 2.5, and 2/n a power of two. */
static void mse_exact(const qy_device_t *dev)
{
    enum { N = 1 << 15 };
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    double *y = test_whole(N, 1, 8), *target = test_zeros(N), *dy = test_zeros(N), want = 2.5;
    for (int i = 0; i < N; i++) {
        double difference = (i % 2 ? 2.0 : 1.0) * (i % 3 ? 1.0 : -1.0);
        target[i] = y[i] - difference;
        dy[i] = difference * 2.0 / N;
    }
    qy_tensor_t ty = test_put_1d(dev, c, N, y), tt = test_put_1d(dev, c, N, target);
    qy_tensor_t tdy = test_put_1d(dev, c, N, NULL), loss = test_put_1d(dev, QY_F32, 1, NULL);
    test_ok(qy_mse(dev, &loss, &tdy, &ty, &tt, NULL, &err), err);
    double got = one(dev, &loss), *got_dy = test_get(dev, &tdy);
    test_equal("mse", &got, &want, 1);
    test_equal("mse dy", got_dy, dy, N);
    test_release_all(dev, &ty, &tt, &tdy, &loss);
    test_drop(y, target, dy, got_dy);
}

/* Rows, columns, columns of a chunk. */
static const int64_t cases[][3] = {
    {1, 1, 1}, {3, 7, 3}, {5, 257, 100}, {33, 1000, 1000}, {4, 4096, 512}};
enum { N_CASES = sizeof cases / sizeof *cases };

/* Columns [first, first + n) of (m, c) numbers. */
static double *columns(const double *x, int64_t m, int64_t c, int64_t first, int64_t n)
{
    double *part = test_zeros(m * n);
    for (int64_t i = 0; i < m * n; i++)
        part[i] = x[i / n * c + first + i % n];
    return part;
}

typedef struct {
    int64_t m, c, chunk;
    qy_dtype_t type;
    double *student, *teacher, *grad, *want;
    qy_tensor_t stats, t_stats, picked, targets, loss;
} setup_t;

/* A chunk of logits on the device. */
static qy_tensor_t put_chunk(const qy_device_t *dev, const setup_t *s, const double *logits,
                             int64_t first)
{
    int64_t n = s->chunk < s->c - first ? s->chunk : s->c - first;
    double *part = columns(logits, s->m, s->c, first, n);
    qy_tensor_t t = test_put_2d(dev, s->type, s->m, n, part);
    test_drop(part);
    return t;
}

static void check_gradient(const qy_device_t *dev, const setup_t *s, const qy_tensor_t *t,
                           int64_t first, double scale)
{
    int64_t n = qy_tensor_cols(t);
    double *got = test_get(dev, t), *want = columns(s->grad, s->m, s->c, first, n);
    test_close("dlogits", got, want, s->m * n, 8.0 * test_epsilon(t->dtype) * scale);
    test_drop(got, want);
}

static void check_cross_entropy(const qy_device_t *dev, setup_t *s, const int *targets)
{
    const float scale = 0.25f;
    qy_error_t err = {0};
    ref_cross_entropy(s->want, s->grad, s->student, targets, (double)scale, s->m, s->c);
    for (int64_t first = 0; first < s->c; first += s->chunk) {
        qy_tensor_t x = put_chunk(dev, s, s->student, first);
        test_ok(qy_softmax_stats(dev, &s->stats, &s->picked, &x, &s->targets, first, &err), err);
        test_release(dev, &x);
    }
    test_ok(qy_cross_entropy_loss(dev, &s->loss, &s->stats, &s->picked, &s->targets, &err), err);
    double *nll = test_get(dev, &s->loss);
    test_close("nll", nll, s->want, s->m, test_tolerance(8.0, QY_F32, 1, s->want, s->m) + 1e-6);
    test_drop(nll);
    for (int64_t first = 0; first < s->c; first += s->chunk) {
        qy_tensor_t x = put_chunk(dev, s, s->student, first);
        qy_tensor_t dx = test_put_2d(dev, s->type, s->m, qy_tensor_cols(&x), NULL);
        test_ok(qy_cross_entropy_bwd(dev, &dx, &x, &s->stats, &s->targets, first, scale, &err),
                err);
        test_ok(qy_cross_entropy_bwd(dev, &x, &x, &s->stats, &s->targets, first, scale, &err), err);
        check_gradient(dev, s, &dx, first, (double)scale);
        check_gradient(dev, s, &x, first, (double)scale);
        test_release_all(dev, &x, &dx);
    }
}

static void check_kl(const qy_device_t *dev, setup_t *s)
{
    const float scale = 0.5f;
    qy_error_t err = {0};
    ref_kl(s->want, s->grad, s->student, s->teacher, (double)scale, s->m, s->c);
    for (int64_t first = 0; first < s->c; first += s->chunk) {
        qy_tensor_t x = put_chunk(dev, s, s->student, first),
                    t = put_chunk(dev, s, s->teacher, first);
        test_ok(qy_softmax_stats(dev, &s->stats, NULL, &x, NULL, first, &err), err);
        test_ok(qy_softmax_stats(dev, &s->t_stats, NULL, &t, NULL, first, &err), err);
        test_release_all(dev, &x, &t);
    }
    for (int64_t first = 0; first < s->c; first += s->chunk) {
        qy_tensor_t x = put_chunk(dev, s, s->student, first),
                    t = put_chunk(dev, s, s->teacher, first);
        test_ok(qy_kl_loss(dev, &s->loss, &x, &s->stats, &t, &s->t_stats, first > 0, &err), err);
        test_ok(qy_kl_bwd(dev, &x, &x, &s->stats, &t, &s->t_stats, scale, &err), err);
        check_gradient(dev, s, &x, first, (double)scale);
        test_release_all(dev, &x, &t);
    }
    double *kl = test_get(dev, &s->loss);
    test_close("kl", kl, s->want, s->m, test_tolerance(8.0, QY_F32, 1, s->want, s->m) + 1e-6);
    test_drop(kl);
}

static void vocabulary(const qy_device_t *dev)
{
    for (int k = 0; k < N_CASES; k++) {
        for (int typed = 0; typed < 2; typed++) {
            setup_t s = {.m = cases[k][0], .c = cases[k][1], .chunk = cases[k][2]};
            s.type = typed ? dev->compute : QY_F32;
            s.student = test_random(s.m * s.c, 1, 8.0, s.type);
            s.teacher = test_random(s.m * s.c, 2, 8.0, s.type);
            s.grad = test_zeros(s.m * s.c);
            s.want = test_zeros(s.m);
            int *targets = calloc((size_t)s.m, sizeof *targets);
            assert_non_null(targets);
            double *ids = test_zeros(s.m);
            for (int64_t r = 0; r < s.m; r++)
                ids[r] = targets[r] = r % 4 == 2 ? -1 : (int)(r * 131 % s.c);
            s.stats = test_put_2d(dev, QY_F32, s.m, 2, NULL);
            s.t_stats = test_put_2d(dev, QY_F32, s.m, 2, NULL);
            s.picked = test_put_1d(dev, QY_F32, s.m, NULL);
            s.loss = test_put_1d(dev, QY_F32, s.m, NULL);
            s.targets = test_put_1d(dev, QY_I32, s.m, ids);
            check_cross_entropy(dev, &s, targets);
            check_kl(dev, &s);
            test_release_all(dev, &s.stats, &s.t_stats, &s.picked, &s.loss, &s.targets);
            test_drop(s.student, s.teacher, s.grad, s.want, targets, ids);
        }
    }
}

/* Four equal logits: p = 1/4 exactly. A thousand more in front must not overflow, −∞ counts 0. */
static void vocabulary_exact(const qy_device_t *dev)
{
    const double equal[] = {5, 5, 5, 5, 1000, 1000, 1000, 1000, -INFINITY, 3, -INFINITY, 3};
    const double stats[] = {5, 4, 1000, 4, 3, 2};
    const double grad[] = {.25, -.75, .25, .25, .25, -.75, .25, .25, 0, -.5, 0, .5};
    const double ids[] = {1, 1, 1}, zeros[3] = {0};
    qy_error_t err = {0};
    qy_tensor_t x = test_put_2d(dev, QY_F32, 3, 4, equal), tt = test_put_1d(dev, QY_I32, 3, ids);
    qy_tensor_t ts = test_put_2d(dev, QY_F32, 3, 2, NULL), p = test_put_1d(dev, QY_F32, 3, NULL);
    qy_tensor_t kl = test_put_1d(dev, QY_F32, 3, NULL);
    test_ok(qy_softmax_stats(dev, &ts, &p, &x, &tt, 0, &err), err);
    test_ok(qy_kl_loss(dev, &kl, &x, &ts, &x, &ts, 0, &err), err);
    test_ok(qy_cross_entropy_bwd(dev, &x, &x, &ts, &tt, 0, 1.0f, &err), err);
    double *got = test_get(dev, &ts), *dx = test_get(dev, &x), *none = test_get(dev, &kl);
    test_equal("stats", got, stats, 6);
    test_equal("dlogits", dx, grad, 12);
    test_equal("kl with itself", none, zeros, 3);
    test_release_all(dev, &x, &tt, &ts, &p, &kl);
    test_drop(got, dx, none);
}

/* A first chunk of nothing but −∞ leaves room for what follows. */
static void vocabulary_infinite(const qy_device_t *dev)
{
    const double chunks[2][2] = {{-INFINITY, -INFINITY}, {7, 7}}, empty[] = {-INFINITY, 0};
    const double full[] = {7, 2};
    qy_error_t err = {0};
    qy_tensor_t first = test_put_2d(dev, QY_F32, 1, 2, chunks[0]);
    qy_tensor_t second = test_put_2d(dev, QY_F32, 1, 2, chunks[1]);
    qy_tensor_t ts = test_put_2d(dev, QY_F32, 1, 2, NULL);
    test_ok(qy_softmax_stats(dev, &ts, NULL, &first, NULL, 0, &err), err);
    double *before = test_get(dev, &ts);
    test_ok(qy_softmax_stats(dev, &ts, NULL, &second, NULL, 2, &err), err);
    double *after = test_get(dev, &ts);
    test_equal("stats of nothing", before, empty, 2);
    test_equal("stats", after, full, 2);
    test_release_all(dev, &first, &second, &ts);
    test_drop(before, after);
}

/* A NaN among the logits, or nothing but −∞ before it, must reach the loss. */
static void vocabulary_nan(const qy_device_t *dev)
{
    const double rows[2][3] = {{1, NAN, 2}, {-INFINITY, -INFINITY, NAN}}, ids[] = {0, 0};
    qy_error_t err = {0};
    qy_tensor_t x = test_put_2d(dev, QY_F32, 2, 3, rows[0]), tt = test_put_1d(dev, QY_I32, 2, ids);
    qy_tensor_t ts = test_put_2d(dev, QY_F32, 2, 2, NULL), p = test_put_1d(dev, QY_F32, 2, NULL);
    test_ok(qy_softmax_stats(dev, &ts, &p, &x, &tt, 0, &err), err);
    test_ok(qy_cross_entropy_loss(dev, &p, &ts, &p, &tt, &err), err);
    double *nll = test_get(dev, &p);
    assert_true(isnan(nll[0]) && isnan(nll[1]));
    test_release_all(dev, &x, &tt, &ts, &p);
    test_drop(nll);
}

static void sum(const qy_device_t *dev)
{
    static const int64_t sizes[] = {1, 5, 4096, 4097, 100000};
    qy_error_t err = {0};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s];
        double *x = test_whole(n, 1, 5), *r = test_random(n, 2, 1.0, QY_F32);
        double sums[2] = {0}, squares = 0.0, start = 3.0;
        for (int64_t i = 0; i < n; i++) {
            sums[0] += x[i];
            sums[1] += x[i] * x[i];
            squares += r[i] * r[i];
        }
        qy_tensor_t tx = test_put_1d(dev, QY_F32, n, x), tr = test_put_1d(dev, QY_F32, n, r);
        for (int squared = 0; squared < 2; squared++) {
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                qy_tensor_t out = test_put_1d(dev, QY_F32, 1, accumulate ? &start : NULL);
                test_ok(qy_sum(dev, &out, &tx, squared, accumulate, &err), err);
                double got = one(dev, &out), want = sums[squared] + (accumulate ? start : 0.0);
                test_equal("sum", &got, &want, 1);
                test_release(dev, &out);
            }
        }
        qy_tensor_t out = test_put_1d(dev, QY_F32, 1, NULL);
        test_ok(qy_sum(dev, &out, &tr, 1, 0, &err), err);
        double got = one(dev, &out);
        test_close("sum of squares", &got, &squares, 1, 4.0 * test_epsilon(QY_F32) * squares);
        test_release_all(dev, &tx, &tr, &out);
        test_drop(x, r);
    }
}

static void bad_input(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    qy_tensor_t x = test_put_2d(dev, c, 3, 4, NULL), y = test_put_2d(dev, c, 3, 5, NULL);
    qy_tensor_t stats = test_put_2d(dev, QY_F32, 3, 2, NULL),
                ids = test_put_1d(dev, QY_I32, 3, NULL);
    qy_tensor_t f3 = test_put_1d(dev, QY_F32, 3, NULL), f1 = test_put_1d(dev, QY_F32, 1, NULL);
    test_refused(qy_mse(dev, &f1, NULL, &x, &y, NULL, &err), QY_ERR_SHAPE, err);
    test_refused(qy_mse(dev, &f3, NULL, &x, &x, NULL, &err), QY_ERR_SHAPE, err);
    test_refused(qy_mse(dev, &f1, NULL, &x, &x, &f3, &err), QY_ERR_SHAPE, err);
    test_refused(qy_softmax_stats(dev, &stats, NULL, &x, &ids, 0, &err), QY_ERR_ARG, err);
    test_refused(qy_softmax_stats(dev, &f3, NULL, &x, NULL, 0, &err), QY_ERR_SHAPE, err);
    test_refused(qy_softmax_stats(dev, &stats, NULL, &x, NULL, -1, &err), QY_ERR_ARG, err);
    test_refused(qy_cross_entropy_loss(dev, &f1, &stats, &f3, &ids, &err), QY_ERR_SHAPE, err);
    test_refused(qy_cross_entropy_bwd(dev, &y, &x, &stats, &ids, 0, 1.0f, &err), QY_ERR_SHAPE, err);
    test_refused(qy_cross_entropy_bwd(dev, &x, &x, &stats, &f3, 0, 1.0f, &err), QY_ERR_ARG, err);
    test_refused(qy_kl_loss(dev, &f3, &x, &stats, &y, &stats, 0, &err), QY_ERR_SHAPE, err);
    test_refused(qy_kl_bwd(dev, &x, &x, &f3, &x, &stats, 1.0f, &err), QY_ERR_SHAPE, err);
    test_refused(qy_sum(dev, &f3, &f1, 0, 0, &err), QY_ERR_SHAPE, err);
    test_refused(qy_sum(dev, &f1, &ids, 0, 0, &err), QY_ERR_ARG, err);
    double *untouched = test_get(dev, &f3);
    assert_true(isnan(untouched[0]));
    test_release_all(dev, &x, &y, &stats, &ids, &f3, &f1);
    test_drop(untouched);
}

TEST_ON_DEVICES(mse)
TEST_ON_DEVICES(mse_exact)
TEST_ON_DEVICES(vocabulary)
TEST_ON_DEVICES(vocabulary_exact)
TEST_ON_DEVICES(vocabulary_infinite)
TEST_ON_DEVICES(vocabulary_nan)
TEST_ON_DEVICES(sum)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mse),
        cmocka_unit_test(test_mse_exact),
        cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_vocabulary_exact),
        cmocka_unit_test(test_vocabulary_infinite),
        cmocka_unit_test(test_vocabulary_nan),
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
