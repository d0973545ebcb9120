/* Stitching: the same bytes each time, every block in its place, and nothing foreign or torn gets
 * in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "coordinator/stitch.h"
#include "jobs/finished.h"
#include "tests/coordinator/fake_run.h"

static void set_up_run(fake_run_t *run, int n_blocks)
{
    fake_run_create(run, false, 'A');
    assert_int_equal(qy_store_prepare(run->plan, NULL), QY_OK);
    for (int64_t b = 0; b < n_blocks; b++)
        fake_write_block(run, b, false);
}

static char *stitch_and_read(const fake_run_t *run, char path[QY_PATH_MAX], size_t *bytes)
{
    qy_error_t err;
    char *text = NULL;
    if (qy_stitch(run->plan, &err) != QY_OK)
        fail_msg("%s", err.text);
    assert_int_equal(qy_store_model(path, run->plan, NULL), QY_OK);
    assert_int_equal(qy_file_read(path, 1 << 28, &text, bytes, NULL), QY_OK);
    return text;
}

static void test_same_bytes(void **state)
{
    (void)state;
    fake_run_t run;
    char path[QY_PATH_MAX];
    size_t n, m;
    set_up_run(&run, 6);
    char *first = stitch_and_read(&run, path, &n);
    assert_int_equal(unlink(path), 0);
    char *second = stitch_and_read(&run, path, &m);
    assert_int_equal(n, m);
    assert_memory_equal(first, second, n);
    free(second);
    /* there and whole: left alone, whatever became of the blocks */
    char block[QY_PATH_MAX];
    assert_int_equal(qy_store_block(block, run.plan, 0, NULL), QY_OK);
    assert_int_equal(unlink(block), 0);
    second = stitch_and_read(&run, path, &m);
    free(second);
    /* there and torn: made again */
    fake_write_block(&run, 0, false);
    assert_int_equal(truncate(path, (off_t)(n / 2)), 0);
    second = stitch_and_read(&run, path, &m);
    assert_int_equal(n, m);
    assert_memory_equal(first, second, n);
    free(first);
    free(second);
    fake_run_destroy(&run);
}

static void test_blocks_in_place(void **state)
{
    (void)state;
    fake_run_t run;
    qy_qblock_t a, b;
    set_up_run(&run, 6);
    assert_int_equal(qy_stitch(run.plan, NULL), QY_OK);
    for (int64_t i = 0; i < 6; i++) {
        assert_int_equal(qy_finished_read(run.plan, i, &a, NULL), QY_OK);
        assert_int_equal(qy_finished_read_model(run.plan, i, 0, &b, NULL), QY_OK);
        for (int l = 0; l < QY_N_LINEARS; l++) {
            assert_memory_equal(a.codes[l].data, b.codes[l].data, qy_tensor_bytes(&a.codes[l]));
            assert_memory_equal(a.scales[l].data, b.scales[l].data, qy_tensor_bytes(&a.scales[l]));
            assert_memory_equal(a.zeros[l].data, b.zeros[l].data, qy_tensor_bytes(&a.zeros[l]));
        }
        assert_int_equal(*(uint16_t *)b.scales[QY_LINEAR_Q].data, 0x2c00 + i);
        qy_qblock_free(&a);
        qy_qblock_free(&b);
    }
    fake_run_destroy(&run);
}

static void expect_damaged(const fake_run_t *run, const char *word, bool set_aside)
{
    qy_error_t err = {0};
    char path[QY_PATH_MAX], aside[QY_PATH_MAX];
    assert_int_equal(qy_stitch(run->plan, &err), QY_ERR_DAMAGED);
    print_message("%s\n", err.text);
    assert_non_null(strstr(err.text, word));
    assert_non_null(strstr(err.text, "blocks/004.h5"));
    assert_int_equal(qy_store_model(path, run->plan, NULL), QY_OK);
    assert_false(qy_file_exists(path));
    assert_int_equal(qy_store_block(path, run->plan, 4, NULL), QY_OK);
    assert_int_equal(qy_path(aside, NULL, "%s.torn", path), QY_OK);
    assert_false(qy_file_exists(path));
    assert_int_equal(qy_file_exists(aside), set_aside);
}

static void test_what_is_refused(void **state)
{
    (void)state;
    fake_run_t run;
    char path[QY_PATH_MAX], hash[65];
    set_up_run(&run, 4);
    fake_write_block(&run, 5, false);
    expect_damaged(&run, "gap at block 4", false);

    fake_write_block(&run, 4, true); /* marks without numbers */
    expect_damaged(&run, "", true);

    memcpy(hash, run.plan->hash, sizeof hash);
    run.plan->hash[0] = hash[0] == '0' ? '1' : '0';
    fake_write_block(&run, 4, false);
    memcpy(run.plan->hash, hash, sizeof hash);
    expect_damaged(&run, "another plan", true);

    fake_write_block(&run, 4, false);
    assert_int_equal(qy_store_block(path, run.plan, 4, NULL), QY_OK);
    assert_int_equal(truncate(path, 1000), 0);
    expect_damaged(&run, "", true);

    run.plan->group = 32; /* another form: shapes do not fit */
    fake_write_block(&run, 4, false);
    run.plan->group = 64;
    qy_error_t err = {0};
    assert_true(qy_stitch(run.plan, &err) == QY_ERR_DAMAGED);

    fake_write_block(&run, 4, false);
    assert_int_equal(qy_stitch(run.plan, NULL), QY_OK);
    fake_run_destroy(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_blocks_in_place),
        cmocka_unit_test(test_what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
