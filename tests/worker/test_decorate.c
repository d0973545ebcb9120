/* Channel maps in a block: a permutation at each site, undone by its readers' weights, changes
 * neither outputs nor gradients, nor does it with quantizers behind it; nor do channels that are
 * split while only empty ones are merged. A whole pass, which fuses what stands at a site, gives
 * the bytes of one that goes row by row. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support/compare.h"
#include "../support/devices.h"
#include "golden_model.h"
#include "kernels/columns.h"
#include "kernels/fill.h"
#include "worker/decorate.h"

static const qy_site_t sites[] = {QY_SITE_ATTENTION_IN, QY_SITE_MLP_IN, QY_SITE_DOWN_IN};
static const qy_site_t read_by[QY_N_LINEARS] = {
    QY_SITE_ATTENTION_IN, QY_SITE_ATTENTION_IN, QY_SITE_ATTENTION_IN, QY_N_SITES,
    QY_SITE_MLP_IN,       QY_SITE_MLP_IN,       QY_SITE_DOWN_IN};

typedef struct {
    golden_t g;
    qy_block_t block;
    qy_block_params_t params;
    qy_block_acts_t acts;
    qy_block_grads_t grads;
    void *memory;
} case_t;

static bool fused; /* of the blocks made next */

static void take(case_t *c, qy_arena_t *arena)
{
    qy_error_t err = {0};
    const qy_arch_t *a = &c->g.model->arch;
    qy_decoration_t decoration = {0};
    for (int i = 0; i < 3; i++)
        decoration.mapped[sites[i]] = decoration.quantized[sites[i]] = true;
    test_ok(qy_block_init(&c->block, c->g.dev, a, &decoration, c->g.length, arena, &err), err);
    c->block.fused = fused;
    test_ok(qy_block_params_take(&c->params, &c->block, arena, &err), err);
    test_ok(qy_block_acts_take(&c->acts, &c->block, c->g.batch, c->g.length, arena, &err), err);
    test_ok(qy_block_grads_take(&c->grads, &c->block, c->g.batch, c->g.length, arena, &err), err);
}

static void open_case(case_t *c, const qy_device_t *dev, const char *name)
{
    qy_error_t err = {0};
    qy_arena_t arena;
    memset(c, 0, sizeof *c);
    golden_open(&c->g, dev, name);
    qy_arena_init(&arena, "test", NULL, 0);
    take(c, &arena);
    size_t bytes = arena.peak;
    test_ok(qy_device_alloc(dev, &c->memory, bytes, &err), err);
    qy_arena_init(&arena, "test", c->memory, bytes);
    take(c, &arena);
    qy_block_weights_t w;
    test_ok(qy_block_weights_read(&w, c->g.model, 0, &err), err);
    test_ok(qy_block_params_load(&c->params, &c->block, &w, &c->g.forward.staging, 1, &err), err);
    qy_block_weights_free(&w);
}

/* Channels in another order at each site; the readers' columns likewise. */
static void permute(case_t *c)
{
    qy_error_t err = {0};
    const qy_device_t *dev = c->g.dev;
    for (int i = 0; i < 3; i++) {
        int64_t n = qy_site_channels(&c->g.model->arch, sites[i]);
        int32_t *offsets = malloc((size_t)(n + 1) * sizeof *offsets);
        int32_t *items = malloc((size_t)(QY_MAP_ITEMS * n) * sizeof *items);
        qy_channels_identity(offsets, items, n);
        for (int64_t k = 0; k < n; k++)
            items[k] = (int32_t)((k * 7 + 3) % n); /* 7 divides none of the sizes */
        test_ok(qy_channels_check(offsets, items, n, &err), err);
        test_ok(qy_decorate_map(&c->params.map[sites[i]], dev, offsets, items, n, &err), err);
        assert_true(c->params.map[sites[i]].active);
        test_drop(offsets, items);
    }
    for (int k = 0; k < QY_N_LINEARS; k++) {
        qy_tensor_t *w = &c->params.w[k];
        if (!w->data || read_by[k] == QY_N_SITES)
            continue;
        const qy_channel_map_t *map = &c->params.map[read_by[k]];
        qy_tensor_t moved = test_put_2d(dev, w->dtype, w->shape[0], w->shape[1], NULL);
        test_ok(qy_column_mix(dev, &moved, w, &map->offsets, &map->items, &map->weights, &err),
                err);
        test_ok(qy_device_copy(dev, w->data, moved.data, qy_tensor_bytes(w), &err), err);
        test_release(dev, &moved);
    }
}

/* Output and gradient of the input for the golden input and a made-up gradient of the output. */
static void both_ways(case_t *c, double **y, double **dx)
{
    qy_error_t err = {0};
    const qy_device_t *dev = c->g.dev;
    int64_t n, hidden = c->g.model->arch.hidden;
    double *x = golden_get(&c->g, "hidden.0", &n);
    double *dy = test_random(n, 5, 1.0, dev->compute);
    qy_tensor_t tx = test_put_2d(dev, dev->compute, c->g.rows, hidden, x);
    qy_tensor_t ty = test_put_2d(dev, dev->compute, c->g.rows, hidden, NULL);
    qy_tensor_t td = test_put_2d(dev, dev->compute, c->g.rows, hidden, dy);
    test_ok(qy_block_forward(&c->block, &c->params, &c->acts, &tx, &ty, &err), err);
    test_ok(qy_block_backward(&c->block, &c->params, &c->acts, &c->grads, &td, 1, &err), err);
    *y = test_get(dev, &ty);
    *dx = test_get(dev, &td);
    test_release_all(dev, &tx, &ty, &td);
    test_drop(x, dy);
}

static void permuted(const qy_device_t *dev)
{
    static const char *const names[] = {"llama-gqa", "opt", "qwen3"};
    for (int i = 0; i < 3; i++) {
        case_t c;
        double *y, *dx, *moved_y, *moved_dx;
        open_case(&c, dev, names[i]);
        int64_t n = c.g.rows * c.g.model->arch.hidden;
        double tolerance = dev->compute == QY_F32 ? 1e-5 : 20 * test_epsilon(dev->compute);
        both_ways(&c, &y, &dx);
        permute(&c);
        both_ways(&c, &moved_y, &moved_dx);
        test_close("y", moved_y, y, n, tolerance * test_max_abs(y, n));
        test_close("dx", moved_dx, dx, n, tolerance * test_max_abs(dx, n));
        test_drop(y, dx, moved_y, moved_dx);
        qy_device_free(dev, &c.memory);
        golden_close(&c.g);
    }
}

static void quantize(case_t *c, int bits)
{
    for (int i = 0; i < 3; i++) {
        c->params.quantizer[sites[i]].kind = bits ? QY_ACT_PER_ROW : QY_ACT_NONE;
        c->params.quantizer[sites[i]].bits = bits;
    }
}

/* ‖a − b‖ / ‖b‖ */
static double apart(const double *a, const double *b, int64_t n)
{
    double off = 0, size = 0;
    for (int64_t k = 0; k < n; k++) {
        off += (a[k] - b[k]) * (a[k] - b[k]);
        size += b[k] * b[k];
    }
    return sqrt(off / size);
}

/* With quantizers: a sum in another order may move a number to the next step, so only the norm of
 * the difference is held to something, far below that of the quantizers' own error, which is small
 * as well. */
static void permuted_and_quantized(const qy_device_t *dev)
{
    static const char *const names[] = {"llama-gqa", "opt"};
    for (int i = 0; i < 2; i++) {
        case_t c;
        double *plain_y, *plain_dx, *y, *dx, *moved_y, *moved_dx;
        open_case(&c, dev, names[i]);
        int64_t n = c.g.rows * c.g.model->arch.hidden;
        both_ways(&c, &plain_y, &plain_dx);
        quantize(&c, 8);
        both_ways(&c, &y, &dx);
        permute(&c);
        both_ways(&c, &moved_y, &moved_dx);
        double most = dev->compute == QY_F32 ? 1e-3 : 2 * test_epsilon(dev->compute);
        assert_true(apart(y, plain_y, n) <= 0.05 && apart(dx, plain_dx, n) <= 0.05);
        assert_true(apart(moved_y, y, n) <= most && apart(moved_dx, dx, n) <= 4 * most);
        test_drop(plain_y, plain_dx, y, dx, moved_y, moved_dx);
        qy_device_free(dev, &c.memory);
        golden_close(&c.g);
    }
}

static void same_slot(const case_t *c, qy_slot_t slot, const double *want)
{
    double *got = test_get(c->g.dev, &c->acts.slot[slot]);
    test_equal("slot", got, want, qy_tensor_count(&c->acts.slot[slot]));
    free(got);
}

static void row_by_row(const qy_device_t *dev)
{
    static const char *const names[] = {"llama-gqa", "opt"};
    qy_error_t err = {0};
    for (int i = 0; i < 2; i++) {
        case_t c;
        int64_t n;
        open_case(&c, dev, names[i]);
        int64_t hidden = c.g.model->arch.hidden;
        double *x = golden_get(&c.g, "hidden.0", &n);
        qy_tensor_t tx = test_put_2d(dev, dev->compute, c.g.rows, hidden, x);
        qy_tensor_t ty = test_put_2d(dev, dev->compute, c.g.rows, hidden, NULL);
        permute(&c);
        quantize(&c, 4);
        test_ok(qy_block_forward(&c.block, &c.params, &c.acts, &tx, &ty, &err), err);
        double *h = test_get(dev, &c.acts.slot[QY_SLOT_H]), *y = test_get(dev, &ty);
        quantize(&c, 0); /* leaves the first norm's output, from which the rows go on alone */
        test_ok(qy_block_forward(&c.block, &c.params, &c.acts, &tx, &ty, &err), err);
        quantize(&c, 4);
        test_ok(qy_block_forward_part(&c.block, &c.params, &c.acts, QY_SLOT_N1, QY_SLOT_H, &err),
                err);
        same_slot(&c, QY_SLOT_H, h);
        test_ok(qy_block_forward_part(&c.block, &c.params, &c.acts, QY_SLOT_H, QY_SLOT_Y, &err),
                err);
        same_slot(&c, QY_SLOT_Y, y);
        test_release_all(dev, &tx, &ty);
        test_drop(x, h, y);
        qy_device_free(dev, &c.memory);
        golden_close(&c.g);
    }
}

TEST_ON_DEVICES(permuted)
TEST_ON_DEVICES(permuted_and_quantized)
TEST_ON_DEVICES(row_by_row)

/* --- splits without a merge that costs anything ----------------------------------------------- */

/* Channel THREE becomes three, channel TWO two; in exchange the FIRST_EMPTY of N_EMPTY ones takes
 * in the others. */
enum { THREE = 1, TWO = 5, EXTRA = 3, FIRST_EMPTY = 10, N_EMPTY = EXTRA + 1 };

static void clear(const qy_device_t *dev, const qy_tensor_t *t, int64_t first, int64_t n)
{
    qy_error_t err = {0};
    qy_tensor_t part = *t;
    if (!t->data)
        return;
    size_t row = qy_tensor_bytes(t) / (size_t)t->shape[0];
    part.data = (char *)t->data + (size_t)first * row;
    part.shape[0] = n;
    test_ok(qy_fill(dev, &part, 0.0f, &err), err);
}

/* The empty channels of all sites: what makes them is set to 0. */
static void empty_channels(case_t *c)
{
    const qy_tensor_t *makers[] = {
        &c->params.norm[QY_NORM_ATTENTION], &c->params.norm_bias[QY_NORM_ATTENTION],
        &c->params.norm[QY_NORM_MLP],       &c->params.norm_bias[QY_NORM_MLP],
        &c->params.w[QY_LINEAR_UP],         &c->params.bias[QY_LINEAR_UP]};
    for (int i = 0; i < 6; i++)
        clear(c->g.dev, makers[i], FIRST_EMPTY, N_EMPTY);
}

static void plan_splits(int32_t *offsets, int32_t *items, int64_t n)
{
    qy_error_t err = {0};
    int32_t *numbers = malloc((size_t)(3 * n + 2 * EXTRA) * sizeof *numbers);
    int32_t *copies = numbers, *origin = numbers + n, *into = origin + n + EXTRA;
    for (int64_t c = 0; c < n; c++)
        copies[c] = c == THREE ? 3 : c == TWO ? 2 : 1;
    qy_channels_expand(origin, copies, n);
    for (int64_t e = 0; e < n + EXTRA; e++)
        into[e] =
            origin[e] > FIRST_EMPTY && origin[e] < FIRST_EMPTY + N_EMPTY ? FIRST_EMPTY + EXTRA : -1;
    test_ok(qy_channels_plan(offsets, items, origin, into, n + EXTRA, n, &err), err);
    free(numbers);
}

/* The readers' columns, summed where channels are merged, repeated where they are split. */
static void mix_readers(case_t *c)
{
    qy_error_t err = {0};
    const qy_device_t *dev = c->g.dev;
    for (int k = 0; k < QY_N_LINEARS; k++) {
        qy_tensor_t *w = &c->params.w[k];
        if (!w->data || read_by[k] == QY_N_SITES)
            continue;
        const qy_channel_map_t *map = &c->params.map[read_by[k]];
        qy_tensor_t mixed = test_put_2d(dev, w->dtype, w->shape[0], w->shape[1], NULL);
        qy_tensor_t ones = test_put_1d(dev, QY_F32, qy_tensor_count(&map->items), NULL);
        test_ok(qy_fill(dev, &ones, 1.0f, &err), err);
        test_ok(qy_column_mix(dev, &mixed, w, &map->offsets, &map->items, &ones, &err), err);
        test_ok(qy_device_copy(dev, w->data, mixed.data, qy_tensor_bytes(w), &err), err);
        test_release_all(dev, &mixed, &ones);
    }
}

static void split(case_t *c)
{
    qy_error_t err = {0};
    for (int i = 0; i < 3; i++) {
        int64_t n = qy_site_channels(&c->g.model->arch, sites[i]), n_split, n_merged;
        int32_t *offsets = malloc((size_t)(n + 1) * sizeof *offsets);
        int32_t *items = malloc((size_t)(QY_MAP_ITEMS * n) * sizeof *items);
        plan_splits(offsets, items, n);
        test_ok(qy_channels_count(offsets, items, n, &n_split, &n_merged, &err), err);
        assert_true(n_split == 2 && n_merged == 1);
        test_ok(qy_decorate_map(&c->params.map[sites[i]], c->g.dev, offsets, items, n, &err), err);
        test_drop(offsets, items);
    }
    mix_readers(c);
}

static void split_only(const qy_device_t *dev)
{
    static const char *const names[] = {"llama-gqa", "opt", "qwen3"};
    for (int i = 0; i < 3; i++) {
        case_t c;
        double *y, *dx, *split_y, *split_dx;
        open_case(&c, dev, names[i]);
        int64_t n = c.g.rows * c.g.model->arch.hidden;
        double tolerance = dev->compute == QY_F32 ? 1e-5 : 20 * test_epsilon(dev->compute);
        empty_channels(&c);
        both_ways(&c, &y, &dx);
        split(&c);
        both_ways(&c, &split_y, &split_dx);
        test_close("y", split_y, y, n, tolerance * test_max_abs(y, n));
        test_close("dx", split_dx, dx, n, tolerance * test_max_abs(dx, n));
        test_drop(y, dx, split_y, split_dx);
        qy_device_free(dev, &c.memory);
        golden_close(&c.g);
    }
}

TEST_ON_DEVICES(split_only)

static int fuse(void **state)
{
    (void)state;
    fused = true;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permuted), cmocka_unit_test(test_permuted_and_quantized),
        cmocka_unit_test(test_row_by_row), cmocka_unit_test(test_split_only)};
    int failed = cmocka_run_group_tests_name("single ops", tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("fused", tests, fuse, NULL);
}
