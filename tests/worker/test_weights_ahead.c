/* Blocks that are read ahead are the blocks, in whatever order they are asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support/devices.h"
#include "worker/weights_ahead.h"

static const char model_dir[] = TEST_DATA "/models/tiny-llama-kjv";

static qy_model_t *open_model(void)
{
    qy_error_t err;
    qy_model_t *model = NULL;
    test_ok(qy_model_open(&model, model_dir, &err), err);
    return model;
}

/* Takes a block and compares it with one that is read directly. */
static void take(qy_weights_ahead_t **ahead, const qy_model_t *model, int64_t block, int64_t end)
{
    qy_error_t err;
    qy_block_weights_t got, want;
    int n_linears = 0;
    test_ok(qy_weights_ahead_take(ahead, model, block, end, &got, &err), err);
    test_ok(qy_block_weights_read(&want, model, block, &err), err);
    for (int i = 0; i < QY_N_LINEARS; i++) {
        assert_int_equal(!got.linear[i].data, !want.linear[i].data);
        if (!want.linear[i].data)
            continue;
        n_linears++;
        assert_memory_equal(got.linear[i].data, want.linear[i].data,
                            qy_tensor_bytes(&want.linear[i]));
    }
    assert_int_equal(n_linears, 7);
    qy_block_weights_free(&got);
    qy_block_weights_free(&want);
}

static void test_in_order(void **state)
{
    (void)state;
    qy_model_t *model = open_model();
    qy_weights_ahead_t *ahead = NULL;
    for (int64_t b = 0; b < model->arch.n_blocks; b++)
        take(&ahead, model, b, model->arch.n_blocks);
    qy_weights_ahead_free(&ahead);
    qy_model_close(&model);
}

/* Another block than the next one, the same one twice, and an end in the midst of reading. */
static void test_out_of_order(void **state)
{
    (void)state;
    static const int64_t blocks[] = {0, 3, 3, 1, 5, 0, 2};
    qy_model_t *model = open_model();
    qy_weights_ahead_t *ahead = NULL;
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        take(&ahead, model, blocks[i], model->arch.n_blocks);
    qy_weights_ahead_free(&ahead);
    assert_null(ahead);
    qy_weights_ahead_free(&ahead);
    qy_model_close(&model);
}

/* A block that cannot be read is an error where it is asked for, and not before. */
static void test_fails_where_asked(void **state)
{
    (void)state;
    qy_error_t err;
    qy_block_weights_t weights;
    qy_model_t *model = open_model();
    qy_weights_ahead_t *ahead = NULL;
    int64_t n = model->arch.n_blocks;
    take(&ahead, model, n - 1, n + 1);
    test_refused(qy_weights_ahead_take(&ahead, model, n, n + 1, &weights, &err), QY_ERR_ARG, err);
    assert_non_null(strstr(err.text, "block 6 of 6"));
    take(&ahead, model, 0, n);
    qy_weights_ahead_free(&ahead);
    qy_model_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_out_of_order),
        cmocka_unit_test(test_fails_where_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
