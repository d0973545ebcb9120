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
#include "../support/reference64.h"
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

/* Gradients of a block of this form, in memory of their own. */
typedef struct {
    qy_block_grads_t grads;
    void *memory;
} gradients_t;

static gradients_t take_gradients(const qy_forward_t *f)
{
    qy_error_t err = {0};
    gradients_t g = {0};
    qy_arena_t arena;
    qy_arena_init(&arena, "test", NULL, 0);
    test_ok(qy_block_grads_take(&g.grads, &f->block, f->batch, f->length, &arena, &err), err);
    test_ok(qy_device_alloc(f->dev, &g.memory, arena.peak, &err), err);
    size_t bytes = arena.peak;
    qy_arena_init(&arena, "test", g.memory, bytes);
    test_ok(qy_block_grads_take(&g.grads, &f->block, f->batch, f->length, &arena, &err), err);
    return g;
}

/* The input's gradient for a made-up one of the output, after a forward pass. */
static double *input_gradient(qy_forward_t *f, gradients_t *g)
{
    qy_error_t err = {0};
    int64_t n = qy_tensor_count(&f->y), hidden = qy_tensor_cols(&f->y);
    double *dy = test_random(n, 5, 1.0, f->dev->compute);
    qy_tensor_t td = test_put_2d(f->dev, f->dev->compute, n / hidden, hidden, dy);
    test_ok(qy_block_backward(&f->block, &f->params, &f->acts, &g->grads, &td, 1, &err), err);
    double *dx = test_get(f->dev, &td);
    test_release(f->dev, &td);
    test_drop(dy);
    return dx;
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
    /* Of these no ReLU is so near 0 that f32 could see it on the other side. */
    double *x = test_random(g->rows * a->hidden, 4, 1.0, dev->compute);
    qy_tensor_t tx = test_put_2d(dev, dev->compute, g->rows, a->hidden, x);
    test_ok(qy_device_copy(dev, f.x.data, tx.data, qy_tensor_bytes(&tx), &err), err);
    qy_decorate_plain(&f.params);
    test_ok(qy_block_params_load(&f.params, &f.block, &weights, &f.staging, 1, &err), err);
    test_ok(qy_block_forward(&f.block, &f.params, &f.acts, &f.x, &f.y, &err), err);
    gradients_t gradients = take_gradients(&f);
    double *want = test_get(dev, &f.y), *want_dx = input_gradient(&f, &gradients);
    for (int i = 0; i < QY_N_SITES; i++)
        orders[i] = q.site_order[i].data;
    test_ok(qy_reorder_weights(&weights, a, orders, 2, &err), err);
    test_ok(qy_block_params_load(&f.params, &f.block, &weights, &f.staging, 1, &err), err);
    test_ok(qy_decorate_orders(&f.params, dev, a, &q, &err), err);
    test_ok(qy_block_forward(&f.block, &f.params, &f.acts, &f.x, &f.y, &err), err);
    double *got = test_get(dev, &f.y), most = 0;
    for (int64_t i = 0; i < g->rows * a->hidden; i++)
        most = fmax(most, fabs(want[i]));
    double tolerance = dev->compute == QY_F32 ? 1e-5 : 8 * test_epsilon(dev->compute);
    test_close("reordered block", got, want, g->rows * a->hidden, tolerance * most);
    double *dx = input_gradient(&f, &gradients);
    if (a->act_kind != QY_ACT_RELU || dev->compute == QY_F32)
        test_close("its gradient", dx, want_dx, g->rows * a->hidden,
                   3 * tolerance * test_max_abs(want_dx, g->rows * a->hidden));
    /* Without the maps, or with other weights, it is another block. */
    qy_decorate_plain(&f.params);
    test_ok(qy_block_forward(&f.block, &f.params, &f.acts, &f.x, &f.y, &err), err);
    double *other = test_get(dev, &f.y), apart = 0;
    for (int64_t i = 0; i < g->rows * a->hidden; i++)
        apart = fmax(apart, fabs(want[i] - other[i]));
    assert_true(apart > 0.01 * most);
    test_release(dev, &tx);
    test_drop(x, want, got, other, want_dx, dx);
    qy_device_free(dev, &gradients.memory);
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

/* --- the same in f64, one order after the other ------------------------------------------------
 */

/* An OPT block in f64: behind both norms channels go where their orders say; the rest is the
 * weights'. */
typedef struct {
    const qy_arch_t *a;
    const qy_block_weights_t *w;
    const int32_t *const *order;
    int64_t batch, length;
} block64_t;

static double *widen(const qy_tensor_t *t)
{
    double *out = test_zeros(qy_tensor_count(t));
    for (int64_t i = 0; i < qy_tensor_count(t); i++)
        out[i] = (double)((const float *)t->data)[i];
    return out;
}

static double *linear64(const block64_t *b, int id, const double *x)
{
    const qy_linear_desc_t *d = &b->a->linear[id];
    double *w = widen(&b->w->linear[id]), *bias = widen(&b->w->bias[id]);
    double *y = test_zeros(b->batch * b->length * d->out);
    ref_linear_fwd(y, x, w, bias, b->batch * b->length, d->out, d->in);
    test_drop(w, bias);
    return y;
}

static double *norm64(const block64_t *b, int id, qy_site_t site, const double *x)
{
    int64_t m = b->batch * b->length, d = b->a->hidden;
    double *w = widen(&b->w->norm[id]), *bias = widen(&b->w->norm_bias[id]);
    double *n = test_zeros(m * d), *y = test_zeros(m * d), *mean = test_zeros(m),
           *rstd = test_zeros(m);
    ref_layernorm_fwd(n, mean, rstd, x, w, bias, m, d, (double)b->a->norm_eps);
    for (int64_t i = 0; i < m * d; i++)
        y[i] = n[i / d * d + (b->order ? b->order[site][i % d] : i % d)];
    test_drop(w, bias, n, mean, rstd);
    return y;
}

/* scores (batch, heads, length, length): what Q and K give, whatever the order inside heads. */
static double *block64(const block64_t *b, const double *x, double *scores)
{
    const qy_arch_t *a = b->a;
    int64_t m = b->batch * b->length, h = a->n_heads, d = a->head_dim, length = b->length;
    double *n1 = norm64(b, QY_NORM_ATTENTION, QY_SITE_ATTENTION_IN, x);
    double *q = linear64(b, QY_LINEAR_Q, n1), *k = linear64(b, QY_LINEAR_K, n1);
    double *v = linear64(b, QY_LINEAR_V, n1), *o = test_zeros(m * h * d), *lse = test_zeros(m * h);
    ref_attention_fwd(
        o, lse, q, k, v,
        &(ref_attention_t){b->batch, length, h, a->n_kv_heads, d, 0, 1 / sqrt((double)d)});
    for (int64_t i = 0; i < m * h * length; i++) {
        int64_t row = i / length / h, head = i / length % h, key = i % length;
        const double *from = q + (row * h + head) * d,
                     *to = k + ((row / length * length + key) * h + head) * d;
        scores[i] = 0;
        for (int64_t c = 0; c < d; c++)
            scores[i] += from[c] * to[c];
    }
    double *y = linear64(b, QY_LINEAR_O, o);
    for (int64_t i = 0; i < m * a->hidden; i++)
        y[i] += x[i];
    double *n2 = norm64(b, QY_NORM_MLP, QY_SITE_MLP_IN, y), *up = linear64(b, QY_LINEAR_UP, n2);
    for (int64_t i = 0; i < m * a->intermediate; i++)
        up[i] = up[i] > 0 ? up[i] : 0;
    double *down = linear64(b, QY_LINEAR_DOWN, up);
    for (int64_t i = 0; i < m * a->hidden; i++)
        y[i] += down[i];
    test_drop(n1, q, k, v, o, lse, n2, up, down);
    return y;
}

static void close_to(const char *what, const double *got, const double *want, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs(want[i]));
    test_close(what, got, want, n, 1e-12 * most);
}

/* R1 to R5 of the specification, each alone (bits of `which`) and all at once. */
static void check_orders64(const golden_t *g, int which)
{
    static const int of_site[QY_N_SITES] = {
        [QY_SITE_ATTENTION_IN] = 1, [QY_SITE_Q] = 2,      [QY_SITE_K] = 2,       [QY_SITE_V] = 4,
        [QY_SITE_O_IN] = 4,         [QY_SITE_MLP_IN] = 8, [QY_SITE_DOWN_IN] = 16};
    qy_error_t err = {0};
    qy_qblock_t q;
    qy_block_weights_t weights;
    const qy_arch_t *a = &g->model->arch;
    qy_quant_form_t form = {.bits = 4};
    const int32_t *orders[QY_N_SITES];
    for (int i = 0; i < QY_N_SITES; i++)
        form.n_clusters[i] = 1;
    test_ok(qy_qblock_create(&q, a, &form, &err), err);
    make_orders(&q, a);
    for (int i = 0; i < QY_N_SITES; i++) {
        int32_t *order = q.site_order[i].data;
        for (int64_t c = 0; c < qy_site_channels(a, (qy_site_t)i) && !(which & of_site[i]); c++)
            order[c] = (int32_t)c;
        orders[i] = order;
    }
    test_ok(qy_block_weights_read(&weights, g->model, 0, &err), err);
    int64_t n_scores = g->rows * a->n_heads * g->length;
    double *x = test_random(g->rows * a->hidden, 3, 1.0, QY_F32);
    double *scores = test_zeros(n_scores), *other_scores = test_zeros(n_scores);
    block64_t block = {a, &weights, NULL, g->batch, g->length};
    double *want = block64(&block, x, scores);
    test_ok(qy_reorder_weights(&weights, a, orders, 2, &err), err);
    block.order = orders;
    double *got = block64(&block, x, other_scores);
    close_to("block", got, want, g->rows * a->hidden);
    close_to("scores", other_scores, scores, n_scores);
    test_drop(x, scores, other_scores, want, got);
    qy_block_weights_free(&weights);
    qy_qblock_free(&q);
}

static void test_exact(void **state)
{
    (void)state;
    qy_device_t *dev = test_cpu(1);
    golden_t g;
    golden_open(&g, dev, "opt");
    for (int which = 1; which <= 16; which *= 2)
        check_orders64(&g, which);
    check_orders64(&g, 31);
    golden_close(&g);
    qy_device_close(&dev);
}

/* --- keys and values alone ---------------------------------------------------------------------
 */

/* One step for all channels of a site, from the values that a full-precision pass left there. */
static void set_step(const qy_forward_t *f, qy_qblock_t *q, qy_site_t site, qy_slot_t slot)
{
    const qy_tensor_t *t = qy_block_value(&f->block, &f->params, &f->acts, slot);
    double *x = test_get(f->dev, t), lo = 0, hi = 0;
    for (int64_t i = 0; i < qy_tensor_count(t); i++) {
        lo = fmin(lo, x[i]);
        hi = fmax(hi, x[i]);
    }
    *(float *)q->site_scales[site].data = (float)((hi - lo) / 15);
    *(int32_t *)q->site_zeros[site].data = (int32_t)rint(-lo / (hi - lo) * 15);
    test_drop(x);
}

/* The block with keys and values at 4 bits, its channels in q's order; clusters are all one. */
static double *run_kv(qy_forward_t *f, const golden_t *g, qy_qblock_t *q)
{
    qy_error_t err = {0};
    const qy_arch_t *a = &g->model->arch;
    const int32_t *orders[QY_N_SITES];
    qy_block_weights_t weights;
    for (int i = 0; i < QY_N_SITES; i++) {
        orders[i] = q->site_order[i].data;
        *(int32_t *)q->site_counts[i].data = (int32_t)qy_site_channels(a, (qy_site_t)i);
    }
    test_ok(qy_block_weights_read(&weights, g->model, 0, &err), err);
    test_ok(qy_reorder_weights(&weights, a, orders, 2, &err), err);
    test_ok(qy_block_params_load(&f->params, &f->block, &weights, &f->staging, 1, &err), err);
    test_ok(qy_decorate_orders(&f->params, f->dev, a, q, &err), err);
    test_ok(qy_decorate_clusters(&f->params, f->dev, q, &err), err);
    test_ok(qy_block_forward(&f->block, &f->params, &f->acts, &f->x, &f->y, &err), err);
    qy_block_weights_free(&weights);
    return test_get(f->dev, &f->y);
}

/* Orders of what keys and values are not made of change nothing: another R1, R4 and R5. */
static void check_kv(const qy_device_t *dev, const golden_t *g)
{
    static const qy_site_t others[] = {QY_SITE_ATTENTION_IN, QY_SITE_MLP_IN, QY_SITE_DOWN_IN};
    qy_error_t err = {0};
    qy_forward_t f;
    qy_qblock_t q;
    qy_block_weights_t weights;
    const qy_arch_t *a = &g->model->arch;
    qy_quant_form_t form = {.bits = 4, .activation_bits = QY_BITS_NONE, .kv_bits = 4};
    for (int i = 0; i < QY_N_SITES; i++)
        form.n_clusters[i] = 1;
    test_ok(qy_qblock_create(&q, a, &form, &err), err);
    make_orders(&q, a);
    test_ok(qy_forward_create(&f, (qy_device_t *)dev, g->model, &form, g->batch, g->length, &err),
            err);
    double *x = test_random(g->rows * a->hidden, 3, 1.0, dev->compute);
    qy_tensor_t tx = test_put_2d(dev, dev->compute, g->rows, a->hidden, x);
    test_ok(qy_device_copy(dev, f.x.data, tx.data, qy_tensor_bytes(&tx), &err), err);
    test_ok(qy_block_weights_read(&weights, g->model, 0, &err), err);
    qy_decorate_plain(&f.params);
    test_ok(qy_block_params_load(&f.params, &f.block, &weights, &f.staging, 1, &err), err);
    test_ok(qy_block_forward(&f.block, &f.params, &f.acts, &f.x, &f.y, &err), err);
    double *full = test_get(dev, &f.y), most = 0, apart = 0;
    set_step(&f, &q, QY_SITE_K, a->rope_kind == QY_ROPE_NONE ? QY_SLOT_K : QY_SLOT_KR);
    set_step(&f, &q, QY_SITE_V, QY_SLOT_V);
    double *want = run_kv(&f, g, &q);
    for (int i = 0; i < 3; i++)
        shuffle(q.site_order[others[i]].data, qy_site_channels(a, others[i]), 0, 7 + (uint64_t)i);
    double *got = run_kv(&f, g, &q);
    for (int64_t i = 0; i < g->rows * a->hidden; i++) {
        most = fmax(most, fabs(want[i]));
        apart = fmax(apart, fabs(full[i] - want[i]));
    }
    /* In halves a key or value may fall to the other side of a tie. */
    double tolerance = dev->compute == QY_F32 ? 1e-5 : 0.1;
    test_close("keys and values quantized", got, want, g->rows * a->hidden, tolerance * most);
    assert_true(apart > 3e-4 * most);
    test_release(dev, &tx);
    test_drop(x, full, want, got);
    qy_block_weights_free(&weights);
    qy_qblock_free(&q);
    qy_forward_free(&f);
}

static void kv_alone(const qy_device_t *dev)
{
    static const char *const models[] = {"opt", "llama-gqa"};
    for (int i = 0; i < 2; i++) {
        golden_t g;
        golden_open(&g, dev, models[i]);
        check_kv(dev, &g);
        golden_close(&g);
    }
}
TEST_ON_DEVICES(kv_alone)

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
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_kv_alone),
        cmocka_unit_test(test_write_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
