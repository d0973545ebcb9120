/* Static quantization of activations: golden values, f64 from the header, rounded probabilities. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/attention.h"
#include "kernels/static_quant.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

/* Clusters of 2 and 3 channels, 4 bits: the specification's example; 16 and 3 are cut. */
static void golden(const qy_device_t *dev)
{
    static const double x[] = {0, 16, -1, 1, .5, 4, 8, .25, -.75, 3};
    static const double s[] = {1, 1, .25, .25, .25}, z[] = {0, 0, 4, 4, 4}; /* −8, −4 and 8 more */
    static const double want[] = {0, 15, -1, 1, .5, 4, 8, .25, -.75, 2.75};
    qy_error_t err = {0};
    qy_tensor_t tx = test_put_2d(dev, dev->compute, 2, 5, x), ts = test_put_1d(dev, QY_F32, 5, s);
    qy_tensor_t tz = test_put_1d(dev, QY_F32, 5, z);
    test_ok(qy_static_quant_fwd(dev, &tx, &tx, &ts, &tz, 4, &err), err);
    double *got = test_get(dev, &tx);
    test_close("static_quant_fwd", got, want, 10, 0.0);
    test_release_all(dev, &tx, &ts, &tz);
    test_drop(got);
}

static void random_rows(const qy_device_t *dev)
{
    enum { M = 37, C = 129 };
    qy_error_t err = {0};
    double *x = test_random(M * C, 1, 2.0, dev->compute), *s = test_random(C, 2, 0.1, QY_F32);
    double *z = test_zeros(C), *want = test_zeros(M * C);
    for (int c = 0; c < C; c++) {
        s[c] = (double)(float)(0.05 + fabs(s[c]));
        z[c] = c % 40 - 12;
    }
    for (int i = 0; i < M * C; i++) {
        float code = rintf((float)x[i] / (float)s[i % C]) + (float)z[i % C];
        code = code < 0 ? 0 : code > 15 ? 15 : code;
        want[i] = (double)((code - (float)z[i % C]) * (float)s[i % C]);
    }
    qy_tensor_t tx = test_put_2d(dev, dev->compute, M, C, x), ts = test_put_1d(dev, QY_F32, C, s);
    qy_tensor_t tz = test_put_1d(dev, QY_F32, C, z),
                ty = test_put_2d(dev, dev->compute, M, C, NULL);
    test_ok(qy_static_quant_fwd(dev, &ty, &tx, &ts, &tz, 4, &err), err);
    double *got = test_get(dev, &ty);
    double rounding =
        dev->compute == QY_F32 ? 0.0 : test_tolerance(1.0, dev->compute, 1, want, M * C);
    test_close("static_quant_fwd", got, want, M * C, rounding);
    qy_tensor_t fewer = test_put_1d(dev, QY_F32, C - 1, z);
    test_refused(qy_static_quant_fwd(dev, &ty, &tx, &ts, &fewer, 4, &err), QY_ERR_SHAPE, err);
    test_refused(qy_static_quant_fwd(dev, &ty, &tx, &ts, &tz, 9, &err), QY_ERR_ARG, err);
    test_release_all(dev, &tx, &ts, &tz, &ty, &fewer);
    test_drop(x, s, z, want, got);
}

/* Gradients stop where values are cut off, at both ends, and nowhere else. */
static void gradient(const qy_device_t *dev)
{
    enum { M = 37, C = 129 };
    qy_error_t err = {0};
    double *x = test_random(M * C, 1, 2.0, dev->compute),
           *dy = test_random(M * C, 2, 1.0, dev->compute);
    double *s = test_zeros(C), *z = test_zeros(C), *want = test_zeros(M * C);
    int64_t cut[2] = {0};
    for (int c = 0; c < C; c++) {
        s[c] = (double)(float)(0.05 + 0.002 * c);
        z[c] = c % 40 - 12;
    }
    for (int i = 0; i < M * C; i++) {
        float u = rintf((float)x[i] / (float)s[i % C]) + (float)z[i % C];
        want[i] = u >= 0 && u <= 15 ? dy[i] : 0;
        cut[0] += u < 0;
        cut[1] += u > 15;
    }
    assert_true(cut[0] > M && cut[1] > M && cut[0] + cut[1] < M * C - M);
    qy_tensor_t tx = test_put_2d(dev, dev->compute, M, C, x), ts = test_put_1d(dev, QY_F32, C, s);
    qy_tensor_t td = test_put_2d(dev, dev->compute, M, C, dy), tz = test_put_1d(dev, QY_F32, C, z);
    test_ok(qy_static_quant_bwd(dev, &td, &td, &tx, &ts, &tz, 4, &err), err);
    double *got = test_get(dev, &td);
    test_close("static_quant_bwd", got, want, M * C, 0.0);
    test_refused(qy_static_quant_bwd(dev, &td, &ts, &tx, &ts, &tz, 4, &err),
                 dev->compute == QY_F32 ? QY_ERR_SHAPE : QY_ERR_ARG, err);
    test_refused(qy_static_quant_bwd(dev, &td, &td, &tx, &ts, &tz, 1, &err), QY_ERR_ARG, err);
    test_release_all(dev, &tx, &ts, &td, &tz);
    test_drop(x, dy, s, z, want, got);
}

/* B, T, H, K, d, window */
static const int64_t cases[][6] = {
    {1, 1, 1, 1, 4, 0}, {2, 70, 4, 2, 32, 0}, {1, 150, 2, 1, 64, 20}};

/* o of probabilities that are rounded to 1/levels. */
static void levels_reference(double *o, const double *q, const double *k, const double *v,
                             const int64_t a[6], double scale, double levels)
{
    int64_t t_max = a[1], h = a[2], n_kv = a[3], d = a[4];
    double *p = test_zeros(t_max);
    for (int64_t i = 0; i < a[0] * t_max * h; i++) {
        int64_t b = i / h / t_max, t = i / h % t_max, head = i % h, kv = head / (h / n_kv);
        int64_t first = a[5] > 0 && t >= a[5] ? t - a[5] + 1 : 0;
        double sum = 0;
        for (int64_t j = first; j <= t; j++) {
            double score = 0;
            for (int64_t c = 0; c < d; c++)
                score += q[i * d + c] * k[((b * t_max + j) * n_kv + kv) * d + c];
            sum += p[j] = exp(scale * score);
        }
        for (int64_t c = 0; c < d; c++)
            o[i * d + c] = 0;
        for (int64_t j = first; j <= t; j++) {
            double share = levels * p[j] / sum;
            for (int64_t c = 0; c < d; c++)
                o[i * d + c] += rint(share) / levels * v[((b * t_max + j) * n_kv + kv) * d + c];
        }
    }
    test_drop(p);
}

static void levels(const qy_device_t *dev)
{
    qy_error_t err = {0};
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        const int64_t *a = cases[n], n_q = a[0] * a[1] * a[2] * a[4], n_k = n_q / a[2] * a[3];
        const int64_t q_shape[] = {a[0], a[1], a[2], a[4]}, k_shape[] = {a[0], a[1], a[3], a[4]};
        float scale = 1.0f / sqrtf((float)a[4]);
        double *q = test_random(n_q, 1, 2.0, dev->compute),
               *k = test_random(n_k, 2, 2.0, dev->compute);
        double *v = test_random(n_k, 3, 1.0, dev->compute), *want = test_zeros(n_q);
        qy_tensor_t tq = test_put(dev, dev->compute, 4, q_shape, q);
        qy_tensor_t tk = test_put(dev, dev->compute, 4, k_shape, k);
        qy_tensor_t tv = test_put(dev, dev->compute, 4, k_shape, v);
        qy_tensor_t to = test_put(dev, dev->compute, 4, q_shape, NULL);
        qy_tensor_t lse = test_put(dev, QY_F32, 3, (int64_t[]){a[0], a[2], a[1]}, NULL);
        test_ok(qy_attention_fwd(dev, &to, &lse, &tq, &tk, &tv, scale, a[5], &err), err);
        test_ok(qy_attention_levels_fwd(dev, &to, &lse, &tq, &tk, &tv, scale, a[5], 255, &err),
                err);
        levels_reference(want, q, k, v, a, (double)scale, 255);
        double *got = test_get(dev, &to);
        /* A share near a tie may go the other way: one level of one value, at most 1 in size. */
        int64_t off = 0;
        double rounding = test_tolerance(8.0, QY_F32, a[1], want, n_q) +
                          test_tolerance(1.0, dev->compute, 1, want, n_q);
        for (int64_t i = 0; i < n_q; i++) {
            double difference = fabs(got[i] - want[i]);
            assert_true(difference <= rounding + 2.5 / 255);
            off += !(difference <= rounding);
        }
        assert_true((double)off <= 0.02 * (double)n_q);
        test_refused(qy_attention_levels_fwd(dev, &to, &lse, &tq, &tk, &tv, scale, a[5], 0, &err),
                     QY_ERR_ARG, err);
        test_release_all(dev, &tq, &tk, &tv, &to, &lse);
        test_drop(q, k, v, want, got);
    }
}

/* The specification's probabilities, as the last query of five sees them: scores are their
 * logarithms and a little more (.1 and .5 lie on ties, of which .1 is one only as f32 rounds it),
 * split into parts that every type holds; values are one channel for each key. */
static void golden_probabilities(const qy_device_t *dev)
{
    enum { T = 5, D = 8 };
    static const double p[T] = {.1, .5, .0019, .002, 1};
    static const double want[T] = {.1019608, .5019608, 0, .00392157, 1};
    static const int64_t shape[] = {1, T, 1, D};
    double q[T * D] = {0}, k[T * D] = {0}, v[T * D] = {0}, zero[T] = {0};
    qy_error_t err = {0};
    for (int t = 0; t < T; t++) {
        double left = log(p[t]) + (p[t] < 1 ? 2e-6 : 0);
        for (int i = 0; i < 3; i++) {
            q[t * D + i] = 1;
            k[t * D + i] = test_round(left, dev->compute);
            left -= k[t * D + i];
        }
        v[t * D + t] = 1;
    }
    qy_tensor_t tq = test_put(dev, dev->compute, 4, shape, q);
    qy_tensor_t tk = test_put(dev, dev->compute, 4, shape, k);
    qy_tensor_t tv = test_put(dev, dev->compute, 4, shape, v);
    qy_tensor_t to = test_put(dev, dev->compute, 4, shape, NULL);
    qy_tensor_t lse = test_put(dev, QY_F32, 3, (int64_t[]){1, 1, T}, zero);
    test_ok(qy_attention_levels_fwd(dev, &to, &lse, &tq, &tk, &tv, 1.0f, 0, 255, &err), err);
    double *got = test_get(dev, &to);
    for (int t = 0; t < T; t++)
        assert_true(fabs(got[(T - 1) * D + t] - want[t]) <=
                    1e-7 + test_epsilon(dev->compute) * want[t]);
    test_release_all(dev, &tq, &tk, &tv, &to, &lse);
    test_drop(got);
}

TEST_ON_DEVICES(golden)
TEST_ON_DEVICES(golden_probabilities)
TEST_ON_DEVICES(random_rows)
TEST_ON_DEVICES(gradient)
TEST_ON_DEVICES(levels)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),      cmocka_unit_test(test_golden_probabilities),
        cmocka_unit_test(test_random_rows), cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
