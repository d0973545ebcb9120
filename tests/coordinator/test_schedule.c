/* The schedule: a table of short histories, and random ones whose invariants are checked at each
 * step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "coordinator/schedule.h"

enum { MAX_TASKS = 40, MAX_WORKERS = 5 };

static void make_tasks(qy_task_t *tasks, int n, const double *costs)
{
    memset(tasks, 0, (size_t)n * sizeof *tasks);
    for (int i = 0; i < n; i++)
        tasks[i] = (qy_task_t){.kind = QY_TASK_SEGMENT, .id = i, .range = i, .cost = costs[i]};
}

static qy_status_t happen(qy_schedule_t *s, qy_event_kind_t kind, int worker, int task,
                          qy_status_t error)
{
    qy_event_t event = {.kind = kind, .worker = worker, .task_id = task};
    if (error != QY_OK)
        qy_fail(&event.error, error, "%s of task %d", qy_status_name(error), task);
    return qy_schedule_event(s, &event, NULL);
}

/* --- a table of histories ------------------------------------------------------------------------
 */

/*
 * Two workers, three tasks of cost 1, 3, 2. A history is steps of four characters:
 *   uW    worker W comes up             aWT   the next assignment is task T to worker W
 *   dWT   done     fWT  failed, may be retried (CRASHED)     nWT  failed for good (NUMERIC)
 *   xWT   failed with DEVICE            pWT   a block was committed
 *   lW    worker W is lost              -     no assignment is possible
 *   !…    the event that follows is refused
 */
static const struct {
    const char *steps;
    const char *states; /* of the tasks: Pending Running Done Failed */
    bool finished, stuck;
    int failures, first;
} histories[] = {
    {"", "PPP", false, false, 0, -1},
    {"-", "PPP", false, false, 0, -1},
    {"u0 a01 -", "PRP", false, false, 0, -1},
    {"u1 a11 u0 a02 -", "PRR", false, false, 0, -1},
    {"u0 a01 d01 a02 d02 a00 d00 -", "DDD", true, false, 0, -1},
    /* a failure is tried again, three times in all */
    {"u0 a01 f01 a01 f01 a01 f01 a02", "PFR", false, false, 1, 1},
    {"u0 a01 f01 a01 f01 a01 f01 a02 d02 a00 d00 -", "DFD", true, false, 1, 1},
    /* progress makes the running attempt the first one */
    {"u0 a01 f01 a01 f01 a01 p01 f01 a01 f01 a01", "PRP", false, false, 0, -1},
    {"u0 a01 f01 a01 f01 a01 p01 f01 a01 f01 a01 f01 a02", "PFR", false, false, 1, 1},
    /* what would repeat is final at once, and the first failure in time is told */
    {"u0 a01 n01 a02 n02 a00 d00 -", "DFF", true, false, 2, 1},
    {"u0 u1 a01 a12 n12 a10 n01", "RFF", false, false, 2, 2},
    /* again on another worker where one is idle, else where it was */
    {"u0 u1 a01 f01 a11 f11 a01", "PRP", false, false, 0, -1},
    {"u0 u1 a01 a12 f01 a01", "PRR", false, false, 0, -1},
    /* a lost device retires its worker, not the task */
    {"u0 u1 a01 a12 x01 - d12 a11 -", "PRD", false, false, 0, -1},
    {"u0 u1 a01 x01 a11 x11 -", "PPP", false, true, 0, -1},
    {"u0 u1 l0 l1 -", "PPP", false, true, 0, -1},
    {"l0 l1", "PPP", false, true, 0, -1},
    /* a lost worker gives its task back and counts as an attempt */
    {"u0 u1 a01 a12 l0 - d12 a11 d11", "PDD", false, false, 0, -1},
    {"u0 a01 f01 a01 f01 a01 l0", "PFP", false, false, 1, 1},
    /* the last worker is lost, but nothing is pending */
    {"u0 a01 d01 a02 d02 a00 d00 l0", "DDD", true, false, 0, -1},
    /* what does not fit changes nothing */
    {"!d00 !f00 !p00 !l9 !u9 u0 !u0 !d01", "PPP", false, false, 0, -1},
    {"u0 u1 a01 a12 !d02 !d11 !p02 !f12x !d03 !d09 d01", "PDR", false, false, 0, -1},
    {"u0 a01 d01 !d01 !f01", "PDP", false, false, 0, -1},
    {"u0 l0 !l0 !u0", "PPP", false, false, 0, -1},
};

static qy_status_t play_event(qy_schedule_t *s, const char *step)
{
    int worker = step[1] - '0', task = step[1] ? step[2] - '0' : 0;
    switch (step[0]) {
    case 'u':
        return happen(s, QY_EVENT_WORKER_UP, worker, 0, QY_OK);
    case 'l':
        return happen(s, QY_EVENT_WORKER_LOST, worker, 0, QY_OK);
    case 'p':
        return happen(s, QY_EVENT_PROGRESS, worker, task, QY_OK);
    case 'd':
        return happen(s, QY_EVENT_TASK_DONE, worker, task, QY_OK);
    case 'f': /* with an x: without an error */
        return happen(s, QY_EVENT_TASK_FAILED, worker, task,
                      step[3] == 'x' ? QY_OK : QY_ERR_CRASHED);
    case 'n':
        return happen(s, QY_EVENT_TASK_FAILED, worker, task, QY_ERR_NUMERIC);
    case 'x':
        return happen(s, QY_EVENT_TASK_FAILED, worker, task, QY_ERR_DEVICE);
    default:
        fail_msg("step %s", step);
        return QY_ERR_ARG;
    }
}

static void play_step(qy_schedule_t *s, const char *step)
{
    qy_assign_t assign;
    if (step[0] == '-') {
        assert_false(qy_schedule_next(s, &assign));
    } else if (step[0] == 'a') {
        assert_true(qy_schedule_next(s, &assign));
        assert_int_equal(assign.worker, step[1] - '0');
        assert_int_equal(assign.task.id, step[2] - '0');
        assert_int_equal(assign.task.attempt, qy_schedule_at(s, assign.task.id)->attempts);
        assert_ptr_equal(qy_schedule_running(s, assign.worker), qy_schedule_at(s, assign.task.id));
    } else if (step[0] == '!') {
        assert_int_equal(play_event(s, step + 1), QY_ERR_ARG);
    } else {
        assert_int_equal(play_event(s, step), QY_OK);
    }
}

static void test_histories(void **state)
{
    (void)state;
    static const double costs[] = {1, 3, 2};
    static const char letters[] = {'P', 'R', 'D', 'F'};
    for (size_t h = 0; h < sizeof histories / sizeof *histories; h++) {
        qy_task_t tasks[3];
        qy_schedule_t *s = NULL;
        char steps[128], *rest = steps, states[4] = "";
        make_tasks(tasks, 3, costs);
        assert_int_equal(qy_schedule_create(&s, tasks, NULL, 3, 2, NULL), QY_OK);
        snprintf(steps, sizeof steps, "%s", histories[h].steps);
        for (char *step; (step = strtok_r(rest, " ", &rest));)
            play_step(s, step);
        for (int i = 0; i < 3; i++)
            states[i] = letters[qy_schedule_at(s, i)->state];
        const qy_slot_task_t *first = NULL;
        print_message("history \"%s\"\n", histories[h].steps);
        assert_string_equal(states, histories[h].states);
        assert_int_equal(qy_schedule_finished(s), histories[h].finished);
        assert_int_equal(qy_schedule_stuck(s), histories[h].stuck);
        assert_int_equal(qy_schedule_failures(s, &first), histories[h].failures);
        if (first)
            assert_int_equal(first->task.id, histories[h].first);
        qy_schedule_destroy(&s);
        assert_null(s);
    }
}

static void test_create(void **state)
{
    (void)state;
    static const double costs[] = {1, 1, 1};
    static const bool done[] = {true, false, true};
    qy_task_t tasks[3];
    qy_schedule_t *s = NULL;
    qy_assign_t assign;
    make_tasks(tasks, 3, costs);
    assert_int_equal(qy_schedule_create(&s, tasks, done, 3, 1, NULL), QY_OK);
    assert_int_equal(qy_schedule_count(s), 3);
    assert_int_equal(happen(s, QY_EVENT_WORKER_UP, 0, 0, QY_OK), QY_OK);
    assert_true(qy_schedule_next(s, &assign));
    assert_int_equal(assign.task.id, 1);
    assert_int_equal(happen(s, QY_EVENT_TASK_DONE, 0, 1, QY_OK), QY_OK);
    assert_true(qy_schedule_finished(s));
    qy_schedule_destroy(&s);

    assert_int_equal(qy_schedule_create(&s, tasks, NULL, 0, 1, NULL), QY_OK);
    assert_true(qy_schedule_finished(s));
    assert_false(qy_schedule_stuck(s));
    qy_schedule_destroy(&s);

    assert_int_equal(qy_schedule_create(&s, tasks, NULL, 3, 0, NULL), QY_ERR_ARG);
    tasks[1].id = 2;
    assert_int_equal(qy_schedule_create(&s, tasks, NULL, 3, 1, NULL), QY_ERR_ARG);
    assert_null(s);
    qy_schedule_destroy(&s);
}

/* --- random histories ----------------------------------------------------------------------------
 */

/* A run of its own: what the schedule should hold, kept by the plainest means. */
typedef struct {
    uint32_t seed;
    uint64_t draws;
    qy_schedule_t *s;
    int n_tasks, n_workers;
    int tries[MAX_TASKS]; /* since progress */
    bool may_fail;        /* false: only what can be retried, and never three times */
} world_t;

static int draw(world_t *w, int n)
{
    return (int)qy_random_below(w->seed, QY_PHASE_E2E, w->draws++, 7, (uint64_t)n);
}

static void check_invariants(const world_t *w)
{
    int owner[MAX_TASKS];
    memset(owner, -1, sizeof owner);
    for (int i = 0; i < w->n_workers; i++) {
        const qy_slot_task_t *slot = qy_schedule_running(w->s, i);
        bool busy = qy_schedule_worker(w->s, i) == QY_WORKER_BUSY;
        assert_int_equal(busy, slot != NULL);
        if (!slot)
            continue;
        assert_int_equal(slot->worker, i);
        assert_int_equal(slot->state, QY_STATE_RUNNING);
        assert_int_equal(owner[slot->task.id], -1); /* no task on two workers */
        owner[slot->task.id] = i;
    }
    for (int i = 0; i < w->n_tasks; i++) {
        const qy_slot_task_t *slot = qy_schedule_at(w->s, i);
        assert_int_equal(slot->state == QY_STATE_RUNNING, owner[i] >= 0);
        assert_true(slot->attempts <= QY_MAX_ATTEMPTS);
        assert_int_equal(slot->attempts, w->tries[i]);
    }
}

static void assign_all(world_t *w)
{
    qy_assign_t a;
    while (qy_schedule_next(w->s, &a)) {
        for (int i = 0; i < w->n_tasks; i++) { /* longest first */
            const qy_slot_task_t *slot = qy_schedule_at(w->s, i);
            assert_true(slot->state != QY_STATE_PENDING || slot->task.cost <= a.task.cost);
        }
        assert_int_equal(a.task.attempt, ++w->tries[a.task.id]);
        assert_true(a.task.attempt <= QY_MAX_ATTEMPTS);
        check_invariants(w);
    }
}

static void step(world_t *w)
{
    int worker = draw(w, w->n_workers), left = 0;
    for (int i = 0; i < w->n_workers; i++)
        left += qy_schedule_worker(w->s, i) != QY_WORKER_RETIRED;
    const qy_slot_task_t *slot = qy_schedule_running(w->s, worker);
    if (qy_schedule_worker(w->s, worker) == QY_WORKER_ABSENT) {
        assert_int_equal(happen(w->s, QY_EVENT_WORKER_UP, worker, 0, QY_OK), QY_OK);
        return;
    }
    if (!slot)
        return;
    int id = slot->task.id, what = draw(w, 100);
    bool may_fail = w->may_fail || slot->attempts < QY_MAX_ATTEMPTS;
    if (what < 50) {
        assert_int_equal(happen(w->s, QY_EVENT_TASK_DONE, worker, id, QY_OK), QY_OK);
    } else if (what < 70) {
        assert_int_equal(happen(w->s, QY_EVENT_PROGRESS, worker, id, QY_OK), QY_OK);
        w->tries[id] = 1;
    } else if (what < 85 && may_fail) {
        assert_int_equal(happen(w->s, QY_EVENT_TASK_FAILED, worker, id, QY_ERR_CRASHED), QY_OK);
    } else if (what < 88 && w->may_fail) {
        assert_int_equal(happen(w->s, QY_EVENT_TASK_FAILED, worker, id, QY_ERR_NUMERIC), QY_OK);
        assert_int_equal(qy_schedule_at(w->s, id)->state, QY_STATE_FAILED);
    } else if (what < 92 && may_fail && (left > 1 || w->may_fail)) {
        assert_int_equal(happen(w->s, QY_EVENT_TASK_FAILED, worker, id, QY_ERR_DEVICE), QY_OK);
        assert_int_equal(qy_schedule_worker(w->s, worker), QY_WORKER_RETIRED);
    } else if (what < 96 && may_fail && (left > 1 || w->may_fail)) {
        assert_int_equal(happen(w->s, QY_EVENT_WORKER_LOST, worker, 0, QY_OK), QY_OK);
    } else { /* nonsense from elsewhere changes nothing */
        assert_int_equal(happen(w->s, QY_EVENT_TASK_DONE, (worker + 1) % w->n_workers,
                                w->n_tasks + draw(w, 3), QY_OK),
                         QY_ERR_ARG);
    }
}

static void simulate(uint32_t seed, bool may_fail)
{
    enum { PATIENCE = 100000 };
    qy_task_t tasks[MAX_TASKS];
    double costs[MAX_TASKS];
    world_t w = {.seed = seed, .may_fail = may_fail};
    w.n_workers = 1 + draw(&w, MAX_WORKERS);
    w.n_tasks = 1 + draw(&w, MAX_TASKS);
    for (int i = 0; i < w.n_tasks; i++)
        costs[i] = draw(&w, 6);
    make_tasks(tasks, w.n_tasks, costs);
    assert_int_equal(qy_schedule_create(&w.s, tasks, NULL, w.n_tasks, w.n_workers, NULL), QY_OK);
    int n = 0;
    while (!qy_schedule_finished(w.s) && !qy_schedule_stuck(w.s) && n++ < PATIENCE) {
        step(&w);
        check_invariants(&w);
        assign_all(&w);
    }
    assert_true(n < PATIENCE);
    if (!may_fail) {
        assert_true(qy_schedule_finished(w.s));
        assert_int_equal(qy_schedule_failures(w.s, NULL), 0);
        for (int i = 0; i < w.n_tasks; i++)
            assert_int_equal(qy_schedule_at(w.s, i)->state, QY_STATE_DONE);
    }
    qy_schedule_destroy(&w.s);
}

static void test_all_done_in_the_end(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 300; seed++)
        simulate(seed, false);
}

static void test_any_failure_ends(void **state)
{
    (void)state;
    for (uint32_t seed = 1001; seed <= 1300; seed++)
        simulate(seed, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histories),
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_all_done_in_the_end),
        cmocka_unit_test(test_any_failure_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
