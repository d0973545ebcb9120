/* Tasks in a process of their own (worker/serve.h, worker/child.h): one process for all that end
 * well, which keeps nothing of them; a fresh one after any that does not. This program is its own
 * child: started as `… task --fd N --parent PID` it serves tasks. */
#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>

#include "../jobs/job_files.h"
#include "base/clock.h"
#include "jobs/store.h"
#include "worker/child.h"
#include "worker/device_record.h"
#include "worker/memory.h"
#include "worker/serve.h"

static const double patience_s = 60;

/* What a process may grow by, bytes; AddressSanitizer keeps for a while what was freed. */
#ifdef __SANITIZE_ADDRESS__
static const int64_t slack = (int64_t)1 << 30;
#else
static const int64_t slack = (int64_t)2 << 20;
#endif

typedef struct {
    qy_plan_t *plan;
    qy_link_t *here, *there; /* the coordinator's end and the worker's */
    qy_server_t *server;
} worker_t;

static worker_t open_worker(void)
{
    static const char job[] =
        TINY_JOB "quantize: {segments: 6}\nevaluate: [{name: a, text: $FOLDER/a.txt, "
                 "sequence_length: 32}]\nresources: {device: cpu, threads: 1}\n";
    worker_t w = {0};
    char text[8192];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(i % 5 == 4 ? ' ' : 'a' + i % 23);
    text[sizeof text - 1] = '\0';
    write_file("a.txt", text);
    w.plan = make_plan(job, NULL, 1);
    OK(qy_memory_plan(w.plan, &err));
    OK(qy_make_dirs(w.plan->spec.run_dir, &err));
    OK(qy_plan_record(w.plan, &err));
    OK(qy_store_prepare(w.plan, &err));
    OK(qy_device_record(w.plan, "test", &err));
    OK(qy_store_make_tokens(w.plan, &err));
    OK(qy_link_pair(&w.here, &w.there, &err));
    OK(qy_server_create(&w.server, w.plan, w.there, 0, &(qy_server_hooks_t){0}, &err));
    return w;
}

static void close_worker(worker_t *w)
{
    qy_server_destroy(&w->server);
    qy_link_destroy(&w->here);
    qy_link_destroy(&w->there);
    OK(qy_remove_tree(w->plan->spec.run_dir, &err));
    qy_plan_destroy(&w->plan);
}

static void say(const worker_t *w, qy_msg_kind_t kind, const void *payload, size_t bytes)
{
    void *message;
    size_t n;
    OK(qy_message_encode(kind, payload, bytes, &message, &n, &err));
    OK(w->here->send(w->here, 0, message, n, &err));
    free(message);
}

/* 1 where the result of a task has come. */
static int look_for_result(const worker_t *w, qy_result_t *result)
{
    void *bytes;
    size_t n;
    int peer, found = 0;
    qy_message_t message;
    OK(w->here->poll(w->here, &peer, &bytes, &n, &err));
    if (!bytes)
        return 0;
    OK(qy_message_decode(&message, bytes, n, &err));
    if (message.kind == QY_MSG_RESULT) {
        OK(qy_result_decode(result, message.payload, message.bytes, &err));
        found = 1;
    }
    qy_message_free(&message);
    free(bytes);
    return found;
}

static qy_result_t serve(const worker_t *w, qy_task_kind_t kind, int64_t range, int32_t attempt)
{
    qy_result_t result = {0};
    qy_task_t task = {.kind = kind, .id = 7, .attempt = attempt, .range = range};
    double end = qy_now_s() + patience_s;
    void *bytes;
    size_t n;
    int done;
    snprintf(task.plan_hash, sizeof task.plan_hash, "%s", w->plan->hash);
    OK(qy_path(task.run_dir, &err, "%s", w->plan->spec.run_dir));
    OK(qy_task_encode(&task, &bytes, &n, &err));
    say(w, QY_MSG_TASK, bytes, n);
    free(bytes);
    do {
        OK(qy_server_poll(w->server, &done, &err));
        qy_server_wait(w->server, 1);
    } while (!look_for_result(w, &result) && qy_now_s() < end);
    assert_int_equal(result.task_id, task.id);
    return result;
}

static void serve_well(const worker_t *w, qy_task_kind_t kind, int64_t range, int32_t attempt)
{
    qy_result_t result = serve(w, kind, range, attempt);
    if (result.error.status != QY_OK)
        fail_msg("%s", result.error.text);
    qy_result_free(&result);
}

/* The one living child of this process; 0 where there is none. */
static pid_t child_pid(void)
{
    DIR *proc = opendir("/proc");
    pid_t found = 0;
    assert_non_null(proc);
    for (const struct dirent *entry = readdir(proc); entry; entry = readdir(proc)) {
        char path[300], line[512] = "", state = 'Z';
        int parent = 0;
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        FILE *file = entry->d_name[0] >= '1' && entry->d_name[0] <= '9' ? fopen(path, "r") : NULL;
        if (!file)
            continue;
        const char *after = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
        fclose(file);
        if (!after || sscanf(after, ") %c %d", &state, &parent) != 2 || parent != (int)getpid() ||
            state == 'Z')
            continue;
        assert_int_equal(found, 0);
        found = (pid_t)atoi(entry->d_name);
    }
    closedir(proc);
    return found;
}

/* Bytes of memory that the process holds. */
static int64_t resident(pid_t pid)
{
    char path[64];
    int64_t all, pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%" SCNd64 " %" SCNd64, &all, &pages), 2);
    fclose(file);
    return pages * (int64_t)sysconf(_SC_PAGESIZE);
}

/* As if nothing had been done yet. */
static void forget(const worker_t *w)
{
    OK(qy_remove_tree(path_of("run/segments"), &err));
    OK(qy_remove_tree(path_of("run/blocks"), &err));
    OK(qy_store_prepare(w->plan, &err));
}

/* Every kind again and again: one process, the same answers, the same device memory by its account
 * and no more of the host's. */
static void test_one_process(void **state)
{
    (void)state;
    enum { ROUNDS = 9, SETTLED = 3, KINDS = 3 };
    static const qy_task_kind_t kinds[KINDS] = {QY_TASK_CAPTURE, QY_TASK_SEGMENT, QY_TASK_EVALUATE};
    int64_t taken[KINDS] = {0}, held = 0;
    double first = 0;
    worker_t w = open_worker();
    pid_t pid = 0;
    for (int round = 0; round < ROUNDS; round++) {
        forget(&w);
        for (int k = 0; k < KINDS; k++) {
            qy_result_t result = serve(&w, kinds[k], 0, 1);
            if (result.error.status != QY_OK)
                fail_msg("%s", result.error.text);
            if (round == 0)
                taken[k] = result.device_bytes;
            if (round == 0 && kinds[k] == QY_TASK_EVALUATE)
                first = result.values[0];
            assert_true(result.device_bytes > 0);
            assert_int_equal(result.device_bytes, taken[k]);
            if (kinds[k] == QY_TASK_EVALUATE)
                assert_true(result.values[0] == first);
            qy_result_free(&result);
            pid = pid ? pid : child_pid();
            assert_true(pid > 0);
            assert_int_equal(child_pid(), pid);
        }
        if (round == SETTLED)
            held = resident(pid);
    }
    if (!(resident(pid) <= held + slack))
        fail_msg("%" PRId64 " bytes after %d rounds, %" PRId64 " after %d", resident(pid), ROUNDS,
                 held, SETTLED);
    close_worker(&w);
    assert_int_equal(child_pid(), 0);
}

/* A process that dies while it has nothing to do costs nobody's attempt, noticed or not. */
static void test_dies_idle(void **state)
{
    (void)state;
    worker_t w = open_worker();
    serve_well(&w, QY_TASK_CAPTURE, 0, 1);
    for (int noticed = 0; noticed < 2; noticed++) {
        pid_t pid = child_pid();
        int done;
        assert_int_equal(kill(pid, SIGKILL), 0);
        siginfo_t info;
        assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
        if (noticed)
            OK(qy_server_poll(w.server, &done, &err));
        serve_well(&w, QY_TASK_CAPTURE, 1, 1);
        assert_true(child_pid() > 0 && child_pid() != pid);
    }
    close_worker(&w);
}

/* What fails takes its process with it; the next attempt and those after have another. */
static void test_failure(void **state)
{
    (void)state;
    static const struct {
        const char *fault, *words;
    } cases[] = {{"crash@capture calibration range 1", "ended with"},
                 {"device@capture calibration range 1", "a probe finds the device at work"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("QUARRY_TEST_FAIL", cases[i].fault, 1);
        worker_t w = open_worker();
        serve_well(&w, QY_TASK_CAPTURE, 0, 1);
        pid_t before = child_pid();
        qy_result_t failed = serve(&w, QY_TASK_CAPTURE, 1, 1);
        assert_int_equal(failed.error.status, QY_ERR_CRASHED);
        assert_non_null(strstr(failed.error.text, cases[i].words));
        assert_int_equal(child_pid(), 0);
        serve_well(&w, QY_TASK_CAPTURE, 1, 2);
        pid_t after = child_pid();
        assert_true(after > 0 && after != before);
        serve_well(&w, QY_TASK_CAPTURE, 2, 1);
        assert_int_equal(child_pid(), after);
        close_worker(&w);
    }
    unsetenv("QUARRY_TEST_FAIL");
}

/* A process that hangs is killed; the next attempt has another. */
static void test_hangs(void **state)
{
    (void)state;
    worker_t w = open_worker();
    w.plan->spec.resources.worker_timeout = 1;
    serve_well(&w, QY_TASK_CAPTURE, 0, 1);
    pid_t before = child_pid();
    assert_int_equal(kill(before, SIGSTOP), 0);
    qy_result_t failed = serve(&w, QY_TASK_CAPTURE, 1, 1);
    assert_int_equal(failed.error.status, QY_ERR_CRASHED);
    assert_non_null(strstr(failed.error.text, "nothing for 1 s"));
    assert_int_equal(child_pid(), 0);
    serve_well(&w, QY_TASK_CAPTURE, 1, 2);
    assert_true(child_pid() > 0 && child_pid() != before);
    close_worker(&w);
}

/* A stop request and E2E-QP, which wants the device for itself, end the idle process. */
static void test_ends(void **state)
{
    (void)state;
    static const qy_msg_kind_t kinds[] = {QY_MSG_HALT, QY_MSG_E2E, QY_MSG_STOP};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int done;
        worker_t w = open_worker();
        serve_well(&w, QY_TASK_CAPTURE, 0, 1);
        assert_true(child_pid() > 0);
        say(&w, kinds[i], NULL, 0);
        (void)qy_server_poll(w.server, &done, NULL); /* E2E-QP itself finds nothing to work on */
        assert_int_equal(child_pid(), 0);
        close_worker(&w);
    }
}

static int serve_as_child(const char *fd, const char *parent)
{
    static atomic_int stop;
    qy_error_t error;
    return qy_child_settle(atoll(parent), &error) != QY_OK ||
           qy_child_serve(atoi(fd), &stop, &error) != QY_OK;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_process), cmocka_unit_test(test_dies_idle),
        cmocka_unit_test(test_failure),     cmocka_unit_test(test_hangs),
        cmocka_unit_test(test_ends),
    };
    if (argc == 6 && strcmp(argv[1], "task") == 0)
        return serve_as_child(argv[3], argv[5]);
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
