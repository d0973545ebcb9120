/* Files: whole or absent, read back exactly, temporary files swept, links not followed. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

static char root[] = "/tmp/qy_file_XXXXXX";

static const char *in_root(const char *name)
{
    static char path[QY_PATH_MAX];
    assert_int_equal(qy_path(path, NULL, "%s/%s", root, name), QY_OK);
    return path;
}

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

static void put(const char *name, const char *text)
{
    assert_int_equal(qy_file_write(in_root(name), text, strlen(text), NULL), QY_OK);
}

static void test_path(void **state)
{
    (void)state;
    char out[QY_PATH_MAX] = "kept", name[QY_PATH_MAX + 8];
    qy_error_t err = {0};
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(qy_path(out, &err, "%s", name), QY_ERR_ARG);
    assert_string_equal(out, "kept");
    name[QY_PATH_MAX - 1] = '\0';
    assert_int_equal(qy_path(out, &err, "%s", name), QY_OK);
    assert_string_equal(out, name);
}

static void test_make_dirs(void **state)
{
    (void)state;
    qy_error_t err = {0};
    assert_int_equal(qy_make_dirs(in_root("a/b//c/"), &err), QY_OK);
    assert_int_equal(qy_make_dirs(in_root("a/b/c"), &err), QY_OK);
    assert_true(qy_is_dir(in_root("a/b/c")));
    put("plain", "x");
    assert_true(qy_file_exists(in_root("plain")));
    assert_false(qy_is_dir(in_root("plain")));
    assert_int_equal(qy_make_dirs(in_root("plain"), &err), QY_ERR_IO);
    assert_int_equal(qy_make_dirs(in_root("plain/below"), &err), QY_ERR_IO);
    assert_false(qy_file_exists(in_root("none")));
}

static void test_write_and_read(void **state)
{
    (void)state;
    qy_error_t err = {0};
    char *text = NULL, temp[QY_PATH_MAX], path[QY_PATH_MAX];
    size_t bytes = 0;
    put("f", "first");
    put("f", "second, longer");
    assert_int_equal(qy_file_read(in_root("f"), 100, &text, &bytes, &err), QY_OK);
    assert_int_equal(bytes, 14);
    assert_string_equal(text, "second, longer");
    free(text);
    assert_int_equal(qy_file_read(in_root("f"), 13, &text, &bytes, &err), QY_ERR_FORMAT);
    assert_int_equal(qy_file_read(in_root("none"), 13, &text, &bytes, &err), QY_ERR_IO);
    assert_int_equal(qy_file_read(root, 13, &text, &bytes, &err), QY_ERR_IO);
    assert_int_equal(qy_path(path, &err, "%s", in_root("f")), QY_OK);
    assert_int_equal(qy_temp_name(temp, path, &err), QY_OK);
    assert_false(qy_file_exists(temp));
    assert_int_equal(qy_file_write(in_root("no/such/folder"), "x", 1, &err), QY_ERR_IO);
    assert_non_null(strstr(err.text, "no/such/folder"));
}

/* A commit that cannot rename leaves neither the temporary file nor a changed target. */
static void test_failed_commit(void **state)
{
    (void)state;
    qy_error_t err = {0};
    char temp[QY_PATH_MAX], dir[QY_PATH_MAX];
    assert_int_equal(qy_path(dir, &err, "%s", in_root("a_dir")), QY_OK);
    assert_int_equal(qy_make_dirs(dir, &err), QY_OK);
    assert_int_equal(qy_temp_name(temp, dir, &err), QY_OK);
    assert_int_equal(qy_file_write(dir, "x", 1, &err), QY_ERR_IO);
    assert_false(qy_file_exists(temp));
    assert_true(qy_is_dir(dir));
}

static void test_pread(void **state)
{
    (void)state;
    qy_error_t err = {0};
    char got[8] = {0};
    put("p", "0123456789");
    int fd = open(in_root("p"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(qy_pread(fd, "p", got, 4, 6, &err), QY_OK);
    assert_string_equal(got, "6789");
    assert_int_equal(qy_pread(fd, "p", got, 4, 7, &err), QY_ERR_FORMAT);
    assert_non_null(strstr(err.text, "ends at byte 10"));
    assert_int_equal(qy_write_all(fd, "p", "x", 1, &err), QY_ERR_IO);
    close(fd);
    assert_int_equal(qy_pread(-1, "p", got, 4, 0, &err), QY_ERR_IO);
}

static void test_sweep(void **state)
{
    (void)state;
    static const char *const gone[] = {"s/x.tmp.12", "s/deep/er/y.h5.tmp.1"};
    static const char *const kept[] = {"s/x.tmp",  "s/x.tmp.", "s/x.tmp.12a",
                                       "s/tmp.12", "s/deep/z", "outside.tmp.3"};
    assert_int_equal(qy_make_dirs(in_root("s/deep/er"), NULL), QY_OK);
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
        put(gone[i], "x");
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        put(kept[i], "x");
    assert_int_equal(symlink("..", in_root("s/up")), 0);
    qy_sweep_temps(in_root("s"));
    qy_sweep_temps(in_root("absent"));
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
        assert_false(qy_file_exists(in_root(gone[i])));
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        assert_true(qy_file_exists(in_root(kept[i])));
    assert_int_equal(qy_remove_tree(in_root("s"), NULL), QY_OK);
    assert_false(qy_file_exists(in_root("s")));
    assert_true(qy_file_exists(in_root("outside.tmp.3")));
    assert_int_equal(qy_remove_tree(in_root("s"), NULL), QY_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_path),           cmocka_unit_test(test_make_dirs),
        cmocka_unit_test(test_write_and_read), cmocka_unit_test(test_failed_commit),
        cmocka_unit_test(test_pread),          cmocka_unit_test(test_sweep),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
