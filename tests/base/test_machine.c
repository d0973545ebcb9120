/* Memory that cgroups leave: both versions, the least on the way up, also where only the root is
 * seen. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/machine.h"

static char root[] = "/tmp/qy_machine_XXXXXX";

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return qy_remove_tree(root, NULL) == QY_OK ? 0 : -1;
}

/* A file below root, its folder too. */
static void put(const char *name, const char *text)
{
    char path[QY_PATH_MAX], folder[QY_PATH_MAX];
    assert_int_equal(qy_path(path, NULL, "%s/%s", root, name), QY_OK);
    memcpy(folder, path, sizeof folder);
    *strrchr(folder, '/') = '\0';
    assert_int_equal(qy_make_dirs(folder, NULL), QY_OK);
    assert_int_equal(qy_file_write(path, text, strlen(text), NULL), QY_OK);
}

static double limit(const char *own)
{
    char path[QY_PATH_MAX];
    put("own", own);
    assert_int_equal(qy_path(path, NULL, "%s/own", root), QY_OK);
    return qy_cgroup_memory(path, root);
}

static void test_version_2(void **state)
{
    (void)state;
    put("system.slice/memory.max", "max\n");
    put("system.slice/job_7/memory.max", "9000\n");
    put("system.slice/job_7/step_0/memory.max", "max\n");
    put("system.slice/job_8/memory.max", "5\n");
    assert_true(limit("0::/system.slice/job_7/step_0\n") == 9000);
    assert_true(limit("0::/system.slice/job_7/step_0/user/task_3\n") ==
                9000); /* not all have one */
    put("system.slice/memory.max", "8000\n");
    assert_true(limit("0::/system.slice/job_7/step_0\n") == 8000);
    assert_true(isinf(limit("0::/user.slice\n")));
    assert_true(isinf(limit("0::/\n")));
    put("memory.max", "700\n"); /* a container's own */
    assert_true(limit("0::/\n") == 700);
    assert_true(limit("0::/../outside\n") == 700);
}

static void test_version_1(void **state)
{
    (void)state;
    put("memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("memory/slurm/job_7/memory.limit_in_bytes", "600\n");
    assert_true(limit("9:cpu,cpuacct:/a\n4:memory:/slurm/job_7/step_0\n0::/none\n") == 600);
    assert_true(limit("4:cpu,memory:/slurm/job_7\n0::/none\n") == 600);
    put("memory/memory.limit_in_bytes", "500\n");
    assert_true(limit("4:memory:/docker/0123\n") == 500);
}

static void test_nonsense(void **state)
{
    (void)state;
    assert_true(isinf(limit("")));
    assert_true(isinf(limit("4\n4:memory\n:\n4:memoryless:/slurm/job_7\n")));
    assert_true(isinf(qy_cgroup_memory("/nowhere", root)));
    assert_true(qy_machine_memory() > 0 && isfinite(qy_machine_memory()));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_1),
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_nonsense),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
