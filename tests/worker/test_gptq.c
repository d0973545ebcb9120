/* Second moments of a block's linear layers: a window's first token counts as its share of the
 * window in what q, k and v are rounded by, and as any other elsewhere and for RPTQ. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../support/compare.h"
#include "../support/devices.h"
#include "golden_model.h"
#include "kernels/gptq.h"
#include "worker/gptq.h"

typedef struct {
    golden_t g;
    qy_plan_t plan;
    qy_block_ap_t vars;
    qy_gptq_t gptq;
    void *memory;
} case_t;

static void open_case(case_t *c, const qy_device_t *dev, const char *name)
{
    qy_error_t err = {0};
    *c = (case_t){0};
    golden_open(&c->g, dev, name);
    c->plan.spec.quantize.method = QY_METHOD_GPTQ;
    c->plan.spec.calibration.samples = c->g.batch;
    c->plan.spec.gptq.block_size = QY_GPTQ_BLOCK_MAX;
    c->vars.f = &c->g.forward;
    qy_arena_t arena;
    qy_arena_init(&arena, "test", NULL, 0);
    test_ok(qy_gptq_take(&c->gptq, &c->plan, &c->vars, &arena, &err), err);
    size_t bytes = arena.peak;
    test_ok(qy_device_alloc(dev, &c->memory, bytes, &err), err);
    test_ok(qy_forward_load_original(&c->g.forward, 0, &err), err);
}

/* Moments of the golden input, by site. */
static void moments(case_t *c, int method, double first_token, double *h[QY_GPTQ_SITES])
{
    qy_error_t err = {0};
    int64_t n;
    qy_forward_t *f = &c->g.forward;
    const qy_device_t *dev = c->g.dev;
    qy_arena_t arena;
    c->plan.spec.quantize.method = method;
    c->plan.spec.gptq.first_token = first_token;
    qy_arena_init(&arena, "test", c->memory, SIZE_MAX);
    test_ok(qy_gptq_take(&c->gptq, &c->plan, &c->vars, &arena, &err), err);
    double *x = golden_get(&c->g, "hidden.0", &n);
    qy_tensor_t tx = test_put_2d(dev, dev->compute, c->g.rows, c->g.model->arch.hidden, x);
    test_ok(qy_block_forward(&f->block, &f->params, &f->acts, &tx, &f->y, &err), err);
    test_ok(qy_gptq_add(&c->gptq, &f->acts, 0, &err), err);
    for (int site = 0; site < QY_GPTQ_SITES; site++)
        h[site] = c->gptq.h[site].data ? test_get(dev, &c->gptq.h[site]) : NULL;
    test_release(dev, &tx);
    test_drop(x);
}

/* What the first tokens' own moments are, of the activation that q, k and v read. */
static double *of_first_tokens(const case_t *c, int64_t n)
{
    const qy_forward_t *f = &c->g.forward;
    const qy_program_t *program = &f->block.program;
    const qy_tensor_t *x = NULL;
    for (int i = 0; i < program->n_rows && !x; i++)
        if (program->row[i].kind == QY_ROW_LINEAR)
            x = qy_block_value(&f->block, &f->params, &f->acts, program->row[i].in);
    double *values = test_get(c->g.dev, x), *h = test_zeros(n * n);
    for (int64_t b = 0; b < c->g.batch; b++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                h[i * n + j] += 2.0 / (double)c->g.batch * values[b * c->g.length * n + i] *
                                values[b * c->g.length * n + j];
    test_drop(values);
    return h;
}

static void first_tokens(const qy_device_t *dev)
{
    static const char *const names[] = {"llama-gqa", "opt"};
    for (int k = 0; k < 2; k++) {
        case_t c;
        double *plain[QY_GPTQ_SITES], *shared[QY_GPTQ_SITES], *rptq[QY_GPTQ_SITES];
        open_case(&c, dev, names[k]);
        moments(&c, QY_METHOD_GPTQ, 0.0, plain);
        moments(&c, QY_METHOD_GPTQ, 0.5, shared);
        moments(&c, QY_METHOD_RPTQ, 0.5, rptq);
        for (int site = 0; site < QY_GPTQ_SITES; site++) {
            if (!plain[site])
                continue;
            int64_t n = c.gptq.h[site].shape[0];
            test_equal("RPTQ", rptq[site], plain[site], n * n);
            if (site == qy_gptq_site(&c.g.forward.block.program, QY_LINEAR_K)) {
                double *want = of_first_tokens(&c, n);
                for (int64_t i = 0; i < n * n; i++)
                    want[i] = plain[site][i] + 0.5 * (double)(c.g.length - 1) * want[i];
                test_close("first tokens", shared[site], want, n * n,
                           test_tolerance(2.0, QY_F32, c.g.rows, want, n * n));
                test_drop(want);
            } else {
                test_equal("other sites", shared[site], plain[site], n * n);
            }
            test_drop(plain[site], shared[site], rptq[site]);
        }
        qy_device_free(dev, &c.memory);
        golden_close(&c.g);
    }
}

TEST_ON_DEVICES(first_tokens)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_first_tokens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
