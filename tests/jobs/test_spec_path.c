/* Paths in jobs: where they start, variables in them, and their longest. */
#include "tests/jobs/job_files.h"

static void test_paths(void **state)
{
    (void)state;
    assert_int_equal(setenv("QUARRY_TEST_A", "/a", 1), 0);
    assert_int_equal(setenv("QUARRY_TEST_EMPTY", "", 1), 0);
    assert_int_equal(setenv("HOME", "/home/me", 1), 0);
    char parent[QY_PATH_MAX];
    OK(qy_path(parent, &err, "%s", folder));
    *strrchr(parent, '/') = '\0';
    static const struct {
        const char *text, *wanted; /* wanted: "./" the job's folder, "../" the one above */
    } cases[] = {
        {"/x/../y", "/x/../y"},
        {"x", "./x"},
        {"./x/", "./x/"},
        {"../x", "../x"},
        {".//../x", "../x"},
        {"~/x", "/home/me/x"},
        {"~", "/home/me"},
        {"x~", "./x~"},
        {"$QUARRY_TEST_A/b", "/a/b"},
        {"${QUARRY_TEST_A}b", "/ab"},
        {"${QUARRY_UNSET:-/w}/b", "/w/b"},
        {"${QUARRY_TEST_EMPTY:-/w}", "/w"},
        {"${QUARRY_TEST_A:-/w}", "/a"},
        {"x$QUARRY_TEST_EMPTY", "./x"},
        {"/$$HOME", "/$HOME"},
        {"../../../../../../x", "/x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char job[512], wanted[QY_PATH_MAX];
        snprintf(job, sizeof job, "model: '%s'\nrun_dir: r\nquantize: {method: rtn}\n",
                 cases[i].text);
        qy_spec_t *spec = read_job(job, NULL);
        const char *rest = cases[i].wanted;
        const char *base = strncmp(rest, "../", 3) == 0 ? parent : *rest == '.' ? folder : "";
        OK(qy_path(wanted, &err, "%s%s", base, rest + strspn(rest, ".")));
        assert_string_equal(spec->model, wanted);
        free(spec);
    }
}

static void test_long_path(void **state)
{
    (void)state;
    /* By itself, behind a folder, and by what a variable holds. */
    static const char *const heads[] = {"/", "", "$QUARRY_TEST_LONG/"};
    char *text = malloc(3 * QY_PATH_MAX);
    qy_spec_t *spec = calloc(1, sizeof *spec);
    assert_true(text && spec);
    memset(text, 'x', QY_PATH_MAX);
    text[QY_PATH_MAX - 2] = '\0';
    assert_int_equal(setenv("QUARRY_TEST_LONG", text, 1), 0);
    for (int i = 0; i < 3; i++) {
        int n = snprintf(text, 3 * QY_PATH_MAX, "run_dir: r\nmodel: %s", heads[i]);
        memset(text + n, 'x', QY_PATH_MAX - 1);
        text[n + QY_PATH_MAX - 1] = '\0';
        assert_refused(heads[i], qy_spec_read(spec, write_file("job.yaml", text), NULL, 0, &err),
                       QY_ERR_FORMAT, "job.yaml:2:8|model|4095");
    }
    free(text);
    free(spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_long_path),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
