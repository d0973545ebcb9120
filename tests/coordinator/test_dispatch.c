/* Whole runs with workers that live in the test: good ones, failing ones, and runs killed anywhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/metrics.h"
#include "tests/coordinator/fake_world.h"

static char *read_model(const fake_run_t *run, size_t *bytes)
{
    char path[QY_PATH_MAX], *text = NULL;
    assert_int_equal(qy_store_model(path, run->plan, NULL), QY_OK);
    assert_int_equal(qy_file_read(path, 1 << 28, &text, bytes, NULL), QY_OK);
    return text;
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
    world_begin(&w, &run, 3);
    /* what a killed run left half written is swept */
    assert_int_equal(qy_path(path, NULL, "%s/blocks/000.h5.tmp.7", run.plan->spec.run_dir), QY_OK);
    world_end(&w);
    assert_int_equal(qy_file_write(path, "x", 1, NULL), QY_OK);
    world_begin(&w, &run, 3);
    assert_false(qy_file_exists(path));
    world_say_hello_all(&w);
    world_drive_to_end(&w);
    assert_string_equal(w.phases, "tokens capture quantize stitch e2e_qp evaluate export ");
    assert_int_equal(w.n_tasks[QY_TASK_CAPTURE], 4 + 4);
    assert_int_equal(w.n_tasks[QY_TASK_SEGMENT], 3);
    assert_int_equal(w.n_tasks[QY_TASK_EVALUATE], QY_N_VARIANTS * world_ranges(&run));
    assert_int_equal(w.n_e2e, 3);
    assert_int_equal(w.n_exports, 1);
    assert_int_equal(w.n_blocks_done, 6);
    world_end(&w);
    world_check_perplexities(&run, QY_N_VARIANTS);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_STOP, "done"), 1);

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
    world_finish_run(&run, 2);
    world_begin(&w, &run, 2); /* nobody says hello */
    assert_int_equal(qy_dispatch_poll(w.dispatch, NULL, &done, NULL), QY_OK);
    assert_true(done);
    world_act_all(&w);
    assert_string_equal(w.phases, "");
    assert_int_equal(w.n_tasks[0] + w.n_tasks[1] + w.n_tasks[2] + w.n_e2e + w.n_exports, 0);
    assert_int_equal(qy_dispatch_poll(w.dispatch, NULL, &done, NULL), QY_OK); /* stays over */
    world_end(&w);
    assert_int_equal(run.blocks_written, 6);

    /* captures that were removed after use are not made again */
    char path[QY_PATH_MAX];
    assert_int_equal(qy_path(path, NULL, "%s/segments", run.plan->spec.run_dir), QY_OK);
    assert_int_equal(qy_remove_tree(path, NULL), QY_OK);
    world_begin(&w, &run, 1);
    world_drive_to_end(&w);
    assert_string_equal(w.phases, "");
    world_end(&w);
    fake_run_destroy(&run);
}

static void test_changed_evaluation(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_finish_run(&run, 2);
    world_check_perplexities(&run, QY_VARIANT_FINAL);
    fake_run_plan_again(&run, false, 'B');
    world_open(&w, &run, 2, NULL);
    world_drive_to_end(&w);
    assert_string_equal(w.phases, "tokens evaluate ");
    assert_int_equal(w.n_tasks[QY_TASK_EVALUATE], QY_VARIANT_FINAL * world_ranges(&run));
    world_end(&w);
    world_check_perplexities(&run, QY_VARIANT_FINAL);
    fake_run_plan_again(&run, false, 'A'); /* back: its values are still there */
    world_begin(&w, &run, 2);
    world_drive_to_end(&w);
    assert_int_equal(w.n_tasks[QY_TASK_EVALUATE], 0);
    world_end(&w);
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
    world_finish_run(&whole, 3);
    char *expected = read_model(&whole, &bytes);
    bool finished = false;
    for (int turns = 1; !finished; turns += 2) {
        int done = 0;
        fake_run_create(&run, true, 'A');
        assert_string_equal(run.plan->hash, whole.plan->hash);
        for (int start = 0; !done; start++) {
            world_t w;
            qy_error_t err;
            world_begin(&w, &run, 1 + (start + turns) % MAX_PEERS);
            w.turns_left = turns + start; /* so that each gets further than the last */
            world_say_hello_all(&w);
            if (world_drive(&w, &done, &err) != QY_OK)
                fail_msg("%s", err.text);
            world_end(&w);
            finished = done && start == 0;
        }
        char *model = read_model(&run, &n);
        assert_int_equal(n, bytes);
        assert_memory_equal(model, expected, n);
        free(model);
        world_check_perplexities(&run, QY_N_VARIANTS);
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
    qy_dispatch_hooks_t hooks = world_hooks(&w);
    fake_run_create(&run, false, 'A');
    assert_int_equal(qy_link_pair(&ends[0], &ends[1], NULL), QY_OK);
    assert_int_equal(qy_dispatch_create(&w.dispatch, run.plan, ends[0], &hooks, NULL), QY_OK);
    w.link = fake_link_create(1); /* the worker's mouth, carried over below */
    world_say_hello_all(&w);
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
            world_act(&w, 0, &message);
            qy_message_free(&message);
            free(bytes);
        }
    }
    assert_true(w.told_to_leave[0]);
    world_check_perplexities(&run, QY_VARIANT_FINAL);
    world_end(&w);
    qy_link_destroy(&ends[0]);
    qy_link_destroy(&ends[1]);
    fake_run_destroy(&run);
}

/* --- failures of tasks -------------------------------------------------------------------------
 */

static bool numeric_in_segment_1(world_t *w, int peer, const qy_task_t *task)
{
    if (task->kind != QY_TASK_SEGMENT || task->range != 1)
        return false;
    world_fail_task(w, peer, task, QY_ERR_NUMERIC, "block 2, step 5: the loss is nan");
    return true;
}

static void test_numeric(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_open(&w, &run, 2, numeric_in_segment_1);
    qy_error_t err = world_drive_to_failure(&w, QY_ERR_NUMERIC);
    assert_string_equal(err.text, "segment 1: block 2, step 5: the loss is nan");
    assert_int_equal(w.played, 1);           /* it would repeat */
    assert_int_equal(run.blocks_written, 4); /* the others went on */
    assert_string_equal(w.phases, "tokens capture ");
    world_end(&w);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_STOP, "segment 1: block 2"), 1);
    world_finish_run(&run, 1);
    assert_int_equal(run.blocks_written, 6);
    fake_run_destroy(&run);
}

static bool crash_segment_0(world_t *w, int peer, const qy_task_t *task)
{
    if (task->kind != QY_TASK_SEGMENT || task->range != 0)
        return false;
    assert_int_equal(task->attempt, w->played + 1);
    world_fail_task(w, peer, task, QY_ERR_CRASHED, "signal 9");
    return true;
}

static void test_three_attempts(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_open(&w, &run, 1, crash_segment_0);
    qy_error_t err = world_drive_to_failure(&w, QY_ERR_CRASHED);
    assert_string_equal(err.text, "segment 0: signal 9");
    assert_int_equal(w.played, 3);
    world_end(&w);
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
    world_fail_task(w, peer, task, QY_ERR_CRASHED, "signal 9");
    return true;
}

static void test_attempts_since_progress(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_open(&w, &run, 1, crash_around_a_block);
    world_drive_to_end(&w);
    assert_int_equal(w.played, 4);
    world_end(&w);
    fake_run_destroy(&run);
}

static bool lose_device(world_t *w, int peer, const qy_task_t *task)
{
    if (task->kind != QY_TASK_SEGMENT || (w->link->n_peers > 1 && peer != 0))
        return false;
    world_fail_task(w, peer, task, QY_ERR_DEVICE, "the device fell off the bus");
    return true;
}

static void test_lost_devices(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_open(&w, &run, 1, lose_device);
    qy_error_t err = world_drive_to_failure(&w, QY_ERR_DEVICE);
    assert_non_null(strstr(err.text, "no worker is left"));
    assert_non_null(strstr(err.text, "worker 0 (host there, pid 1000): the device fell off"));
    world_end(&w);

    world_open(&w, &run, 2, lose_device); /* the other one takes over */
    world_drive_to_end(&w);
    assert_int_equal(w.played, 1);
    world_end(&w);
    fake_run_destroy(&run);
}

/* E2E-QP is for all workers; the device that is gone is missed there. */
static void test_e2e_needs_all(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, true, 'A');
    world_open(&w, &run, 2, lose_device);
    qy_error_t err = world_drive_to_failure(&w, QY_ERR_DEVICE);
    assert_non_null(strstr(err.text, "e2e_qp needs all 2 workers: worker 0"));
    assert_int_equal(w.n_e2e, 0);
    world_end(&w);
    world_finish_run(&run, 1);
    fake_run_destroy(&run);
}

/* --- stopping ----------------------------------------------------------------------------------
 */

static void test_stop(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_open(&w, &run, 2, NULL);
    assert_false(world_drive_turns(&w, 4));
    w.stop = 1;
    world_drive_to_failure(&w, QY_ERR_STOPPED);
    assert_true(w.told_to_leave[0] && w.told_to_leave[1]);
    assert_true(w.told_to_halt[0] && w.told_to_halt[1]);
    world_end(&w);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_STOP, "stopped"), 1);
    world_finish_run(&run, 3);
    world_check_perplexities(&run, QY_VARIANT_FINAL);
    fake_run_destroy(&run);
}

static bool keep_working(world_t *w, int peer, const qy_task_t *task)
{
    if (w->played > 0 || peer != 1)
        return false;
    w->kept = *task;
    return true;
}

/* Nothing is given out any more, and the run is over only when what was at work has been saved. A
 * worker that was asked to stop the run is as good as the launcher. */
static void test_stop_waits(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_open(&w, &run, 2, keep_working);
    world_drive_turns(&w, 4);
    fake_say(w.link, 0, QY_MSG_ASKED, NULL, 0);
    bool done = world_drive_turns(&w, 4);
    assert_true(w.told_to_halt[0] && w.told_to_halt[1] && !done && !w.told_to_leave[1]);
    int given[QY_N_TASK_KINDS];
    memcpy(given, w.n_tasks, sizeof given);
    world_fail_task(&w, 1, &w.kept, QY_ERR_STOPPED, "stopped on request");
    qy_error_t err = world_drive_to_failure(&w, QY_ERR_STOPPED);
    assert_non_null(strstr(err.text, "at work: capture"));
    assert_non_null(strstr(err.text, "by rank 1"));
    assert_true(w.told_to_leave[1]);
    assert_memory_equal(given, w.n_tasks, sizeof given);
    world_end(&w);
    world_finish_run(&run, 2);
    fake_run_destroy(&run);
}

static bool stopped_by_signal(world_t *w, int peer, const qy_task_t *task)
{
    if (w->played > 0)
        return false;
    world_fail_task(w, peer, task, QY_ERR_STOPPED, "stopped on request");
    return true;
}

/* A signal may reach a worker first. */
static void test_worker_stopped(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_open(&w, &run, 2, stopped_by_signal);
    qy_error_t err = world_drive_to_failure(&w, QY_ERR_STOPPED);
    /* not as a failed task in the end */
    assert_memory_equal(err.text, "stopped on request", strlen("stopped on request"));
    assert_true(w.told_to_leave[0] && w.told_to_leave[1]);
    world_end(&w);
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
    world_open(&w, &run, 2, write_hollow_block);
    world_drive_to_end(&w);
    assert_string_equal(w.phases, "tokens capture quantize quantize stitch evaluate export ");
    world_end(&w);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "blocks/003.h5"), 1);
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
        cmocka_unit_test(test_stop_waits),
        cmocka_unit_test(test_worker_stopped),
        cmocka_unit_test(test_torn_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
