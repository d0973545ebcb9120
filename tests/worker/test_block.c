/* Whole models, forward and backward, against PyTorch: every family, every switch of a block. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../support/compare.h"
#include "../support/devices.h"
#include "golden_model.h"
#include "kernels/fill.h"
#include "kernels/linear.h"
#include "kernels/norm.h"

static const double tolerance = 1e-4; /* relative to the largest value, f32 against PyTorch f64 */

static const char *const names[] = {"llama-gqa", "llama-biases", "llama-linear", "opt",
                                    "opt-bare",  "mistral",      "qwen2",        "qwen3"};
enum { N_NAMES = sizeof names / sizeof *names };

/* Logits (rows, V) of hidden states x. */
static void check_logits(golden_t *g, const qy_tensor_t *x)
{
    qy_error_t err;
    const qy_arch_t *a = &g->model->arch;
    double *none = NULL;
    qy_tensor_t logits = test_put_2d(g->dev, QY_F32, g->rows, a->vocab, none);
    qy_tensor_t n = test_put_2d(g->dev, g->dev->compute, g->rows, a->hidden, none);
    qy_tensor_t mean = test_put_1d(g->dev, QY_F32, g->rows, none);
    qy_tensor_t rstd = test_put_1d(g->dev, QY_F32, g->rows, none);
    if (a->norm_kind == QY_NORM_RMS)
        test_ok(qy_rmsnorm_fwd(g->dev, &n, &rstd, x, &g->outer.final_norm, a->norm_eps, &err), err);
    else
        test_ok(qy_layernorm_fwd(g->dev, &n, &mean, &rstd, x, &g->outer.final_norm,
                                 &g->outer.final_norm_bias, a->norm_eps, &err),
                err);
    test_ok(qy_linear_fwd(g->dev, &logits, &n, &g->outer.head, NULL, &err), err);
    golden_close_to(g, &logits, "logits", tolerance);
    test_release_all(g->dev, &logits, &n, &mean, &rstd);
}

/* Mean of the next-token losses that the head leaves, over the scored rows. */
static void check_loss(golden_t *g)
{
    int64_t n;
    double *rows = test_get(g->dev, &g->head.loss), *want = golden_get(g, "loss", &n), sum = 0;
    for (int64_t i = 0; i < g->rows; i++)
        sum += rows[i];
    double got = sum / (double)(g->batch * (g->length - 1));
    double scale = g->dev->compute == QY_F32 ? 1e-5 : 4 * test_epsilon(g->dev->compute);
    test_close("loss", &got, want, 1, scale * want[0]);
    test_drop(rows, want);
}

static void forward_of(const qy_device_t *dev, const char *name)
{
    golden_t g;
    qy_error_t err;
    golden_open(&g, dev, name);
    qy_forward_t *f = &g.forward;
    qy_tensor_t *x = &f->x, *y = &f->y;
    test_ok(qy_embed(&g.outer, &g.ids, g.tokens, g.batch, x, &err), err);
    golden_close_to(&g, x, "hidden.0", tolerance);
    for (int64_t b = 0; b < g.model->arch.n_blocks; b++) {
        char hidden[32];
        test_ok(qy_forward_load_original(f, b, &err), err);
        test_ok(qy_block_forward(&f->block, &f->params, &f->acts, x, y, &err), err);
        snprintf(hidden, sizeof hidden, "hidden.%d", (int)b + 1);
        golden_close_to(&g, y, hidden, tolerance);
        test_ok(qy_device_copy(dev, x->data, y->data, qy_tensor_bytes(x), &err), err);
    }
    check_logits(&g, x);
    test_ok(qy_head_next_token(&g.outer, &g.head, x, g.tokens, g.batch, g.length, 1, NULL, &err),
            err);
    check_loss(&g);
    golden_close(&g);
}

static void logits(const qy_device_t *dev)
{
    for (int i = 0; i < N_NAMES; i++)
        forward_of(dev, names[i]);
}
TEST_ON_DEVICES(logits)

/* Gradients of one block, with norms trained, from the golden gradient of its output. */
static void backward_of(golden_t *g, int64_t b)
{
    qy_error_t err;
    qy_forward_t *f = &g->forward;
    const qy_arch_t *a = &g->model->arch;
    qy_block_grads_t grads = {0};
    qy_arena_t arena;
    void *memory;
    char name[160];
    int64_t n;
    qy_arena_init(&arena, "grads", NULL, 0);
    test_ok(qy_block_grads_take(&grads, &f->block, g->batch, g->length, &arena, &err), err);
    size_t bytes = arena.peak;
    test_ok(qy_device_alloc(g->dev, &memory, bytes, &err), err);
    qy_arena_init(&arena, "grads", memory, bytes);
    test_ok(qy_block_grads_take(&grads, &f->block, g->batch, g->length, &arena, &err), err);
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (a->linear[i].present)
            grads.dw[i] = test_put_2d(g->dev, QY_F32, a->linear[i].out, a->linear[i].in, NULL);
    for (int i = 0; i < QY_N_NORMS; i++) {
        if (!a->norm[i].present)
            continue;
        grads.dnorm[i] = test_put_1d(g->dev, QY_F32, a->norm[i].size, NULL);
        if (a->norm[i].bias)
            grads.dnorm_bias[i] = test_put_1d(g->dev, QY_F32, a->norm[i].size, NULL);
    }

    int64_t shape[] = {g->rows, a->hidden};
    snprintf(name, sizeof name, "hidden.%d", (int)b);
    double *x_values = golden_get(g, name, &n);
    snprintf(name, sizeof name, "dhidden.%d", (int)b + 1);
    double *dy_values = golden_get(g, name, &n);
    qy_tensor_t x = test_put(g->dev, g->dev->compute, 2, shape, x_values);
    qy_tensor_t dy = test_put(g->dev, g->dev->compute, 2, shape, dy_values);
    test_ok(qy_forward_load_original(f, b, &err), err);
    test_ok(qy_block_forward(&f->block, &f->params, &f->acts, &x, &f->y, &err), err);
    test_ok(qy_block_backward(&f->block, &f->params, &f->acts, &grads, &dy, 1, &err), err);
    snprintf(name, sizeof name, "dhidden.%d", (int)b);
    golden_close_to(g, &dy, name, tolerance);
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!grads.dw[i].data)
            continue;
        snprintf(name, sizeof name, "grad.%s%d.%s.weight", a->block_prefix, (int)b,
                 a->linear[i].name);
        golden_close_to(g, &grads.dw[i], name, tolerance);
        test_release(g->dev, &grads.dw[i]);
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        if (!grads.dnorm[i].data)
            continue;
        snprintf(name, sizeof name, "grad.%s%d.%s.weight", a->block_prefix, (int)b,
                 a->norm[i].name);
        golden_close_to(g, &grads.dnorm[i], name, tolerance);
        test_release(g->dev, &grads.dnorm[i]);
        if (!grads.dnorm_bias[i].data)
            continue;
        snprintf(name, sizeof name, "grad.%s%d.%s.bias", a->block_prefix, (int)b, a->norm[i].name);
        golden_close_to(g, &grads.dnorm_bias[i], name, tolerance);
        test_release(g->dev, &grads.dnorm_bias[i]);
    }
    test_release_all(g->dev, &x, &dy);
    test_drop(x_values, dy_values);
    qy_device_free(g->dev, &memory);
}

/* The head's gradient: what the last block's output gets. */
static void head_backward_of(golden_t *g)
{
    qy_error_t err;
    int64_t n, shape[] = {g->rows, g->model->arch.hidden};
    char name[32];
    snprintf(name, sizeof name, "hidden.%d", (int)g->model->arch.n_blocks);
    double *values = golden_get(g, name, &n);
    qy_tensor_t x = test_put(g->dev, g->dev->compute, 2, shape, values);
    qy_tensor_t dx = test_put(g->dev, g->dev->compute, 2, shape, NULL);
    float scale = 1.0f / (float)(g->batch * (g->length - 1));
    test_ok(qy_head_next_token(&g->outer, &g->head, &x, g->tokens, g->batch, g->length, scale, &dx,
                               &err),
            err);
    snprintf(name, sizeof name, "dhidden.%d", (int)g->model->arch.n_blocks);
    golden_close_to(g, &dx, name, tolerance);
    test_release_all(g->dev, &x, &dx);
    free(values);
}

static void gradients(const qy_device_t *dev)
{
    static const char *const with_gradients[] = {"llama-gqa", "opt", "mistral", "qwen3"};
    for (size_t i = 0; i < sizeof with_gradients / sizeof *with_gradients; i++) {
        golden_t g;
        golden_open(&g, dev, with_gradients[i]);
        /* Where a ReLU's input is all but 0, half precision may see it on the other side, and its
         * gradient is then another: no tolerance covers that. */
        if (g.model->arch.act_kind == QY_ACT_RELU && dev->compute != QY_F32) {
            golden_close(&g);
            continue;
        }
        head_backward_of(&g);
        for (int64_t b = 0; b < g.model->arch.n_blocks; b++)
            backward_of(&g, b);
        golden_close(&g);
    }
}
TEST_ON_DEVICES(gradients)

/* A teacher that is the student: no divergence and no gradient. */
static void distill_of_itself(const qy_device_t *dev)
{
    golden_t g;
    qy_error_t err;
    int64_t n;
    golden_open(&g, dev, "llama-gqa");
    int64_t shape[] = {g.rows, g.model->arch.hidden};
    double *values = golden_get(&g, "hidden.2", &n);
    qy_tensor_t x = test_put(dev, dev->compute, 2, shape, values);
    qy_tensor_t dx = test_put(dev, dev->compute, 2, shape, NULL);
    test_ok(qy_head_distill(&g.outer, &g.head, &x, &x, 1, &dx, &err), err);
    double *got = test_get(dev, &dx), *zeros = test_zeros(n), *kl = test_get(dev, &g.head.loss);
    /* Probabilities of both sides come from the same logits, up to how a device orders a sum. */
    test_close("gradient", got, zeros, n, 1e-6);
    test_close("divergence", kl, zeros, g.rows, 1e-6);
    test_release_all(dev, &x, &dx);
    test_drop(values, got, zeros, kl);
    golden_close(&g);
}
TEST_ON_DEVICES(distill_of_itself)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_logits),
                                       cmocka_unit_test(test_gradients),
                                       cmocka_unit_test(test_distill_of_itself)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
