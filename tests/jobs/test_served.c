/* What a model holds where it is served: the shape of OPT-66B by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "jobs/served.h"

static qy_arch_t opt_66b(void)
{
    qy_arch_t a = {.n_blocks = 64,
                   .hidden = 9216,
                   .intermediate = 36864,
                   .n_heads = 72,
                   .n_kv_heads = 72,
                   .head_dim = 128,
                   .vocab = 50272,
                   .max_positions = 2050,
                   .tied_head = true,
                   .act_kind = QY_ACT_RELU,
                   .rope_kind = QY_ROPE_NONE};
    const int ids[] = {QY_LINEAR_Q, QY_LINEAR_K, QY_LINEAR_V, QY_LINEAR_O};
    for (int i = 0; i < 4; i++)
        a.linear[ids[i]] = (qy_linear_desc_t){.present = true, .out = 9216, .in = 9216};
    a.linear[QY_LINEAR_UP] = (qy_linear_desc_t){.present = true, .out = 36864, .in = 9216};
    a.linear[QY_LINEAR_DOWN] = (qy_linear_desc_t){.present = true, .out = 9216, .in = 36864};
    return a;
}

static int near(double got, double want, double tolerance)
{
    return fabs(got - want) <= tolerance;
}

static void test_opt_66b(void **state)
{
    (void)state;
    const qy_arch_t a = opt_66b();
    const qy_quant_form_t w4a16 = {.bits = 4, .group = 128};
    const qy_quant_form_t w4a4 = {.bits = 4, .group = 128, .activation_bits = 4, .kv_bits = 4};
    qy_served_t whole = qy_served(&a, NULL, 64, 8192);
    qy_served_t without = qy_served(&a, &w4a16, 64, 8192), with = qy_served(&a, &w4a4, 64, 8192);
    double blocks = 64.0 * 12 * 9216 * 9216; /* 65.2e9 weights */
    assert_true(near(whole.weights - without.weights, blocks * (2 - 0.5 - 4.0 / 128), 1));
    assert_true(without.kv_cache == whole.kv_cache && without.weights == with.weights);
    assert_true(near(whole.kv_cache, 2.0 * 64 * 9216 * 8192 * 64 * 2, 1));
    assert_true(near(without.kv_cache - with.kv_cache, 928e9, 0.5e9));
    /* N1, Q, K, V, A, N2: hidden; M: 4 hidden */
    double tokens = 64.0 * 8192, sites = 10.0 * 9216;
    assert_true(near(whole.activations, tokens * (sites + 9216) * 2, 1));
    assert_true(near(without.activations - with.activations, tokens * sites * 1.5, 1));
}

static void test_print(void **state)
{
    (void)state;
    const qy_arch_t a = opt_66b();
    const qy_quant_form_t form = {.bits = 4, .group = 128, .activation_bits = 4, .kv_bits = 4};
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);
    assert_non_null(file);
    qy_served_print(&a, &form, 64, 8192, file);
    fclose(file);
    assert_non_null(strstr(text, "batch 64, length 8192"));
    assert_non_null(strstr(text, "KV cache        1236.95 GB     309.24 GB, 927.71 GB less"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opt_66b),
        cmocka_unit_test(test_print),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
