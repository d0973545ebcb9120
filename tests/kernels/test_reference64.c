/* Proves the f64 references' backward passes by finite differences: loss = Σ output · weight. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/support/compare.h"
#include "tests/support/devices.h"
#include "tests/support/gradcheck.h"
#include "tests/support/reference64.h"

enum { M = 3, O = 4, I = 5, B = 2, T = 7, H = 4, KV = 2, D = 4, C = 6 };

static double weighted(const double *y, const double *weight, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += y[i] * weight[i];
    return sum;
}

static double *numbers(int64_t n, uint64_t stream)
{
    return test_random(n, stream, 1.0, QY_F64);
}

/* Whatever a reference needs: inputs a, b, c, weights of the output, room for outputs. */
typedef struct {
    double *a, *b, *c, *weight, *out, *spare1, *spare2;
    const int *targets;
    ref_attention_t attention;
} context_t;

static double linear_loss(void *context)
{
    context_t *t = context;
    ref_linear_fwd(t->out, t->a, t->b, t->c, M, O, I);
    return weighted(t->out, t->weight, M * O);
}

static void test_linear(void **state)
{
    (void)state;
    context_t t = {.a = numbers(M * I, 1),
                   .b = numbers(O * I, 2),
                   .c = numbers(O, 3),
                   .weight = numbers(M * O, 4),
                   .out = test_zeros(M * O)};
    double *dx = test_zeros(M * I), *dw = test_zeros(O * I);
    ref_linear_bwd_x(dx, t.weight, t.b, M, O, I);
    ref_linear_bwd_w(dw, t.weight, t.a, M, O, I);
    test_gradient("linear dx", linear_loss, &t, t.a, M * I, dx);
    test_gradient("linear dw", linear_loss, &t, t.b, O * I, dw);
    test_drop(t.a, t.b, t.c, t.weight, t.out, dx, dw);
}

static double rmsnorm_loss(void *context)
{
    context_t *t = context;
    ref_rmsnorm_fwd(t->out, t->spare1, t->a, t->b, M, I, 1e-3);
    return weighted(t->out, t->weight, M * I);
}

static double layernorm_loss(void *context)
{
    context_t *t = context;
    ref_layernorm_fwd(t->out, t->spare1, t->spare2, t->a, t->b, t->c, M, I, 1e-3);
    return weighted(t->out, t->weight, M * I);
}

static void test_norms(void **state)
{
    (void)state;
    context_t t = {.a = numbers(M * I, 1),
                   .b = numbers(I, 2),
                   .c = numbers(I, 3),
                   .weight = numbers(M * I, 4),
                   .out = test_zeros(M * I),
                   .spare1 = test_zeros(M * I),
                   .spare2 = test_zeros(M)};
    double *dx = test_zeros(M * I), *dw = test_zeros(I), *db = test_zeros(I);
    ref_rmsnorm_bwd(dx, dw, t.weight, t.a, t.b, M, I, 1e-3);
    test_gradient("rmsnorm dx", rmsnorm_loss, &t, t.a, M * I, dx);
    test_gradient("rmsnorm dw", rmsnorm_loss, &t, t.b, I, dw);
    ref_layernorm_bwd(dx, dw, db, t.weight, t.a, t.b, M, I, 1e-3);
    test_gradient("layernorm dx", layernorm_loss, &t, t.a, M * I, dx);
    test_gradient("layernorm dw", layernorm_loss, &t, t.b, I, dw);
    test_gradient("layernorm db", layernorm_loss, &t, t.c, I, db);
    test_drop(t.a, t.b, t.c, t.weight, t.out, t.spare1, t.spare2, dx, dw, db);
}

static double attention_loss(void *context)
{
    context_t *t = context;
    ref_attention_fwd(t->out, t->spare1, t->a, t->b, t->c, &t->attention);
    return weighted(t->out, t->weight, B * T * H * D);
}

static void test_attention(void **state)
{
    (void)state;
    const int64_t n_q = B * T * H * D, n_k = B * T * KV * D;
    context_t t = {.a = numbers(n_q, 1),
                   .b = numbers(n_k, 2),
                   .c = numbers(n_k, 3),
                   .weight = numbers(n_q, 4),
                   .out = test_zeros(n_q),
                   .spare1 = test_zeros(B * H * T)};
    double *dq = test_zeros(n_q), *dk = test_zeros(n_k), *dv = test_zeros(n_k);
    for (int64_t window = 0; window <= 3; window += 3) {
        t.attention = (ref_attention_t){B, T, H, KV, D, window, 0.7};
        ref_attention_bwd(dq, dk, dv, t.weight, t.a, t.b, t.c, &t.attention);
        test_gradient("attention dq", attention_loss, &t, t.a, n_q, dq);
        test_gradient("attention dk", attention_loss, &t, t.b, n_k, dk);
        test_gradient("attention dv", attention_loss, &t, t.c, n_k, dv);
    }
    test_drop(t.a, t.b, t.c, t.weight, t.out, t.spare1, dq, dk, dv);
}

static double rope_loss(void *context)
{
    context_t *t = context;
    ref_rope(t->out, t->a, t->b, t->c, 0, B, T, H, D);
    return weighted(t->out, t->weight, B * T * H * D);
}

static void test_rope(void **state)
{
    (void)state;
    const int64_t n = B * T * H * D;
    context_t t = {.a = numbers(n, 1),
                   .b = numbers(T * D / 2, 2),
                   .c = numbers(T * D / 2, 3),
                   .weight = numbers(n, 4),
                   .out = test_zeros(n)};
    double *dx = test_zeros(n);
    ref_rope(dx, t.weight, t.b, t.c, 1, B, T, H, D);
    test_gradient("rope", rope_loss, &t, t.a, n, dx);
    test_drop(t.a, t.b, t.c, t.weight, t.out, dx);
}

static double silu_loss(void *context)
{
    context_t *t = context;
    ref_silu_mul_fwd(t->out, t->a, t->b, M * I);
    return weighted(t->out, t->weight, M * I);
}

static void test_silu(void **state)
{
    (void)state;
    context_t t = {.a = numbers(M * I, 1),
                   .b = numbers(M * I, 2),
                   .weight = numbers(M * I, 4),
                   .out = test_zeros(M * I)};
    double *dgate = test_zeros(M * I), *dup = test_zeros(M * I);
    ref_silu_mul_bwd(dgate, dup, t.weight, t.a, t.b, M * I);
    test_gradient("silu dgate", silu_loss, &t, t.a, M * I, dgate);
    test_gradient("silu dup", silu_loss, &t, t.b, M * I, dup);
    test_drop(t.a, t.b, t.weight, t.out, dgate, dup);
}

static double mse_loss(void *context)
{
    context_t *t = context;
    return ref_mse(t->spare1, t->a, t->b, M * I);
}

static double cross_entropy_loss(void *context)
{
    context_t *t = context;
    ref_cross_entropy(t->out, t->spare1, t->a, t->targets, 0.7, M, C);
    double sum = 0.0;
    for (int64_t r = 0; r < M; r++)
        sum += 0.7 * t->out[r];
    return sum;
}

static double kl_loss(void *context)
{
    context_t *t = context;
    ref_kl(t->out, t->spare1, t->a, t->b, 0.7, M, C);
    double sum = 0.0;
    for (int64_t r = 0; r < M; r++)
        sum += 0.7 * t->out[r];
    return sum;
}

static void test_losses(void **state)
{
    (void)state;
    static const int targets[M] = {2, -1, 0};
    double *grad = test_zeros(M * C);
    context_t t = {.a = numbers(M * C, 1),
                   .b = numbers(M * C, 2),
                   .out = test_zeros(M),
                   .spare1 = test_zeros(M * C),
                   .targets = targets};
    ref_mse(grad, t.a, t.b, M * I);
    test_gradient("mse", mse_loss, &t, t.a, M * I, grad);
    ref_cross_entropy(t.out, grad, t.a, targets, 0.7, M, C);
    test_gradient("cross entropy", cross_entropy_loss, &t, t.a, M * C, grad);
    ref_kl(t.out, grad, t.a, t.b, 0.7, M, C);
    test_gradient("kl", kl_loss, &t, t.a, M * C, grad);
    test_drop(t.a, t.b, t.out, t.spare1, grad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear), cmocka_unit_test(test_norms),
        cmocka_unit_test(test_rope),   cmocka_unit_test(test_attention),
        cmocka_unit_test(test_silu),   cmocka_unit_test(test_losses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
