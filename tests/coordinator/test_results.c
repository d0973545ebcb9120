/* What a run directory tells: metrics lines, block results, perplexities, and the status of runs in
 * any state. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/clock.h"
#include "coordinator/evaluations.h"
#include "coordinator/lock.h"
#include "coordinator/metrics.h"
#include "coordinator/results.h"
#include "tests/coordinator/fake_run.h"

static json_t *status_json(const fake_run_t *run)
{
    char *text = NULL;
    size_t n = 0;
    qy_error_t err;
    json_error_t where;
    FILE *file = open_memstream(&text, &n);
    assert_non_null(file);
    if (qy_results_print_status(run->plan->spec.run_dir, 1, file, &err) != QY_OK)
        fail_msg("%s", err.text);
    fclose(file);
    json_t *object = json_loads(text, 0, &where);
    if (!object)
        fail_msg("%s: %s", where.text, text);
    free(text);
    return object;
}

static char *status_text(const fake_run_t *run)
{
    char *text = NULL;
    size_t n = 0;
    FILE *file = open_memstream(&text, &n);
    assert_non_null(file);
    assert_int_equal(qy_results_print_status(run->plan->spec.run_dir, 0, file, NULL), QY_OK);
    fclose(file);
    return text;
}

static void expect_text(json_t *object, const char *key, const char *value)
{
    json_t *found = json_object_get(object, key);
    if (value)
        assert_string_equal(json_string_value(found), value);
    else
        assert_true(json_is_null(found));
}

static void expect_blocks(json_t *object, int done, int running, int left)
{
    int a, b, c, total;
    assert_int_equal(json_unpack(object, "{s:{s:i, s:i, s:i, s:i}}", "blocks", "total", &total,
                                 "done", &a, "running", &b, "left", &c),
                     0);
    assert_int_equal(total, 6);
    assert_int_equal(a, done);
    assert_int_equal(b, running);
    assert_int_equal(c, left);
}

static void append(qy_ledger_t *ledger, const qy_entry_t *entry)
{
    assert_int_equal(qy_ledger_append(ledger, entry, NULL), QY_OK);
}

static qy_ledger_t *open_ledger(const fake_run_t *run)
{
    char path[QY_PATH_MAX];
    qy_ledger_t *ledger = NULL;
    assert_int_equal(qy_store_ledger(path, run->plan, NULL), QY_OK);
    assert_int_equal(qy_ledger_open(&ledger, path, NULL), QY_OK);
    return ledger;
}

static void finish_block(fake_run_t *run, qy_ledger_t *ledger, int64_t block, double seconds)
{
    fake_write_block(run, block, false);
    append(ledger, &(qy_entry_t){.kind = QY_LEDGER_BLOCK,
                                 .phase = "quantize",
                                 .block = block,
                                 .loss_before = 5,
                                 .loss_after = 4,
                                 .seconds = seconds,
                                 .validation_before = (double)NAN,
                                 .validation_after = 3});
}

/* --- status ------------------------------------------------------------------------------------
 */

static void test_before_any_ledger(void **state)
{
    (void)state;
    fake_run_t run;
    qy_error_t err;
    qy_lock_t *lock = NULL;
    fake_run_create(&run, true, 'A');
    json_t *object = status_json(&run);
    expect_text(object, "state", "not started");
    expect_text(object, "phase", NULL);
    expect_text(object, "host", NULL);
    expect_text(object, "eta_s", NULL);
    expect_text(object, "last_event_s", NULL);
    expect_text(object, "plan_hash", run.plan->hash);
    expect_blocks(object, 0, 0, 6);
    json_decref(object);
    char *text = status_text(&run);
    assert_non_null(strstr(text, "not started"));
    free(text);
    assert_int_equal(qy_lock_take(&lock, run.plan->spec.run_dir, NULL), QY_OK);
    object = status_json(&run);
    expect_text(object, "state", "starting");
    assert_int_equal(json_integer_value(json_object_get(object, "pid")), getpid());
    json_decref(object);
    qy_lock_release(&lock);
    assert_int_equal(qy_results_print_status(run.root, 1, stderr, &err), QY_ERR_IO);
    fake_run_destroy(&run);
}

/* Segment 0 is done, segment 1 in its second block, segment 2 waits for one of two workers. */
static void test_running(void **state)
{
    (void)state;
    fake_run_t run;
    char path[QY_PATH_MAX];
    qy_lock_t *lock = NULL;
    qy_metrics_t *metrics = NULL;
    fake_run_create(&run, true, 'A');
    assert_int_equal(qy_store_prepare(run.plan, NULL), QY_OK);
    assert_int_equal(qy_lock_take(&lock, run.plan->spec.run_dir, NULL), QY_OK);
    qy_ledger_t *ledger = open_ledger(&run);
    append(ledger, &(qy_entry_t){.kind = QY_LEDGER_START, .workers = 1}); /* an older start */
    append(ledger,
           &(qy_entry_t){
               .kind = QY_LEDGER_ASSIGN, .phase = "quantize", .task = "segment 2", .task_id = 2});
    append(ledger, &(qy_entry_t){.kind = QY_LEDGER_START, .workers = 2});
    append(ledger, &(qy_entry_t){.kind = QY_LEDGER_PHASE, .phase = "capture", .seconds = -1});
    append(ledger, &(qy_entry_t){.kind = QY_LEDGER_PHASE, .phase = "capture", .seconds = 3});
    append(ledger, &(qy_entry_t){.kind = QY_LEDGER_PHASE, .phase = "quantize", .seconds = -1});
    for (int k = 0; k < 2; k++) {
        qy_entry_t entry = {.kind = QY_LEDGER_ASSIGN,
                            .phase = "quantize",
                            .task_id = k,
                            .rank = k,
                            .host = "there"};
        snprintf(entry.task, sizeof entry.task, "segment %d", k);
        append(ledger, &entry);
    }
    finish_block(&run, ledger, 0, 90);
    finish_block(&run, ledger, 1, 110);
    append(ledger, &(qy_entry_t){.kind = QY_LEDGER_DONE, .phase = "quantize", .task = "segment 0"});
    finish_block(&run, ledger, 2, 100);
    qy_ledger_close(&ledger);
    assert_int_equal(qy_store_metrics(path, run.plan, NULL), QY_OK);
    assert_int_equal(qy_metrics_open(&metrics, path, NULL), QY_OK);
    for (int step = 1; step <= 3; step++) {
        qy_metric_t metric = {
            .phase = "quantize",
            .task = "segment 1",
            .worker = 1,
            .progress = {
                .block = 3, .step = step, .n_steps = 12, .loss = 0.5, .tokens_per_s = 700}};
        assert_int_equal(qy_metrics_append(metrics, &metric, NULL), QY_OK);
    }
    qy_metrics_close(&metrics);

    json_t *object = status_json(&run);
    expect_text(object, "state", "running");
    expect_text(object, "phase", "quantize");
    assert_int_equal(json_integer_value(json_object_get(object, "workers")), 2);
    expect_blocks(object, 3, 1, 2);
    /* 100 s a block: the longest segment has 2 left, all have 2.75 for two workers */
    assert_true(fabs(json_real_value(json_object_get(object, "eta_s")) - 200.0) < 1e-6);
    json_t *block = json_array_get(json_object_get(object, "block"), 3);
    expect_text(block, "state", "running");
    assert_int_equal(json_integer_value(json_object_get(block, "step")), 3);
    assert_true(json_real_value(json_object_get(block, "loss")) == 0.5);
    block = json_array_get(json_object_get(object, "block"), 2);
    expect_text(block, "state", "done");
    assert_true(json_real_value(json_object_get(block, "loss_after")) == 4.0);
    expect_text(block, "validation_before", NULL);
    expect_text(json_array_get(json_object_get(object, "block"), 4), "state", "waiting");
    assert_true(json_number_value(json_object_get(object, "last_event_s")) < 60);
    json_decref(object);
    char *text = status_text(&run);
    assert_non_null(strstr(text, "phase    quantize for 0:"));
    assert_non_null(strstr(text, "about 3:20 left"));
    assert_non_null(strstr(text, "blocks   3 done, 1 running, 2 left"));
    assert_non_null(strstr(text, "worker   1 on there: segment 1, block 3, step 3 of 12, loss 0.5, "
                                 "700 tokens/s"));
    free(text);

    qy_lock_release(&lock); /* died: nothing runs any more */
    object = status_json(&run);
    expect_text(object, "state", "interrupted");
    expect_text(object, "phase", "quantize");
    expect_text(object, "eta_s", NULL);
    expect_blocks(object, 3, 0, 3);
    json_decref(object);
    fake_run_destroy(&run);
}

static void test_ended(void **state)
{
    (void)state;
    static const struct {
        qy_status_t status;
        const char *text, *state, *error;
    } ends[] = {
        {QY_OK, "done", "done", NULL},
        {QY_ERR_STOPPED, "stopped", "stopped", NULL},
        {QY_ERR_NUMERIC, "segment 1: a loss is nan", "failed", "segment 1: a loss is nan"},
    };
    fake_run_t run;
    fake_run_create(&run, true, 'A');
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        qy_ledger_t *ledger = open_ledger(&run);
        qy_entry_t stop = {.kind = QY_LEDGER_STOP, .status = ends[i].status};
        snprintf(stop.text, sizeof stop.text, "%s", ends[i].text);
        append(ledger, &(qy_entry_t){.kind = QY_LEDGER_START, .workers = 2});
        append(ledger, &stop);
        qy_ledger_close(&ledger);
        json_t *object = status_json(&run);
        expect_text(object, "state", ends[i].state);
        expect_text(object, "error", ends[i].error);
        json_decref(object);
    }
    fake_run_destroy(&run);
}

/* Killed between the block's file and the ledger's line: the losses come from the file. A block
 * whose file is gone or torn is not done, whatever the ledger says. */
static void test_blocks_without_ledger(void **state)
{
    (void)state;
    fake_run_t run;
    char path[QY_PATH_MAX];
    qy_block_result_t blocks[6];
    fake_run_create(&run, true, 'A');
    assert_int_equal(qy_store_prepare(run.plan, NULL), QY_OK);
    qy_ledger_t *ledger = open_ledger(&run);
    finish_block(&run, ledger, 1, 7);
    finish_block(&run, ledger, 5, 7);
    fake_write_block(&run, 2, false);
    fake_write_block(&run, 3, false);
    assert_int_equal(qy_store_block(path, run.plan, 3, NULL), QY_OK);
    assert_int_equal(truncate(path, 500), 0);
    assert_int_equal(qy_store_block(path, run.plan, 5, NULL), QY_OK);
    assert_int_equal(unlink(path), 0);
    qy_results_blocks(blocks, run.plan, ledger);
    static const bool done[6] = {false, true, true, false, false, false};
    for (int b = 0; b < 6; b++)
        assert_int_equal(blocks[b].done, done[b]);
    assert_true(blocks[1].loss_after == 4 && blocks[1].seconds == 7);
    assert_true(blocks[2].loss_before == 12 && blocks[2].loss_after == 3);
    assert_true(blocks[2].validation_before == 20 && blocks[2].validation_after == 2);
    assert_true(isnan(blocks[2].seconds));
    qy_ledger_close(&ledger);
    qy_results_blocks(blocks, run.plan, NULL);
    assert_true(blocks[1].done && isnan(blocks[0].loss_after));
    fake_run_destroy(&run);
}

/* --- perplexity --------------------------------------------------------------------------------
 */

static void put_values(const fake_run_t *run, qy_ledger_t *ledger, int64_t range, int64_t n_ranges,
                       double first, double second)
{
    double values[] = {first, second};
    qy_task_t task = {.kind = QY_TASK_EVALUATE, .variant = QY_VARIANT_STITCHED, .range = range};
    qy_entry_t entry = {.kind = QY_LEDGER_DONE, .n_values = 2, .values = values};
    char tag[QY_EVALUATION_TAG_MAX];
    qy_evaluation_tag(tag, run->plan, &task, n_ranges, 64);
    snprintf(entry.text, sizeof entry.text, "%s", tag);
    append(ledger, &entry);
}

static void test_perplexity(void **state)
{
    (void)state;
    fake_run_t run;
    fake_run_create(&run, true, 'A');
    qy_ledger_t *ledger = open_ledger(&run);
    assert_true(isnan(qy_results_perplexity(ledger, run.plan, 0, QY_VARIANT_STITCHED)));
    put_values(&run, ledger, 1, 2, 100, 200);
    assert_true(isnan(qy_results_perplexity(ledger, run.plan, 0, QY_VARIANT_STITCHED)));
    put_values(&run, ledger, 0, 2, 50, 70);
    double expected = exp(420.0 / (4.0 * 63.0));
    assert_true(qy_results_perplexity(ledger, run.plan, 0, QY_VARIANT_STITCHED) == expected);
    assert_true(isnan(qy_results_perplexity(ledger, run.plan, 0, QY_VARIANT_FINAL)));
    put_values(&run, ledger, 0, 2, 51, 70); /* the later one counts */
    expected = exp(421.0 / (4.0 * 63.0));
    assert_true(qy_results_perplexity(ledger, run.plan, 0, QY_VARIANT_STITCHED) == expected);
    put_values(&run, ledger, 0, 3, 1, 1); /* a new cut that is not whole yet */
    assert_true(isnan(qy_results_perplexity(ledger, run.plan, 0, QY_VARIANT_STITCHED)));
    run.plan->eval_digest[0][3] ^= 1; /* another text */
    assert_true(isnan(qy_results_perplexity(ledger, run.plan, 0, QY_VARIANT_STITCHED)));
    qy_ledger_close(&ledger);
    fake_run_destroy(&run);
}

/* --- metrics -----------------------------------------------------------------------------------
 */

static void test_metrics(void **state)
{
    (void)state;
    fake_run_t run;
    char path[QY_PATH_MAX];
    qy_metric_t *read = NULL;
    int64_t n;
    qy_metrics_t *metrics = NULL;
    fake_run_create(&run, true, 'A');
    assert_int_equal(qy_store_metrics(path, run.plan, NULL), QY_OK);
    assert_int_equal(qy_metrics_read(&read, &n, path, 1000, NULL), QY_OK);
    assert_int_equal(n, 0);
    free(read);

    const qy_metric_t metric = {.time = "2026-01-02T03:04:05Z",
                                .phase = "quantize",
                                .task = "segment 1",
                                .worker = 3,
                                .progress = {.block = 4,
                                             .step = 5,
                                             .n_steps = 6,
                                             .loss = (double)NAN,
                                             .tokens_per_s = 7.5,
                                             .block_done = 1,
                                             .loss_before = 0.25,
                                             .loss_after = 0.125,
                                             .seconds = 8}};
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"time\":\"torn", file);
    fclose(file);
    assert_int_equal(qy_metrics_open(&metrics, path, NULL), QY_OK);
    for (int i = 0; i < 50; i++)
        assert_int_equal(qy_metrics_append(metrics, &metric, NULL), QY_OK);
    qy_metrics_close(&metrics);
    assert_int_equal(qy_metrics_read(&read, &n, path, 1 << 20, NULL), QY_OK);
    assert_int_equal(n, 50);
    const qy_progress_t *p = &read[49].progress;
    assert_string_equal(read[49].time, metric.time);
    assert_string_equal(read[49].phase, "quantize");
    assert_string_equal(read[49].task, "segment 1");
    assert_int_equal(read[49].worker, 3);
    assert_true(p->block == 4 && p->step == 5 && p->n_steps == 6 && p->block_done == 1);
    assert_true(isnan(p->loss) && p->tokens_per_s == 7.5 && p->loss_before == 0.25 &&
                p->loss_after == 0.125 && p->seconds == 8);
    free(read);
    assert_int_equal(qy_metrics_read(&read, &n, path, 1000, NULL), QY_OK); /* only the last ones */
    assert_true(n > 0 && n < 10);
    assert_string_equal(read[0].task, "segment 1");
    free(read);
    fake_run_destroy(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_before_any_ledger),
        cmocka_unit_test(test_running),
        cmocka_unit_test(test_ended),
        cmocka_unit_test(test_blocks_without_ledger),
        cmocka_unit_test(test_perplexity),
        cmocka_unit_test(test_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
