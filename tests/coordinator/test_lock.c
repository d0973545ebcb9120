/* The lock: taken once, refused while its holder lives, taken over when that is gone, by one of
 * many. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "coordinator/lock.h"

static char root[] = "/tmp/qy_lock_XXXXXX";
static char run_dir[QY_PATH_MAX], path[QY_PATH_MAX];

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(root) && qy_path(run_dir, NULL, "%s/run", root) == QY_OK &&
                   qy_path(path, NULL, "%s/lock.json", run_dir) == QY_OK
               ? 0
               : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return qy_remove_tree(root, NULL) == QY_OK ? 0 : -1;
}

/* lock.json as another process would have left it, age_s ago. */
static void leave_lock(const char *text, long age_s)
{
    struct timespec times[2];
    clock_gettime(CLOCK_REALTIME, &times[0]);
    times[0].tv_sec -= age_s;
    times[1] = times[0];
    assert_int_equal(qy_make_dirs(run_dir, NULL), QY_OK);
    assert_int_equal(qy_file_write(path, text, strlen(text), NULL), QY_OK);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* A child that takes the lock and holds it; *ready is read when it has it. */
static pid_t start_holder(void)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        qy_lock_t *lock = NULL;
        if (qy_lock_take(&lock, run_dir, NULL) != QY_OK || write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void expect_taken_and_release(void)
{
    qy_error_t err = {0};
    qy_lock_t *lock = NULL;
    qy_lock_holder_t holder;
    if (qy_lock_take(&lock, run_dir, &err) != QY_OK)
        fail_msg("%s", err.text);
    assert_true(qy_lock_inspect(run_dir, &holder));
    assert_int_equal(holder.pid, getpid());
    assert_true(holder.live);
    assert_true(holder.age_s < 30);
    assert_false(qy_lock_lost(lock));
    qy_lock_release(&lock);
    assert_null(lock);
    assert_false(qy_file_exists(path));
    assert_false(qy_lock_inspect(run_dir, &holder));
    qy_lock_release(&lock);
}

static void expect_refused(const char *word)
{
    qy_error_t err = {0};
    qy_lock_t *lock = NULL;
    assert_int_equal(qy_lock_take(&lock, run_dir, &err), QY_ERR_ARG);
    print_message("%s\n", err.text);
    assert_non_null(strstr(err.text, word));
    assert_null(lock);
    assert_true(qy_file_exists(path));
}

static void test_take_twice(void **state)
{
    (void)state;
    char host[64] = "", pid[32];
    qy_lock_t *lock = NULL;
    gethostname(host, sizeof host - 1);
    snprintf(pid, sizeof pid, "pid %ld", (long)getpid());
    setenv("SLURM_JOB_ID", "4711", 1);
    assert_int_equal(qy_lock_take(&lock, run_dir, NULL), QY_OK);
    unsetenv("SLURM_JOB_ID");
    expect_refused(host);
    expect_refused(pid);
    expect_refused("Slurm job 4711");
    qy_lock_release(&lock);
    expect_taken_and_release();
}

static void test_holder_killed(void **state)
{
    (void)state;
    char word[32];
    pid_t pid = start_holder();
    snprintf(word, sizeof word, "pid %ld", (long)pid);
    expect_refused(word);
    kill(pid, SIGKILL);
    /* a zombie runs nothing any more: also before it is waited for */
    for (int i = 0; i < 1000 && waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT) != 0;
         i++)
        ;
    expect_taken_and_release();
    waitpid(pid, NULL, 0);

    pid = start_holder();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    qy_lock_holder_t holder;
    assert_true(qy_lock_inspect(run_dir, &holder));
    assert_false(holder.live);
    assert_int_equal(holder.pid, pid);
    expect_taken_and_release();
}

/* The pid lives, but is another process than the one that took the lock. */
static void test_pid_reused(void **state)
{
    (void)state;
    char *text = NULL, *start;
    size_t bytes;
    qy_lock_t *lock = NULL;
    assert_int_equal(qy_lock_take(&lock, run_dir, NULL), QY_OK);
    assert_int_equal(qy_file_read(path, 4096, &text, &bytes, NULL), QY_OK);
    qy_lock_release(&lock);
    start = strstr(text, "\"start\":");
    assert_non_null(start);
    start[8] = start[8] == '9' ? '8' : (char)(start[8] + 1);
    leave_lock(text, 0);
    free(text);
    expect_taken_and_release();
}

static void test_other_host(void **state)
{
    (void)state;
    static const char other[] = "{\"host\":\"elsewhere\",\"pid\":1,\"start\":5,\"boot\":\"b\","
                                "\"slurm_job\":\"12\",\"since\":\"2026-01-01T00:00:00Z\"}";
    leave_lock(other, 0);
    expect_refused("elsewhere");
    leave_lock(other, 50);
    expect_refused("Slurm job 12");
    leave_lock(other, -100); /* clocks differ */
    expect_refused("elsewhere");
    leave_lock(other, 70);
    expect_taken_and_release();
}

/* Not a lock that anyone could have written: kept for a minute, then taken over. */
static void test_garbage(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "{", "[]", "{\"host\":5,\"pid\":\"x\"}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        leave_lock(texts[i], 0);
        expect_refused("unknown");
        leave_lock(texts[i], 70);
        expect_taken_and_release();
    }
}

/* What a dead process of this very pid left in the way. */
static void test_left_over_temp(void **state)
{
    (void)state;
    char temp[QY_PATH_MAX], host[64] = "";
    gethostname(host, sizeof host - 1);
    assert_int_equal(qy_make_dirs(run_dir, NULL), QY_OK);
    assert_int_equal(qy_path(temp, NULL, "%s.%s.tmp.%ld", path, host, (long)getpid()), QY_OK);
    assert_int_equal(qy_file_write(temp, "x", 1, NULL), QY_OK);
    expect_taken_and_release();
    assert_false(qy_file_exists(temp));
}

/* A run died just while it took a stale lock over. */
static void test_left_over_second(void **state)
{
    (void)state;
    static const char dead[] = "{\"host\":\"elsewhere\",\"pid\":1,\"start\":5,\"boot\":\"b\"}";
    char second[QY_PATH_MAX];
    assert_int_equal(qy_path(second, NULL, "%s.taking", path), QY_OK);
    leave_lock(dead, 3600);
    assert_int_equal(rename(path, second), 0);
    leave_lock(dead, 3600);
    expect_taken_and_release();
    assert_false(qy_file_exists(second));
}

/* While another one takes a stale lock over, nobody else does. */
static void test_second_is_respected(void **state)
{
    (void)state;
    static const char stale[] = "{\"host\":\"elsewhere\",\"pid\":1,\"start\":5,\"boot\":\"b\"}";
    char second[QY_PATH_MAX];
    qy_lock_t *lock = NULL;
    qy_error_t err = {0};
    pid_t pid = start_holder();
    assert_int_equal(qy_path(second, NULL, "%s.taking", path), QY_OK);
    assert_int_equal(rename(path, second), 0);
    leave_lock(stale, 3600);
    assert_int_equal(qy_lock_take(&lock, run_dir, &err), QY_ERR_IO);
    assert_non_null(strstr(err.text, "lock.json.taking"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    expect_taken_and_release();
    assert_false(qy_file_exists(second));
}

/* Who was suspended for long and finds another's lock leaves it alone. */
static void test_taken_over(void **state)
{
    (void)state;
    static const char other[] = "{\"host\":\"elsewhere\",\"pid\":1,\"start\":5,\"boot\":\"b\"}";
    qy_lock_t *lock = NULL;
    assert_int_equal(qy_lock_take(&lock, run_dir, NULL), QY_OK);
    leave_lock(other, 0);
    qy_lock_release(&lock);
    assert_true(qy_file_exists(path));
    unlink(path);
}

/* A file server that does not answer, or has lost the name for a moment, is not another run. */
static void test_not_seen(void **state)
{
    (void)state;
    static const char other[] = "{\"host\":\"elsewhere\",\"pid\":1,\"start\":5,\"boot\":\"b\"}";
    char away[QY_PATH_MAX];
    qy_lock_t *lock = NULL;
    assert_int_equal(qy_path(away, NULL, "%s.away", run_dir), QY_OK);
    assert_int_equal(qy_lock_take(&lock, run_dir, NULL), QY_OK);
    assert_int_equal(rename(run_dir, away), 0);
    assert_int_equal(symlink(run_dir, run_dir), 0); /* ELOOP, as often as it is asked */
    for (int i = 0; i < 3; i++) {
        qy_lock_renew(lock);
        assert_false(qy_lock_lost(lock));
    }
    unlink(run_dir);
    qy_lock_renew(lock);
    assert_false(qy_lock_lost(lock));
    assert_int_equal(rename(away, run_dir), 0);
    qy_lock_renew(lock);
    assert_int_equal(unlink(path), 0);
    qy_lock_renew(lock);
    assert_false(qy_lock_lost(lock));
    qy_lock_renew(lock);
    assert_true(qy_lock_lost(lock));
    qy_lock_release(&lock);

    assert_int_equal(qy_lock_take(&lock, run_dir, NULL), QY_OK);
    leave_lock(other, 0);
    qy_lock_renew(lock);
    assert_true(qy_lock_lost(lock));
    qy_lock_release(&lock);
    unlink(path);
}

/* Many at once on a stale lock: exactly one gets it. */
static void test_race(void **state)
{
    (void)state;
    enum { ROUNDS = 20, RACERS = 8 };
    static const char stale[] = "{\"host\":\"elsewhere\",\"pid\":1,\"start\":5,\"boot\":\"b\"}";
    for (int round = 0; round < ROUNDS; round++) {
        int go[2], result[2], winners = 0;
        leave_lock(stale, 3600);
        assert_int_equal(pipe(go), 0);
        assert_int_equal(pipe(result), 0);
        for (int i = 0; i < RACERS; i++) {
            if (fork() != 0)
                continue;
            char byte;
            qy_lock_t *lock = NULL;
            close(go[1]);
            (void)!read(go[0], &byte, 1); /* end of file: all start */
            byte = qy_lock_take(&lock, run_dir, NULL) == QY_OK;
            (void)!write(result[1], &byte, 1);
            close(result[1]);
            while (byte) /* hold it until killed */
                pause();
            _exit(0);
        }
        close(go[0]);
        close(go[1]);
        close(result[1]);
        for (int i = 0; i < RACERS; i++) {
            char byte = 0;
            assert_int_equal(read(result[0], &byte, 1), 1);
            winners += byte;
        }
        close(result[0]);
        qy_lock_holder_t holder;
        assert_true(qy_lock_inspect(run_dir, &holder));
        assert_int_equal(winners, 1);
        kill((pid_t)holder.pid, SIGKILL);
        while (waitpid(-1, NULL, 0) > 0)
            ;
    }
    expect_taken_and_release();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_twice),       cmocka_unit_test(test_holder_killed),
        cmocka_unit_test(test_pid_reused),       cmocka_unit_test(test_other_host),
        cmocka_unit_test(test_garbage),          cmocka_unit_test(test_left_over_temp),
        cmocka_unit_test(test_left_over_second), cmocka_unit_test(test_second_is_respected),
        cmocka_unit_test(test_taken_over),       cmocka_unit_test(test_race),
        cmocka_unit_test(test_not_seen),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
