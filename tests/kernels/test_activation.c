/* An activation in one pass against the ops it stands for, one after the other on the same device:
 * the same bytes, forward and backward, with and without a channel map. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/act_quant.h"
#include "kernels/activation.h"
#include "kernels/columns.h"
#include "kernels/glu.h"
#include "kernels/norm.h"
#include "tests/support/compare.h"
#include "tests/support/devices.h"

static const float eps = 1e-5f;

/* A plan on a device, both ways. */
typedef struct {
    qy_tensor_t special, offsets, items, weights;
    qy_column_plan_t plan;
} plan_t;

/* The numbers of one: offsets (C + 1), items and weights (2 C), special (C). */
typedef struct {
    int64_t n, c, n_special; /* items so far; places that are not their own column */
    double *offsets, *items, *weights, *special;
} lists_t;

static lists_t lists_of(int64_t c)
{
    return (lists_t){.c = c,
                     .offsets = test_zeros(c + 1),
                     .items = test_zeros(2 * c),
                     .weights = test_zeros(2 * c),
                     .special = test_zeros(c)};
}

static void end_place(lists_t *l, int64_t place)
{
    int64_t first = (int64_t)l->offsets[place];
    if (l->n != first + 1 || l->items[first] != (double)place || l->weights[first] != 1)
        l->special[l->n_special++] = (double)place;
    l->offsets[place + 1] = (double)l->n;
}

static void add_item(lists_t *l, int64_t item, double weight)
{
    l->items[l->n] = (double)item;
    l->weights[l->n++] = (double)(float)weight;
}

static void put_plan(const qy_device_t *dev, plan_t *p, lists_t *l)
{
    p->special = test_put_1d(dev, QY_I32, l->c, l->special);
    p->offsets = test_put_1d(dev, QY_I32, l->c + 1, l->offsets);
    p->items = test_put_1d(dev, QY_I32, 2 * l->c, l->items);
    p->weights = test_put_1d(dev, QY_F32, 2 * l->c, l->weights);
    p->plan = (qy_column_plan_t){&p->special, &p->offsets, &p->items, &p->weights, l->n_special};
}

/* Of each seven channels the fourth is split in three, the first two become one, and so do the last
 * two; copies go where those were, the rest of a row stays. */
static void make_plans(const qy_device_t *dev, int64_t c, plan_t *map, plan_t *back)
{
    static const int64_t places[7][2] = {{0, 1},  {3, -1}, {2, -1}, {3, -1},
                                         {4, -1}, {3, -1}, {5, 6}};
    lists_t to = lists_of(c), from = lists_of(c);
    for (int64_t j = 0, first = 0; j < c; end_place(&to, j++)) {
        const int64_t *in = places[j % 7];
        first = j / 7 * 7;
        if (first + 7 > c) {
            add_item(&to, j, 1);
            continue;
        }
        add_item(&to, first + in[0], in[1] >= 0 ? 0.5 : (in[0] == 3 ? 1.0 / 3 : 1));
        if (in[1] >= 0)
            add_item(&to, first + in[1], 0.5);
    }
    for (int64_t i = 0; i < c; end_place(&from, i++))
        for (int64_t j = i / 7 * 7; j < i / 7 * 7 + 7 && j < c; j++)
            for (int64_t k = (int64_t)to.offsets[j]; k < (int64_t)to.offsets[j + 1]; k++)
                if ((int64_t)to.items[k] == i)
                    add_item(&from, j, to.weights[k]);
    put_plan(dev, map, &to);
    put_plan(dev, back, &from);
    test_drop(to.offsets, to.items, to.weights, to.special, from.offsets, from.items, from.weights,
              from.special);
}

static void drop_plan(const qy_device_t *dev, plan_t *p)
{
    test_release_all(dev, &p->special, &p->offsets, &p->items, &p->weights);
}

/* A case's tensors; got and want are the fused op's and the single ones'. */
typedef struct {
    const qy_device_t *dev;
    int64_t m, c;
    qy_tensor_t x, up, w, b, dy, got, want, got_up, want_up, mean, rstd, got_mean, got_rstd;
    qy_tensor_t made, mixed, g;
    plan_t map, back;
    qy_activation_t a;
} case_t;

static qy_tensor_t numbers(const qy_device_t *dev, qy_dtype_t dtype, int64_t m, int64_t c,
                           uint64_t stream, double size)
{
    double *x = test_random(m * c, stream, size, dtype);
    qy_tensor_t t = test_put_2d(dev, dtype, m, c, x);
    free(x);
    return t;
}

static void open_case(case_t *k, const qy_device_t *dev, qy_make_t make, int64_t m, int64_t c,
                      int mapped, int bits)
{
    const qy_dtype_t t = dev->compute;
    *k = (case_t){.dev = dev, .m = m, .c = c};
    k->x = numbers(dev, t, m, c, 21, 3.0);
    k->up = numbers(dev, t, m, c, 22, 2.0);
    k->dy = numbers(dev, t, m, c, 23, 1.0);
    k->w = numbers(dev, QY_F32, 1, c, 24, 1.5);
    k->b = numbers(dev, QY_F32, 1, c, 25, 0.5);
    qy_tensor_t *wide[] = {&k->got, &k->want, &k->got_up, &k->want_up, &k->made, &k->mixed, &k->g};
    qy_tensor_t *narrow[] = {&k->mean, &k->rstd, &k->got_mean, &k->got_rstd};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        *wide[i] = test_put_2d(dev, t, m, c, NULL);
    for (size_t i = 0; i < sizeof narrow / sizeof *narrow; i++)
        *narrow[i] = test_put_1d(dev, QY_F32, m, NULL);
    make_plans(dev, c, &k->map, &k->back);
    k->a = (qy_activation_t){.make = make,
                             .x = &k->x,
                             .up = &k->up,
                             .w = &k->w,
                             .b = &k->b,
                             .eps = eps,
                             .map = mapped ? &k->map.plan : NULL,
                             .back = mapped ? &k->back.plan : NULL,
                             .bits = bits};
}

static void close_case(case_t *k)
{
    test_release_all(k->dev, &k->x, &k->up, &k->dy, &k->w, &k->b, &k->got, &k->want, &k->got_up,
                     &k->want_up, &k->made, &k->mixed, &k->g, &k->mean, &k->rstd, &k->got_mean,
                     &k->got_rstd);
    drop_plan(k->dev, &k->map);
    drop_plan(k->dev, &k->back);
}

static qy_status_t mix(const case_t *k, qy_tensor_t *y, const qy_tensor_t *x, const plan_t *p,
                       qy_error_t *err)
{
    return qy_column_mix(k->dev, y, x, &p->offsets, &p->items, &p->weights, err);
}

/* want, want_up, mean and rstd by the single ops; backward, forward's made and mixed are there. */
static void singly(case_t *k, int backward)
{
    qy_error_t err = {0};
    const qy_device_t *dev = k->dev;
    const qy_tensor_t *read = k->a.map ? &k->mixed : &k->made;
    if (backward) {
        qy_tensor_t *last = k->a.map ? &k->mixed : &k->g;
        test_ok(qy_act_quant_bwd(dev, &k->g, &k->dy, read, k->a.bits, &err), err);
        if (k->a.map)
            test_ok(mix(k, &k->mixed, &k->g, &k->back, &err), err);
        if (k->a.make == QY_MAKE_SILU_MUL)
            test_ok(qy_silu_mul_bwd(dev, &k->want, &k->want_up, last, &k->x, &k->up, &err), err);
        else if (k->a.make == QY_MAKE_RELU)
            test_ok(qy_relu_bwd(dev, &k->want, last, &k->made, &err), err);
        else
            test_ok(qy_device_copy(dev, k->want.data, last->data, qy_tensor_bytes(last), &err),
                    err);
        return;
    }
    if (k->a.make == QY_MAKE_RMSNORM)
        test_ok(qy_rmsnorm_fwd(dev, &k->made, &k->rstd, &k->x, &k->w, eps, &err), err);
    else if (k->a.make == QY_MAKE_LAYERNORM)
        test_ok(qy_layernorm_fwd(dev, &k->made, &k->mean, &k->rstd, &k->x, &k->w, &k->b, eps, &err),
                err);
    else if (k->a.make == QY_MAKE_SILU_MUL)
        test_ok(qy_silu_mul_fwd(dev, &k->made, &k->x, &k->up, &err), err);
    else
        test_ok(qy_relu_fwd(dev, &k->made, &k->x, &err), err);
    if (k->a.map)
        test_ok(mix(k, &k->mixed, &k->made, &k->map, &err), err);
    test_ok(qy_act_quant_fwd(dev, &k->want, read, k->a.bits, &err), err);
}

static void same(const case_t *k, const char *what, const qy_tensor_t *got, const qy_tensor_t *want)
{
    double *a = test_get(k->dev, got), *b = test_get(k->dev, want);
    test_equal(what, a, b, qy_tensor_count(got));
    test_drop(a, b);
}

static void one_case(const qy_device_t *dev, qy_make_t make, int64_t m, int64_t c, int mapped,
                     int bits)
{
    case_t k;
    qy_error_t err = {0};
    int norm = make == QY_MAKE_RMSNORM || make == QY_MAKE_LAYERNORM;
    open_case(&k, dev, make, m, c, mapped, bits);
    singly(&k, 0);
    test_ok(qy_activation_fwd(dev, &k.got, &k.got_mean, &k.got_rstd, &k.a, &err), err);
    same(&k, "y", &k.got, &k.want);
    if (norm)
        same(&k, "rstd", &k.got_rstd, &k.rstd);
    if (make == QY_MAKE_LAYERNORM)
        same(&k, "mean", &k.got_mean, &k.mean);
    singly(&k, 1);
    test_ok(qy_activation_bwd(dev, &k.got, &k.got_up, &k.dy, &k.got_mean, &k.got_rstd, &k.a, &err),
            err);
    same(&k, "dx", &k.got, &k.want);
    if (make == QY_MAKE_SILU_MUL)
        same(&k, "dup", &k.got_up, &k.want_up);
    /* in place of dy */
    test_ok(qy_activation_bwd(dev, &k.dy, &k.got_up, &k.dy, &k.got_mean, &k.got_rstd, &k.a, &err),
            err);
    same(&k, "dx in place", &k.dy, &k.want);
    close_case(&k);
}

/* Rows of a warp, of a block, of a wide block; odd lengths, which are read one by one. */
static void as_single_ops(const qy_device_t *dev)
{
    static const int64_t shapes[][2] = {{3, 1},    {5, 64},   {67, 100},  {3, 1024}, {2, 1027},
                                        {1, 5000}, {2, 8192}, {1, 16392}, {1, 28672}};
    static const int bits[] = {4, 6, 8};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int make = QY_MAKE_RMSNORM; make <= QY_MAKE_RELU; make++)
            for (int mapped = 0; mapped < 2; mapped++)
                one_case(dev, (qy_make_t)make, shapes[i][0], shapes[i][1], mapped, bits[i % 3]);
}

/* Rows of which two do not fit into a GPU's shared memory, more than it works on at once. */
static void far_wider(const qy_device_t *dev)
{
    one_case(dev, QY_MAKE_SILU_MUL, strcmp(dev->kind, "cpu") == 0 ? 1 : 34, 58000, 1, 4);
}

static void bad_input(const qy_device_t *dev)
{
    case_t k;
    qy_error_t err = {0};
    open_case(&k, dev, QY_MAKE_LAYERNORM, 2, 64, 1, 4);
    qy_tensor_t narrow = test_put_2d(dev, dev->compute, 2, 63, NULL);
    qy_tensor_t *mean = &k.mean, *rstd = &k.rstd;
    test_refused(qy_activation_fwd(dev, &narrow, mean, rstd, &k.a, &err), QY_ERR_SHAPE, err);
    test_refused(qy_activation_fwd(dev, &k.got, NULL, rstd, &k.a, &err), QY_ERR_ARG, err);
    test_refused(qy_activation_bwd(dev, &k.got, NULL, &narrow, mean, rstd, &k.a, &err),
                 QY_ERR_SHAPE, err);
    qy_activation_t a = k.a;
    a.back = NULL;
    test_refused(qy_activation_bwd(dev, &k.got, NULL, &k.dy, mean, rstd, &a, &err), QY_ERR_ARG,
                 err);
    a = k.a;
    a.bits = 9;
    test_refused(qy_activation_fwd(dev, &k.got, mean, rstd, &a, &err), QY_ERR_ARG, err);
    qy_column_plan_t plan = k.map.plan;
    plan.n_special = k.c + 1;
    a = k.a;
    a.map = &plan;
    test_refused(qy_activation_fwd(dev, &k.got, mean, rstd, &a, &err), QY_ERR_SHAPE, err);
    a = k.a;
    a.make = QY_MAKE_SILU_MUL;
    a.up = &narrow;
    test_refused(qy_activation_fwd(dev, &k.got, mean, rstd, &a, &err), QY_ERR_SHAPE, err);
    test_release(dev, &narrow);
    close_case(&k);
}

TEST_ON_DEVICES(as_single_ops)
TEST_ON_DEVICES(far_wider)
TEST_ON_DEVICES(bad_input)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_single_ops),
                                       cmocka_unit_test(test_far_wider),
                                       cmocka_unit_test(test_bad_input)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
