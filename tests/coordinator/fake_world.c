#include "tests/coordinator/fake_world.h"

#include <math.h>
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
#include "coordinator/results.h"

enum { WINDOWS_MAX = 4096 };

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

qy_dispatch_hooks_t world_hooks(world_t *w)
{
    return (qy_dispatch_hooks_t){on_progress, on_phase, run_export, w};
}

void world_begin(world_t *w, fake_run_t *run, int n_workers)
{
    qy_error_t err;
    *w = (world_t){.run = run, .turns_left = -1};
    w->link = fake_link_create(n_workers);
    qy_dispatch_hooks_t hooks = world_hooks(w);
    if (qy_dispatch_create(&w->dispatch, run->plan, w->link, &hooks, &err) != QY_OK)
        fail_msg("%s", err.text);
}

void world_end(world_t *w)
{
    qy_dispatch_destroy(&w->dispatch);
    assert_null(w->dispatch);
    qy_link_destroy(&w->link);
}

void world_say_hello_all(world_t *w)
{
    for (int i = 0; i < w->link->n_peers; i++)
        fake_say_hello(w->link, i, w->run->plan->hash);
}

void world_open(world_t *w, fake_run_t *run, int n_workers, trick_t trick)
{
    world_begin(w, run, n_workers);
    w->trick = trick;
    world_say_hello_all(w);
}

static void answer_e2e(world_t *w, int peer)
{
    qy_result_t result = {.task_id = -1, .error = w->e2e_answer[peer]};
    w->n_e2e++;
    if (w->e2e_silent)
        return;
    if (w->e2e_nonsense) {
        fake_say_raw(w->link, peer, "x", 1);
        return;
    }
    fake_say_progress(w->link, peer,
                      &(qy_progress_t){.task_id = -1, .block = -1, .step = 1, .n_steps = 2});
    if (!w->e2e_hollow)
        fake_write_e2e(w->run);
    fake_say_result(w->link, peer, QY_MSG_PHASE_DONE, &result);
}

void world_act(world_t *w, int peer, const qy_message_t *message)
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
    case QY_MSG_HALT: /* it has no task: those were answered at once */
        w->told_to_halt[peer] = true;
        break;
    case QY_MSG_STOP:
        w->told_to_leave[peer] = true;
        break;
    default:
        fail_msg("message of kind %d to a worker", (int)message->kind);
    }
}

bool world_act_all(world_t *w)
{
    qy_message_t message;
    bool any = false;
    for (int i = 0; i < w->link->n_peers; i++)
        while (fake_take(w->link, i, &message)) {
            assert_false(w->told_to_leave[i] && message.kind != QY_MSG_STOP);
            world_act(w, i, &message);
            qy_message_free(&message);
            any = true;
        }
    return any;
}

qy_status_t world_drive(world_t *w, int *done, qy_error_t *err)
{
    enum { PATIENCE_S = 20 };
    double began = qy_now_s();
    qy_status_t status = QY_OK;
    *done = 0;
    while (!*done && w->turns_left-- != 0) {
        status = qy_dispatch_poll(w->dispatch, &w->stop, done, err);
        assert_true(status == QY_OK || *done);
        if (!world_act_all(w)) /* nothing but time goes on */
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        if (qy_now_s() - began > PATIENCE_S)
            fail_msg("the run hangs");
    }
    return status;
}

void world_drive_to_end(world_t *w)
{
    int done;
    qy_error_t err;
    if (world_drive(w, &done, &err) != QY_OK)
        fail_msg("%s", err.text);
    assert_true(done);
    for (int i = 0; i < w->link->n_peers; i++)
        assert_true(w->told_to_leave[i]);
}

qy_error_t world_drive_to_failure(world_t *w, qy_status_t status)
{
    int done;
    qy_error_t err = {0};
    assert_int_equal(world_drive(w, &done, &err), status);
    assert_true(done);
    return err;
}

bool world_drive_turns(world_t *w, int turns)
{
    int done;
    qy_error_t err;
    w->turns_left = turns;
    if (world_drive(w, &done, &err) != QY_OK)
        fail_msg("%s", err.text);
    w->turns_left = -1;
    return done;
}

void world_finish_run(fake_run_t *run, int n_workers)
{
    world_t w;
    world_open(&w, run, n_workers, NULL);
    world_drive_to_end(&w);
    world_end(&w);
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

int world_count_entries(const fake_run_t *run, qy_ledger_kind_t kind, const char *word)
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

int64_t world_ranges(const fake_run_t *run)
{
    int32_t *tokens = NULL;
    int64_t n, length;
    assert_int_equal(qy_store_read_tokens(&tokens, &n, &length, run->plan, "a", NULL), QY_OK);
    free(tokens);
    assert_true(qy_plan_evaluate_ranges(run->plan, n, length) > 1);
    return qy_plan_evaluate_ranges(run->plan, n, length);
}

void world_check_perplexities(const fake_run_t *run, int n_variants)
{
    int32_t *tokens = NULL;
    int64_t n, length;
    qy_ledger_t *ledger = read_ledger(run);
    assert_int_equal(qy_store_read_tokens(&tokens, &n, &length, run->plan, "a", NULL), QY_OK);
    free(tokens);
    assert_true(n < WINDOWS_MAX);
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

void world_fail_task(world_t *w, int peer, const qy_task_t *task, qy_status_t status,
                     const char *text)
{
    qy_result_t result = {.task_id = task->id, .kind = task->kind};
    qy_fail(&result.error, status, "%s", text);
    fake_say_result(w->link, peer, QY_MSG_RESULT, &result);
}
