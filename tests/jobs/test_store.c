#include "jobs/store.h"
#include "tests/jobs/job_files.h"

#include <sys/stat.h>

#define TEST_TEXT TEST_DATA "/text/kjv/test.txt"

static const char job[] =
    TINY_JOB "evaluate: [{name: kjv, text: short.txt, sequence_length: 16}]\n";

static qy_plan_t *plan_of(const char *set)
{
    return make_plan(job, set, 1);
}

static int make_short(void **state)
{
    if (open_folder(state) != 0)
        return -1;
    write_file("short.txt", "In the beginning God created the heaven and the earth. And the earth "
                            "was without form, and void; and darkness was upon the face of the "
                            "deep. And the Spirit of God moved upon the face of the waters.\n");
    return 0;
}

static void assert_path(qy_status_t status, const char *path, const char *wanted)
{
    OK(status);
    assert_string_equal(path, path_of(wanted));
}

static void test_names(void **state)
{
    (void)state;
    char p[QY_PATH_MAX];
    qy_plan_t *plan = plan_of(NULL);
    assert_path(qy_store_tokens(p, plan, "kjv", &err), p, "run/tokens/kjv.h5");
    assert_path(qy_store_capture(p, plan, 3, 12, &err), p, "run/segments/03/12.h5");
    assert_path(qy_store_capture(p, plan, 100, 1, &err), p, "run/segments/100/01.h5");
    assert_path(qy_store_teacher(p, plan, 7, &err), p, "run/segments/teacher/07.h5");
    assert_path(qy_store_block(p, plan, 5, &err), p, "run/blocks/005.h5");
    assert_path(qy_store_block(p, plan, 1234, &err), p, "run/blocks/1234.h5");
    assert_path(qy_store_model(p, plan, &err), p, "run/model/model.h5");
    assert_path(qy_store_e2e(p, plan, 42, 6, &err), p, "run/e2e/step-00042/006.h5");
    assert_path(qy_store_ledger(p, plan, &err), p, "run/ledger.jsonl");
    assert_path(qy_store_metrics(p, plan, &err), p, "run/metrics.jsonl");
    qy_plan_destroy(&plan);
}

static void test_prepare(void **state)
{
    (void)state;
    qy_plan_t *plan = plan_of("run_dir=$FOLDER/one");
    OK(qy_store_prepare(plan, &err));
    OK(qy_store_prepare(plan, &err));
    assert_true(qy_is_dir(path_of("one/tokens")) && qy_is_dir(path_of("one/blocks")) &&
                qy_is_dir(path_of("one/model")) && qy_is_dir(path_of("one/logs")));
    assert_false(qy_file_exists(path_of("one/segments")) || qy_file_exists(path_of("one/e2e")));
    qy_plan_destroy(&plan);
    qy_spec_t *spec = read_job(TINY_JOB "e2e_qp: {batch_size: 4, loss: distill}\n"
                                        "quantize: {segments: 3}\n",
                               "run_dir=$FOLDER/three");
    OK(qy_plan_make(&plan, spec, 1, &err));
    OK(qy_store_prepare(plan, &err));
    assert_true(qy_is_dir(path_of("three/segments/01")) &&
                qy_is_dir(path_of("three/segments/02")) &&
                qy_is_dir(path_of("three/segments/teacher")) && qy_is_dir(path_of("three/e2e")));
    assert_false(qy_file_exists(path_of("three/segments/00")));
    free(spec);
    qy_plan_destroy(&plan);
}

/* --- marks ------------------------------------------------------------------------------------ */

static void write_marked(const char *path, const qy_plan_t *plan, const char *kind)
{
    int32_t numbers[] = {1, 2, 3};
    const qy_tensor_t t = qy_tensor_1d(numbers, QY_I32, 3);
    qy_h5_t *file = NULL;
    OK(qy_h5_create(&file, path, &err));
    OK(qy_store_mark(file, plan, kind, &err));
    OK(qy_h5_write(file, "numbers", &t, &err));
    OK(qy_h5_commit(&file, &err));
    qy_h5_close(&file);
}

static void refuse(const char *path, const qy_plan_t *plan, const char *kind, qy_status_t wanted,
                   const char *words)
{
    qy_h5_t *file = NULL;
    assert_refused(words, qy_store_open(&file, path, plan, kind, &err), wanted, words);
    assert_null(file);
    qy_error_t why;
    assert_int_equal(qy_store_has(path, plan, kind, &why), 0);
    assert_string_equal(why.text, err.text);
    assert_int_equal(qy_store_has(path, plan, kind, NULL), 0);
}

static void test_marks(void **state)
{
    (void)state;
    qy_plan_t *plan = plan_of(NULL), *other = plan_of("seed=3");
    char path[QY_PATH_MAX];
    OK(qy_path(path, &err, "%s", path_of("marked.h5")));
    refuse(path, plan, "block", QY_ERR_IO, "marked.h5");
    write_marked(path, plan, "block");
    qy_h5_t *file = NULL;
    OK(qy_store_open(&file, path, plan, "block", &err));
    qy_h5_close(&file);
    assert_int_equal(qy_store_has(path, plan, "block", NULL), 1);
    refuse(path, other, "block", QY_ERR_FORMAT, "another plan");
    refuse(path, plan, "tokens", QY_ERR_FORMAT, "\"block\", not \"tokens\"");

    OK(qy_h5_create(&file, path, &err)); /* another version */
    OK(qy_h5_set_i64(file, "schema_version", 99, &err));
    OK(qy_h5_commit(&file, &err));
    qy_h5_close(&file);
    refuse(path, plan, "block", QY_ERR_FORMAT, "version 99");
    OK(qy_h5_create(&file, path, &err)); /* no marks */
    OK(qy_h5_commit(&file, &err));
    qy_h5_close(&file);
    refuse(path, plan, "block", QY_ERR_FORMAT, "schema_version");

    write_marked(path, plan, "block"); /* torn */
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size / 2), 0);
    refuse(path, plan, "block", QY_ERR_FORMAT, "marked.h5");
    write_file("marked.h5", "no HDF5 at all");
    refuse(path, plan, "block", QY_ERR_FORMAT, "marked.h5");
    qy_plan_destroy(&plan);
    qy_plan_destroy(&other);
}

static void test_e2e_last(void **state)
{
    (void)state;
    qy_spec_t *spec = read_job(TINY_JOB "e2e_qp: {batch_size: 1}\n", "run_dir=$FOLDER/steps");
    qy_plan_t *plan = NULL;
    char path[QY_PATH_MAX];
    OK(qy_plan_make(&plan, spec, 1, &err));
    free(spec);
    assert_int_equal(plan->e2e.steps, 8);
    assert_int_equal(qy_store_e2e_last(plan, &err), -1);
    static const int64_t steps[] = {2, 4, 6, 9}; /* the last is past the plan's end */
    for (int i = 0; i < 4; i++)
        for (int64_t block = 0; block < plan->arch.n_blocks; block++) {
            OK(qy_store_e2e(path, plan, steps[i], block, &err));
            *strrchr(path, '/') = '\0';
            OK(qy_make_dirs(path, &err));
            OK(qy_store_e2e(path, plan, steps[i], block, &err));
            write_marked(path, plan, "e2e");
        }
    OK(qy_make_dirs(path_of("steps/e2e/step-x"), &err));
    OK(qy_make_dirs(path_of("steps/e2e/step-00008"), &err)); /* empty */
    assert_int_equal(qy_store_e2e_last(plan, &err), 6);
    OK(qy_store_e2e(path, plan, 6, 3, &err));
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(qy_store_e2e_last(plan, &err), 4);
    OK(qy_store_e2e(path, plan, 4, 5, &err));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(qy_store_e2e_last(plan, &err), 2);
    qy_plan_destroy(&plan);
}

/* --- tokens ----------------------------------------------------------------------------------- */

static int32_t *read_tokens(const qy_plan_t *plan, const char *name, int64_t n, int64_t length)
{
    int32_t *ids = NULL;
    int64_t got_n = 0, got_length = 0;
    OK(qy_store_read_tokens(&ids, &got_n, &got_length, plan, name, &err));
    assert_int_equal(got_n, n);
    assert_int_equal(got_length, length);
    return ids;
}

/* The tokens of a text, each document's: what windows must be cut from. */
static qy_text_t text_of(const char *path)
{
    qy_text_t text;
    qy_tokenizer_t *tokenizer = NULL;
    OK(qy_tokenizer_open(&tokenizer, TINY, &err));
    OK(qy_text_read(&text, path, tokenizer, QY_TEXT_JOIN, &err));
    qy_tokenizer_close(&tokenizer);
    return text;
}

static void test_calibration_windows(void **state)
{
    (void)state;
    qy_plan_t *plan = plan_of(NULL);
    OK(qy_store_make_tokens(plan, &err));
    int32_t *ids = read_tokens(plan, "calibration", 10, 32), *train, *held;
    qy_text_t text = text_of(TEST_TEXT);
    OK(qy_text_windows(&train, &text, QY_SAMPLING_STREAM, 8, 32, false, 2, QY_PHASE_CALIBRATION,
                       &err));
    OK(qy_text_windows(&held, &text, QY_SAMPLING_STREAM, 2, 32, true, 2, QY_PHASE_VALIDATION,
                       &err));
    assert_memory_equal(ids, train, 8 * 32 * sizeof *ids);
    assert_memory_equal(ids + 8 * 32, held, 2 * 32 * sizeof *ids);
    free(ids);
    free(train);
    free(held);
    qy_text_free(&text);
    assert_false(qy_file_exists(path_of("run/tokens/e2e.h5")));
    int32_t *none = NULL;
    int64_t n, length;
    assert_int_equal(qy_store_read_tokens(&none, &n, &length, plan, "e2e", &err), QY_ERR_IO);
    qy_plan_destroy(&plan);
}

static void test_evaluation_windows(void **state)
{
    (void)state;
    qy_plan_t *plan = plan_of(NULL);
    qy_text_t text = text_of(path_of("short.txt"));
    OK(qy_store_make_tokens(plan, &err));
    int64_t n = text.n / 16;
    assert_true(n >= 2);
    int32_t *ids = read_tokens(plan, "kjv", n, 16);
    assert_memory_equal(ids, text.ids, (size_t)n * 16 * sizeof *ids); /* the rest is dropped */
    free(ids);
    qy_text_free(&text);
    qy_plan_destroy(&plan);
}

/* The tiny model with a tokenizer that puts 12 tokens in front of a text. */
static void make_prefixed(void)
{
    static const char none[] = "\"post_processor\": null";
    static const char *const names[] = {"config.json", "model.safetensors"};
    char *tokenizer = NULL, to[QY_PATH_MAX], from[QY_PATH_MAX];
    size_t bytes;
    OK(qy_make_dirs(path_of("prefixed"), &err));
    for (int i = 0; i < 2; i++) {
        OK(qy_path(to, &err, "%s/%s", path_of("prefixed"), names[i]));
        OK(qy_path(from, &err, TINY "/%s", names[i]));
        assert_int_equal(symlink(from, to), 0);
    }
    OK(qy_file_read(TINY "/tokenizer.json", 1 << 24, &tokenizer, &bytes, &err));
    char *at = strstr(tokenizer, none);
    assert_non_null(at);
    FILE *file = fopen(path_of("prefixed/tokenizer.json"), "w");
    assert_non_null(file);
    fprintf(file, "%.*s\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [",
            (int)(at - tokenizer), tokenizer);
    for (int i = 0; i < 12; i++)
        fputs("{\"SpecialToken\": {\"id\": \"<s>\"}}, ", file);
    fprintf(file,
            "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"<s>\": {\"ids\": [0]}}}%s",
            at + strlen(none));
    assert_int_equal(fclose(file), 0);
    free(tokenizer);
}

/* What stands in front of a text may be longer than the one window that the text fills. */
static void test_long_prefix(void **state)
{
    (void)state;
    make_prefixed();
    write_file("one.txt", " children of");
    const char *const sets[] = {
        "model=$FOLDER/prefixed", "run_dir=$FOLDER/long",
        "evaluate=[{name: one, text: $FOLDER/one.txt, sequence_length: 8}]"};
    qy_spec_t *spec = malloc(sizeof *spec);
    qy_plan_t *plan = NULL;
    assert_non_null(spec);
    OK(qy_spec_read(spec, write_file("job.yaml", job), sets, 3, &err));
    OK(qy_plan_make(&plan, spec, 1, &err));
    free(spec);
    OK(qy_store_make_tokens(plan, &err));
    int32_t *ids = read_tokens(plan, "one", 1, 8);
    for (int i = 0; i < 8; i++)
        assert_int_equal(ids[i], 0);
    free(ids);
    qy_plan_destroy(&plan);
}

/* The first windows of e2e are the calibration's where texts agree by content and lengths agree. */
static void test_e2e_windows(void **state)
{
    (void)state;
    static const struct {
        const char *name, *set;
        int64_t n, length;
        bool same;
    } cases[] = {
        {"run-a", "e2e_qp={batch_size: 2}", 8, 32, true},
        {"run-b", "e2e_qp={batch_size: 2, samples: 12}", 12, 32, true},
        {"run-c", "e2e_qp={batch_size: 2, text: $FOLDER/copy.txt}", 8, 32, true},
        {"run-d", "e2e_qp={batch_size: 2, sequence_length: 33}", 8, 33, false},
        {"run-e", "e2e_qp={batch_size: 2, text: $FOLDER/other.txt}", 8, 32, false},
    };
    char *text = NULL, run[64];
    size_t bytes;
    OK(qy_file_read(TEST_TEXT, 1 << 24, &text, &bytes, &err));
    OK(qy_file_write(path_of("copy.txt"), text, bytes, &err));
    OK(qy_file_write(path_of("other.txt"), text, bytes - 1, &err));
    free(text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(run, sizeof run, "run_dir=$FOLDER/%s", cases[i].name);
        const char *const sets[] = {cases[i].set, run};
        qy_spec_t *spec = malloc(sizeof *spec);
        qy_plan_t *plan = NULL;
        assert_non_null(spec);
        OK(qy_spec_read(spec, write_file("job.yaml", job), sets, 2, &err));
        OK(qy_plan_make(&plan, spec, 1, &err));
        free(spec);
        OK(qy_store_make_tokens(plan, &err));
        int32_t *calibration = read_tokens(plan, "calibration", 10, 32);
        int32_t *e2e = read_tokens(plan, "e2e", cases[i].n, cases[i].length);
        bool same = memcmp(calibration, e2e, 8 * 32 * sizeof *e2e) == 0;
        if (same != cases[i].same)
            fail_msg("%s: windows are %s", cases[i].set, same ? "the same" : "others");
        free(calibration);
        free(e2e);
        qy_plan_destroy(&plan);
    }
}

static struct stat stat_of(const char *name)
{
    struct stat st;
    assert_int_equal(stat(path_of(name), &st), 0);
    return st;
}

/* What is there is kept; what is torn, foreign or of another text is made again. */
static void test_kept_and_redone(void **state)
{
    (void)state;
    qy_plan_t *plan = plan_of(NULL), *other = plan_of("seed=5");
    qy_plan_t *longer = plan_of("evaluate.0.text=" TEST_TEXT);
    OK(qy_store_make_tokens(plan, &err));
    struct stat calibration = stat_of("run/tokens/calibration.h5");
    struct stat kjv = stat_of("run/tokens/kjv.h5");
    OK(qy_store_make_tokens(plan, &err));
    assert_int_equal(stat_of("run/tokens/calibration.h5").st_ino, calibration.st_ino);
    assert_int_equal(stat_of("run/tokens/kjv.h5").st_ino, kjv.st_ino);

    assert_string_equal(plan->hash, longer->hash);
    int32_t *ids = NULL;
    int64_t n, length;
    assert_refused("old text", qy_store_read_tokens(&ids, &n, &length, longer, "kjv", &err),
                   QY_ERR_DAMAGED, "another text");
    OK(qy_store_make_tokens(longer, &err));
    assert_int_equal(stat_of("run/tokens/calibration.h5").st_ino, calibration.st_ino);
    OK(qy_store_read_tokens(&ids, &n, &length, longer, "kjv", &err));
    assert_true(n > 100);
    free(ids);

    assert_int_equal(truncate(path_of("run/tokens/calibration.h5"), 1000), 0);
    OK(qy_store_make_tokens(plan, &err));
    free(read_tokens(plan, "calibration", 10, 32));
    OK(qy_store_make_tokens(other, &err));
    free(read_tokens(other, "calibration", 10, 32));
    assert_refused("foreign", qy_store_read_tokens(&ids, &n, &length, plan, "calibration", &err),
                   QY_ERR_DAMAGED, "another plan");
    qy_plan_destroy(&plan);
    qy_plan_destroy(&other);
    qy_plan_destroy(&longer);
}

static void write_ids(const qy_plan_t *plan, qy_dtype_t dtype, int n_dims, int32_t last)
{
    char path[QY_PATH_MAX];
    qy_h5_t *file = NULL;
    int32_t ids[4] = {0, 1, 2, last};
    const qy_tensor_t t = qy_tensor_view(ids, dtype, n_dims, (int64_t[]){2, 2});
    OK(qy_store_tokens(path, plan, "calibration", &err));
    OK(qy_h5_create(&file, path, &err));
    OK(qy_store_mark(file, plan, "tokens", &err));
    OK(qy_h5_write(file, "ids", &t, &err));
    OK(qy_h5_commit(&file, &err));
    qy_h5_close(&file);
}

/* A token file with the right marks and bad contents. */
static void test_bad_ids(void **state)
{
    (void)state;
    qy_plan_t *plan = plan_of(NULL);
    int32_t *ids = NULL;
    int64_t n, length;
    OK(qy_store_prepare(plan, &err));
    write_ids(plan, QY_I32, 2, 2047);
    free(read_tokens(plan, "calibration", 2, 2));
    static const struct {
        qy_dtype_t dtype;
        int n_dims;
        int32_t last;
        const char *words;
    } cases[] = {{QY_I32, 2, 2048, "token 2048|vocabulary has 2048"},
                 {QY_I32, 2, -1, "token -1"},
                 {QY_I32, 1, 0, "no table"},
                 {QY_F32, 2, 0, "no table"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_ids(plan, cases[i].dtype, cases[i].n_dims, cases[i].last);
        assert_refused(cases[i].words,
                       qy_store_read_tokens(&ids, &n, &length, plan, "calibration", &err),
                       QY_ERR_DAMAGED, cases[i].words);
        assert_null(ids);
    }
    OK(qy_remove_tree(path_of("run/tokens"), &err));
    qy_plan_destroy(&plan);
}

/* Token ids as NumPy saves them: 3 rows of 2, the last one given. */
static void write_npy(const char *name, int32_t last)
{
    char bytes[10 + 118 + 24];
    memcpy(bytes, "\x93NUMPY\x01\x00\x76\x00", 10);
    snprintf(bytes + 10, sizeof bytes - 10, "%-117s\n",
             "{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }");
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 4; k++)
            bytes[128 + 4 * i + k] = (char)((i < 5 ? i : last) >> (8 * k));
    OK(qy_file_write(path_of(name), bytes, sizeof bytes, &err));
}

/* Texts that turn out too short, or of another vocabulary, when their tokens are there. */
static void test_texts_refused(void **state)
{
    (void)state;
    write_npy("ok.npy", 2047);
    write_npy("large.npy", 2303);
    static const struct {
        const char *set;
        qy_status_t status;
        const char *words;
    } cases[] = {
        {"calibration={text: $FOLDER/ok.npy, samples: 2, sequence_length: 2, validation_samples: "
         "1}",
         QY_OK, ""},
        {"calibration={text: $FOLDER/large.npy, samples: 2, sequence_length: 2, "
         "validation_samples: 0}",
         QY_ERR_FORMAT, "large.npy|token 2303|2048"},
        {"evaluate.0={name: kjv, text: $FOLDER/short.txt, sequence_length: 128}", QY_ERR_FORMAT,
         "evaluate kjv|short.txt|less than one window of 128"},
        {"calibration={text: $FOLDER/short.txt, samples: 2, sequence_length: 128}", QY_ERR_FORMAT,
         "short.txt|128"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_plan_t *plan = plan_of(cases[i].set);
        qy_status_t status = qy_store_make_tokens(plan, &err);
        if (cases[i].status == QY_OK)
            OK(status);
        else
            assert_refused(cases[i].set, status, cases[i].status, cases[i].words);
        qy_plan_destroy(&plan);
    }
    /* Token ids that are others by now than those that were planned with. */
    qy_plan_t *plan = plan_of("calibration={text: " TEST_TEXT ", samples: 2, sequence_length: 2, "
                              "validation_samples: 2}");
    OK(qy_path(plan->spec.calibration.text, &err, "%s", path_of("ok.npy")));
    assert_refused("rows", qy_store_make_tokens(plan, &err), QY_ERR_FORMAT, "ok.npy|3 rows|4");
    qy_plan_destroy(&plan);
    plan = plan_of(NULL);
    OK(qy_path(plan->spec.evaluate[0].text, &err, "%s", path_of("ok.npy")));
    assert_refused("columns", qy_store_make_tokens(plan, &err), QY_ERR_FORMAT,
                   "ok.npy|rows of 2|windows of 16");
    qy_plan_destroy(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_prepare),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_e2e_last),
        cmocka_unit_test(test_calibration_windows),
        cmocka_unit_test(test_evaluation_windows),
        cmocka_unit_test(test_long_prefix),
        cmocka_unit_test(test_e2e_windows),
        cmocka_unit_test(test_kept_and_redone),
        cmocka_unit_test(test_bad_ids),
        cmocka_unit_test(test_texts_refused),
    };
    return cmocka_run_group_tests(tests, make_short, close_folder);
}
