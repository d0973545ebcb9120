/* Work that does not get on ends its process; slow work and a process that was suspended do not. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "worker/watch.h"

enum { WELL = 7 };
static const double least_s = 1.0;

static void pause_s(double seconds)
{
    for (double end = qy_now_s() + seconds; qy_now_s() < end;)
        usleep(1000);
}

/* In a process of its own, which ends with WELL if the watch lets it: beats that far apart. */
static pid_t start(double first_s, double rest_s, double last_s)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    qy_error_t err;
    qy_watch_t *watch = NULL;
    if (!freopen("/dev/null", "w", stderr) ||
        qy_watch_start(&watch, "a test", least_s, &err) != QY_OK)
        _exit(2);
    pause_s(first_s);
    for (int i = 0; i < 4; i++) {
        qy_watch_beat(watch);
        pause_s(i == 3 ? last_s : rest_s);
    }
    qy_watch_end(&watch);
    _exit(watch ? 2 : WELL);
}

static int code_of(pid_t pid)
{
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_hang(void **state)
{
    (void)state;
    double began = qy_now_s();
    assert_int_equal(code_of(start(0, 0.001, 60)), EXIT_FAILURE);
    assert_true(qy_now_s() - began < 30);
}

/* Nothing is known of how long the first step takes; a step may take many times the longest. */
static void test_slow(void **state)
{
    (void)state;
    assert_int_equal(code_of(start(2, 0.001, 0)), WELL);
    assert_int_equal(code_of(start(0, 0.3, 3)), WELL);
}

static void test_suspended(void **state)
{
    (void)state;
    pid_t pid = start(0, 0.001, 0.1);
    pause_s(0.05);
    kill(pid, SIGSTOP);
    pause_s(3);
    kill(pid, SIGCONT);
    assert_int_equal(code_of(pid), WELL);
}

static void test_nothing(void **state)
{
    (void)state;
    qy_watch_t *none = NULL;
    qy_watch_end(&none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hang),
        cmocka_unit_test(test_slow),
        cmocka_unit_test(test_suspended),
        cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
