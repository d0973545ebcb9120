/* Costs of merging channels: golden scores, against f64, and the search for partners. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/merge.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

/* gram (C, C) of x (M, C), in f64. */
static double *gram_of(const double *x, int64_t m, int64_t c)
{
    double *g = test_zeros(c * c);
    for (int64_t i = 0; i < c; i++)
        for (int64_t j = 0; j < c; j++)
            for (int64_t r = 0; r < m; r++)
                g[i * c + j] += x[r * c + i] * x[r * c + j];
    return g;
}

/* X and two rows of W whose scores the official code and equation 5 judge differently. */
static void goldens(const qy_device_t *dev)
{
    enum { C = 4 };
    const double x[] = {1, 1.1, 3, 0, 0, 0, 0, 3}, w[] = {1, 1, 1, -1, 1, 1, 1, -1};
    const double sums[] = {2, 2, 2, -2};
    const int rows[] = {0, 2}, cols[] = {1, 3};
    const double official[] = {.16, 0, 57.76, 0}, exact[] = {0, 20, 0, 36};
    qy_error_t err = {0};
    double *gx = gram_of(x, 2, C), *gw = gram_of(w, 2, C);
    qy_tensor_t tx = test_put_2d(dev, QY_F32, C, C, gx), tw = test_put_2d(dev, QY_F32, C, C, gw);
    qy_tensor_t ts = test_put_1d(dev, QY_F32, C, sums), t = test_put_2d(dev, QY_F32, C, C, NULL);
    test_ok(qy_merge_score(dev, &t, &tx, NULL, &ts, &err), err);
    test_ok(qy_merge_score(dev, &tw, &tx, &tw, NULL, &err), err);
    double *got = test_get(dev, &t), *got_exact = test_get(dev, &tw);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            test_close("official", &got[rows[i] * C + cols[j]], &official[2 * i + j], 1, 2e-5);
            test_close("exact", &got_exact[rows[i] * C + cols[j]], &exact[2 * i + j], 1, 2e-5);
        }
    test_release_all(dev, &tx, &tw, &ts, &t);
    test_drop(gx, gw, got, got_exact);
}

static void random_scores(const qy_device_t *dev)
{
    enum { C = 37, M = 50 };
    qy_error_t err = {0};
    double *x = test_random(M * C, 3, 2.0, QY_F32), *w = test_random(M * C, 4, 1.0, QY_F32);
    double *gx = gram_of(x, M, C), *gw = gram_of(w, M, C), *want = test_zeros(C * C);
    for (int i = 0; i < C; i++)
        for (int j = 0; j < C; j++) {
            double dx = 0, dw = 0;
            for (int r = 0; r < M; r++) {
                dx += pow(x[r * C + i] - x[r * C + j], 2);
                dw += pow(w[r * C + i] - w[r * C + j], 2);
            }
            want[i * C + j] = dx * dw / 4;
        }
    qy_tensor_t tx = test_put_2d(dev, QY_F32, C, C, gx), tw = test_put_2d(dev, QY_F32, C, C, gw);
    test_ok(qy_merge_score(dev, &tx, &tx, &tw, NULL, &err), err);
    double *got = test_get(dev, &tx);
    test_close("score", got, want, C * C, 1e-5 * test_max_abs(want, C * C));
    test_release_all(dev, &tx, &tw);
    test_drop(x, w, gx, gw, want, got);
}

/* Scores of few values, so that there are ties; positions stand for channels more than once. */
static void partners(const qy_device_t *dev)
{
    static const int64_t sizes[] = {1, 2, 5, 64, 1501};
    qy_error_t err = {0};
    for (int k = 0; k < 5; k++) {
        int64_t n = sizes[k], c = (n + 1) / 2;
        double *score = test_whole(c * c, 7, 9), *origin = test_zeros(n), *may = test_zeros(n);
        double *draw = test_whole(n, 8, 3), *best = test_zeros(n), *partner = test_zeros(n);
        for (int64_t e = 0; e < n; e++) {
            origin[e] = (double)((e * 7 + 3) % c);
            may[e] = draw[e] > -2;
        }
        for (int64_t i = 0; i < n; i++) {
            best[i] = INFINITY;
            partner[i] = -1;
            for (int64_t j = 1; j < n && i % 2 == 0 && may[i] != 0; j += 2) {
                double v = score[(int64_t)origin[i] * c + (int64_t)origin[j]];
                if (may[j] != 0 && v < best[i]) {
                    best[i] = v;
                    partner[i] = (double)j;
                }
            }
        }
        qy_tensor_t ts = test_put_2d(dev, QY_F32, c, c, score);
        qy_tensor_t to = test_put_1d(dev, QY_I32, n, origin), tf = test_put_1d(dev, QY_U8, n, may);
        qy_tensor_t tb = test_put_1d(dev, QY_F32, n, NULL), tp = test_put_1d(dev, QY_I32, n, NULL);
        test_ok(qy_merge_match(dev, &tb, &tp, &ts, &to, &tf, &err), err);
        double *got_best = test_get(dev, &tb), *got_partner = test_get(dev, &tp);
        test_equal("best", got_best, best, n);
        test_equal("partner", got_partner, partner, n);
        test_release_all(dev, &ts, &to, &tf, &tb, &tp);
        test_drop(score, origin, may, draw, best, partner, got_best, got_partner);
    }
}

static void bad_input(const qy_device_t *dev)
{
    qy_error_t err = {0};
    qy_tensor_t a = test_put_2d(dev, QY_F32, 3, 3, NULL), b = test_put_2d(dev, QY_F32, 3, 4, NULL);
    qy_tensor_t s = test_put_1d(dev, QY_F32, 3, NULL), i = test_put_1d(dev, QY_I32, 4, NULL);
    test_refused(qy_merge_score(dev, &b, &a, &a, NULL, &err), QY_ERR_SHAPE, err);
    test_refused(qy_merge_score(dev, &a, &a, &a, &s, &err), QY_ERR_ARG, err);
    test_refused(qy_merge_score(dev, &a, &a, NULL, NULL, &err), QY_ERR_ARG, err);
    test_refused(qy_merge_match(dev, &s, &i, &a, &i, &s, &err), QY_ERR_ARG, err);
    test_release_all(dev, &a, &b, &s, &i);
}

TEST_ON_DEVICES(goldens)
TEST_ON_DEVICES(random_scores)
TEST_ON_DEVICES(partners)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_random_scores),
        cmocka_unit_test(test_partners),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
