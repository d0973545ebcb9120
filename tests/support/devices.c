#include "tests/support/devices.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "kernels/fill.h"

enum { GUARD = 256, GUARD_BYTE = 0xa5, UNSET_BYTE = 0x5a };

/* Hash of all that test_get has read since it was set to 0. */
static uint64_t digest;

void test_status(qy_status_t got, qy_status_t want, const qy_error_t *err, const char *call,
                 const char *file, int line)
{
    if (got != want)
        fail_msg("%s:%d: %s: %s, expected %s: %s", file, line, call, qy_status_name(got),
                 qy_status_name(want), got == QY_OK ? "" : err->text);
    if (got != QY_OK && err->text[0] == '\0')
        fail_msg("%s:%d: %s failed without a text", file, line, call);
}

qy_device_t *test_cpu(int threads)
{
    qy_error_t err = {0};
    qy_device_t *dev = NULL;
    test_ok(qy_device_open(&dev, "cpu", "auto", threads, &err), err);
    return dev;
}

void test_devices(void (*run)(const qy_device_t *dev))
{
    uint64_t first = 0;
    for (int threads = 1; threads <= 3; threads++) {
        qy_device_t *dev = test_cpu(threads);
        digest = 0;
        run(dev);
        qy_device_close(&dev);
        if (threads == 1)
            first = digest;
        else if (digest != first)
            fail_msg("the bytes with %d threads differ from those with 1", threads);
    }
    static const char *const computes[] = {"f32", "f16", "bf16"};
    for (size_t i = 0; i < sizeof computes / sizeof *computes; i++) {
        qy_error_t err = {0};
        qy_device_t *dev = NULL;
        if (qy_device_open(&dev, "cuda:0", computes[i], 1, &err) != QY_OK) {
            print_message("SKIP cuda:0 %s: %s\n", computes[i], err.text);
            continue;
        }
        run(dev);
        qy_device_close(&dev);
    }
}

static int is_half(qy_dtype_t dtype)
{
    return dtype == QY_F16 || dtype == QY_BF16;
}

/* values in dtype, as host bytes; halves stay f32 until the device converts them. */
static void *host_bytes(qy_dtype_t dtype, int64_t n, const double *values)
{
    size_t width = is_half(dtype) ? sizeof(float) : qy_dtype_bytes(dtype);
    void *bytes = malloc((size_t)n * width);
    assert_non_null(bytes);
    if (!values && dtype != QY_F32 && dtype != QY_F64 && !is_half(dtype)) {
        memset(bytes, UNSET_BYTE, (size_t)n * width);
        return bytes;
    }
    for (int64_t i = 0; i < n; i++) {
        double v = values ? values[i] : (double)NAN;
        switch (dtype) {
        case QY_F64:
            ((double *)bytes)[i] = v;
            break;
        case QY_I32:
            ((int32_t *)bytes)[i] = (int32_t)v;
            break;
        case QY_I64:
            ((int64_t *)bytes)[i] = (int64_t)v;
            break;
        case QY_U32:
            ((uint32_t *)bytes)[i] = (uint32_t)v;
            break;
        case QY_U8:
            ((uint8_t *)bytes)[i] = (uint8_t)v;
            break;
        default:
            ((float *)bytes)[i] = (float)v;
        }
    }
    return bytes;
}

/* Device memory for a tensor, its guards written. */
static void alloc_guarded(const qy_device_t *dev, qy_tensor_t *t)
{
    qy_error_t err = {0};
    size_t bytes = qy_tensor_bytes(t);
    void *base = NULL;
    unsigned char *guards = malloc(bytes + 2 * GUARD);
    assert_non_null(guards);
    memset(guards, GUARD_BYTE, bytes + 2 * GUARD);
    test_ok(qy_device_alloc(dev, &base, bytes + 2 * GUARD, &err), err);
    test_ok(qy_device_upload(dev, base, guards, bytes + 2 * GUARD, &err), err);
    test_ok(qy_device_wait(dev, &err), err);
    free(guards);
    t->data = (char *)base + GUARD;
}

qy_tensor_t test_put(const qy_device_t *dev, qy_dtype_t dtype, int n_dims, const int64_t *shape,
                     const double *values)
{
    qy_error_t err = {0};
    qy_tensor_t t = qy_tensor_view(NULL, dtype, n_dims, shape);
    int64_t n = qy_tensor_count(&t);
    void *bytes = host_bytes(dtype, n, values);
    alloc_guarded(dev, &t);
    if (is_half(dtype)) {
        qy_tensor_t full = qy_tensor_1d(NULL, QY_F32, n);
        alloc_guarded(dev, &full);
        test_ok(qy_device_upload(dev, full.data, bytes, qy_tensor_bytes(&full), &err), err);
        test_ok(qy_convert(dev, &t, &full, &err), err);
        test_ok(qy_device_wait(dev, &err), err);
        test_release(dev, &full);
    } else {
        test_ok(qy_device_upload(dev, t.data, bytes, qy_tensor_bytes(&t), &err), err);
        test_ok(qy_device_wait(dev, &err), err);
    }
    free(bytes);
    return t;
}

qy_tensor_t test_put_1d(const qy_device_t *dev, qy_dtype_t dtype, int64_t n, const double *values)
{
    return test_put(dev, dtype, 1, &n, values);
}

qy_tensor_t test_put_2d(const qy_device_t *dev, qy_dtype_t dtype, int64_t rows, int64_t cols,
                        const double *values)
{
    return test_put(dev, dtype, 2, (int64_t[]){rows, cols}, values);
}

static double value_at(const void *bytes, qy_dtype_t dtype, int64_t i)
{
    switch (dtype) {
    case QY_F64:
        return ((const double *)bytes)[i];
    case QY_I32:
        return ((const int32_t *)bytes)[i];
    case QY_I64:
        return (double)((const int64_t *)bytes)[i];
    case QY_U32:
        return ((const uint32_t *)bytes)[i];
    case QY_U8:
        return ((const uint8_t *)bytes)[i];
    default:
        return (double)((const float *)bytes)[i];
    }
}

double *test_get(const qy_device_t *dev, const qy_tensor_t *t)
{
    qy_error_t err = {0};
    int64_t n = qy_tensor_count(t);
    qy_tensor_t from = *t, full = {0};
    if (is_half(t->dtype)) {
        full = qy_tensor_1d(NULL, QY_F32, n);
        alloc_guarded(dev, &full);
        test_ok(qy_convert(dev, &full, t, &err), err);
        from = full;
    }
    size_t bytes = qy_tensor_bytes(&from);
    void *host = malloc(bytes);
    double *values = malloc((size_t)n * sizeof *values);
    assert_non_null(host);
    assert_non_null(values);
    test_ok(qy_device_download(dev, host, from.data, bytes, &err), err);
    for (int64_t i = 0; i < n; i++)
        values[i] = value_at(host, from.dtype, i);
    const uint64_t chain[2] = {digest, qy_xxh3(host, bytes)};
    digest = qy_xxh3(chain, sizeof chain);
    free(host);
    if (full.data)
        test_release(dev, &full);
    return values;
}

void test_release(const qy_device_t *dev, qy_tensor_t *t)
{
    qy_error_t err = {0};
    size_t bytes = qy_tensor_bytes(t);
    unsigned char guards[2 * GUARD];
    char *base = (char *)t->data - GUARD;
    test_ok(qy_device_download(dev, guards, base, GUARD, &err), err);
    test_ok(qy_device_download(dev, guards + GUARD, base + GUARD + bytes, GUARD, &err), err);
    for (int i = 0; i < 2 * GUARD; i++)
        if (guards[i] != GUARD_BYTE)
            fail_msg("byte %d %s a tensor was written", i % GUARD, i < GUARD ? "before" : "behind");
    void *p = base;
    qy_device_free(dev, &p);
    t->data = NULL;
}
