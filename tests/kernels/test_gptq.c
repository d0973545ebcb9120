/*
 * GPTQ's ops: against f64 written from the header, the golden values of its specification, rounding
 * where the inputs' second moments are h I, any cut into blocks, refusals.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/gptq.h"
#include "kernels/quant.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

static double *whole_range(int64_t n, int64_t step)
{
    double *out = test_zeros(n);
    for (int64_t i = 0; i < n; i++)
        out[i] = (double)(step < 0 ? n - 1 - i : i);
    return out;
}

/* --- small ops ------------------------------------------------------------------------------- */

static const int64_t gram_cases[][2] = {{1, 1}, {1, 260}, {5, 3}, {7, 129}, {130, 64}, {300, 260}};

static void gram_of(double *h, const double *x, int64_t m, int64_t n, double scale, int twice)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t t = 0; t < m; t++)
                sum += x[t * n + i] * x[t * n + j];
            h[i * n + j] = scale * sum * (twice ? 2 : 1);
        }
}

static void gram(const qy_device_t *dev)
{
    qy_error_t err = {0};
    for (size_t k = 0; k < sizeof gram_cases / sizeof *gram_cases; k++) {
        int64_t m = gram_cases[k][0], n = gram_cases[k][1];
        double *x = test_random(m * n, 1, 1.0, dev->compute), *want = test_zeros(n * n);
        double *diagonal = test_zeros(n);
        qy_tensor_t tx = test_put_2d(dev, dev->compute, m, n, x);
        qy_tensor_t h = test_put_2d(dev, QY_F32, n, n, NULL), d = test_put_1d(dev, QY_F32, n, NULL);
        for (int again = 0; again < 2; again++) {
            test_ok(qy_gram(dev, &h, &tx, 0.25f, again, &err), err);
            gram_of(want, x, m, n, 0.25, again);
            double *got = test_get(dev, &h);
            test_close("gram", got, want, n * n, test_tolerance(2.0, QY_F32, m, want, n * n));
            test_drop(got);
        }
        test_ok(qy_diagonal(dev, &d, &h, &err), err);
        double *got_h = test_get(dev, &h), *got = test_get(dev, &d);
        for (int64_t i = 0; i < n; i++)
            diagonal[i] = got_h[i * n + i];
        test_close("diagonal", got, diagonal, n, 0.0);
        test_release_all(dev, &tx, &h, &d);
        test_drop(x, want, diagonal, got_h, got);
    }
}

static void columns_moved(const qy_device_t *dev)
{
    enum { ROWS = 3, FROM = 5, TO = 4 };
    static const double index[TO] = {4, -1, 0, 4};
    qy_error_t err = {0};
    double *x = test_random(ROWS * FROM, 7, 1.0, QY_F32), *want = test_zeros(ROWS * TO);
    qy_tensor_t tx = test_put_2d(dev, QY_F32, ROWS, FROM, x);
    qy_tensor_t y = test_put_2d(dev, QY_F32, ROWS, TO, NULL);
    qy_tensor_t ti = test_put_1d(dev, QY_I32, TO, index);
    test_ok(qy_gather_columns(dev, &y, &tx, &ti, &err), err);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < TO; c++)
            want[r * TO + c] = index[c] < 0 ? 0.0 : x[r * FROM + (int)index[c]];
    double *got = test_get(dev, &y);
    test_close("gather_columns", got, want, ROWS * TO, 0.0);
    test_ok(qy_copy_columns(dev, &y, 1, &tx, 3, 2, &err), err);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < 2; c++)
            want[r * TO + 1 + c] = x[r * FROM + 3 + c];
    double *copied = test_get(dev, &y);
    test_close("copy_columns", copied, want, ROWS * TO, 0.0);
    test_refused(qy_copy_columns(dev, &y, 3, &tx, 0, 2, &err), QY_ERR_SHAPE, err);
    test_refused(qy_copy_columns(dev, &y, 0, &tx, 4, 2, &err), QY_ERR_SHAPE, err);
    test_release_all(dev, &tx, &y, &ti);
    test_drop(x, want, got, copied);
}

/* --- the factor ------------------------------------------------------------------------------ */

/* uᵀ u A = I, by u's own values in f64; u is upper. */
static void check_factor(const double *u, const double *a, int64_t n, double tolerance)
{
    double *product = test_zeros(n * n), *unit = test_zeros(n * n), *ua = test_zeros(n * n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = i; k < n; k++)
            for (int64_t j = 0; j < n; j++)
                ua[i * n + j] += u[i * n + k] * a[k * n + j];
    for (int64_t i = 0; i < n; i++) {
        unit[i * n + i] = 1;
        for (int64_t k = 0; k <= i; k++)
            for (int64_t j = 0; j < n; j++)
                product[i * n + j] += u[k * n + i] * ua[k * n + j];
        for (int64_t j = 0; j < i; j++)
            assert_true(u[i * n + j] == 0.0);
    }
    test_close("inverse_factor", product, unit, n * n, tolerance);
    test_drop(product, unit, ua);
}

static void factor(const qy_device_t *dev)
{
    static const int64_t sizes[] = {1, 2, 7, 64, 131};
    qy_error_t err = {0};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int64_t n = sizes[k];
        int definite = -1;
        double *x = test_random(2 * n * n, 3, 1.0, QY_F32), *h = test_zeros(n * n);
        double *a = test_zeros(n * n), *order = whole_range(n, -1), *shift = test_zeros(n);
        gram_of(h, x, 2 * n, n, 1.0 / (double)n, 0);
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < n; j++)
                h[i * n + j] = (double)(float)h[i * n + j];
            shift[i] = 0.5 + 0.25 * (double)(i % 3);
        }
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                a[i * n + j] = h[(n - 1 - i) * n + n - 1 - j] + (i == j ? shift[n - 1 - i] : 0);
        qy_tensor_t th = test_put_2d(dev, QY_F32, n, n, h), ts = test_put_1d(dev, QY_F32, n, shift);
        qy_tensor_t to = test_put_1d(dev, QY_I32, n, order);
        qy_tensor_t u = test_put_2d(dev, QY_F32, n, n, NULL);
        test_ok(qy_inverse_factor(dev, &u, &definite, &th, &to, &ts, &err), err);
        assert_int_equal(definite, 1);
        double *got = test_get(dev, &u);
        check_factor(got, a, n, 2e-5);
        test_release_all(dev, &th, &ts, &to, &u);
        test_drop(x, h, a, order, shift, got);
    }
}

/* Not positive definite: said so, not failed. */
static void no_factor(const qy_device_t *dev)
{
    const double indefinite[] = {1, 2, 2, 1}, order[] = {0, 1};
    const double none[] = {0, 0}, enough[] = {3, 3};
    qy_error_t err = {0};
    int definite = -1;
    qy_tensor_t h = test_put_2d(dev, QY_F32, 2, 2, indefinite),
                o = test_put_1d(dev, QY_I32, 2, order);
    qy_tensor_t u = test_put_2d(dev, QY_F32, 2, 2, NULL);
    qy_tensor_t s0 = test_put_1d(dev, QY_F32, 2, none), s1 = test_put_1d(dev, QY_F32, 2, enough);
    test_ok(qy_inverse_factor(dev, &u, &definite, &h, &o, &s0, &err), err);
    assert_int_equal(definite, 0);
    test_ok(qy_inverse_factor(dev, &u, &definite, &h, &o, &s1, &err), err);
    assert_int_equal(definite, 1);
    test_refused(qy_inverse_factor(dev, &h, &definite, &h, &o, &s1, &err), QY_ERR_ARG, err);
    test_release_all(dev, &h, &o, &u, &s0, &s1);
}

/* --- the columns ----------------------------------------------------------------------------- */

/* A whole matrix by blocks; the loss Σ e²/2. w is overwritten by what it is rounded to. */
static double round_matrix(const qy_device_t *dev, qy_tensor_t *w, const qy_tensor_t *u,
                           const qy_tensor_t *s, const qy_tensor_t *z, const qy_tensor_t *group,
                           int64_t block, int bits)
{
    qy_error_t err = {0};
    int64_t o = qy_tensor_rows(w), i = qy_tensor_cols(w);
    double loss = 0;
    for (int64_t first = 0; first < i; first += block) {
        int64_t n = block < i - first ? block : i - first;
        qy_tensor_t e = test_put_2d(dev, QY_F32, o, n, NULL);
        test_ok(qy_gptq_columns(dev, w, &e, u, s, z, group, first, bits, &err), err);
        double *got = test_get(dev, &e);
        for (int64_t k = 0; k < o * n; k++)
            loss += got[k] * got[k] / 2;
        test_release(dev, &e);
        test_drop(got);
    }
    return loss;
}

/* The specification's example: 3 rows, 8 columns, 12 tokens of 2 sequences, 4 bits. */
enum { GOLD_O = 3, GOLD_I = 8, GOLD_T = 12 };

static void golden_inputs(double *w, double *x, int dead)
{
    for (int o = 0; o < GOLD_O; o++)
        for (int c = 0; c < GOLD_I; c++)
            w[o * GOLD_I + c] = ((5 * o + 11 * c + 2) % 13 - 6) / 16.0 + ((o + c) % 3) * 0.03;
    for (int t = 0; t < GOLD_T; t++)
        for (int c = 0; c < GOLD_I; c++)
            x[t * GOLD_I + c] = c == dead ? 0 : ((7 * t + 13 * c + 3) % 17 - 8) / 8.0;
}

/* The published ranges: step (hi − lo)/2^b, zero point rint(−(hi + lo)/(2 s)) + 2^(b−1). */
static void published_ranges(double *s, double *z, const double *w, const double *group,
                             int n_groups)
{
    for (int o = 0; o < GOLD_O; o++)
        for (int g = 0; g < n_groups; g++) {
            double lo = 1e30, hi = -1e30;
            for (int c = 0; c < GOLD_I; c++)
                if ((int)group[c] == g) {
                    lo = fmin(lo, w[o * GOLD_I + c]);
                    hi = fmax(hi, w[o * GOLD_I + c]);
                }
            s[o * n_groups + g] = (hi - lo) / 16;
            z[o * n_groups + g] = rint(-(hi + lo) / (2 * s[o * n_groups + g])) + 8;
        }
}

static void check_golden(const qy_device_t *dev, const double *group, int n_groups,
                         const int want[GOLD_O][GOLD_I], double want_loss, int64_t block)
{
    qy_error_t err = {0};
    int definite = 0;
    double w[GOLD_O * GOLD_I], x[GOLD_T * GOLD_I], s[2 * GOLD_O], z[2 * GOLD_O], shift[GOLD_I];
    double *order = whole_range(GOLD_I, 1), mean = 0;
    golden_inputs(w, x, -1);
    published_ranges(s, z, w, group, n_groups);
    qy_tensor_t tw = test_put_2d(dev, QY_F32, GOLD_O, GOLD_I, w);
    qy_tensor_t tx = test_put_2d(dev, dev->compute, GOLD_T, GOLD_I, x);
    qy_tensor_t h = test_put_2d(dev, QY_F32, GOLD_I, GOLD_I, NULL);
    qy_tensor_t u = test_put_2d(dev, QY_F32, GOLD_I, GOLD_I, NULL);
    qy_tensor_t ts = test_put_2d(dev, QY_F32, GOLD_O, n_groups, s);
    qy_tensor_t tz = test_put_2d(dev, QY_F32, GOLD_O, n_groups, z);
    qy_tensor_t tg = test_put_1d(dev, QY_I32, GOLD_I, group);
    qy_tensor_t to = test_put_1d(dev, QY_I32, GOLD_I, order);
    test_ok(qy_gram(dev, &h, &tx, 2.0f / 2, 0, &err), err);
    double *got_h = test_get(dev, &h);
    assert_true(got_h[0] == 4.34375);
    for (int c = 0; c < GOLD_I; c++)
        mean += got_h[c * GOLD_I + c] / GOLD_I;
    for (int c = 0; c < GOLD_I; c++)
        shift[c] = 0.01 * mean;
    qy_tensor_t tshift = test_put_1d(dev, QY_F32, GOLD_I, shift);
    test_ok(qy_inverse_factor(dev, &u, &definite, &h, &to, &tshift, &err), err);
    assert_int_equal(definite, 1);
    double loss = round_matrix(dev, &tw, &u, &ts, &tz, &tg, block, 4);
    double *got = test_get(dev, &tw);
    for (int k = 0; k < GOLD_O * GOLD_I; k++) {
        int at = k / GOLD_I * n_groups + (int)group[k % GOLD_I];
        int code = (int)lrint(got[k] / s[at] + z[at]) - 8;
        assert_int_equal(code, want[k / GOLD_I][k % GOLD_I]);
    }
    test_close("loss", &loss, &want_loss, 1, 2e-6);
    test_release_all(dev, &tw, &tx, &h, &u, &ts, &tz, &tg, &to, &tshift);
    test_drop(order, got_h, got);
}

static void golden(const qy_device_t *dev)
{
    static const int one[GOLD_O][GOLD_I] = {
        {-6, -8, 7, 4, 2, 0, -4, -6}, {0, -2, -6, -8, 7, 4, 1, -1}, {7, 4, 2, 0, -3, -6, -8, 5}};
    static const int two[GOLD_O][GOLD_I] = {
        {-6, -8, 7, 7, 5, 1, -4, -7}, {7, 3, -8, -8, 7, 3, 1, -2}, {7, -3, -8, 2, -3, -5, -8, 7}};
    static const double whole[GOLD_I] = {0}, parts[GOLD_I] = {0, 0, 0, 1, 1, 1, 1, 1};
    static const int64_t blocks[] = {4, 8, 3, 1};
    for (size_t k = 0; k < sizeof blocks / sizeof *blocks; k++) {
        check_golden(dev, whole, 1, one, 0.0102477, blocks[k]);
        check_golden(dev, parts, 2, two, 0.0147802, blocks[k]);
    }
}

/* A column without input is worked on from weight 0, whatever it was: its code is the zero point's,
 * and no other column hears of it. */
static void dead_column(const qy_device_t *dev)
{
    enum { DEAD = 2 };
    qy_error_t err = {0};
    double w[GOLD_O * GOLD_I], x[GOLD_T * GOLD_I], s[GOLD_O], z[GOLD_O], mean = 0;
    double group[GOLD_I] = {0}, gather[GOLD_I], shift[GOLD_I], *order = whole_range(GOLD_I, 1);
    golden_inputs(w, x, DEAD);
    published_ranges(s, z, w, group, 1);
    double *kept[2];
    for (int other = 0; other < 2; other++) {
        int definite = 0;
        for (int o = 0; other && o < GOLD_O; o++)
            w[o * GOLD_I + DEAD] += 0.25;
        qy_tensor_t tw = test_put_2d(dev, QY_F32, GOLD_O, GOLD_I, w);
        qy_tensor_t from = test_put_2d(dev, QY_F32, GOLD_O, GOLD_I, NULL);
        qy_tensor_t tx = test_put_2d(dev, dev->compute, GOLD_T, GOLD_I, x);
        qy_tensor_t h = test_put_2d(dev, QY_F32, GOLD_I, GOLD_I, NULL);
        qy_tensor_t u = test_put_2d(dev, QY_F32, GOLD_I, GOLD_I, NULL);
        qy_tensor_t ts = test_put_2d(dev, QY_F32, GOLD_O, 1, s);
        qy_tensor_t tz = test_put_2d(dev, QY_F32, GOLD_O, 1, z);
        qy_tensor_t tg = test_put_1d(dev, QY_I32, GOLD_I, group);
        qy_tensor_t to = test_put_1d(dev, QY_I32, GOLD_I, order);
        test_ok(qy_gram(dev, &h, &tx, 2.0f / 2, 0, &err), err);
        double *got_h = test_get(dev, &h);
        assert_true(got_h[DEAD * GOLD_I + DEAD] == 0.0);
        for (int c = 0; c < GOLD_I; c++)
            mean += (c == DEAD ? 1 : got_h[c * GOLD_I + c]) / GOLD_I;
        for (int c = 0; c < GOLD_I; c++) {
            shift[c] = 0.01 * mean + (c == DEAD);
            gather[c] = c == DEAD ? -1 : c;
        }
        mean = 0;
        qy_tensor_t tshift = test_put_1d(dev, QY_F32, GOLD_I, shift);
        qy_tensor_t tgather = test_put_1d(dev, QY_I32, GOLD_I, gather);
        test_ok(qy_inverse_factor(dev, &u, &definite, &h, &to, &tshift, &err), err);
        assert_int_equal(definite, 1);
        test_ok(qy_gather_columns(dev, &from, &tw, &tgather, &err), err);
        round_matrix(dev, &from, &u, &ts, &tz, &tg, 4, 4);
        kept[other] = test_get(dev, &from);
        for (int o = 0; o < GOLD_O; o++)
            assert_true(kept[other][o * GOLD_I + DEAD] == 0.0);
        test_release_all(dev, &tw, &from, &tx, &h, &u, &ts, &tz, &tg, &to, &tshift, &tgather);
        test_drop(got_h);
    }
    test_close("other columns", kept[1], kept[0], GOLD_O * GOLD_I, 0.0);
    test_drop(order, kept[0], kept[1]);
}

typedef struct {
    int64_t o, i, n_groups;
    double *w, *group;
    qy_tensor_t tw, u, s, z, tg;
} setup_t;

/* A random weight with least-squares steps, and the factor of h = hessian I or of random inputs. */
static void set_up(setup_t *t, const qy_device_t *dev, int64_t o, int64_t i, int64_t n_groups,
                   int bits, double unit)
{
    qy_error_t err = {0};
    int definite = 0;
    *t = (setup_t){.o = o, .i = i, .n_groups = n_groups};
    t->w = test_random(o * i, 5, 1.0, QY_F32);
    t->group = test_zeros(i);
    double *x = test_random(2 * i * i, 6, 1.0, QY_F32), *hv = test_zeros(i * i);
    double *order = whole_range(i, 1), *shift = test_zeros(i);
    if (unit == 0)
        gram_of(hv, x, 2 * i, i, 1.0 / (double)i, 0);
    for (int64_t c = 0; c < i; c++) {
        t->group[c] = (double)(c / (i / n_groups));
        shift[c] = unit == 0 ? 0.01 : unit;
    }
    t->tw = test_put_2d(dev, QY_F32, o, i, t->w);
    t->u = test_put_2d(dev, QY_F32, i, i, NULL);
    t->s = test_put_2d(dev, QY_F32, o, n_groups, NULL);
    t->z = test_put_2d(dev, QY_F32, o, n_groups, NULL);
    t->tg = test_put_1d(dev, QY_I32, i, t->group);
    qy_tensor_t h = test_put_2d(dev, QY_F32, i, i, hv), to = test_put_1d(dev, QY_I32, i, order);
    qy_tensor_t ts = test_put_1d(dev, QY_F32, i, shift);
    test_ok(qy_quant_start(dev, &t->s, &t->z, &t->tw, bits, 0, 1, &err), err);
    test_ok(qy_inverse_factor(dev, &t->u, &definite, &h, &to, &ts, &err), err);
    assert_int_equal(definite, 1);
    test_release_all(dev, &h, &to, &ts);
    test_drop(x, hv, order, shift);
}

static void tear_down(setup_t *t, const qy_device_t *dev)
{
    test_release_all(dev, &t->tw, &t->u, &t->s, &t->z, &t->tg);
    test_drop(t->w, t->group);
}

/* With second moments h I nothing is left to make good: plain rounding, bit for bit. */
static void plain(const qy_device_t *dev)
{
    static const double units[] = {0.5, 4.0};
    for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
        setup_t t;
        set_up(&t, dev, 9, 192, 3, 3, units[k]);
        round_matrix(dev, &t.tw, &t.u, &t.s, &t.z, &t.tg, 128, 3);
        double *got = test_get(dev, &t.tw), *s = test_get(dev, &t.s), *z = test_get(dev, &t.z);
        for (int64_t j = 0; j < t.o * t.i; j++) {
            int64_t at = j / t.i * t.n_groups + (int64_t)t.group[j % t.i];
            float code = rintf((float)t.w[j] / (float)s[at]) + (float)z[at];
            code = code < 0 ? 0 : code > 7 ? 7 : code;
            double want = (double)((code - (float)z[at]) * (float)s[at]);
            assert_memory_equal(&got[j], &want, sizeof want);
        }
        tear_down(&t, dev);
        test_drop(got, s, z);
    }
}

/* The rule of the header in f64, with the device's own u, s and z. */
static double *reference(const setup_t *t, const double *u, const double *s, const double *z,
                         double q_max)
{
    double *w = test_zeros(t->o * t->i);
    memcpy(w, t->w, (size_t)(t->o * t->i) * sizeof *w);
    for (int64_t r = 0; r < t->o; r++)
        for (int64_t c = 0; c < t->i; c++) {
            int64_t at = r * t->n_groups + (int64_t)t->group[c];
            double *x = &w[r * t->i + c], ratio = *x / s[at];
            double code = rint(ratio) + z[at];
            code = code < 0 ? 0 : code > q_max ? q_max : code;
            double w_hat = (code - z[at]) * s[at], e = (*x - w_hat) / u[c * t->i + c];
            *x = w_hat;
            for (int64_t k = c + 1; k < t->i; k++)
                w[r * t->i + k] -= e * u[c * t->i + k];
        }
    return w;
}

/* A ratio near a tie may go the other way, and then all that follows in its row: few rows do. */
static void random_matrix(const qy_device_t *dev)
{
    static const int64_t cases[][3] = {{3, 5, 1}, {33, 160, 2}, {130, 129, 1}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        for (int64_t block = 32; block <= 128; block *= 4) {
            setup_t t;
            int64_t equal = 0;
            set_up(&t, dev, cases[k][0], cases[k][1], cases[k][2], 4, 0);
            double *u = test_get(dev, &t.u), *s = test_get(dev, &t.s), *z = test_get(dev, &t.z);
            double *want = reference(&t, u, s, z, 15);
            round_matrix(dev, &t.tw, &t.u, &t.s, &t.z, &t.tg, block, 4);
            double *got = test_get(dev, &t.tw);
            for (int64_t r = 0; r < t.o; r++) {
                double worst = 0;
                for (int64_t c = 0; c < t.i; c++)
                    worst = fmax(worst, fabs(got[r * t.i + c] - want[r * t.i + c]));
                equal += worst <= 1e-5;
            }
            assert_true((double)equal >= 0.9 * (double)t.o);
            tear_down(&t, dev);
            test_drop(u, s, z, want, got);
        }
    }
}

static void bad_input(const qy_device_t *dev)
{
    const double zero[4] = {0};
    qy_error_t err = {0};
    qy_tensor_t w = test_put_2d(dev, QY_F32, 3, 4, NULL), u = test_put_2d(dev, QY_F32, 4, 4, NULL);
    qy_tensor_t e = test_put_2d(dev, QY_F32, 3, 2, NULL), s = test_put_2d(dev, QY_F32, 3, 1, NULL);
    qy_tensor_t g = test_put_1d(dev, QY_I32, 4, zero), bad = test_put_2d(dev, QY_F32, 3, 3, NULL);
    test_refused(qy_gptq_columns(dev, &w, &e, &bad, &s, &s, &g, 0, 4, &err), QY_ERR_SHAPE, err);
    test_refused(qy_gptq_columns(dev, &w, &e, &u, &s, &bad, &g, 0, 4, &err), QY_ERR_SHAPE, err);
    test_refused(qy_gptq_columns(dev, &w, &e, &u, &s, &s, &g, 3, 4, &err), QY_ERR_SHAPE, err);
    test_refused(qy_gptq_columns(dev, &w, &e, &u, &s, &s, &g, -1, 4, &err), QY_ERR_SHAPE, err);
    test_refused(qy_gptq_columns(dev, &w, &e, &u, &s, &s, &g, 0, 9, &err), QY_ERR_ARG, err);
    test_refused(qy_gptq_columns(dev, &w, &e, &u, &s, &s, &s, 0, 4, &err), QY_ERR_ARG, err);
    test_refused(qy_diagonal(dev, &s, &u, &err), QY_ERR_SHAPE, err);
    test_refused(qy_gather_columns(dev, &w, &w, &g, &err), QY_ERR_ARG, err);
    test_release_all(dev, &w, &u, &e, &s, &g, &bad);
}

TEST_ON_DEVICES(gram)
TEST_ON_DEVICES(columns_moved)
TEST_ON_DEVICES(factor)
TEST_ON_DEVICES(no_factor)
TEST_ON_DEVICES(golden)
TEST_ON_DEVICES(dead_column)
TEST_ON_DEVICES(plain)
TEST_ON_DEVICES(random_matrix)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gram),      cmocka_unit_test(test_columns_moved),
        cmocka_unit_test(test_factor),    cmocka_unit_test(test_no_factor),
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_dead_column),
        cmocka_unit_test(test_plain),     cmocka_unit_test(test_random_matrix),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
