/* Status texts, tensors as views, the arena, the log's lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"

static void test_status(void **state)
{
    (void)state;
    qy_error_t err = {0};
    assert_int_equal(qy_fail(&err, QY_ERR_SHAPE, "%d of %s", 3, "x"), QY_ERR_SHAPE);
    assert_string_equal(err.text, "3 of x");
    assert_int_equal(qy_fail_in(&err, "block %d", 7), QY_ERR_SHAPE);
    assert_string_equal(err.text, "block 7: 3 of x");
    assert_int_equal(qy_fail(NULL, QY_ERR_IO, "x"), QY_ERR_IO);
    char name[600];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(qy_fail_in(&err, "%s", name), QY_ERR_SHAPE);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_string_equal(qy_status_name(QY_ERR_NUMERIC), "non-finite number");
    assert_string_equal(qy_status_name((qy_status_t)99), "unknown status");
    assert_false(qy_status_retry(QY_ERR_NUMERIC));
    assert_true(qy_status_retry(QY_ERR_DEVICE));
}

static void test_tensor(void **state)
{
    (void)state;
    float data[24];
    qy_tensor_t t = qy_tensor_view(data, QY_F32, 3, (int64_t[]){2, 3, 4});
    assert_int_equal(qy_tensor_count(&t), 24);
    assert_int_equal(qy_tensor_bytes(&t), 96);
    assert_int_equal(qy_tensor_rows(&t), 6);
    assert_int_equal(qy_tensor_cols(&t), 4);
    qy_tensor_t s = qy_tensor_slice(&t, 2, 3);
    assert_ptr_equal(s.data, data + 8);
    assert_int_equal(s.shape[0], 3);
    qy_tensor_t r = qy_tensor_reshape(&t, 2, (int64_t[]){8, 3});
    assert_ptr_equal(r.data, data);
    assert_false(qy_tensor_same_shape(&t, &r));
    assert_true(qy_tensor_same_shape(&t, &t));
    assert_string_equal(qy_dtype_name(QY_BF16), "bf16");
}

static void test_arena(void **state)
{
    (void)state;
    _Alignas(256) static char memory[1024];
    qy_error_t err = {0};
    qy_arena_t measure, arena;
    qy_tensor_t a, b;
    qy_arena_init(&measure, "m", NULL, 0);
    qy_arena_init(&arena, "scratch", memory, sizeof memory);
    for (int pass = 0; pass < 2; pass++) {
        qy_arena_t *to = pass ? &arena : &measure;
        assert_int_equal(qy_arena_tensor(to, &a, QY_F32, 1, (int64_t[]){65}, &err), QY_OK);
        size_t mark = qy_arena_mark(to);
        assert_int_equal(qy_arena_tensor(to, &b, QY_U8, 1, (int64_t[]){1}, &err), QY_OK);
        qy_arena_release(to, mark);
        assert_int_equal(to->used, 512);
        assert_int_equal(to->peak, 768);
    }
    assert_ptr_equal(b.data, memory + 512);
    assert_int_equal(qy_arena_tensor(&arena, &b, QY_U8, 1, (int64_t[]){513}, &err), QY_ERR_MEMORY);
    assert_string_equal(err.text, "arena scratch: 768 bytes wanted, 512 of 1024 free");
}

static void test_log(void **state)
{
    (void)state;
    char line[256], level[16], utc[32], rest[200];
    FILE *file = tmpfile();
    assert_non_null(file);
    qy_log_open(file, QY_LOG_INFO, "worker", 3);
    qy_log_task("segment 2");
    qy_log(QY_LOG_DEBUG, "not shown");
    qy_log(QY_LOG_WARN, "block %d loss %g", 12, 3.1e-4);
    rewind(file);
    assert_non_null(fgets(line, sizeof line, file));
    assert_int_equal(sscanf(line, "%15s %31s %199[^\n]", level, utc, rest), 3);
    assert_string_equal(level, "warn");
    assert_int_equal(strlen(utc), 20);
    assert_string_equal(rest, "worker 3 segment 2 | block 12 loss 0.00031");
    assert_null(fgets(line, sizeof line, file));
    qy_log_open(NULL, QY_LOG_INFO, "", 0);
    qy_log(QY_LOG_ERROR, "to nobody");
    fclose(file);
    double before = qy_now_s();
    assert_true(qy_now_s() >= before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_tensor),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
