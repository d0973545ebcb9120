/* Workers that talk nonsense, fall silent or never come: named, and nothing is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "tests/coordinator/fake_world.h"

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
        fake_run_create(&run, false, 'A');
        world_open(&w, &run, 1, talk_nonsense); /* alone: the run ends with the worker's name */
        qy_error_t err = world_drive_to_failure(&w, QY_ERR_COMM);
        print_message("%s\n", err.text);
        assert_non_null(strstr(err.text, "worker 0 (host there, pid 1000): refused: "));
        assert_non_null(strstr(err.text, nonsense[which].word));
        world_end(&w);

        world_open(&w, &run, 2, talk_nonsense); /* with another: that one does the task */
        world_drive_to_end(&w);
        assert_int_equal(w.played, 1);
        world_end(&w);
        assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, nonsense[which].word), 2);
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
    fake_run_create(&run, false, 'A');
    world_begin(&w, &run, 1);
    fake_say(w.link, 0, QY_MSG_ALIVE, NULL, 0); /* before its hello */
    fake_say_raw(w.link, 0, "x", 1);
    world_say_hello_all(&w);
    world_drive_to_end(&w);
    world_end(&w);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "worker 0: refused"), 2);

    fake_run_plan_again(&run, false, 'B');
    world_begin(&w, &run, 1);
    for (int i = 0; i < 1000; i++)
        fake_say_raw(w.link, 0, "x", 1);
    world_say_hello_all(&w);
    world_drive_to_failure(&w, QY_ERR_COMM);
    world_end(&w);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "worker 0: refused"), 2 + 3);
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
    world_open(&w, &run, 1, say_twice);
    world_drive_to_end(&w);
    assert_int_equal(w.played, 2);
    assert_int_equal(w.n_tasks[QY_TASK_CAPTURE], 4);
    world_end(&w);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "a result for task 2"), 2);
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
    world_open(&w, &run, 1, only_say_done);
    world_drive_to_end(&w);
    assert_int_equal(w.played, 3);
    world_end(&w);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "said to be done, but: "), 3);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "segments/01/00.h5"), 1);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "blocks/000.h5"), 1);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "0 values came"), 1);
    world_check_perplexities(&run, QY_VARIANT_FINAL);
    fake_run_destroy(&run);
}

static void test_wrong_plan(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_begin(&w, &run, 1);
    fake_say_hello(w.link, 0, "0123456789abcdef");
    qy_error_t err = world_drive_to_failure(&w, QY_ERR_COMM);
    assert_non_null(strstr(err.text, "its plan has hash 0123456789ab, this run"));
    assert_true(w.told_to_leave[0]);
    world_end(&w);

    world_begin(&w, &run, 2);
    fake_say_hello(w.link, 0, "0123456789abcdef");
    fake_say_hello(w.link, 1, run.plan->hash);
    world_drive_turns(&w, 2);
    assert_true(w.told_to_leave[0] && !w.told_to_leave[1]); /* at once */
    world_drive_to_end(&w);
    world_end(&w);
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
    fake_run_create(&run, false, 'A');
    run.plan->spec.resources.worker_timeout = 1;
    world_open(&w, &run, 1, fall_silent);
    qy_error_t err = world_drive_to_failure(&w, QY_ERR_COMM);
    assert_non_null(strstr(err.text, "worker 0 (host there, pid 1000): silent for 1 s"));
    world_end(&w);

    world_begin(&w, &run, 3); /* the last one never says hello */
    w.trick = fall_silent;
    fake_say_hello(w.link, 0, run.plan->hash);
    fake_say_hello(w.link, 1, run.plan->hash);
    world_drive_to_end(&w);
    world_end(&w);
    assert_int_equal(run.blocks_written, 6);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "silent for 1 s"), 3);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "worker 2: silent for 1 s"), 1);
    fake_run_destroy(&run);
}

/* Who only says that it lives is not lost; time in which nobody polls is no silence. */
static void test_alive(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    run.plan->spec.resources.worker_timeout = 1;
    world_open(&w, &run, 1, fall_silent);
    for (double began = qy_now_s(); qy_now_s() - began < 1.2;) {
        fake_say(w.link, 0, QY_MSG_ALIVE, NULL, 0);
        world_drive_turns(&w, 1);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 200000000}, NULL);
    world_drive_turns(&w, 1);
    world_end(&w);
    fake_run_destroy(&run);
}

static void test_cut_off(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, false, 'A');
    world_open(&w, &run, 2, NULL);
    fake_cut(w.link, 0);
    int done;
    qy_error_t err;
    assert_int_equal(world_drive(&w, &done, &err), QY_OK);
    assert_int_equal(run.blocks_written, 6);
    world_end(&w);
    assert_int_equal(world_count_entries(&run, QY_LEDGER_FAILED, "the way to worker 0 is cut"), 1);
    fake_run_destroy(&run);
}

/* --- E2E-QP ------------------------------------------------------------------------------------
 */

static void test_e2e_failures(void **state)
{
    (void)state;
    fake_run_t run;
    world_t w;
    fake_run_create(&run, true, 'A');
    world_open(&w, &run, 2, NULL);
    qy_fail(&w.e2e_answer[1], QY_ERR_NUMERIC, "update 1: the loss is nan");
    w.e2e_hollow = true;
    qy_error_t err = world_drive_to_failure(&w, QY_ERR_NUMERIC);
    assert_string_equal(err.text, "worker 1 (host there, pid 1001): update 1: the loss is nan");
    world_end(&w);

    world_open(&w, &run, 2, NULL);
    qy_fail(&w.e2e_answer[0], QY_ERR_STOPPED, "stopped on request");
    w.e2e_hollow = true;
    world_drive_to_failure(&w, QY_ERR_STOPPED);
    world_end(&w);

    world_open(&w, &run, 2, NULL);
    w.e2e_hollow = true; /* all say done, and nothing is there */
    err = world_drive_to_failure(&w, QY_ERR_IO);
    assert_non_null(strstr(err.text, "e2e_qp: said to be done"));
    world_end(&w);

    world_open(&w, &run, 2, NULL); /* who was not understood is missed */
    w.e2e_nonsense = true;
    err = world_drive_to_failure(&w, QY_ERR_COMM);
    assert_non_null(strstr(err.text, "e2e_qp needs all 2 workers: worker 0 (host there, pid 1000): "
                                     "refused: "));
    world_end(&w);

    run.plan->spec.resources.worker_timeout = 1;
    world_begin(&w, &run, 2); /* who never came is missed, too */
    fake_say_hello(w.link, 1, run.plan->hash);
    err = world_drive_to_failure(&w, QY_ERR_COMM);
    assert_non_null(strstr(err.text, "e2e_qp needs all 2 workers: worker 0: silent for 1 s"));
    world_end(&w);

    world_open(&w, &run, 1, NULL); /* who works may be silent for long */
    w.e2e_silent = true;
    for (double began = qy_now_s(); qy_now_s() - began < 1.5;) {
        assert_false(world_drive_turns(&w, 1));
    }
    world_end(&w);

    world_finish_run(&run, 4);
    world_check_perplexities(&run, QY_N_VARIANTS);
    fake_run_destroy(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nonsense),     cmocka_unit_test(test_nonsense_without_task),
        cmocka_unit_test(test_duplicates),   cmocka_unit_test(test_only_said),
        cmocka_unit_test(test_wrong_plan),   cmocka_unit_test(test_silence),
        cmocka_unit_test(test_alive),        cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_e2e_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
