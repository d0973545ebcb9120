/* A zero-shot task of a run that is large enough for several tasks of the coordinator. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/phases.h"
#include "coordinator/results.h"
#include "tests/coordinator/fake_run.h"

enum { ITEMS = 6400, CHOICES = 4, RANGES = 3 }; /* 32 padded tokens a sequence */

/* The run's one evaluation becomes a task whose item i has gold i % CHOICES. */
static void make_task(fake_run_t *run)
{
    char path[QY_PATH_MAX], *text = NULL;
    size_t bytes = 0;
    qy_error_t err;
    FILE *out = open_memstream(&text, &bytes);
    for (int i = 0; i < ITEMS; i++)
        fprintf(
            out,
            "{\"context\": \"and %d\", \"continuations\": [\" a\", \" man\", \" said unto\", \" "
            "the\"], \"gold\": %d}\n",
            i, i % CHOICES);
    fclose(out);
    assert_int_equal(qy_path(path, &err, "%s/t.mc.jsonl", run->root), QY_OK);
    assert_int_equal(qy_file_write(path, text, bytes, &err), QY_OK);
    free(text);
    qy_evaluate_spec_t *e = &run->plan->spec.evaluate[0];
    memset(e->text, 0, sizeof e->text);
    memcpy(e->task, path, sizeof e->task);
    e->sequence_length = 0;
    run->plan->eval_digest[0][0] ^= 1;
    if (qy_store_make_tokens(run->plan, &err) != QY_OK)
        fail_msg("%s", err.text);
}

/* Odd items choose right; per byte all choose wrong: the longest continuation. */
static double nll_of(const qy_choice_t *c)
{
    int gold = c->item % CHOICES, chosen = c->item % 2 ? gold : (gold + 1) % CHOICES;
    return c->choice == chosen ? 10.0 : 11.0;
}

/* Writes what a worker would answer for task i of the list. */
static void finish(fake_run_t *run, qy_ledger_t *ledger, const qy_task_list_t *list, int i,
                   const qy_choices_t *task)
{
    int64_t first[QY_CHOICES_RANGES + 1];
    qy_choices_cut(task, run->plan->arch.max_positions, first);
    int64_t n = list->n_values[i], at = first[list->task[i].range];
    assert_int_equal(n, first[list->task[i].range + 1] - at);
    double *values = malloc((size_t)n * sizeof *values);
    for (int64_t k = 0; k < n; k++)
        values[k] = nll_of(&task->choice[at + k]);
    qy_entry_t entry = {.kind = QY_LEDGER_DONE, .n_values = n, .values = values};
    qy_phase_done_text(entry.text, sizeof entry.text, run->plan, list, i);
    assert_int_equal(qy_ledger_append(ledger, &entry, NULL), QY_OK);
    free(values);
}

static void test_ranges(void **state)
{
    (void)state;
    fake_run_t run;
    char path[QY_PATH_MAX];
    qy_error_t err;
    qy_ledger_t *ledger = NULL;
    qy_task_list_t list;
    qy_choices_t task;
    qy_accuracy_t a;
    fake_run_create(&run, false, 'A');
    make_task(&run);
    assert_int_equal(qy_store_ledger(path, run.plan, &err), QY_OK);
    assert_int_equal(qy_ledger_open(&ledger, path, &err), QY_OK);
    assert_int_equal(qy_store_read_choices(&task, run.plan, "a", &err), QY_OK);
    assert_int_equal(task.n, ITEMS * CHOICES);

    assert_int_equal(qy_phase_tasks(&list, QY_RUN_EVALUATE, run.plan, ledger, &err), QY_OK);
    assert_int_equal(list.n, 3 * RANGES); /* original, rounded, stitched */
    for (int i = list.n - 1; i >= 0; i--) {
        assert_false(list.done[i]);
        assert_true(list.task[i].cost > 200000 && list.task[i].cost < 350000);
        if (list.task[i].variant != QY_VARIANT_STITCHED)
            continue;
        assert_false(qy_results_accuracy(ledger, run.plan, 0, QY_VARIANT_STITCHED, &a));
        finish(&run, ledger, &list, i, &task);
    }
    qy_task_list_free(&list);
    assert_true(qy_results_accuracy(ledger, run.plan, 0, QY_VARIANT_STITCHED, &a));
    assert_int_equal(a.n_items, ITEMS);
    assert_true(a.accuracy == 0.5 && fabs(a.error - 0.5 / sqrt(ITEMS - 1.0)) <= 1e-12);
    assert_true(a.by_bytes == 0.25); /* " said unto" is right once in four */
    assert_false(qy_results_accuracy(ledger, run.plan, 0, QY_VARIANT_ORIGINAL, &a));
    assert_true(isnan(qy_results_perplexity(ledger, run.plan, 0, QY_VARIANT_STITCHED)));

    assert_int_equal(qy_phase_tasks(&list, QY_RUN_EVALUATE, run.plan, ledger, &err), QY_OK);
    for (int i = 0; i < list.n; i++)
        assert_int_equal(list.done[i], list.task[i].variant == QY_VARIANT_STITCHED);
    qy_task_list_free(&list);
    qy_choices_free(&task);
    qy_ledger_close(&ledger);
    fake_run_destroy(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranges)};
    return cmocka_run_group_tests_name("accuracy", tests, NULL, NULL);
}
