/* A block whose channels were put into another order gives what it gave before, on every device. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../support/compare.h"
#include "../support/devices.h"
#include "base/random.h"
#include "golden_model.h"
#include "kernels/columns.h"
#include "model/reorder.h"
#include "worker/decorate.h"

static const char *const names[] = {"llama-gqa", "llama-biases", "opt", "qwen2", "qwen3"};

/* to[0…n): a random order of first…first + n − 1. */
static void shuffle(int32_t *to, int64_t n, int64_t first, uint64_t stream)
{
    int64_t *order = calloc((size_t)n, sizeof *order);
    assert_non_null(order);
    qy_random_permutation(order, n, 1, QY_PHASE_CLUSTERS, stream);
    for (int64_t i = 0; i < n; i++)
        to[i] = (int32_t)(first + order[i]);
    free(order);
}

/* Orders as RPTQ makes them: within heads, shared by the query heads that read a key head. */
static void make_orders(qy_qblock_t *q, const qy_arch_t *a)
{
    static const qy_site_t whole[] = {QY_SITE_ATTENTION_IN, QY_SITE_MLP_IN, QY_SITE_DOWN_IN};
    static const qy_site_t heads[][2] = {{QY_SITE_K, QY_SITE_Q}, {QY_SITE_V, QY_SITE_O_IN}};
    for (int i = 0; i < 3; i++)
        shuffle(q->site_order[whole[i]].data, qy_site_channels(a, whole[i]), 0, (uint64_t)i);
    int64_t d = a->head_dim, group = a->n_heads / a->n_kv_heads;
    for (int pair = 0; pair < 2; pair++)
        for (int64_t h = 0; h < a->n_heads; h++) {
            int32_t *kv = q->site_order[heads[pair][0]].data,
                    *of = q->site_order[heads[pair][1]].data;
            int64_t kv_head = h / group;
            uint64_t stream = 100 + 50 * (uint64_t)pair + (uint64_t)kv_head;
            shuffle(kv + kv_head * d, d, kv_head * d, stream);
            shuffle(of + h * d, d, h * d, stream);
        }
}

static void check_block(const qy_device_t *dev, const golden_t *g)
{
    qy_error_t err = {0};
    qy_forward_t f;
    qy_block_weights_t weights;
    qy_qblock_t q;
    qy_quant_form_t form = {.bits = 4};
    const qy_arch_t *a = &g->model->arch;
    const int32_t *orders[QY_N_SITES];
    for (int i = 0; i < QY_N_SITES; i++)
        form.n_clusters[i] = 1;
    test_ok(qy_qblock_create(&q, a, &form, &err), err);
    make_orders(&q, a);
    test_ok(qy_forward_create(&f, (qy_device_t *)dev, g->model, &form, g->batch, g->length, &err),
            err);
    test_ok(qy_block_weights_read(&weights, g->model, 0, &err), err);
    double *x = test_random(g->rows * a->hidden, 3, 1.0, dev->compute);
    qy_tensor_t tx = test_put_2d(dev, dev->compute, g->rows, a->hidden, x);
    test_ok(qy_device_copy(dev, f.x.data, tx.data, qy_tensor_bytes(&tx), &err), err);
    qy_decorate_plain(&f.params);
    test_ok(qy_block_params_load(&f.params, &f.block, &weights, &f.staging, 1, &err), err);
    test_ok(qy_block_forward(&f.block, &f.params, &f.acts, &f.x, &f.y, &err), err);
    double *want = test_get(dev, &f.y);
    for (int i = 0; i < QY_N_SITES; i++)
        orders[i] = q.site_order[i].data;
    test_ok(qy_reorder_weights(&weights, a, orders, &err), err);
    test_ok(qy_block_params_load(&f.params, &f.block, &weights, &f.staging, 1, &err), err);
    test_ok(qy_decorate_orders(&f.params, dev, a, &q, &err), err);
    test_ok(qy_block_forward(&f.block, &f.params, &f.acts, &f.x, &f.y, &err), err);
    double *got = test_get(dev, &f.y), most = 0;
    for (int64_t i = 0; i < g->rows * a->hidden; i++)
        most = fmax(most, fabs(want[i]));
    double tolerance = dev->compute == QY_F32 ? 1e-5 : 8 * test_epsilon(dev->compute);
    test_close("reordered block", got, want, g->rows * a->hidden, tolerance * most);
    /* Without the maps, or with other weights, it is another block. */
    qy_decorate_plain(&f.params);
    test_ok(qy_block_forward(&f.block, &f.params, &f.acts, &f.x, &f.y, &err), err);
    double *other = test_get(dev, &f.y), apart = 0;
    for (int64_t i = 0; i < g->rows * a->hidden; i++)
        apart = fmax(apart, fabs(want[i] - other[i]));
    assert_true(apart > 0.01 * most);
    test_release(dev, &tx);
    test_drop(x, want, got, other);
    qy_block_weights_free(&weights);
    qy_qblock_free(&q);
    qy_forward_free(&f);
}

static void reordered(const qy_device_t *dev)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        golden_t g;
        golden_open(&g, dev, names[i]);
        check_block(dev, &g);
        golden_close(&g);
    }
}
TEST_ON_DEVICES(reordered)

/* The write-back behind a norm: place inverse[c] of the output holds channel c. */
static void write_back(const qy_device_t *dev)
{
    static const int32_t order[] = {2, 0, 1};
    static const double x[] = {10, 20, 30}, want[] = {30, 10, 20};
    static const int32_t offsets[] = {0, 1, 2, 3};
    static const float weights[] = {1, 1, 1};
    qy_error_t err = {0};
    qy_tensor_t tx = test_put_2d(dev, dev->compute, 1, 3, x);
    qy_tensor_t ty = test_put_2d(dev, dev->compute, 1, 3, NULL);
    qy_tensor_t to = test_put_1d(dev, QY_I32, 4, NULL), ti = test_put_1d(dev, QY_I32, 3, NULL);
    qy_tensor_t tw = test_put_1d(dev, QY_F32, 3, NULL);
    test_ok(qy_device_upload(dev, to.data, offsets, sizeof offsets, &err), err);
    test_ok(qy_device_upload(dev, ti.data, order, sizeof order, &err), err);
    test_ok(qy_device_upload(dev, tw.data, weights, sizeof weights, &err), err);
    test_ok(qy_column_mix(dev, &ty, &tx, &to, &ti, &tw, &err), err);
    double *got = test_get(dev, &ty);
    test_close("write-back", got, want, 3, 0.0);
    test_release_all(dev, &tx, &ty, &to, &ti, &tw);
    test_drop(got);
}
TEST_ON_DEVICES(write_back)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reordered),
        cmocka_unit_test(test_write_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
