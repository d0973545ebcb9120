/* Opening devices and moving bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/fill.h"
#include "tests/support/devices.h"

static void test_open(void **state)
{
    (void)state;
    qy_error_t err = {0};
    qy_device_t *dev = NULL;
    test_ok(qy_device_open(&dev, "cpu", "f32", 3, &err), err);
    assert_int_equal(dev->threads, 3);
    assert_int_equal(dev->compute, QY_F32);
    assert_string_equal(dev->kind, "cpu");
    assert_true(strlen(dev->model) > 0);
    assert_non_null(strstr(dev->libraries, "OpenBLAS"));
    assert_non_null(strstr(dev->libraries, "core "));
    qy_device_close(&dev);
    assert_null(dev);
    qy_device_close(&dev);
    qy_device_close(NULL);
    test_ok(qy_device_open(&dev, "auto", "auto", 0, &err), err);
    assert_true(dev->threads >= 1);
    qy_device_close(&dev);
}

static void test_open_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name, *compute;
        int threads;
        qy_status_t status;
    } cases[] = {
        {"gpu", "auto", 0, QY_ERR_ARG},        {"cudas", "auto", 0, QY_ERR_ARG},
        {"cuda:", "auto", 0, QY_ERR_ARG},      {"cuda:1x", "auto", 0, QY_ERR_ARG},
        {"cuda:-1", "auto", 0, QY_ERR_ARG},    {"cuda:99999999999999999999", "auto", 0, QY_ERR_ARG},
        {"cpu", "f64", 0, QY_ERR_ARG},         {"cpu", "auto", -1, QY_ERR_ARG},
        {"cpu", "f16", 0, QY_ERR_UNSUPPORTED}, {"cpu", "bf16", 0, QY_ERR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_error_t err = {0};
        qy_device_t *dev = NULL;
        test_refused(qy_device_open(&dev, cases[i].name, cases[i].compute, cases[i].threads, &err),
                     cases[i].status, err);
        assert_null(dev);
    }
#ifndef QUARRY_HAVE_CUDA
    qy_error_t err = {0};
    qy_device_t *dev = NULL;
    test_refused(qy_device_open(&dev, "cuda:0", "auto", 0, &err), QY_ERR_UNSUPPORTED, err);
    assert_string_equal(err.text, "cuda:0: built without CUDA");
    test_refused(qy_device_open(&dev, "cuda", "auto", 0, &err), QY_ERR_UNSUPPORTED, err);
#endif
}

/* What is allocated is counted, and refused beyond the limit without a trace. */
static void count_bytes(const qy_device_t *dev)
{
    qy_error_t err = {0};
    void *a = NULL, *b = NULL;
    size_t own = qy_device_used(dev);
    assert_int_equal(own, qy_device_own_bytes(dev->kind, 0));
    assert_int_equal(qy_device_peak(dev), own);
    test_ok(qy_device_alloc(dev, &a, 3000, &err), err);
    test_ok(qy_device_alloc(dev, &b, 500, &err), err);
    assert_int_equal(qy_device_used(dev), own + 3500);
    qy_device_free(dev, &a);
    assert_int_equal(qy_device_used(dev), own + 500);
    assert_int_equal(qy_device_peak(dev), own + 3500);
    qy_device_limit(dev, own + 1500);
    test_refused(qy_device_alloc(dev, &a, 1001, &err), QY_ERR_MEMORY, err);
    assert_null(a);
    test_ok(qy_device_alloc(dev, &a, 1000, &err), err);
    test_refused(qy_device_alloc(dev, &a, SIZE_MAX, &err), QY_ERR_MEMORY, err);
    qy_device_limit(dev, 0);
    qy_device_free(dev, &a);
    qy_device_free(dev, &b);
    assert_int_equal(qy_device_used(dev), own);
    assert_int_equal(qy_device_peak(dev), own + 3500);
}

TEST_ON_DEVICES(count_bytes)

typedef struct {
    const qy_device_t *dev;
    qy_tensor_t sum, x;
} repeated_t;

static qy_status_t add_again(void *context, qy_error_t *err)
{
    repeated_t *r = context;
    return qy_add(r->dev, &r->sum, &r->sum, &r->x, err);
}

/* Each call queues the ops once, on whatever lies in their memory by then. */
static void repeat_ops(const qy_device_t *dev)
{
    qy_error_t err = {0};
    const double zero = 0, numbers[] = {1, 10, 100, 1000};
    qy_graph_t *graph = NULL;
    repeated_t r = {dev, test_put_1d(dev, QY_F32, 1, &zero), test_put_1d(dev, QY_F32, 1, &zero)};
    for (int i = 0; i < 4; i++) {
        float x = (float)numbers[i];
        test_ok(qy_device_upload(dev, r.x.data, &x, sizeof x, &err), err);
        test_ok(qy_device_repeat(dev, &graph, add_again, &r, &err), err);
    }
    double *sum = test_get(dev, &r.sum);
    assert_true(sum[0] == 1111);
    qy_graph_free(dev, &graph);
    assert_null(graph);
    test_release_all(dev, &r.sum, &r.x);
    test_drop(sum);
}

TEST_ON_DEVICES(repeat_ops)

static void move_bytes(const qy_device_t *dev)
{
    enum { N = 1000 };
    qy_error_t err = {0};
    unsigned char from[N], back[N];
    void *a = NULL, *b = NULL, *host = NULL, *nothing = NULL;
    for (int i = 0; i < N; i++)
        from[i] = (unsigned char)(i * 7);
    test_ok(qy_device_alloc(dev, &a, N, &err), err);
    test_ok(qy_device_alloc(dev, &b, N, &err), err);
    test_ok(qy_device_alloc(dev, &nothing, 0, &err), err);
    test_ok(qy_device_host_alloc(dev, &host, N, &err), err);
    assert_int_equal((uintptr_t)a % 256, 0);
    assert_int_equal((uintptr_t)b % 256, 0);
    memcpy(host, from, N);
    test_ok(qy_device_upload(dev, a, host, N, &err), err);
    test_ok(qy_device_copy(dev, b, a, N, &err), err);
    test_ok(qy_device_wait(dev, &err), err);
    test_ok(qy_device_download(dev, back, b, N, &err), err);
    assert_memory_equal(back, from, N);
    size_t free_bytes = 0, total_bytes = 0;
    test_ok(qy_device_memory(dev, &free_bytes, &total_bytes, &err), err);
    assert_true(free_bytes > 0 && free_bytes <= total_bytes);
    qy_device_free(dev, &a);
    qy_device_free(dev, &a);
    qy_device_free(dev, &b);
    qy_device_free(dev, &nothing);
    qy_device_host_free(dev, &host);
    assert_null(a);
    assert_null(host);
    test_refused(qy_device_alloc(dev, &a, SIZE_MAX, &err), QY_ERR_MEMORY, err);
#ifndef __SANITIZE_ADDRESS__ /* which ends the program where malloc would return NULL */
    test_refused(qy_device_alloc(dev, &a, SIZE_MAX / 4, &err), QY_ERR_MEMORY, err);
#endif
    assert_null(a);
}

static void test_memory(void **state)
{
    (void)state;
    test_devices(move_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_open_refused),
        cmocka_unit_test(test_count_bytes),
        cmocka_unit_test(test_repeat_ops),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
