/* Clusters of channels: the specification's golden values, degenerate input. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/clusters.h"

static int near(float got, double want)
{
    return fabs((double)got - want) <= 1e-6 * fmax(1, fabs(want));
}

/* Published steps; zero points are 2^(bits − 1) above the specification's, which are of signed
 * codes. */
static void test_steps(void **state)
{
    (void)state;
    static const float cases[][4] = {{0, 16, 1, -8},
                                     {-1, 3, .25f, -4},
                                     {.02f, 8.0392f, .5012f, -8},
                                     {-1.0299f, .9999f, .126863f, 0},
                                     {0, 1.6f, .1f, -8},
                                     {-4, 4, .5f, 0},
                                     {1, 2, .0625f, -24},
                                     {3, 11, .5f, -14},
                                     {10, 11, .0625f, -168}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float s, z;
        qy_cluster_step(&s, &z, cases[i][0], cases[i][1], 4, true);
        assert_true(near(s, (double)cases[i][2]) || fabs((double)(s - cases[i][2])) < 1e-5);
        assert_true(z - 8 == cases[i][3]);
        qy_cluster_step(&s, &z, cases[i][0], cases[i][1], 4, false);
        assert_true(near(s * 15, (double)(cases[i][1] - cases[i][0])));
        float top = (15 - z) * s; /* nothing is cut off by more than half a step */
        assert_true(fabs((double)(top - cases[i][1])) <= 0.5001 * (double)s);
    }
}

static void test_average(void **state)
{
    (void)state;
    static const int32_t counts[] = {2, 2, 0};
    static const float samples[3][4] = {{0, 8, -1, 1}, {0, 16, -2, 2}, {2, 4, -3, 0}};
    static const double hi_want[] = {8.0392, .9999}, lo_want[] = {.02, -1.0299};
    float lo[3] = {5, 5, 5}, hi[3] = {5, 5, 5};
    for (int i = 0; i < 3; i++)
        qy_clusters_average(lo, hi, counts, 3, samples[i], samples[i], i == 0);
    for (int c = 0; c < 2; c++)
        assert_true(near(hi[c], hi_want[c]) && near(lo[c], lo_want[c]));
    assert_true(lo[2] == 5 && hi[2] == 5);
}

static void check_order(const float *features, int64_t n, int64_t d, int64_t k, const int *want,
                        const int *want_counts)
{
    qy_error_t err = {0};
    int32_t order[64], counts[8];
    assert_int_equal(qy_clusters_find(order, counts, features, n, d, k, 0, 0, 2, &err), QY_OK);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(order[i], want[i]);
    for (int64_t c = 0; c < k; c++)
        assert_int_equal(counts[c], want_counts[c]);
}

static void test_find(void **state)
{
    (void)state;
    static const float max[8] = {1, 10, 1.1f, .9f, 30, 9.5f, 1.05f, 29};
    static const float sign[8] = {1, 1, 1, 1, .1f, 1, 1, .1f};
    float two[16], heads[2][16], many[128];
    for (int i = 0; i < 8; i++) {
        two[2 * i] = max[i];
        two[2 * i + 1] = -max[i] * sign[i];
    }
    check_order(two, 8, 2, 3, (const int[]){0, 2, 3, 6, 1, 5, 4, 7}, (const int[]){4, 2, 2});
    static const float q[8] = {1, 5, 1, 5, 2, 2, 7, 7}, k[8] = {3, 3.2f, 3, 3.1f, 1, 1, 6, 6};
    for (int i = 0; i < 8; i++) {
        const float point[] = {q[i], k[i], -q[i], -k[i]};
        memcpy(&heads[i / 4][i % 4 * 4], point, sizeof point);
    }
    check_order(heads[0], 4, 4, 2, (const int[]){0, 2, 1, 3}, (const int[]){2, 2});
    check_order(heads[1], 4, 4, 2, (const int[]){0, 1, 2, 3}, (const int[]){2, 2});
    for (int i = 0; i < 64; i++) {
        many[2 * i] = (float)((37 * i + 11) % 101) / 10;
        many[2 * i + 1] = -(float)((53 * i + 7) % 89) / 10;
    }
    qy_error_t err = {0};
    int32_t order[64], counts[4];
    assert_int_equal(qy_clusters_find(order, counts, many, 64, 2, 4, 0, 0, 2, &err), QY_OK);
    double inertia = qy_clusters_inertia(order, counts, many, 64, 2, 4);
    assert_true(inertia <= 1.01 * 237.1075 && inertia >= 237.107);
}

/* As many threads as there may be give the bytes that one gives. */
static void test_threads(void **state)
{
    (void)state;
    enum { N = 500, D = 4, MOST = 40 };
    float features[N * D];
    int32_t order[2][N], counts[2][MOST];
    for (int i = 0; i < N * D; i++)
        features[i] = (float)((37 * i + i * i % 89 + 11) % 101) / 10;
    for (int64_t k = 1; k <= MOST; k += 13)
        for (int64_t d = 1; d <= D; d++) {
            qy_error_t err = {0};
            for (int i = 0; i < 2; i++)
                assert_int_equal(
                    qy_clusters_find(order[i], counts[i], features, N, d, k, 3, 5, i ? 4 : 1, &err),
                    QY_OK);
            assert_memory_equal(order[0], order[1], sizeof order[0]);
            assert_memory_equal(counts[0], counts[1], (size_t)k * sizeof counts[0][0]);
        }
}

/* Fewer distinct channels than clusters: the last clusters are empty. */
static void test_degenerate(void **state)
{
    (void)state;
    static const float points[] = {2, 0, 1, 0, 2, 0, 1, 0, 2, 0};
    check_order(points, 5, 2, 4, (const int[]){1, 3, 0, 2, 4}, (const int[]){2, 3, 0, 0});
    const float one[] = {3}, broken[] = {1, NAN};
    check_order(one, 1, 1, 1, (const int[]){0}, (const int[]){1});
    qy_error_t err = {0};
    int32_t order[2], counts[3];
    assert_int_equal(qy_clusters_find(order, counts, one, 1, 1, 2, 0, 0, 2, &err), QY_ERR_ARG);
    assert_int_equal(qy_clusters_find(order, counts, broken, 2, 1, 1, 0, 0, 2, &err), QY_ERR_ARG);
}

/* Σ (ŵ − x)² of counted values at one step and zero point, in f64. */
static double counted_error(const uint32_t *bins, double lo, double hi, double s, double z,
                            int bits)
{
    double sum = 0, q_max = (double)(1 << bits) - 1;
    for (int i = 0; i < QY_CLUSTER_BINS; i++) {
        double x = lo + (hi - lo) * (i + 0.5) / QY_CLUSTER_BINS;
        double code = fmin(fmax(rint(x / s) + z, 0), q_max), away = (code - z) * s - x;
        sum += bins[i] * away * away;
    }
    return sum;
}

static double plain_error(const uint32_t *bins, float lo, float hi, int bits)
{
    float s, z;
    qy_cluster_step(&s, &z, lo, hi, bits, false);
    return counted_error(bins, (double)lo, (double)hi, (double)s, (double)z, bits);
}

/* The least error of all pairs of pulled ends. */
static double best_error(const uint32_t *bins, float lo, float hi, int bits)
{
    double least = HUGE_VAL;
    for (int a = 0; a < 24; a++)
        for (int b = 0; b < 24; b++) {
            float s, z;
            qy_cluster_step(&s, &z, lo * (1 - .75f * (float)a / 24),
                            hi * (1 - .75f * (float)b / 24), bits, false);
            double error = counted_error(bins, (double)lo, (double)hi, (double)s, (double)z, bits);
            least = error < least ? error : least;
        }
    return least;
}

/* A bell with a far tail on one side: both ends are pulled in, nearly as well as any pair of them.
 */
static void test_fit(void **state)
{
    (void)state;
    uint32_t bins[QY_CLUSTER_BINS];
    for (int i = 0; i < QY_CLUSTER_BINS; i++) {
        double x = -2 + 8.0 * (i + 0.5) / QY_CLUSTER_BINS;
        bins[i] = (uint32_t)(1e5 * exp(-2 * x * x) + (i % 97 == 0));
    }
    for (int bits = 3; bits <= 4; bits++) {
        float s, z;
        qy_cluster_fit(&s, &z, bins, -2, 6, bits);
        double got = counted_error(bins, -2, 6, (double)s, (double)z, bits);
        assert_true(got <= 0.25 * plain_error(bins, -2, 6, bits));
        assert_true(got <= 1.02 * best_error(bins, -2, 6, bits));
        assert_true(z == rintf(z) && z >= 0 && z <= (float)(1 << bits) - 1);
    }
}

/* Where nothing is gained the range stays whole; one value alone, and a range without 0. */
static void test_fit_whole(void **state)
{
    (void)state;
    uint32_t bins[QY_CLUSTER_BINS] = {0};
    float s, z, want_s, want_z;
    bins[0] = bins[QY_CLUSTER_BINS - 1] = 1000;
    qy_cluster_step(&want_s, &want_z, -1, 2, 4, false);
    qy_cluster_fit(&s, &z, bins, -1, 2, 4);
    assert_true(s == want_s && z == want_z);
    qy_cluster_step(&want_s, &want_z, 10, 11, 4, false);
    qy_cluster_fit(&s, &z, bins, 10, 11, 4);
    assert_true(s == want_s && z == want_z && z < 0);
    qy_cluster_step(&want_s, &want_z, 3, 3, 4, false);
    qy_cluster_fit(&s, &z, bins, 3, 3, 4);
    assert_true(s == want_s && z == want_z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),   cmocka_unit_test(test_average),
        cmocka_unit_test(test_find),    cmocka_unit_test(test_degenerate),
        cmocka_unit_test(test_fit),     cmocka_unit_test(test_fit_whole),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
