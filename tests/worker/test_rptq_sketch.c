/* Counts of activations by cluster: of every value one, in the bin it lies in, whatever the pieces
 * and threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support/devices.h"
#include "model/clusters.h"
#include "worker/rptq_sketch.h"

/* Clusters of one channel, none, more than one piece, exactly one, and the rest. */
enum { ROWS = 9, COLS = 900, K = 5, INTERMEDIATE = COLS, HIDDEN = 4 };
static const int32_t sizes[K] = {1, 0, 600, 256, COLS - 857};

static qy_arch_t small_arch(void)
{
    return (qy_arch_t){.n_blocks = 1,
                       .hidden = HIDDEN,
                       .intermediate = INTERMEDIATE,
                       .n_heads = 1,
                       .n_kv_heads = 1,
                       .head_dim = HIDDEN};
}

/* The bin of a value by the definition. */
static int bin_of(float x, float lo, float hi)
{
    float bin = (x - lo) * (hi > lo ? QY_CLUSTER_BINS / (hi - lo) : 0.0f);
    return bin >= QY_CLUSTER_BINS ? QY_CLUSTER_BINS - 1 : bin > 0 ? (int)bin : 0;
}

static double value_at(int64_t row, int64_t col)
{
    return (double)((row * 131 + col * 37) % 257 - 128) / 16;
}

static void check(const qy_device_t *dev)
{
    qy_error_t err = {0};
    const qy_arch_t arch = small_arch();
    qy_quant_form_t form = {.bits = 4, .activation_bits = 4, .kv_bits = 4};
    qy_qblock_t q;
    qy_rptq_sketch_t sketch;
    float lo[COLS], hi[COLS], *los[QY_N_SITES], *his[QY_N_SITES];
    double x[ROWS * COLS];
    for (int i = 0; i < QY_N_SITES; i++) {
        form.n_clusters[i] = i == QY_SITE_DOWN_IN ? K : 1;
        los[i] = lo;
        his[i] = hi;
    }
    test_ok(qy_qblock_create(&q, &arch, &form, &err), err);
    for (int32_t i = 0; i < COLS; i++) { /* the second cluster's range is a point */
        ((int32_t *)q.site_order[QY_SITE_DOWN_IN].data)[i] = COLS - 1 - i;
        lo[COLS - 1 - i] = i == 0 ? 2.0f : -6.0f - (float)(i % 3);
        hi[COLS - 1 - i] = i == 0 ? 2.0f : 5.0f + (float)(i % 2);
    }
    memcpy(q.site_counts[QY_SITE_DOWN_IN].data, sizes, sizeof sizes);
    for (int64_t i = 0; i < ROWS * COLS; i++)
        x[i] = value_at(i / COLS, i % COLS);
    test_ok(qy_rptq_sketch_create(&sketch, &arch, &form, ROWS, &err), err);
    qy_rptq_sketch_bound(&sketch, &q, los, his);
    qy_tensor_t tx = test_put_2d(dev, dev->compute, ROWS, COLS, x);
    double *rounded = test_get(dev, &tx);
    for (int twice = 0; twice < 2; twice++)
        test_ok(qy_rptq_sketch_add(&sketch, dev, &tx, &q, QY_SITE_DOWN_IN, &err), err);
    uint32_t *want = calloc(K * QY_CLUSTER_BINS, sizeof *want);
    assert_non_null(want);
    for (int64_t c = 0, at = 0; c < K; at += sizes[c++])
        for (int64_t i = 0; i < ROWS * sizes[c]; i++) {
            float value = (float)rounded[i / sizes[c] * COLS + at + i % sizes[c]];
            float least = sketch.lo[QY_SITE_DOWN_IN][c], most = sketch.hi[QY_SITE_DOWN_IN][c];
            want[c * QY_CLUSTER_BINS + bin_of(value, least, most)] += 2;
        }
    assert_true(sketch.lo[QY_SITE_DOWN_IN][2] == -8.0f && sketch.hi[QY_SITE_DOWN_IN][2] == 6.0f);
    assert_memory_equal(sketch.bins[QY_SITE_DOWN_IN], want, K * QY_CLUSTER_BINS * sizeof *want);
    test_release(dev, &tx);
    test_drop(rounded);
    free(want);
    qy_rptq_sketch_free(&sketch);
    qy_qblock_free(&q);
}

static void counted(const qy_device_t *dev)
{
    check(dev);
}
TEST_ON_DEVICES(counted)

/* Loops on the host have pieces for several threads. */
static void test_threads(void **state)
{
    (void)state;
    qy_device_t *dev = test_cpu(3);
    check(dev);
    qy_device_close(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counted),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
