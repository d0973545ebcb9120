/* Whole runs with workers that live in the test: good ones, dying ones, and ones that talk
 * nonsense. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "coordinator/dispatch.h"
#include "coordinator/metrics.h"
#include "coordinator/results.h"
#include "tests/coordinator/fake_run.h"

enum { MAX_PEERS = 4, WINDOWS_MAX = 4096 };

typedef struct world world_t;

/* What a worker does with a task instead of the good thing; false: the good thing. */
typedef bool (*trick_t)(world_t *w, int peer, const qy_task_t *task);

struct world {
    fake_run_t *run;
    qy_link_t *link;
    qy_dispatch_t *dispatch;
    volatile sig_atomic_t stop;
    trick_t trick;
    int played;                    /* times the trick was done */
    bool told_to_leave[MAX_PEERS]; /* STOP */
    int n_tasks[QY_N_TASK_KINDS];  /* given out */
    int n_e2e, n_exports, n_blocks_done;
    char phases[256];                 /* names of those that were done, in order */
    qy_error_t e2e_answer[MAX_PEERS]; /* PHASE_DONE */
    bool e2e_silent, e2e_hollow;
    int turns_left; /* < 0: no limit */
};

static void on_progress(void *context, int worker, const char *task, const qy_progress_t *progress)
{
    world_t *w = context;
    assert_true(worker >= 0 && task[0]);
    w->n_blocks_done += progress->block_done;
}

static void on_phase(void *context, const char *phase, double seconds)
{
    world_t *w = context;
    if (seconds >= 0)
        snprintf(w->phases + strlen(w->phases), sizeof w->phases - strlen(w->phases), "%s ", phase);
}

static qy_status_t run_export(void *context, const qy_plan_t *plan, const char *format,
                              qy_error_t *err)
{
    char path[QY_PATH_MAX];
    ((world_t *)context)->n_exports++;
    QY_TRY(qy_path(path, err, "%s/export/%s", plan->spec.run_dir, format));
    return qy_make_dirs(path, err);
}

static void begin(world_t *w, fake_run_t *run, int n_workers)
{
    qy_error_t err;
    *w = (world_t){.run = run, .turns_left = -1};
    w->link = fake_link_create(n_workers);
    qy_dispatch_hooks_t hooks = {on_progress, on_phase, run_export, w};
    if (qy_dispatch_create(&w->dispatch, run->plan, w->link, &hooks, &err) != QY_OK)
        fail_msg("%s", err.text);
}

static void end(world_t *w)
{
    qy_dispatch_destroy(&w->dispatch);
    assert_null(w->dispatch);
    qy_link_destroy(&w->link);
}

static void say_hello_all(world_t *w)
{
    for (int i = 0; i < w->link->n_peers; i++)
        fake_say_hello(w->link, i, w->run->plan->hash);
}

static void answer_e2e(world_t *w, int peer)
{
    qy_result_t result = {.task_id = -1, .error = w->e2e_answer[peer]};
    w->n_e2e++;
    if (w->e2e_silent)
        return;
    fake_say_progress(w->link, peer,
                      &(qy_progress_t){.task_id = -1, .block = -1, .step = 1, .n_steps = 2});
    if (!w->e2e_hollow)
        fake_write_e2e(w->run);
    fake_say_result(w->link, peer, QY_MSG_PHASE_DONE, &result);
}

static void act(world_t *w, int peer, const qy_message_t *message)
{
    qy_task_t task;
    switch (message->kind) {
    case QY_MSG_TASK:
        assert_int_equal(qy_task_decode(&task, message->payload, message->bytes, NULL), QY_OK);
        w->n_tasks[task.kind]++;
        if (w->trick && w->trick(w, peer, &task))
            w->played++;
        else
            fake_do_task(w->run, w->link, peer, &task);
        break;
    case QY_MSG_E2E:
        assert_int_equal(qy_task_decode(&task, message->payload, message->bytes, NULL), QY_OK);
        assert_string_equal(task.plan_hash, w->run->plan->hash);
        assert_string_equal(task.run_dir, w->run->plan->spec.run_dir);
        answer_e2e(w, peer);
        break;
    case QY_MSG_STOP:
        w->told_to_leave[peer] = true;
        break;
    default:
        fail_msg("message of kind %d to a worker", (int)message->kind);
    }
}

static void act_all(world_t *w)
{
    qy_message_t message;
    for (int i = 0; i < w->link->n_peers; i++)
        while (fake_take(w->link, i, &message)) {
            assert_false(w->told_to_leave[i] && message.kind != QY_MSG_STOP);
            act(w, i, &message);
            qy_message_free(&message);
        }
}

/* Turns until the run is over, or turns_left are used up: then *done is 0. */
static qy_status_t drive(world_t *w, int *done, qy_error_t *err)
{
    enum { PATIENCE_S = 20 };
    double began = qy_now_s();
    qy_status_t status = QY_OK;
    *done = 0;
    while (!*done && w->turns_left-- != 0) {
        status = qy_dispatch_poll(w->dispatch, &w->stop, done, err);
        assert_true(status == QY_OK || *done);
        act_all(w);
        if (qy_now_s() - began > PATIENCE_S)
            fail_msg("the run hangs");
    }
    return status;
}

static void drive_to_end(world_t *w)
{
    int done;
    qy_error_t err;
    if (drive(w, &done, &err) != QY_OK)
        fail_msg("%s", err.text);
    assert_true(done);
    for (int i = 0; i < w->link->n_peers; i++)
        assert_true(w->told_to_leave[i]);
}

/* A run from where it stands to its end with n good workers. */
static void finish_run(fake_run_t *run, int n_workers)
{
    world_t w;
    begin(&w, run, n_workers);
    say_hello_all(&w);
    drive_to_end(&w);
    end(&w);
}

static char *read_model(const fake_run_t *run, size_t *bytes)
{
    char path[QY_PATH_MAX], *text = NULL;
    assert_int_equal(qy_store_model(path, run->plan, NULL), QY_OK);
    assert_int_equal(qy_file_read(path, 1 << 28, &text, bytes, NULL), QY_OK);
    return text;
}

static qy_ledger_t *read_ledger(const fake_run_t *run)
{
    char path[QY_PATH_MAX];
    qy_error_t err;
    qy_ledger_t *ledger = NULL;
    assert_int_equal(qy_store_ledger(path, run->plan, NULL), QY_OK);
    if (qy_ledger_read(&ledger, path, &err) != QY_OK)
        fail_msg("%s", err.text);
    return ledger;
}

/* Number of ledger entries of a kind whose text has the word. */
static int count_entries(const fake_run_t *run, qy_ledger_kind_t kind, const char *word)
{
    int n = 0;
    qy_ledger_t *ledger = read_ledger(run);
    for (int64_t i = 0; i < qy_ledger_count(ledger); i++) {
        const qy_entry_t *entry = qy_ledger_at(ledger, i);
        n += entry->kind == kind && strstr(entry->text, word) != NULL;
    }
    qy_ledger_close(&ledger);
    return n;
}

static void check_perplexities(const fake_run_t *run, int n_variants)
{
    int32_t *tokens = NULL;
    int64_t n, length;
    qy_ledger_t *ledger = read_ledger(run);
    assert_int_equal(qy_store_read_tokens(&tokens, &n, &length, run->plan, "a", NULL), QY_OK);
    free(tokens);
    assert_true(n > QY_EVALUATE_RANGES && n < WINDOWS_MAX);
    for (int v = 0; v < QY_N_VARIANTS; v++) {
        double sum = 0, got = qy_results_perplexity(ledger, run->plan, 0, (qy_variant_t)v);
        for (int64_t i = 0; i < n; i++)
            sum += fake_nll(v, i);
        if (v < n_variants)
            assert_true(got == exp(sum / (double)(n * (length - 1)))); /* summed in this order */
        else
            assert_true(isnan(got));
    }
    qy_ledger_close(&ledger);
}

/* --- good runs ---------------------------------------------------------------------------------
 */

static void test_whole_run(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    char path[QY_PATH_MAX];
    fake_run_create(&run, true, 'A');
    begin(&w, &run, 3);
    /* what a killed run left half written is swept */
    assert_int_equal(qy_path(path, NULL, "%s/blocks/000.h5.tmp.7", run.plan->spec.run_dir), QY_OK);
    end(&w);
    assert_int_equal(qy_file_write(path, "x", 1, NULL), QY_OK);
    begin(&w, &run, 3);
    assert_false(qy_file_exists(path));
    say_hello_all(&w);
    drive_to_end(&w);
    assert_string_equal(w.phases, "tokens capture quantize stitch e2e_qp evaluate export ");
    assert_int_equal(w.n_tasks[QY_TASK_CAPTURE], 8 + 4);
    assert_int_equal(w.n_tasks[QY_TASK_SEGMENT], 3);
    assert_int_equal(w.n_tasks[QY_TASK_EVALUATE], QY_N_VARIANTS * QY_EVALUATE_RANGES);
    assert_int_equal(w.n_e2e, 3);
    assert_int_equal(w.n_exports, 1);
    assert_int_equal(w.n_blocks_done, 6);
    end(&w);
    check_perplexities(&run, QY_N_VARIANTS);
    assert_int_equal(count_entries(&run, QY_LEDGER_STOP, "done"), 1);

    qy_metric_t *metrics = NULL;
    int64_t n, blocks = 0, steps = 0;
    assert_int_equal(qy_store_metrics(path, run.plan, NULL), QY_OK);
    assert_int_equal(qy_metrics_read(&metrics, &n, path, 1 << 20, NULL), QY_OK);
    for (int64_t i = 0; i < n; i++) {
        blocks += metrics[i].progress.block_done && strcmp(metrics[i].phase, "quantize") == 0;
        steps += strcmp(metrics[i].task, "e2e_qp") == 0;
    }
    free(metrics);
    assert_int_equal(blocks, 6);
    assert_int_equal(steps, 3);
    fake_run_destroy(&run);
}

static void test_again_does_nothing(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    fake_run_create(&run, true, 'A');
    finish_run(&run, 2);
    begin(&w, &run, 2); /* nobody says hello */
    assert_int_equal(qy_dispatch_poll(w.dispatch, NULL, &done, NULL), QY_OK);
    assert_true(done);
    act_all(&w);
    assert_string_equal(w.phases, "");
    assert_int_equal(w.n_tasks[0] + w.n_tasks[1] + w.n_tasks[2] + w.n_e2e + w.n_exports, 0);
    assert_int_equal(qy_dispatch_poll(w.dispatch, NULL, &done, NULL), QY_OK); /* stays over */
    end(&w);
    assert_int_equal(run.blocks_written, 6);

    /* captures that were removed after use are not made again */
    char path[QY_PATH_MAX];
    assert_int_equal(qy_path(path, NULL, "%s/segments", run.plan->spec.run_dir), QY_OK);
    assert_int_equal(qy_remove_tree(path, NULL), QY_OK);
    begin(&w, &run, 1);
    drive_to_end(&w);
    assert_string_equal(w.phases, "");
    end(&w);
    fake_run_destroy(&run);
}

static void test_changed_evaluation(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    finish_run(&run, 2);
    check_perplexities(&run, QY_VARIANT_FINAL);
    fake_run_plan_again(&run, false, 'B');
    begin(&w, &run, 2);
    say_hello_all(&w);
    drive_to_end(&w);
    assert_string_equal(w.phases, "tokens evaluate ");
    assert_int_equal(w.n_tasks[QY_TASK_EVALUATE], QY_VARIANT_FINAL * QY_EVALUATE_RANGES);
    end(&w);
    check_perplexities(&run, QY_VARIANT_FINAL);
    fake_run_plan_again(&run, false, 'A'); /* back: its values are still there */
    begin(&w, &run, 2);
    drive_to_end(&w);
    assert_int_equal(w.n_tasks[QY_TASK_EVALUATE], 0);
    end(&w);
    fake_run_destroy(&run);
}

/* The coordinator dies after any number of turns and starts again, with another number of workers.
 */
static void test_killed_anywhere(void **state)
{
    (void)state;
    fake_run_t whole, run;
    size_t bytes, n;
    fake_run_create(&whole, true, 'A');
    finish_run(&whole, 3);
    char *expected = read_model(&whole, &bytes);
    bool finished = false;
    for (int turns = 1; !finished; turns += 2) {
        int done = 0;
        fake_run_create(&run, true, 'A');
        assert_string_equal(run.plan->hash, whole.plan->hash);
        for (int start = 0; !done; start++) {
            world_t w;
            qy_error_t err;
            begin(&w, &run, 1 + (start + turns) % MAX_PEERS);
            w.turns_left = turns + start; /* so that each gets further than the last */
            say_hello_all(&w);
            if (drive(&w, &done, &err) != QY_OK)
                fail_msg("%s", err.text);
            end(&w);
            finished = done && start == 0;
        }
        char *model = read_model(&run, &n);
        assert_int_equal(n, bytes);
        assert_memory_equal(model, expected, n);
        free(model);
        check_perplexities(&run, QY_N_VARIANTS);
        assert_int_equal(run.blocks_written, 6); /* nothing finished was done again */
        fake_run_destroy(&run);
    }
    free(expected);
    fake_run_destroy(&whole);
}

/* The transport inside one process, one worker. */
static void test_link_pair(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w = {.run = &run, .turns_left = -1};
    qy_link_t *ends[2];
    qy_dispatch_hooks_t hooks = {NULL, NULL, run_export, &w};
    fake_run_create(&run, false, 'A');
    assert_int_equal(qy_link_pair(&ends[0], &ends[1], NULL), QY_OK);
    assert_int_equal(qy_dispatch_create(&w.dispatch, run.plan, ends[0], &hooks, NULL), QY_OK);
    w.link = fake_link_create(1); /* the worker's mouth, carried over below */
    say_hello_all(&w);
    int done = 0, peer;
    void *bytes;
    size_t n;
    while (!done) {
        for (;;) {
            assert_int_equal(w.link->poll(w.link, &peer, &bytes, &n, NULL), QY_OK);
            if (!bytes)
                break;
            assert_int_equal(ends[1]->send(ends[1], 0, bytes, n, NULL), QY_OK);
            free(bytes);
        }
        assert_int_equal(qy_dispatch_poll(w.dispatch, NULL, &done, NULL), QY_OK);
        for (;;) {
            qy_message_t message;
            assert_int_equal(ends[1]->poll(ends[1], &peer, &bytes, &n, NULL), QY_OK);
            if (!bytes)
                break;
            assert_int_equal(qy_message_decode(&message, bytes, n, NULL), QY_OK);
            act(&w, 0, &message);
            qy_message_free(&message);
            free(bytes);
        }
    }
    assert_true(w.told_to_leave[0]);
    check_perplexities(&run, QY_VARIANT_FINAL);
    end(&w);
    qy_link_destroy(&ends[0]);
    qy_link_destroy(&ends[1]);
    fake_run_destroy(&run);
}

/* --- failures of tasks -------------------------------------------------------------------------
 */

static void fail_task(world_t *w, int peer, const qy_task_t *task, qy_status_t status,
                      const char *text)
{
    qy_result_t result = {.task_id = task->id, .kind = task->kind};
    qy_fail(&result.error, status, "%s", text);
    fake_say_result(w->link, peer, QY_MSG_RESULT, &result);
}

static bool numeric_in_segment_1(world_t *w, int peer, const qy_task_t *task)
{
    if (task->kind != QY_TASK_SEGMENT || task->range != 1)
        return false;
    fail_task(w, peer, task, QY_ERR_NUMERIC, "block 2, step 5: the loss is nan");
    return true;
}

static void test_numeric(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 2);
    w.trick = numeric_in_segment_1;
    say_hello_all(&w);
    assert_int_equal(drive(&w, &done, &err), QY_ERR_NUMERIC);
    assert_string_equal(err.text, "segment 1: block 2, step 5: the loss is nan");
    assert_int_equal(w.played, 1);           /* it would repeat */
    assert_int_equal(run.blocks_written, 4); /* the others went on */
    assert_string_equal(w.phases, "tokens capture ");
    end(&w);
    assert_int_equal(count_entries(&run, QY_LEDGER_STOP, "segment 1: block 2"), 1);
    finish_run(&run, 1);
    assert_int_equal(run.blocks_written, 6);
    fake_run_destroy(&run);
}

static bool crash_segment_0(world_t *w, int peer, const qy_task_t *task)
{
    if (task->kind != QY_TASK_SEGMENT || task->range != 0)
        return false;
    assert_int_equal(task->attempt, w->played + 1);
    fail_task(w, peer, task, QY_ERR_CRASHED, "signal 9");
    return true;
}

static void test_three_attempts(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 1);
    w.trick = crash_segment_0;
    say_hello_all(&w);
    assert_int_equal(drive(&w, &done, &err), QY_ERR_CRASHED);
    assert_string_equal(err.text, "segment 0: signal 9");
    assert_int_equal(w.played, 3);
    end(&w);
    fake_run_destroy(&run);
}

/* Two crashes, the first block, two crashes, the rest: attempts count from the last block. */
static bool crash_around_a_block(world_t *w, int peer, const qy_task_t *task)
{
    if (task->kind != QY_TASK_SEGMENT || task->range != 0 || w->played > 3)
        return false;
    if (w->played == 2) {
        fake_write_block(w->run, 0, false);
        fake_say_progress(
            w->link, peer,
            &(qy_progress_t){.task_id = task->id, .kind = task->kind, .block_done = 1});
    }
    fail_task(w, peer, task, QY_ERR_CRASHED, "signal 9");
    return true;
}

static void test_attempts_since_progress(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 1);
    w.trick = crash_around_a_block;
    say_hello_all(&w);
    drive_to_end(&w);
    assert_int_equal(w.played, 4);
    end(&w);
    fake_run_destroy(&run);
}

static bool lose_device(world_t *w, int peer, const qy_task_t *task)
{
    if (task->kind != QY_TASK_SEGMENT || (w->link->n_peers > 1 && peer != 0))
        return false;
    fail_task(w, peer, task, QY_ERR_DEVICE, "the device fell off the bus");
    return true;
}

static void test_lost_devices(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 1);
    w.trick = lose_device;
    say_hello_all(&w);
    assert_int_equal(drive(&w, &done, &err), QY_ERR_DEVICE);
    assert_non_null(strstr(err.text, "no worker is left"));
    assert_non_null(strstr(err.text, "worker 0 (host there, pid 1000): the device fell off"));
    end(&w);

    begin(&w, &run, 2); /* the other one takes over */
    w.trick = lose_device;
    say_hello_all(&w);
    drive_to_end(&w);
    assert_int_equal(w.played, 1);
    end(&w);
    fake_run_destroy(&run);
}

/* E2E-QP is for all workers; the device that is gone is missed there. */
static void test_e2e_needs_all(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, true, 'A');
    begin(&w, &run, 2);
    w.trick = lose_device;
    say_hello_all(&w);
    assert_int_equal(drive(&w, &done, &err), QY_ERR_DEVICE);
    assert_non_null(strstr(err.text, "e2e_qp needs all 2 workers: worker 0"));
    assert_int_equal(w.n_e2e, 0);
    end(&w);
    finish_run(&run, 1);
    fake_run_destroy(&run);
}

/* --- stopping ----------------------------------------------------------------------------------
 */

static void test_stop(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 2);
    w.turns_left = 4;
    say_hello_all(&w);
    assert_int_equal(drive(&w, &done, &err), QY_OK);
    assert_false(done);
    w.stop = 1;
    w.turns_left = -1;
    assert_int_equal(drive(&w, &done, &err), QY_ERR_STOPPED);
    assert_true(done && w.told_to_leave[0] && w.told_to_leave[1]);
    end(&w);
    assert_int_equal(count_entries(&run, QY_LEDGER_STOP, "stopped"), 1);
    finish_run(&run, 3);
    check_perplexities(&run, QY_VARIANT_FINAL);
    fake_run_destroy(&run);
}

static bool stopped_by_signal(world_t *w, int peer, const qy_task_t *task)
{
    if (w->played > 0)
        return false;
    fail_task(w, peer, task, QY_ERR_STOPPED, "stopped on request");
    return true;
}

/* A signal may reach a worker first. */
static void test_worker_stopped(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 2);
    w.trick = stopped_by_signal;
    say_hello_all(&w);
    assert_int_equal(drive(&w, &done, &err), QY_ERR_STOPPED);
    assert_string_equal(err.text,
                        "stopped on request"); /* at once, not as a failed task in the end */
    assert_true(w.told_to_leave[0] && w.told_to_leave[1]);
    end(&w);
    fake_run_destroy(&run);
}

/* --- workers that talk nonsense ----------------------------------------------------------------
 */

static void say_frame(world_t *w, int peer, const qy_task_t *task, size_t cut, size_t flip)
{
    void *payload = NULL, *bytes = NULL;
    size_t n = 0;
    qy_result_t result = {.task_id = task->id, .kind = task->kind};
    assert_int_equal(qy_result_encode(&result, &payload, &n, NULL), QY_OK);
    assert_int_equal(qy_message_encode(QY_MSG_RESULT, payload, n, &bytes, &n, NULL), QY_OK);
    if (flip)
        ((unsigned char *)bytes)[flip] ^= 1;
    fake_say_raw(w->link, peer, bytes, n - cut);
    free(payload);
    free(bytes);
}

static void bad_garbage(world_t *w, int peer, const qy_task_t *task)
{
    (void)task;
    fake_say_raw(w->link, peer, "this is no message at all, but long enough", 42);
}

static void bad_empty(world_t *w, int peer, const qy_task_t *task)
{
    (void)task;
    fake_say_raw(w->link, peer, "", 0);
}

static void bad_truncated(world_t *w, int peer, const qy_task_t *task)
{
    say_frame(w, peer, task, 3, 0);
}

static void bad_checksum(world_t *w, int peer, const qy_task_t *task)
{
    say_frame(w, peer, task, 0, QY_FRAME_BYTES + 1);
}

static void bad_kind(world_t *w, int peer, const qy_task_t *task)
{
    say_frame(w, peer, task, 0, 11); /* the upper byte of the kind */
}

static void bad_payload(world_t *w, int peer, const qy_task_t *task)
{
    (void)task;
    fake_say(w->link, peer, QY_MSG_RESULT, "short", 5);
}

static void bad_other_task(world_t *w, int peer, const qy_task_t *task)
{
    fake_say_result(w->link, peer, QY_MSG_RESULT,
                    &(qy_result_t){.task_id = task->id + 1000, .kind = task->kind});
}

static void bad_other_kind(world_t *w, int peer, const qy_task_t *task)
{
    fake_say_result(w->link, peer, QY_MSG_RESULT,
                    &(qy_result_t){.task_id = task->id, .kind = QY_TASK_EVALUATE});
}

static void bad_progress(world_t *w, int peer, const qy_task_t *task)
{
    fake_say_progress(w->link, peer, &(qy_progress_t){.task_id = task->id + 1, .kind = task->kind});
}

static void bad_block(world_t *w, int peer, const qy_task_t *task)
{
    fake_say_progress(w->link, peer,
                      &(qy_progress_t){.task_id = task->id,
                                       .kind = task->kind,
                                       .block_done = 1,
                                       .block = w->run->plan->segment_start[task->range + 1]});
}

static void bad_hello(world_t *w, int peer, const qy_task_t *task)
{
    (void)task;
    fake_say_hello(w->link, peer, w->run->plan->hash);
}

static void bad_phase_done(world_t *w, int peer, const qy_task_t *task)
{
    (void)task;
    fake_say_result(w->link, peer, QY_MSG_PHASE_DONE, &(qy_result_t){.task_id = -1});
}

static void bad_direction(world_t *w, int peer, const qy_task_t *task)
{
    (void)task;
    fake_say(w->link, peer, QY_MSG_STOP, NULL, 0);
}

static const struct {
    void (*say)(world_t *w, int peer, const qy_task_t *task);
    const char *word; /* of the refusal */
} nonsense[] = {
    {bad_garbage, "message"},
    {bad_empty, "0 bytes"},
    {bad_truncated, "payload bytes"},
    {bad_checksum, "checksum"},
    {bad_kind, "unknown kind"},
    {bad_payload, "result"},
    {bad_other_task, "which it does not have"},
    {bad_other_kind, "which it does not have"},
    {bad_progress, "a task that it does not have"},
    {bad_block, "not its task's"},
    {bad_hello, "second hello"},
    {bad_phase_done, "a phase that it is not in"},
    {bad_direction, "only the coordinator sends"},
};

/* Which nonsense worker 0 talks with its first segment, instead of the result. */
static size_t which;

static bool talk_nonsense(world_t *w, int peer, const qy_task_t *task)
{
    if (peer != 0 || task->kind != QY_TASK_SEGMENT)
        return false;
    nonsense[which].say(w, peer, task);
    return true;
}

static void test_nonsense(void **state)
{
    (void)state;
    for (which = 0; which < sizeof nonsense / sizeof *nonsense; which++) {
        fake_run_t run;
        world_t w;
        int done;
        qy_error_t err;
        fake_run_create(&run, false, 'A');
        begin(&w, &run, 1); /* alone: the run ends with the worker's name */
        w.trick = talk_nonsense;
        say_hello_all(&w);
        assert_int_equal(drive(&w, &done, &err), QY_ERR_COMM);
        print_message("%s\n", err.text);
        assert_non_null(strstr(err.text, "worker 0 (host there, pid 1000): refused: "));
        assert_non_null(strstr(err.text, nonsense[which].word));
        end(&w);

        begin(&w, &run, 2); /* with another: that one does the task */
        w.trick = talk_nonsense;
        say_hello_all(&w);
        drive_to_end(&w);
        assert_int_equal(w.played, 1);
        end(&w);
        assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, nonsense[which].word), 2);
        assert_int_equal(run.blocks_written, 6);
        fake_run_destroy(&run);
    }
}

/* Without a task nonsense is borne a few times. */
static void test_nonsense_without_task(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 1);
    fake_say(w.link, 0, QY_MSG_ALIVE, NULL, 0); /* before its hello */
    fake_say_raw(w.link, 0, "x", 1);
    say_hello_all(&w);
    drive_to_end(&w);
    end(&w);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "worker 0: refused"), 2);

    fake_run_plan_again(&run, false, 'B');
    begin(&w, &run, 1);
    for (int i = 0; i < 1000; i++)
        fake_say_raw(w.link, 0, "x", 1);
    say_hello_all(&w);
    assert_int_equal(drive(&w, &done, &err), QY_ERR_COMM);
    end(&w);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "worker 0: refused"), 2 + 3);
    fake_run_destroy(&run);
}

/* A result that comes twice is refused, and changes nothing: neither when the worker has nothing to
 * do nor when it has another task by now. */
static bool say_twice(world_t *w, int peer, const qy_task_t *task)
{
    if (task->kind != QY_TASK_CAPTURE || task->id < 2 || task->id > 3)
        return false;
    const qy_result_t again = {.task_id = 2, .kind = task->kind};
    if (task->id == 3)
        fake_say_result(w->link, peer, QY_MSG_RESULT, &again);
    fake_do_task(w->run, w->link, peer, task);
    if (task->id == 2)
        fake_say_result(w->link, peer, QY_MSG_RESULT, &again);
    return true;
}

static void test_duplicates(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 1);
    w.trick = say_twice;
    say_hello_all(&w);
    drive_to_end(&w);
    assert_int_equal(w.played, 2);
    assert_int_equal(w.n_tasks[QY_TASK_CAPTURE], 8);
    end(&w);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "a result for task 2"), 2);
    fake_run_destroy(&run);
}

/* "Done" without the files, or with too few values, is a failed attempt. */
static bool only_say_done(world_t *w, int peer, const qy_task_t *task)
{
    if (w->played >= 3 || (w->played == 1 && task->kind == QY_TASK_CAPTURE) ||
        (w->played == 2 && task->kind != QY_TASK_EVALUATE))
        return false;
    fake_say_result(w->link, peer, QY_MSG_RESULT,
                    &(qy_result_t){.task_id = task->id, .kind = task->kind});
    return true;
}

static void test_only_said(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 1);
    w.trick = only_say_done;
    say_hello_all(&w);
    drive_to_end(&w);
    assert_int_equal(w.played, 3);
    end(&w);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "said to be done, but: "), 3);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "segments/01/00.h5"), 1);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "blocks/000.h5"), 1);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "0 values came"), 1);
    check_perplexities(&run, QY_VARIANT_FINAL);
    fake_run_destroy(&run);
}

static void test_wrong_plan(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 1);
    fake_say_hello(w.link, 0, "0123456789abcdef");
    assert_int_equal(drive(&w, &done, &err), QY_ERR_COMM);
    assert_non_null(strstr(err.text, "its plan has hash 0123456789ab, this run"));
    assert_true(w.told_to_leave[0]);
    end(&w);

    begin(&w, &run, 2);
    fake_say_hello(w.link, 0, "0123456789abcdef");
    fake_say_hello(w.link, 1, run.plan->hash);
    w.turns_left = 2;
    assert_int_equal(drive(&w, &done, &err), QY_OK);
    assert_true(w.told_to_leave[0] && !w.told_to_leave[1]); /* at once */
    w.turns_left = -1;
    drive_to_end(&w);
    end(&w);
    fake_run_destroy(&run);
}

/* --- workers that are gone ---------------------------------------------------------------------
 */

static bool fall_silent(world_t *w, int peer, const qy_task_t *task)
{
    (void)w;
    return peer == 0 && task->kind == QY_TASK_SEGMENT;
}

static void test_silence(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, false, 'A');
    run.plan->spec.resources.worker_timeout = 1;
    begin(&w, &run, 1);
    w.trick = fall_silent;
    say_hello_all(&w);
    assert_int_equal(drive(&w, &done, &err), QY_ERR_COMM);
    assert_non_null(strstr(err.text, "worker 0 (host there, pid 1000): silent for 1 s"));
    end(&w);

    begin(&w, &run, 3); /* the last one never says hello */
    w.trick = fall_silent;
    fake_say_hello(w.link, 0, run.plan->hash);
    fake_say_hello(w.link, 1, run.plan->hash);
    drive_to_end(&w);
    end(&w);
    assert_int_equal(run.blocks_written, 6);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "silent for 1 s"), 3);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "worker 2: silent for 1 s"), 1);
    fake_run_destroy(&run);
}

/* Who only says that it lives is not lost; time in which nobody polls is no silence. */
static void test_alive(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, false, 'A');
    run.plan->spec.resources.worker_timeout = 1;
    begin(&w, &run, 1);
    w.trick = fall_silent;
    say_hello_all(&w);
    for (double began = qy_now_s(); qy_now_s() - began < 1.2;) {
        fake_say(w.link, 0, QY_MSG_ALIVE, NULL, 0);
        w.turns_left = 1;
        assert_int_equal(drive(&w, &done, &err), QY_OK);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 200000000}, NULL);
    w.turns_left = 1;
    assert_int_equal(drive(&w, &done, &err), QY_OK);
    end(&w);
    fake_run_destroy(&run);
}

static void test_cut_off(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 2);
    say_hello_all(&w);
    fake_cut(w.link, 0);
    int done;
    qy_error_t err;
    assert_int_equal(drive(&w, &done, &err), QY_OK);
    assert_int_equal(run.blocks_written, 6);
    end(&w);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "the way to worker 0 is cut"), 1);
    fake_run_destroy(&run);
}

/* --- E2E-QP ------------------------------------------------------------------------------------
 */

static void test_e2e_failures(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    int done;
    qy_error_t err;
    fake_run_create(&run, true, 'A');
    begin(&w, &run, 2);
    say_hello_all(&w);
    qy_fail(&w.e2e_answer[1], QY_ERR_NUMERIC, "update 1: the loss is nan");
    w.e2e_hollow = true;
    assert_int_equal(drive(&w, &done, &err), QY_ERR_NUMERIC);
    assert_string_equal(err.text, "worker 1 (host there, pid 1001): update 1: the loss is nan");
    end(&w);

    begin(&w, &run, 2);
    say_hello_all(&w);
    qy_fail(&w.e2e_answer[0], QY_ERR_STOPPED, "stopped on request");
    w.e2e_hollow = true;
    assert_int_equal(drive(&w, &done, &err), QY_ERR_STOPPED);
    end(&w);

    begin(&w, &run, 2);
    say_hello_all(&w);
    w.e2e_hollow = true; /* all say done, and nothing is there */
    assert_int_equal(drive(&w, &done, &err), QY_ERR_IO);
    assert_non_null(strstr(err.text, "e2e_qp: said to be done"));
    end(&w);

    run.plan->spec.resources.worker_timeout = 1;
    begin(&w, &run, 2);
    say_hello_all(&w);
    w.e2e_silent = true;
    assert_int_equal(drive(&w, &done, &err), QY_ERR_COMM);
    assert_non_null(strstr(err.text, "silent for 1 s"));
    end(&w);

    finish_run(&run, 4);
    check_perplexities(&run, QY_N_VARIANTS);
    fake_run_destroy(&run);
}

/* --- a finished block that cannot be read ------------------------------------------------------
 */

static bool write_hollow_block(world_t *w, int peer, const qy_task_t *task)
{
    if (w->played > 0 || task->kind != QY_TASK_SEGMENT || task->range != 1)
        return false;
    fake_write_block(w->run, 3, true);
    fake_do_task(w->run, w->link, peer, task);
    return true;
}

static void test_torn_block(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    begin(&w, &run, 2);
    w.trick = write_hollow_block;
    say_hello_all(&w);
    drive_to_end(&w);
    assert_string_equal(w.phases, "tokens capture quantize quantize stitch evaluate export ");
    end(&w);
    assert_int_equal(count_entries(&run, QY_LEDGER_FAILED, "blocks/003.h5"), 1);
    assert_int_equal(run.blocks_written, 7);
    fake_run_destroy(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_run),
        cmocka_unit_test(test_again_does_nothing),
        cmocka_unit_test(test_changed_evaluation),
        cmocka_unit_test(test_killed_anywhere),
        cmocka_unit_test(test_link_pair),
        cmocka_unit_test(test_numeric),
        cmocka_unit_test(test_three_attempts),
        cmocka_unit_test(test_attempts_since_progress),
        cmocka_unit_test(test_lost_devices),
        cmocka_unit_test(test_e2e_needs_all),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_worker_stopped),
        cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_nonsense_without_task),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_only_said),
        cmocka_unit_test(test_wrong_plan),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_alive),
        cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_e2e_failures),
        cmocka_unit_test(test_torn_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
