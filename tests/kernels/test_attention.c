/* Rotary positions and attention against f64: grouped heads, windows, tiles and one more, refusals.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/attention.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/reference64.h"

/* B, T, H, K, d, window: small ones; the head sizes of real models; long sequences. */
static const int64_t cases[][6] = {
    {1, 1, 1, 1, 2, 0},      {2, 5, 3, 1, 6, 0},     {1, 64, 2, 2, 8, 0},
    {1, 65, 4, 2, 16, 0},    {2, 130, 2, 1, 4, 3},   {1, 100, 2, 2, 8, 64},
    {1, 129, 2, 1, 8, 200},  {1, 70, 1, 1, 4, 1},    {2, 256, 8, 4, 32, 0},
    {1, 193, 3, 1, 64, 0},   {2, 130, 2, 2, 80, 0},  {1, 131, 4, 2, 96, 0},
    {1, 190, 2, 1, 112, 0},  {2, 300, 8, 1, 128, 0}, {1, 257, 2, 1, 128, 100},
    {1, 8192, 2, 1, 64, 50}, {1, 1500, 1, 1, 32, 0}, {1, 70, 2, 1, 200, 0}};
enum { N_CASES = sizeof cases / sizeof *cases };

static void rope(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    for (int k = 0; k < N_CASES; k++) {
        const int64_t b = cases[k][0], t = cases[k][1], h = cases[k][2], d = cases[k][4];
        const int64_t n = b * t * h * d, positions = t + 3;
        double *x = test_random(n, 1, 2.0, c), *y = test_zeros(n);
        double *cosine = test_zeros(positions * d / 2), *sine = test_zeros(positions * d / 2);
        for (int64_t i = 0; i < positions * d / 2; i++) {
            double angle =
                (double)(i / (d / 2)) / pow(10000.0, (double)(i % (d / 2)) * 2.0 / (double)d);
            cosine[i] = (double)(float)cos(angle);
            sine[i] = (double)(float)sin(angle);
        }
        qy_tensor_t tc = test_put_2d(dev, QY_F32, positions, d / 2, cosine);
        qy_tensor_t ts = test_put_2d(dev, QY_F32, positions, d / 2, sine);
        for (int backward = 0; backward < 2; backward++) {
            qy_tensor_t tx = test_put(dev, c, 4, (int64_t[]){b, t, h, d}, x);
            qy_tensor_t ty = test_put(dev, c, 4, (int64_t[]){b, t, h, d}, NULL);
            test_ok(qy_rope(dev, &ty, &tx, &tc, &ts, backward, &err), err);
            test_ok(qy_rope(dev, &tx, &tx, &tc, &ts, backward, &err), err);
            ref_rope(y, x, cosine, sine, backward, b, t, h, d);
            double *got = test_get(dev, &ty), *in_place = test_get(dev, &tx);
            test_close("rope", got, y, n, test_tolerance(2.0, c, 1, y, n));
            test_equal("rope in place", in_place, got, n);
            test_release_all(dev, &tx, &ty);
            test_drop(got, in_place);
        }
        test_release_all(dev, &tc, &ts);
        test_drop(x, y, cosine, sine);
    }
}

typedef struct {
    ref_attention_t a;
    int64_t n_q, n_k, n_lse;
    double *q, *k, *v, *d_o, *o, *lse, *dq, *dk, *dv;
    qy_tensor_t tq, tk, tv, td_o, to, tlse, tdq, tdk, tdv;
} setup_t;

static void set_up(setup_t *s, const qy_device_t *dev, const int64_t shape[6])
{
    const qy_dtype_t c = dev->compute;
    *s = (setup_t){.a = {shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], 0.0}};
    ref_attention_t *a = &s->a;
    a->scale = (double)(float)(1.0 / sqrt((double)a->d));
    s->n_q = a->b * a->t * a->h * a->d;
    s->n_k = a->b * a->t * a->n_kv * a->d;
    s->n_lse = a->b * a->h * a->t;
    s->q = test_random(s->n_q, 1, 3.0, c);
    s->k = test_random(s->n_k, 2, 3.0, c);
    s->v = test_random(s->n_k, 3, 1.0, c);
    s->d_o = test_random(s->n_q, 4, 1.0, c);
    s->o = test_zeros(s->n_q);
    s->dq = test_zeros(s->n_q);
    s->lse = test_zeros(s->n_lse);
    s->dk = test_zeros(s->n_k);
    s->dv = test_zeros(s->n_k);
    const int64_t q_shape[] = {a->b, a->t, a->h, a->d}, k_shape[] = {a->b, a->t, a->n_kv, a->d};
    const int64_t lse_shape[] = {a->b, a->h, a->t};
    s->tq = test_put(dev, c, 4, q_shape, s->q);
    s->tk = test_put(dev, c, 4, k_shape, s->k);
    s->tv = test_put(dev, c, 4, k_shape, s->v);
    s->td_o = test_put(dev, c, 4, q_shape, s->d_o);
    s->to = test_put(dev, c, 4, q_shape, NULL);
    s->tdq = test_put(dev, c, 4, q_shape, NULL);
    s->tdk = test_put(dev, c, 4, k_shape, NULL);
    s->tdv = test_put(dev, c, 4, k_shape, NULL);
    s->tlse = test_put(dev, QY_F32, 3, lse_shape, NULL);
}

/* Forward and back. */
static void pass(setup_t *s, const qy_device_t *dev)
{
    qy_error_t err = {0};
    const float scale = (float)s->a.scale;
    test_ok(
        qy_attention_fwd(dev, &s->to, &s->tlse, &s->tq, &s->tk, &s->tv, scale, s->a.window, &err),
        err);
    test_ok(qy_attention_bwd(dev, &s->tdq, &s->tdk, &s->tdv, &s->td_o, &s->to, &s->tlse, &s->tq,
                             &s->tk, &s->tv, scale, s->a.window, &err),
            err);
}

static void tear_down(setup_t *s, const qy_device_t *dev)
{
    test_release_all(dev, &s->tq, &s->tk, &s->tv, &s->td_o, &s->to, &s->tlse, &s->tdq, &s->tdk,
                     &s->tdv);
    test_drop(s->q, s->k, s->v, s->d_o, s->o, s->lse, s->dq, s->dk, s->dv);
}

/* terms: size of what cancels in the sum, where the result may be much smaller. */
static void check(const qy_device_t *dev, const char *what, const qy_tensor_t *t,
                  const double *want, int64_t k, double terms)
{
    int64_t n = qy_tensor_count(t);
    double *got = test_get(dev, t);
    test_close(what, got, want, n,
               test_tolerance(4.0, t->dtype, k, want, n) + test_epsilon(t->dtype) * terms);
    test_drop(got);
}

static void attention(const qy_device_t *dev)
{
    for (int k = 0; k < N_CASES; k++) {
        setup_t s;
        set_up(&s, dev, cases[k]);
        pass(&s, dev);
        ref_attention_fwd(s.o, s.lse, s.q, s.k, s.v, &s.a);
        ref_attention_bwd(s.dq, s.dk, s.dv, s.d_o, s.q, s.k, s.v, &s.a);
        double dp = test_max_abs(s.d_o, s.n_q) * test_max_abs(s.v, s.n_k) * sqrt((double)s.a.d);
        double terms = dp * s.a.scale * 3.0; /* times a query or a key */
        check(dev, "attention o", &s.to, s.o, s.a.d, 0.0);
        check(dev, "attention lse", &s.tlse, s.lse, s.a.d, 0.0);
        check(dev, "attention dq", &s.tdq, s.dq, s.a.t, terms);
        check(dev, "attention dk", &s.tdk, s.dk, s.a.t, terms);
        check(dev, "attention dv", &s.tdv, s.dv, s.a.t, 0.0);
        tear_down(&s, dev);
    }
}

/*
 * Equal scores make p = 1/(t+1), a power of two at t = 0, 1, 3, 7…: there o is the exact mean of v.
 * Scores of a thousand must not overflow: the largest one takes all.
 */
static void exact(const qy_device_t *dev)
{
    enum { ET = 128, ED = 8 };
    const qy_dtype_t c = dev->compute;
    const int64_t shape[] = {1, ET, 1, ED};
    qy_error_t err = {0};
    double *zero = test_zeros(ET * ED), *v = test_whole(ET * ED, 1, 4), *far = test_zeros(ET * ED);
    for (int t = 0; t < ET; t++)
        far[t * ED] = t == 0 ? 40.0 : 1.0;
    qy_tensor_t q = test_put(dev, c, 4, shape, zero), k = test_put(dev, c, 4, shape, zero);
    qy_tensor_t tv = test_put(dev, c, 4, shape, v), o = test_put(dev, c, 4, shape, NULL);
    qy_tensor_t lse = test_put(dev, QY_F32, 3, (int64_t[]){1, 1, ET}, NULL);
    test_ok(qy_attention_fwd(dev, &o, &lse, &q, &k, &tv, 1.0f, 0, &err), err);
    double *got = test_get(dev, &o), sum[ED] = {0};
    for (int t = 0; t < ET; t++) {
        for (int i = 0; i < ED; i++)
            sum[i] += v[t * ED + i];
        for (int i = 0; i < ED && (t & (t + 1)) == 0; i++) {
            double want = test_round(sum[i] / (t + 1), c);
            test_equal("mean of v", got + t * ED + i, &want, 1);
        }
    }
    test_release_all(dev, &q, &k);
    q = test_put(dev, c, 4, shape, far);
    k = test_put(dev, c, 4, shape, far);
    test_ok(qy_attention_fwd(dev, &o, &lse, &q, &k, &tv, 64.0f, 0, &err), err);
    double *first = test_get(dev, &o);
    for (int t = 0; t < ET; t++)
        test_equal("far scores", first + t * ED, v, ED);
    test_release_all(dev, &q, &k, &tv, &o, &lse);
    test_drop(zero, v, far, got, first);
}

static void bad_input(const qy_device_t *dev)
{
    const qy_dtype_t c = dev->compute;
    qy_error_t err = {0};
    const int64_t shape[] = {1, 4, 3, 6}, kv[] = {1, 4, 2, 6}, odd[] = {1, 4, 3, 5};
    qy_tensor_t q = test_put(dev, c, 4, shape, NULL), k = test_put(dev, c, 4, kv, NULL);
    qy_tensor_t o = test_put(dev, c, 4, shape, NULL), x = test_put(dev, c, 4, odd, NULL);
    qy_tensor_t lse = test_put(dev, QY_F32, 3, (int64_t[]){1, 3, 4}, NULL);
    qy_tensor_t table = test_put_2d(dev, QY_F32, 3, 3, NULL);
    test_refused(qy_attention_fwd(dev, &o, &lse, &q, &k, &k, 1.0f, 0, &err), QY_ERR_SHAPE, err);
    assert_string_equal(err.text, "attention_fwd: 2 key heads do not divide 3 query heads");
    test_refused(qy_attention_fwd(dev, &o, &lse, &q, &q, &x, 1.0f, 0, &err), QY_ERR_SHAPE, err);
    test_refused(qy_attention_fwd(dev, &o, &lse, &q, &q, &q, NAN, 0, &err), QY_ERR_ARG, err);
    test_refused(qy_attention_fwd(dev, &o, &lse, &q, &q, &q, 1.0f, -1, &err), QY_ERR_ARG, err);
    test_refused(qy_attention_fwd(dev, &q, &lse, &q, &q, &q, 1.0f, 0, &err), QY_ERR_ARG, err);
    test_refused(qy_attention_bwd(dev, &o, &o, &x, &q, &q, &lse, &q, &q, &q, 1.0f, 0, &err),
                 QY_ERR_SHAPE, err);
    test_refused(qy_attention_bwd(dev, &o, &o, &q, &q, &q, &lse, &q, &q, &q, 1.0f, 0, &err),
                 QY_ERR_ARG, err);
    test_refused(qy_rope(dev, &o, &q, &table, &table, 0, &err), QY_ERR_SHAPE, err);
    assert_string_equal(err.text, "rope: 4 positions, the table has 3");
    test_refused(qy_rope(dev, &x, &x, &table, &table, 0, &err), QY_ERR_SHAPE, err);
    double *untouched = test_get(dev, &o);
    assert_true(isnan(untouched[0]));
    test_release_all(dev, &q, &k, &o, &x, &lse, &table);
    test_drop(untouched);
}

/* Forward and backward on cuda:0; the gradients' numbers, dq before dk before dv, or NULL. */
static double *gpu_gradients(const char *compute, const int64_t shape[6], int64_t *n)
{
    qy_error_t err = {0};
    qy_device_t *dev = NULL;
    setup_t s;
    if (qy_device_open(&dev, "cuda:0", compute, 1, &err) != QY_OK) {
        print_message("SKIP cuda:0 %s: %s\n", compute, err.text);
        return NULL;
    }
    set_up(&s, dev, shape);
    pass(&s, dev);
    const qy_tensor_t *all[] = {&s.tdq, &s.tdk, &s.tdv};
    double *numbers = test_zeros(s.n_q + 2 * s.n_k);
    *n = 0;
    for (int i = 0; i < 3; i++) {
        double *one = test_get(dev, all[i]);
        int64_t count = qy_tensor_count(all[i]);
        for (int64_t j = 0; j < count; j++)
            numbers[(*n)++] = one[j];
        test_drop(one);
    }
    tear_down(&s, dev);
    qy_device_close(&dev);
    return numbers;
}

/* GPUs whose blocks have 99 KiB of shared memory take smaller tiles for some sizes of heads. */
static void test_less_shared_memory(void **state)
{
    (void)state;
    static const char *const computes[] = {"f32", "f16", "bf16"};
    static const int64_t shapes[][6] = {{2, 300, 4, 2, 64, 0},
                                        {2, 300, 8, 1, 128, 0},
                                        {1, 257, 2, 1, 128, 100},
                                        {1, 70, 2, 1, 200, 0}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (int i = 0; i < (shapes[k][4] > 128 ? 1 : 3); i++) {
            int64_t n, n_less;
            double *usual = gpu_gradients(computes[i], shapes[k], &n);
            setenv("QUARRY_TEST_SHARED", "101376", 1);
            double *less = gpu_gradients(computes[i], shapes[k], &n_less);
            unsetenv("QUARRY_TEST_SHARED");
            if (!usual || !less)
                return;
            assert_int_equal(n, n_less);
            /* Of these only the forward pass of the wide heads sums in other steps. */
            double apart = shapes[k][4] > 128 ? 1e-5 * test_max_abs(usual, n) : 0.0;
            for (int64_t j = 0; j < n; j++)
                assert_true(fabs(usual[j] - less[j]) <= apart);
            test_drop(usual, less);
        }
}

TEST_ON_DEVICES(rope)
TEST_ON_DEVICES(attention)
TEST_ON_DEVICES(exact)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_less_shared_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
