#include "golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support/compare.h"
#include "../support/devices.h"

static void rim_take(golden_t *g, qy_arena_t *arena)
{
    qy_error_t err;
    test_ok(qy_outer_take(&g->outer, g->dev, &g->model->arch, QY_OUTER_EMBEDDING | QY_OUTER_HEAD,
                          arena, &err),
            err);
    test_ok(qy_ids_take(&g->ids, &g->outer, g->batch, g->length, arena, &err), err);
    test_ok(qy_head_work_take(&g->head, &g->outer, g->rows, 1, arena, &err), err);
}

void golden_open(golden_t *g, const qy_device_t *dev, const char *name)
{
    char path[512];
    qy_error_t err;
    qy_arena_t arena;
    *g = (golden_t){.dev = dev};
    snprintf(path, sizeof path, "%s/models/%s", TEST_GOLDEN, name);
    test_ok(qy_model_open(&g->model, path, &err), err);
    snprintf(path, sizeof path, "%s/models/%s/golden", TEST_GOLDEN, name);
    test_ok(qy_st_open(&g->golden, path, &err), err);
    const qy_st_entry_t *ids = qy_st_find(g->golden, "input_ids");
    assert_non_null(ids);
    g->batch = ids->shape[0];
    g->length = ids->shape[1];
    g->rows = g->batch * g->length;
    g->tokens = malloc(ids->bytes);
    test_ok(qy_st_read(g->golden, ids, g->tokens, 0, ids->bytes, &err), err);
    test_ok(qy_forward_create(&g->forward, (qy_device_t *)dev, g->model, NULL, g->batch, g->length,
                              &err),
            err);
    qy_arena_init(&arena, "test", NULL, 0);
    rim_take(g, &arena);
    size_t bytes = arena.peak;
    test_ok(qy_device_alloc(dev, &g->memory, bytes, &err), err);
    qy_arena_init(&arena, "test", g->memory, bytes);
    rim_take(g, &arena);
    test_ok(qy_outer_load(&g->outer, g->model, &g->forward.staging, &err), err);
}

void golden_close(golden_t *g)
{
    qy_forward_free(&g->forward);
    qy_device_free(g->dev, &g->memory);
    qy_st_close(&g->golden);
    qy_model_close(&g->model);
    free(g->tokens);
}

double *golden_get(const golden_t *g, const char *name, int64_t *n)
{
    qy_error_t err;
    const qy_st_entry_t *entry = qy_st_find(g->golden, name);
    if (!entry)
        return NULL;
    *n = (int64_t)(entry->bytes / sizeof(float));
    float *values = malloc(entry->bytes);
    double *out = malloc((size_t)*n * sizeof *out);
    test_ok(qy_st_read(g->golden, entry, values, 0, entry->bytes, &err), err);
    for (int64_t i = 0; i < *n; i++)
        out[i] = (double)values[i];
    free(values);
    return out;
}

void golden_close_to(const golden_t *g, const qy_tensor_t *got, const char *name, double tolerance)
{
    int64_t n;
    double *want = golden_get(g, name, &n), *have = test_get(g->dev, got);
    if (!want)
        fail_msg("no golden array %s", name);
    assert_int_equal(n, qy_tensor_count(got));
    /* Activations are rounded to the compute type at every row: about ten roundings in a row, with
     * errors that grow through two blocks of random weights. */
    double scale = g->dev->compute == QY_F32 ? tolerance : 40 * test_epsilon(g->dev->compute);
    char label[200];
    snprintf(label, sizeof label, "%s in %s", name, qy_dtype_name(g->dev->compute));
    test_close(label, have, want, n, scale * test_max_abs(want, n));
    test_drop(want, have);
}
