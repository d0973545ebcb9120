#include "jobs/yaml.h"
#include "tests/jobs/job_files.h"

static qy_yaml_t *parse(const char *text)
{
    qy_yaml_t *root = NULL;
    OK(qy_yaml_parse(&root, text, strlen(text), "job.yaml", &err));
    return root;
}

static void test_nodes(void **state)
{
    (void)state;
    qy_yaml_t *root = parse("# a comment\n"
                            "a: 1\n"
                            "b:\n"
                            "  - x\n"
                            "  - {y: \"2\", z: 'it''s'}\n"
                            "c:   {}\n");
    assert_int_equal(root->kind, QY_YAML_MAP);
    assert_int_equal(root->n, 3);
    const qy_yaml_t *a = qy_yaml_get(root, "a"), *b = qy_yaml_get(root, "b");
    assert_string_equal(a->text, "1");
    assert_false(a->quoted);
    assert_int_equal(a->line, 2);
    assert_int_equal(a->column, 4);
    assert_string_equal(a->file, "job.yaml");
    assert_int_equal(b->kind, QY_YAML_LIST);
    assert_int_equal(b->n, 2);
    const qy_yaml_t *y = qy_yaml_get(b->items[1], "y"), *z = qy_yaml_get(b->items[1], "z");
    assert_string_equal(y->text, "2");
    assert_true(y->quoted);
    assert_int_equal(y->line, 5);
    assert_int_equal(y->column, 9);
    assert_string_equal(z->text, "it's");
    assert_int_equal(qy_yaml_get(root, "c")->kind, QY_YAML_MAP);
    assert_null(qy_yaml_get(root, "d"));
    assert_null(qy_yaml_get(a, "d"));
    assert_int_equal(qy_yaml_fail(y, &err, "bad %d", 7), QY_ERR_FORMAT);
    assert_string_equal(err.text, "job.yaml:5:9: bad 7");
    qy_yaml_destroy(&root);
    assert_null(root);
}

static void test_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "job.yaml:1:1|empty"},
        {"# nothing\n", "empty"},
        {"a: 1\n\tb: 2\n", "job.yaml:2:1|tab"},
        {"a:\n  \tb: 2\n", "job.yaml:2:3|tab"},
        {"a: 1\nb: 2\na: 3\n", "job.yaml:3:1|duplicate key \"a\"|line 1"},
        {"a: {b: 1, c: 2, b: 3}\n", "job.yaml:1:17|\"b\""},
        {"a: [1, 2\n", "job.yaml:2"},
        {"a: {b: 1\n", "job.yaml:2"},
        {"a: 'b\n", "job.yaml:"},
        {"a: b: c\n", "job.yaml:1"},
        {"- a\nb: c\n", "job.yaml:2"},
        {"a: &x 1\n", "job.yaml:1:4|anchors"},
        {"a: *x\n", "job.yaml:1:4|aliases"},
        {"a: !!str 1\n", "tags"},
        {"a: !!python/object:os.system [x]\n", "tags"},
        {"a: &x {b: 1}\nc: {<<: *x}\n", "anchors"},
        {"a: 1\n---\nb: 2\n", "job.yaml:2|second document"},
        {"? [1, 2]\n: 3\n", "job.yaml:1|key"},
        {"a: \"x\\0y\"\n", "NUL"},
        {"a: \xff\xfe\n", "job.yaml:1|byte 3"},
        {"%YAML 9.9\n---\na: 1\n", "job.yaml:1"},
        {"\"a\\nb\": 1\n\"a\\nb\": 2\n", "duplicate key \"a?b\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_yaml_t *root = NULL;
        qy_status_t status =
            qy_yaml_parse(&root, cases[i].text, strlen(cases[i].text), "job.yaml", &err);
        assert_refused(cases[i].text, status, QY_ERR_FORMAT, cases[i].words);
        assert_null(root);
    }
}

/* n times head, then n times tail. */
static char *repeated(size_t n, const char *head, const char *tail)
{
    size_t a = strlen(head), b = strlen(tail);
    char *text = malloc(n * (a + b) + 1);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        memcpy(text + i * a, head, a);
    for (size_t i = 0; i < n; i++)
        memcpy(text + n * a + i * b, tail, b);
    text[n * (a + b)] = '\0';
    return text;
}

static void refuse_text(char *text, const char *words)
{
    qy_yaml_t *root = NULL;
    assert_refused(words, qy_yaml_parse(&root, text, strlen(text), "job.yaml", &err), QY_ERR_FORMAT,
                   words);
    free(text);
}

static void test_limits(void **state)
{
    (void)state;
    char *text = repeated(64, "[", "]");
    qy_yaml_t *root = parse(text);
    qy_yaml_destroy(&root);
    free(text);
    refuse_text(repeated(65, "[", "]"), "nested deeper than 64");
    refuse_text(repeated(100000, "[", "]"), "nested deeper than 64");
    refuse_text(repeated(100000, "- 1\n", ""), "more than 100000 nodes");
    char *large = repeated((1 << 20) + 1, "#", "");
    const char *path = write_file("large.yaml", large);
    free(large);
    assert_refused("large file", qy_yaml_read(&root, path, &err), QY_ERR_FORMAT, "large.yaml");
    assert_refused("no file", qy_yaml_read(&root, path_of("none.yaml"), &err), QY_ERR_IO,
                   "none.yaml");
    /* Many keys of one map must not take quadratic time: this is under a second. */
    text = malloc(49000 * 16);
    assert_non_null(text);
    size_t n = 0;
    for (int i = 0; i < 49000; i++)
        n += (size_t)sprintf(text + n, "k%06d: 1\n", i);
    root = parse(text);
    assert_int_equal(root->n, 49000);
    qy_yaml_destroy(&root);
    free(text);
}

static void replace(qy_yaml_t **root, const char *path, const char *value)
{
    OK(qy_yaml_replace(root, path, parse(value), &err));
}

static void test_replace(void **state)
{
    (void)state;
    qy_yaml_t *root = parse("a: {b: 1}\nl: [{x: 1}, {x: 2}]\n");
    replace(&root, "a.b", "2");
    assert_string_equal(qy_yaml_get(qy_yaml_get(root, "a"), "b")->text, "2");
    replace(&root, "a.b", "{c: 3}");
    replace(&root, "a.b.c", "4");
    assert_string_equal(qy_yaml_get(qy_yaml_get(qy_yaml_get(root, "a"), "b"), "c")->text, "4");
    replace(&root, "l.1.x", "5");
    assert_string_equal(qy_yaml_get(qy_yaml_get(root, "l")->items[1], "x")->text, "5");
    replace(&root, "n.e.w", "6");
    assert_string_equal(qy_yaml_get(qy_yaml_get(qy_yaml_get(root, "n"), "e"), "w")->text, "6");
    replace(&root, "l", "[]");
    assert_int_equal(qy_yaml_get(root, "l")->n, 0);

    static const char *const refused[][2] = {
        {"l.0", "no l.0|0 items"}, {"n.e.w.x", "n.e.w.x stands inside"},
        {"a..b", "empty part"},    {"l.x", "no l.x"},
        {"l.-1", "no l.-1"},       {"", "empty part"}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_refused(refused[i][0], qy_yaml_replace(&root, refused[i][0], parse("1"), &err),
                       QY_ERR_ARG, refused[i][1]);
    char *deep = repeated(65, "a.", "");
    deep[strlen(deep) - 1] = '\0';
    assert_refused("deep", qy_yaml_replace(&root, deep, parse("1"), &err), QY_ERR_ARG, "64");
    free(deep);
    qy_yaml_destroy(&root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_replace),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
