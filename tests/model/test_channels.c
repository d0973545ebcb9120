/* Splits and merges of channels as plans: the published examples, sizes kept, bad plans refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/channels.h"

enum { MOST = 64 };

/* x (n) behind the plan, by its weights; w (n) behind it, by sums. */
static void apply(double *x_out, double *w_out, const double *x, const double *w,
                  const int32_t *offsets, const int32_t *items, int64_t n)
{
    float weights[2 * MOST], back_weights[2 * MOST];
    int32_t back_offsets[MOST + 1], back_items[2 * MOST];
    qy_channels_weights(weights, back_offsets, back_items, back_weights, offsets, items, n);
    double back[MOST] = {0}, forth = 0, sum = 0;
    for (int64_t j = 0; j < n; j++) {
        x_out[j] = w_out[j] = 0;
        for (int32_t k = offsets[j]; k < offsets[j + 1]; k++) {
            x_out[j] += (double)weights[k] * x[items[k]];
            w_out[j] += w[items[k]];
        }
        forth += x_out[j] * (double)(j + 1);
    }
    /* the transposed plan: Σ_j (j + 1) x'_j is Σ_c x_c d_c */
    for (int64_t c = 0; c < n; c++) {
        for (int32_t k = back_offsets[c]; k < back_offsets[c + 1]; k++)
            back[c] += (double)back_weights[k] * (double)(back_items[k] + 1);
        sum += back[c] * x[c];
    }
    assert_true(fabs(sum - forth) <= 1e-5 * (1 + fabs(forth)));
}

static void assert_near(const double *got, const double *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= 1e-5))
            fail_msg("element %d: %g, not %g", (int)i, got[i], want[i]);
}

static void test_split(void **state)
{
    (void)state;
    const float size[] = {1, 8, 2, 4};
    const int32_t want_copies[] = {1, 3, 1, 2}, want_origin[] = {0, 1, 1, 1, 2, 3, 3};
    const double x[] = {.5, -8, 2, 3}, w[2][4] = {{1, 2, 3, 4}, {0, 1, -1, 2}};
    int32_t copies[4], origin[7];
    assert_int_equal(qy_channels_split(copies, size, 4, 3), 3);
    assert_memory_equal(copies, want_copies, sizeof copies);
    qy_channels_expand(origin, copies, 4);
    assert_memory_equal(origin, want_origin, sizeof origin);
    /* nothing merged: the product stays what it was */
    for (int o = 0; o < 2; o++) {
        double sum = 0;
        for (int e = 0; e < 7; e++)
            sum += x[origin[e]] / copies[origin[e]] * w[o][origin[e]];
        assert_true(fabs(sum - (o ? -4 : 2.5)) < 1e-12);
    }
}

/* Even positions 0 and 2 into odd position 1, in numbers of expanded positions: 0 and 4 into 3. */
static void test_many_into_one(void **state)
{
    (void)state;
    const int32_t origin[] = {0, 1, 2, 3, 4, 5}, into[] = {3, -1, -1, -1, 3, -1};
    int32_t offsets[5], items[12];
    /* four places are left: as a plan of four channels its numbers are looked at alone */
    qy_error_t err;
    assert_int_equal(qy_channels_plan(offsets, items, origin, into, 6, 4, &err), QY_OK);
    const double x[] = {2, 4, 6, 8, 10, 12}, w[] = {1, 2, 3, 4, 5, 6};
    const double want_x[] = {4, 6, 20.0 / 3, 12}, want_w[] = {2, 3, 10, 6};
    double got_x[4] = {0}, got_w[4] = {0};
    for (int j = 0; j < 4; j++) {
        for (int k = offsets[j]; k < offsets[j + 1]; k++) {
            got_x[j] += x[items[k]] / (offsets[j + 1] - offsets[j]);
            got_w[j] += w[items[k]];
        }
    }
    assert_near(got_x, want_x, 4);
    assert_near(got_w, want_w, 4);
}

/* Five positions, the last of the even ones into the first odd one. And whatever the weights, equal
 * channels merge for nothing. */
static void test_odd_many(void **state)
{
    (void)state;
    const int32_t origin[] = {0, 1, 2, 3, 4}, into[] = {-1, -1, -1, -1, 1};
    const double cases[][5] = {{1, 2, 3, 4, 5}, {1, 7, 3, 4, 7}}, w[] = {2, -3, 4, 5, .5};
    const double want[] = {1, 3.5, 3, 4};
    int32_t offsets[5], items[10];
    qy_error_t err;
    assert_int_equal(qy_channels_plan(offsets, items, origin, into, 5, 4, &err), QY_OK);
    for (int i = 0; i < 2; i++) {
        double got[4] = {0}, product = 0, exact = 0;
        for (int j = 0; j < 4; j++) {
            double sum = 0;
            for (int k = offsets[j]; k < offsets[j + 1]; k++) {
                got[j] += cases[i][items[k]] / (offsets[j + 1] - offsets[j]);
                sum += w[items[k]];
            }
            product += got[j] * sum;
        }
        for (int c = 0; c < 5; c++)
            exact += cases[i][c] * w[c];
        if (i == 0)
            assert_near(got, want, 4);
        else
            assert_true(fabs(product - exact) < 1e-12);
    }
}

/* One channel of five split in two, the last merged into the second: five again. */
static void test_whole_plan(void **state)
{
    (void)state;
    const int32_t copies[] = {1, 1, 2, 1, 1}, into[] = {-1, -1, -1, -1, -1, 1};
    int32_t origin[6], offsets[6], items[10];
    int64_t n_split, n_merged;
    qy_error_t err;
    qy_channels_expand(origin, copies, 5);
    assert_int_equal(qy_channels_plan(offsets, items, origin, into, 6, 5, &err), QY_OK);
    const double x[] = {1, 2, 3, 4, 5}, w[] = {1, 1, 2, 1, 3};
    const double want_x[] = {1, 3.5, 1.5, 1.5, 4}, want_w[] = {1, 4, 2, 2, 1};
    double got_x[5], got_w[5];
    apply(got_x, got_w, x, w, offsets, items, 5);
    assert_near(got_x, want_x, 5);
    assert_near(got_w, want_w, 5);
    assert_int_equal(qy_channels_count(offsets, items, 5, &n_split, &n_merged, &err), QY_OK);
    assert_int_equal(n_split, 1);
    assert_int_equal(n_merged, 1);
    assert_false(qy_channels_is_identity(offsets, items, 5));
    assert_int_equal(qy_channels_check(offsets, items, 5, &err), QY_OK);
}

/* Channel 1 in three places, 4 into 2, 6 into 3: the copies of 1 take the places of 4 and 6. What
 * the places hold is the same, in the same order within a place. */
static void test_settle(void **state)
{
    (void)state;
    const int32_t copies[] = {1, 3, 1, 1, 1, 1, 1};
    const int32_t into[] = {-1, -1, -1, -1, -1, -1, 4, -1, 5};
    const int32_t want_offsets[] = {0, 1, 2, 4, 6, 7, 8, 9};
    const int32_t want_items[] = {0, 1, 2, 4, 3, 6, 1, 5, 1, -1, -1, -1, -1, -1};
    int32_t origin[9], offsets[8], items[14];
    int64_t n_split, n_merged;
    qy_error_t err;
    qy_channels_expand(origin, copies, 7);
    assert_int_equal(qy_channels_plan(offsets, items, origin, into, 9, 7, &err), QY_OK);
    assert_int_equal(qy_channels_settle(offsets, items, 7, &err), QY_OK);
    assert_memory_equal(offsets, want_offsets, sizeof offsets);
    assert_memory_equal(items, want_items, sizeof items);
    assert_int_equal(qy_channels_check(offsets, items, 7, &err), QY_OK);
    assert_int_equal(qy_channels_count(offsets, items, 7, &n_split, &n_merged, &err), QY_OK);
    assert_int_equal(n_split, 1);
    assert_int_equal(n_merged, 2);
    assert_int_equal(qy_channels_settle(offsets, items, 7, &err), QY_OK); /* nothing to move */
    assert_memory_equal(items, want_items, sizeof items);
}

/* The cheapest first; of equal ones the first. */
static void test_choose(void **state)
{
    (void)state;
    const float best[] = {3, INFINITY, 1, INFINITY, 1, INFINITY};
    const int32_t partner[] = {1, -1, 3, -1, 5, -1};
    const int32_t one[] = {-1, -1, 3, -1, -1, -1}, two[] = {-1, -1, 3, -1, 5, -1};
    int32_t into[6];
    qy_error_t err;
    assert_int_equal(qy_channels_choose(into, best, partner, 6, 1, &err), QY_OK);
    assert_memory_equal(into, one, sizeof one);
    assert_int_equal(qy_channels_choose(into, best, partner, 6, 2, &err), QY_OK);
    assert_memory_equal(into, two, sizeof two);
    assert_int_equal(qy_channels_choose(into, best, partner, 6, 4, &err), QY_ERR_ARG);
}

static void test_identity(void **state)
{
    (void)state;
    int32_t offsets[6], items[10];
    const double x[] = {1, 2, 3, 4, 5};
    double got_x[5], got_w[5];
    qy_channels_identity(offsets, items, 5);
    assert_true(qy_channels_is_identity(offsets, items, 5));
    apply(got_x, got_w, x, x, offsets, items, 5);
    assert_near(got_x, x, 5);
    assert_near(got_w, x, 5);
}

static void test_bad_plans(void **state)
{
    (void)state;
    qy_error_t err;
    int32_t offsets[4], items[6];
    qy_channels_identity(offsets, items, 3);
    offsets[0] = 1;
    assert_int_equal(qy_channels_check(offsets, items, 3, &err), QY_ERR_FORMAT);
    qy_channels_identity(offsets, items, 3);
    offsets[3] = 7;
    assert_int_equal(qy_channels_check(offsets, items, 3, &err), QY_ERR_FORMAT);
    qy_channels_identity(offsets, items, 3);
    offsets[1] = 0;
    assert_int_equal(qy_channels_check(offsets, items, 3, &err), QY_ERR_FORMAT);
    qy_channels_identity(offsets, items, 3);
    items[2] = 3;
    assert_int_equal(qy_channels_check(offsets, items, 3, &err), QY_ERR_FORMAT);
    assert_non_null(strstr(err.text, "channel 3 of 3"));
    items[2] = -1;
    assert_int_equal(qy_channels_check(offsets, items, 3, &err), QY_ERR_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split),     cmocka_unit_test(test_many_into_one),
        cmocka_unit_test(test_odd_many),  cmocka_unit_test(test_whole_plan),
        cmocka_unit_test(test_settle),    cmocka_unit_test(test_choose),    cmocka_unit_test(test_identity),
        cmocka_unit_test(test_bad_plans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
