/* RMSNorm and LayerNorm against f64, exact cases, accumulation, NULL outputs, refusals. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/norm.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/reference64.h"

/* M, D: single, odd, a chunk of rows and one more, the tiny model, heads of a qk-norm. */
static const int64_t cases[][2] = {{1, 1},     {3, 7},    {64, 17}, {65, 33},
                                   {512, 256}, {200, 32}, {2, 4096}};
enum { N_CASES = sizeof cases / sizeof *cases };
static const float eps = 1e-5f;

typedef struct {
    int64_t m, d;
    double *x, *w, *b, *dy, *dx0, *y, *mean, *rstd, *dx, *dw, *db;
    qy_tensor_t tx, tw, tb, tdy, ty, tmean, trstd;
} setup_t;

static void set_up(setup_t *s, const qy_device_t *dev, const int64_t shape[2])
{
    const qy_dtype_t c = dev->compute;
    int64_t m = shape[0], d = shape[1];
    *s = (setup_t){.m = m, .d = d};
    s->x = test_random(m * d, 1, 2.0, c);
    for (int64_t i = 0; i < m * d; i++)
        s->x[i] = test_round(s->x[i] + 0.5, c);
    s->w = test_random(d, 2, 1.5, QY_F32);
    s->b = test_random(d, 3, 1.0, QY_F32);
    s->dy = test_random(m * d, 4, 1.0, c);
    s->dx0 = test_random(m * d, 5, 1.0, c);
    s->y = test_zeros(m * d);
    s->dx = test_zeros(m * d);
    s->mean = test_zeros(m);
    s->rstd = test_zeros(m);
    s->dw = test_zeros(d);
    s->db = test_zeros(d);
    s->tx = test_put_2d(dev, c, m, d, s->x);
    s->tw = test_put_1d(dev, QY_F32, d, s->w);
    s->tb = test_put_1d(dev, QY_F32, d, s->b);
    s->tdy = test_put_2d(dev, c, m, d, s->dy);
    s->ty = test_put_2d(dev, c, m, d, NULL);
    s->tmean = test_put_1d(dev, QY_F32, m, NULL);
    s->trstd = test_put_1d(dev, QY_F32, m, NULL);
}

static void tear_down(setup_t *s, const qy_device_t *dev)
{
    test_release_all(dev, &s->tx, &s->tw, &s->tb, &s->tdy, &s->ty, &s->tmean, &s->trstd);
    test_drop(s->x, s->w, s->b, s->dy, s->dx0, s->y, s->mean, s->rstd, s->dx, s->dw, s->db);
}

/* scale: size of the terms, where the result may be much smaller. */
static void check(const qy_device_t *dev, const char *what, qy_tensor_t *t, const double *want,
                  int64_t k, double scale)
{
    int64_t n = qy_tensor_count(t);
    double *got = test_get(dev, t), tolerance = 4.0 * test_epsilon(t->dtype) * sqrt((double)k);
    test_close(what, got, want, n, tolerance * fmax(scale, test_max_abs(want, n)));
    test_release(dev, t);
    test_drop(got);
}

/* dx with and without accumulation, dw with and without dx. */
static void check_bwd(const qy_device_t *dev, setup_t *s, int layer)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    int64_t n = s->m * s->d;
    if (layer)
        ref_layernorm_bwd(s->dx, s->dw, s->db, s->dy, s->x, s->w, s->m, s->d, eps);
    else
        ref_rmsnorm_bwd(s->dx, s->dw, s->dy, s->x, s->w, s->m, s->d, eps);
    for (int mode = 0; mode < 3; mode++) {
        int accumulate = mode == 1, has_dx = mode < 2, has_dw = mode != 1;
        qy_tensor_t dx = test_put_2d(dev, c, s->m, s->d, accumulate ? s->dx0 : NULL);
        qy_tensor_t dw = test_put_1d(dev, QY_F32, s->d, NULL);
        qy_tensor_t db = test_put_1d(dev, QY_F32, s->d, NULL);
        if (layer)
            test_ok(qy_layernorm_bwd(dev, has_dx ? &dx : NULL, has_dw ? &dw : NULL,
                                     has_dw ? &db : NULL, &s->tdy, &s->tx, &s->tmean, &s->trstd,
                                     &s->tw, accumulate, &err),
                    err);
        else
            test_ok(qy_rmsnorm_bwd(dev, has_dx ? &dx : NULL, has_dw ? &dw : NULL, &s->tdy, &s->tx,
                                   &s->trstd, &s->tw, accumulate, &err),
                    err);
        for (int64_t i = 0; accumulate && i < n; i++)
            s->dx[i] += s->dx0[i];
        if (has_dx)
            check(dev, "norm dx", &dx, s->dx, 1, test_max_abs(s->rstd, s->m));
        else
            test_release(dev, &dx);
        for (int64_t i = 0; accumulate && i < n; i++)
            s->dx[i] -= s->dx0[i];
        if (has_dw)
            check(dev, "norm dw", &dw, s->dw, s->m, 1.0);
        else
            test_release(dev, &dw);
        if (has_dw && layer)
            check(dev, "norm db", &db, s->db, s->m, 1.0);
        else
            test_release(dev, &db);
    }
}

static void rmsnorm(const qy_device_t *dev)
{
    qy_error_t err = {0};
    for (int k = 0; k < N_CASES; k++) {
        setup_t s;
        set_up(&s, dev, cases[k]);
        test_ok(qy_rmsnorm_fwd(dev, &s.ty, &s.trstd, &s.tx, &s.tw, eps, &err), err);
        ref_rmsnorm_fwd(s.y, s.rstd, s.x, s.w, s.m, s.d, eps);
        double *y = test_get(dev, &s.ty), *rstd = test_get(dev, &s.trstd);
        test_close("rmsnorm y", y, s.y, s.m * s.d,
                   test_tolerance(4.0, dev->compute, 1, s.y, s.m * s.d));
        test_close("rmsnorm rstd", rstd, s.rstd, s.m, test_tolerance(4.0, QY_F32, 1, s.rstd, s.m));
        check_bwd(dev, &s, 0);
        test_drop(y, rstd);
        tear_down(&s, dev);
    }
}

static void layernorm(const qy_device_t *dev)
{
    qy_error_t err = {0};
    for (int k = 1; k < N_CASES; k++) { /* one column has no variance, and no digits in it */
        setup_t s;
        set_up(&s, dev, cases[k]);
        test_ok(qy_layernorm_fwd(dev, &s.ty, &s.tmean, &s.trstd, &s.tx, &s.tw, &s.tb, eps, &err),
                err);
        ref_layernorm_fwd(s.y, s.mean, s.rstd, s.x, s.w, s.b, s.m, s.d, eps);
        double *y = test_get(dev, &s.ty), *mean = test_get(dev, &s.tmean);
        double *rstd = test_get(dev, &s.trstd);
        test_close("layernorm y", y, s.y, s.m * s.d,
                   test_tolerance(4.0, dev->compute, 1, s.y, s.m * s.d));
        test_close("layernorm mean", mean, s.mean, s.m, 4.0 * test_epsilon(QY_F32));
        test_close("layernorm rstd", rstd, s.rstd, s.m,
                   test_tolerance(4.0, QY_F32, 1, s.rstd, s.m));
        check_bwd(dev, &s, 1);
        test_drop(y, mean, rstd);
        tear_down(&s, dev);
    }
}

/* Rows of ±2 have mean square 4: with eps 0 rstd is 1/2, and everything is exact. */
static void exact(const qy_device_t *dev)
{
    enum { EM = 70, ED = 32 };
    qy_error_t err = {0};
    double *x = test_zeros(EM * ED), *w = test_whole(ED, 2, 4), *dy = test_whole(EM * ED, 3, 2);
    double *y = test_zeros(EM * ED), *dw = test_zeros(ED), *half = test_zeros(EM);
    for (int r = 0; r < EM; r++) {
        half[r] = 0.5;
        for (int i = 0; i < ED; i++) {
            x[r * ED + i] = (r + i) % 2 ? 2.0 : -2.0;
            y[r * ED + i] = x[r * ED + i] * 0.5 * w[i];
            dw[i] += dy[r * ED + i] * x[r * ED + i] * 0.5;
        }
    }
    const qy_dtype_t c = dev->compute;
    qy_tensor_t tx = test_put_2d(dev, c, EM, ED, x), tw = test_put_1d(dev, QY_F32, ED, w);
    qy_tensor_t tdy = test_put_2d(dev, c, EM, ED, dy), ty = test_put_2d(dev, c, EM, ED, NULL);
    qy_tensor_t trstd = test_put_1d(dev, QY_F32, EM, NULL),
                tdw = test_put_1d(dev, QY_F32, ED, NULL);
    test_ok(qy_rmsnorm_fwd(dev, &ty, &trstd, &tx, &tw, 0.0f, &err), err);
    test_ok(qy_rmsnorm_bwd(dev, NULL, &tdw, &tdy, &tx, &trstd, &tw, 0, &err), err);
    double *got_y = test_get(dev, &ty), *got_dw = test_get(dev, &tdw), *r = test_get(dev, &trstd);
    test_equal("exact y", got_y, y, EM * ED);
    test_equal("exact rstd", r, half, EM);
    test_equal("exact dw", got_dw, dw, ED);
    test_release_all(dev, &tx, &tw, &tdy, &ty, &trstd, &tdw);
    test_drop(x, w, dy, y, dw, half, got_y, got_dw, r);
}

static void bad_input(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    qy_tensor_t x = test_put_2d(dev, c, 4, 6, NULL), y = test_put_2d(dev, c, 4, 6, NULL);
    qy_tensor_t bad = test_put_2d(dev, c, 4, 5, NULL), w = test_put_1d(dev, QY_F32, 6, NULL);
    qy_tensor_t r = test_put_1d(dev, QY_F32, 4, NULL), dw = test_put_1d(dev, QY_F32, 6, NULL);
    test_refused(qy_rmsnorm_fwd(dev, &bad, &r, &x, &w, eps, &err), QY_ERR_SHAPE, err);
    test_refused(qy_rmsnorm_fwd(dev, &y, &w, &x, &w, eps, &err), QY_ERR_SHAPE, err);
    test_refused(qy_rmsnorm_fwd(dev, &y, &r, &x, &r, eps, &err), QY_ERR_SHAPE, err);
    test_refused(qy_rmsnorm_bwd(dev, &y, &dw, &y, &x, &r, &w, 0, &err), QY_ERR_ARG, err);
    assert_string_equal(err.text, "rmsnorm_bwd: dx and dy may not be the same memory");
    test_refused(qy_layernorm_fwd(dev, &y, &r, &r, &x, &w, &r, eps, &err), QY_ERR_SHAPE, err);
    test_refused(qy_layernorm_bwd(dev, NULL, &dw, NULL, &y, &x, &r, &r, &w, 0, &err), QY_ERR_ARG,
                 err);
    test_refused(qy_layernorm_bwd(dev, NULL, &dw, &r, &y, &x, &r, &r, &w, 0, &err), QY_ERR_SHAPE,
                 err);
    double *untouched = test_get(dev, &y);
    assert_true(isnan(untouched[0]));
    test_release_all(dev, &x, &y, &bad, &w, &r, &dw);
    test_drop(untouched);
}

TEST_ON_DEVICES(rmsnorm)
TEST_ON_DEVICES(layernorm)
TEST_ON_DEVICES(exact)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_layernorm),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
