/*
 * Runs a test on every device there is, and moves its numbers there and back. Tensors stand between
 * guards that are checked when they are freed, and outputs start as NaN.
 */
#ifndef QY_TESTS_SUPPORT_DEVICES_H
#define QY_TESTS_SUPPORT_DEVICES_H

#include "kernels/device.h"

/*
 * Runs the test on the CPU with 1, 2 and 3 threads, which must read back the same bytes through
 * test_get, then on cuda:0 in f32, f16 and bf16. A device that is absent prints SKIP.
 */
void test_devices(void (*run)(const qy_device_t *dev));

/* Defines the cmocka test test_<body>, which runs body on every device. */
#define TEST_ON_DEVICES(body)                                                                      \
    static void test_##body(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        test_devices(body);                                                                        \
    }

/* One device for a test that needs no other. */
qy_device_t *test_cpu(int threads);

/* The call succeeded, or the test fails with the error's text. */
#define test_ok(call, err) test_status((call), QY_OK, &(err), #call, __FILE__, __LINE__)
/* The call was refused with this status. */
#define test_refused(call, status, err)                                                            \
    test_status((call), (status), &(err), #call, __FILE__, __LINE__)
void test_status(qy_status_t got, qy_status_t want, const qy_error_t *err, const char *call,
                 const char *file, int line);

/* A tensor of a float or whole type with these values; NULL: NaN in floats, 0x5a bytes elsewhere.
 */
qy_tensor_t test_put(const qy_device_t *dev, qy_dtype_t dtype, int n_dims, const int64_t *shape,
                     const double *values);
qy_tensor_t test_put_1d(const qy_device_t *dev, qy_dtype_t dtype, int64_t n, const double *values);
qy_tensor_t test_put_2d(const qy_device_t *dev, qy_dtype_t dtype, int64_t rows, int64_t cols,
                        const double *values);

/* Its values; the caller frees them. */
double *test_get(const qy_device_t *dev, const qy_tensor_t *t);

/* Frees the tensors; fails where a guard was written over. */
void test_release(const qy_device_t *dev, qy_tensor_t *t);

#define test_release_all(dev, ...)                                                                 \
    do {                                                                                           \
        qy_tensor_t *all_[] = {__VA_ARGS__};                                                       \
        for (size_t i_ = 0; i_ < sizeof all_ / sizeof *all_; i_++)                                 \
            test_release((dev), all_[i_]);                                                         \
    } while (0)

/* free() of several pointers. */
#define test_drop(...)                                                                             \
    do {                                                                                           \
        void *all_[] = {__VA_ARGS__};                                                              \
        for (size_t i_ = 0; i_ < sizeof all_ / sizeof *all_; i_++)                                 \
            free(all_[i_]);                                                                        \
    } while (0)

#endif
