#include "jobs/digest.h"
#include "model/gguf.h"
#include "tests/jobs/job_files.h"

#include <sys/stat.h>

/* --- the hash --------------------------------------------------------------------------------- */

static void copy_file(const char *from, const char *to)
{
    char *text = NULL;
    size_t bytes;
    OK(qy_file_read(from, 64 << 20, &text, &bytes, &err));
    OK(qy_file_write(to, text, bytes, &err));
    free(text);
}

/* One byte of a file, counted from its end where at < 0, becomes another one. */
static void touch_byte(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, -1, SEEK_CUR), 0);
    assert_int_equal(fputc(byte ^ 1, file), byte ^ 1);
    assert_int_equal(fclose(file), 0);
}

static void copy_model(void)
{
    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    assert_int_equal(mkdir(path_of("model"), 0777) == 0 || qy_is_dir(path_of("model")), 1);
    for (int i = 0; i < 3; i++) {
        char from[QY_PATH_MAX], to[QY_PATH_MAX];
        OK(qy_path(from, &err, TINY "/%s", names[i]));
        OK(qy_path(to, &err, "%s/%s", path_of("model"), names[i]));
        copy_file(from, to);
    }
}

static const char job[] = "model: model\nrun_dir: run\n"
                          "calibration: {text: text.txt, samples: 8, sequence_length: 32}\n"
                          "quantize: {segments: 2}\n"
                          "evaluate: [{name: kjv, text: text.txt, sequence_length: 32}]\n";

static void get_hash(const char *set, char out[65], char evaluation[65])
{
    qy_plan_t *plan = make_plan(job, set, 1);
    memcpy(out, plan->hash, 65);
    memcpy(evaluation, plan->eval_digest[0], 65);
    qy_plan_destroy(&plan);
}

static void test_hash_keys(void **state)
{
    (void)state;
    char first[65], other[65], first_evaluation[65], evaluation[65];
    copy_model();
    copy_file(TEST_DATA "/text/kjv/test.txt", path_of("text.txt"));
    copy_file(TEST_DATA "/text/kjv/test.txt", path_of("copy.txt"));
    get_hash(NULL, first, first_evaluation);
    static const char *const same[] = {
        "resources={device: cpu, threads: 3, host_cache: 1GiB, worker_timeout: 5}",
        "run_dir=$FOLDER/elsewhere",
        "checkpoint.minutes=1",
        "export=[gptq]",
        "evaluate=[]",
        "model=" TINY, /* the same content at another place */
        "calibration.text=$FOLDER/copy.txt",
        "rtn.init=min-max", /* of a method that is not used */
        "e2e_qp={epochs: 0, loss: distill}",
        "block_ap={epochs: 2}",
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        get_hash(same[i], other, evaluation);
        if (strcmp(first, other) != 0)
            fail_msg("%s changes the hash", same[i]);
    }
    static const char *const changed[] = {
        "seed=3",
        "calibration.samples=9",
        "calibration.sequence_length=33",
        "calibration.validation_samples=63",
        "calibration.sampling=documents",
        "calibration.text=" TEST_DATA "/text/kjv/train.txt",
        "model=" TEST_DATA "/models/tiny-opt-kjv",
        "quantize.weights={bits: 3}",
        "quantize.weights={group_size: 32}",
        "quantize.weights={symmetric: true}",
        "quantize.method=rtn",
        "quantize.segments=3",
        "block_ap={init: min-max}",
        "block_ap={epochs: 3}",
        "block_ap={batch_size: 4}",
        "block_ap={lr_unit: absolute}",
        "block_ap={weight_lr: 1e-3}",
        "block_ap={shuffle: false}",
        "e2e_qp={batch_size: 4}",
        "e2e_qp={batch_size: 4, loss: distill}",
        "e2e_qp={batch_size: 4, samples: 7}",
    };
    char seen[sizeof changed / sizeof *changed + 1][65];
    memcpy(seen[0], first, 65);
    for (size_t i = 0; i < sizeof changed / sizeof *changed; i++) {
        get_hash(changed[i], seen[i + 1], evaluation);
        for (size_t k = 0; k <= i; k++)
            if (strcmp(seen[k], seen[i + 1]) == 0)
                fail_msg("%s does not change the hash", changed[i]);
    }
    /* What follows other keys counts as what it comes to. */
    get_hash("e2e_qp={batch_size: 4, samples: 8, sequence_length: 32, text: $FOLDER/copy.txt}",
             other, evaluation);
    assert_string_equal(other, seen[19]);
}

static void test_hash_content(void **state)
{
    (void)state;
    char first[65], first_evaluation[65], other[65], evaluation[65];
    static const struct {
        const char *file;
        long at;
        bool hash, evaluation;
    } cases[] = {
        {"model/model.safetensors", -1, true, false},
        {"model/model.safetensors", 4000000, true, false},
        {"text.txt", 1000, true, true},
        {"eval.txt", 1000, false, true},
    };
    copy_file(TEST_DATA "/text/kjv/test.txt", path_of("eval.txt"));
    const char *set = "evaluate.0.text=$FOLDER/eval.txt";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool own = strcmp(cases[i].file, "eval.txt") == 0;
        get_hash(own ? set : NULL, first, first_evaluation);
        touch_byte(path_of(cases[i].file), cases[i].at);
        get_hash(own ? set : NULL, other, evaluation);
        touch_byte(path_of(cases[i].file), cases[i].at);
        assert_int_equal(strcmp(first, other) != 0, cases[i].hash);
        assert_int_equal(strcmp(first_evaluation, evaluation) != 0, cases[i].evaluation);
    }
    get_hash(NULL, first, first_evaluation);
    get_hash("evaluate.0.sequence_length=64", other, evaluation);
    assert_string_equal(first, other);
    assert_string_not_equal(first_evaluation, evaluation);
    char path[QY_PATH_MAX];
    OK(qy_path(path, &err, "%s/tokenizer.json", path_of("model")));
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    fputs("\n", file);
    fclose(file);
    get_hash(NULL, other, evaluation);
    assert_string_not_equal(first, other);
    assert_string_not_equal(first_evaluation, evaluation);
}

/* A shard too large to count whole: every 4096th page of the data and the last one count. */
static void test_large_shard(void **state)
{
    (void)state;
    const uint64_t size = 80LL << 20, stride = 16LL << 20;
    static const char header[] = "{\"t\":{\"dtype\":\"U8\",\"shape\":[83886080],"
                                 "\"data_offsets\":[0,83886080]}}";
    uint64_t n = strlen(header);
    assert_int_equal(mkdir(path_of("large"), 0777), 0);
    write_file("large/config.json", "{}");
    const char *path = path_of("large/model.safetensors");
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    unsigned char length[8] = {(unsigned char)n};
    assert_int_equal(fwrite(length, 1, 8, file), 8);
    assert_int_equal(fwrite(header, 1, n, file), n);
    assert_int_equal(ftruncate(fileno(file), (off_t)(8 + n + size)), 0);
    fclose(file);

    const struct {
        uint64_t at; /* in the data */
        bool counts;
    } cases[] = {{0, true},           {4095, true},           {4096, false},
                 {stride, true},      {stride + 5000, false}, {4 * stride + 4095, true},
                 {size - 4096, true}, {size - 1, true},       {size - 4097, false}};
    qy_model_t model;
    memset(&model, 0, sizeof model);
    OK(qy_path(model.dir, &err, "%s", path_of("large")));
    OK(qy_st_open(&model.tensors, model.dir, &err));
    char first[65], other[65];
    OK(qy_digest_model(&model, first, &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        touch_byte(path, (long)(8 + n + cases[i].at));
        OK(qy_digest_model(&model, other, &err));
        touch_byte(path, (long)(8 + n + cases[i].at));
        if ((strcmp(first, other) != 0) != cases[i].counts)
            fail_msg("byte %lld of the data: %d", (long long)cases[i].at, !cases[i].counts);
    }
    qy_st_close(&model.tensors);
}

/* All that the tokens of a pair of files depend on; where tokenizer.json is there, that alone. */
static void test_digest_of_pair(void **state)
{
    (void)state;
    char first[65], other[65];
    static const char *const files[] = {"pair/vocab.json", "pair/merges.txt",
                                        "pair/tokenizer_config.json"};
    assert_int_equal(mkdir(path_of("pair"), 0777), 0);
    write_file(files[0], "{\"a\":0,\"b\":1,\"ab\":2}");
    write_file(files[1], "#version: 0.2\na b\n");
    write_file(files[2], "{\"add_bos_token\": true, \"bos_token\": \"b\"}");
    OK(qy_digest_tokenizer(path_of("pair"), first, &err));
    for (int i = 0; i < 3; i++) {
        touch_byte(path_of(files[i]), 5);
        OK(qy_digest_tokenizer(path_of("pair"), other, &err));
        touch_byte(path_of(files[i]), 5);
        if (strcmp(first, other) == 0)
            fail_msg("%s does not count", files[i]);
    }
    write_file("pair/tokenizer.json", "{}");
    OK(qy_digest_tokenizer(path_of("pair"), first, &err));
    touch_byte(path_of(files[2]), 5);
    OK(qy_digest_tokenizer(path_of("pair"), other, &err));
    assert_string_equal(first, other);
}

/* Of a GGUF file the header (configuration, tokenizer) and the data count. */
static void test_digest_of_gguf(void **state)
{
    (void)state;
    char *bytes, first[65], tokens[65], other[65];
    size_t n;
    OK(qy_file_read(TEST_GOLDEN "/gguf/qwen3.gguf", 1 << 20, &bytes, &n, &err));
    const char *path = path_of("x.gguf");
    OK(qy_file_write(path, bytes, n, &err));
    free(bytes);
    qy_model_t *model;
    OK(qy_model_open(&model, path, &err));
    OK(qy_digest_model(model, first, &err));
    OK(qy_digest_tokenizer(path, tokens, &err));
    touch_byte(path, -1); /* the data's last */
    OK(qy_digest_model(model, other, &err));
    assert_string_not_equal(first, other);
    OK(qy_digest_tokenizer(path, other, &err));
    assert_string_equal(tokens, other);
    touch_byte(path, -1);
    OK(qy_digest_model(model, other, &err));
    assert_string_equal(first, other);
    qy_gguf_t *gguf;
    OK(qy_gguf_open(&gguf, path, &err));
    const qy_gguf_value_t *chat = qy_gguf_find(gguf, "tokenizer.chat_template");
    long letter = (long)(chat->data - gguf->bytes) + 12;
    qy_gguf_close(&gguf);
    touch_byte(path, letter);
    OK(qy_digest_model(model, other, &err));
    assert_string_not_equal(first, other);
    OK(qy_digest_tokenizer(path, other, &err));
    assert_string_not_equal(tokens, other);
    qy_model_close(&model);
}

/* --- the run directory ------------------------------------------------------------------------ */

static char *contents(const char *name)
{
    char *text = NULL;
    size_t bytes;
    OK(qy_file_read(path_of(name), 1 << 20, &text, &bytes, &err));
    return text;
}

static void assert_same_plan(const qy_plan_t *a, const qy_plan_t *b)
{
    assert_memory_equal(&a->spec, &b->spec, sizeof a->spec);
    assert_string_equal(a->hash, b->hash);
    assert_string_equal(a->canonical, b->canonical);
    assert_memory_equal(a->eval_digest, b->eval_digest, sizeof a->eval_digest);
    assert_int_equal(a->n_workers, b->n_workers);
    assert_int_equal(a->n_segments, b->n_segments);
    assert_memory_equal(a->segment_start, b->segment_start,
                        (size_t)(a->n_segments + 1) * sizeof *a->segment_start);
    assert_int_equal(a->n_samples, b->n_samples);
    assert_int_equal(a->n_ranges, b->n_ranges);
    assert_int_equal(a->e2e_samples, b->e2e_samples);
    assert_int_equal(a->e2e_own_text, b->e2e_own_text);
    assert_memory_equal(&a->block_ap, &b->block_ap, sizeof a->block_ap);
    assert_memory_equal(&a->e2e, &b->e2e, sizeof a->e2e);
    assert_int_equal(a->disk_bytes, b->disk_bytes);
}

#define RUN_JOB                                                                                    \
    TINY_JOB "e2e_qp: {batch_size: 4}\n"                                                           \
             "evaluate: [{name: kjv, text: " TEST_DATA                                             \
             "/text/kjv/test.txt, sequence_length: 64}]\n"

static void test_record_and_load(void **state)
{
    (void)state;
    qy_plan_t *plan = make_plan(RUN_JOB, NULL, 3), *loaded = NULL, *moved = NULL;
    OK(qy_plan_record(plan, &err));
    OK(qy_plan_load(&loaded, path_of("run"), &err));
    assert_same_plan(plan, loaded);
    qy_plan_destroy(&loaded);

    /* Relative, and moved: paths are not part of a plan. */
    char *before = contents("run/plan.json");
    assert_int_equal(rename(path_of("run"), path_of("moved")), 0);
    OK(qy_plan_load(&moved, path_of("moved"), &err));
    assert_string_equal(moved->spec.run_dir, path_of("moved"));
    assert_string_equal(moved->hash, plan->hash);
    qy_plan_destroy(&moved);
    assert_int_equal(rename(path_of("moved"), path_of("run")), 0);

    /* Recording the same again changes nothing. */
    OK(qy_plan_record(plan, &err));
    char *after = contents("run/plan.json");
    assert_string_equal(before, after);
    free(before);
    free(after);
    qy_plan_destroy(&plan);
}

static qy_status_t record(const char *set, int64_t workers, int64_t *n_segments)
{
    qy_plan_t *plan = make_plan(RUN_JOB, set, workers);
    qy_status_t status = qy_plan_record(plan, &err);
    *n_segments = plan->n_segments;
    qy_plan_destroy(&plan);
    return status;
}

/* The run directory of test_record_and_load, met again. */
static void test_resume(void **state)
{
    (void)state;
    int64_t n;
    qy_plan_t *loaded = NULL;
    char *yaml;
    OK(record(NULL, 1, &n)); /* auto: what was recorded stays, however many workers there are */
    assert_int_equal(n, 3);
    OK(record("quantize.segments=3", 6, &n));
    assert_int_equal(n, 3);
    assert_refused("segments", record("quantize.segments=2", 3, &n), QY_ERR_ARG,
                   "run|another run|quantize.segments: 2, was 3");
    assert_refused("bits", record("quantize.weights.bits=3", 3, &n), QY_ERR_ARG,
                   "quantize.weights.bits: 3, was 2");
    assert_refused("two", record("block_ap={epochs: 5, batch_size: 1}", 3, &n), QY_ERR_ARG,
                   "block_ap.epochs: 5, was 2|; |block_ap.batch_size: 1, was 2");
    assert_refused("model", record("model=" TEST_DATA "/models/tiny-opt-kjv", 3, &n), QY_ERR_ARG,
                   "model: content |, was content ");
    OK(qy_plan_load(&loaded, path_of("run"), &err)); /* a refused plan leaves the run as it is */
    assert_int_equal(loaded->spec.quantize.weights.bits, 2);
    qy_plan_destroy(&loaded);

    /* A key that does not change the result is taken. */
    OK(record("resources.threads=2", 3, &n));
    yaml = contents("run/job.yaml");
    assert_non_null(strstr(yaml, "threads: 2"));
    free(yaml);
    OK(record("evaluate.0.sequence_length=32", 3, &n));
    OK(qy_plan_load(&loaded, path_of("run"), &err));
    assert_int_equal(loaded->spec.evaluate[0].sequence_length, 32);
    qy_plan_destroy(&loaded);
    OK(record("evaluate=[]", 3, &n));
    OK(qy_plan_load(&loaded, path_of("run"), &err));
    qy_plan_destroy(&loaded);
}

/* The checkpoint was moved, or is not mounted here: what the run looks like can still be told. */
static void test_without_model(void **state)
{
    (void)state;
    copy_model();
    qy_plan_t *plan = make_plan(RUN_JOB, "model=$FOLDER/model", 3), *loaded = NULL;
    OK(qy_remove_tree(path_of("run"), &err));
    OK(qy_plan_record(plan, &err));
    OK(qy_remove_tree(path_of("model"), &err));
    OK(qy_plan_load(&loaded, path_of("run"), &err));
    assert_same_plan(plan, loaded);
    qy_plan_destroy(&loaded);
    assert_int_equal(unlink(path_of("run/config.json")), 0); /* of a run before this was kept */
    assert_refused("no model", qy_plan_load(&loaded, path_of("run"), &err), QY_ERR_IO,
                   "model/config.json");
    OK(qy_remove_tree(path_of("run"), &err));
    qy_plan_destroy(&plan);
}

/* Files that are not what was written. */
static void test_foreign(void **state)
{
    (void)state;
    int64_t n;
    qy_plan_t *loaded = NULL;
    OK(record(NULL, 3, &n));
    char *good = contents("run/plan.json"), *yaml = contents("run/job.yaml");
    static const struct {
        const char *from, *to, *words;
    } cases[] = {
        {"\"schema\": 1", "\"schema\": 2", "schema 2"},
        {"\"bits\": 2", "\"bits\": 3", "hash"},
        {"\"segments\": 3,\n  \"workers\"", "\"segments\": 0,\n  \"workers\"", "whole plan"},
        {"\"segments\": 3,\n  \"workers\"", "\"segments\": 9,\n  \"workers\"", "9 segments"},
        {"\"segments\": 3,\n  \"workers\"", "\"segments\": 2,\n  \"workers\"", "job.yaml"},
        {"\"hash\"", "\"hush\"", "whole plan"},
        {"\"name\": \"kjv\"", "\"name\": \"vjk\"", "texts"},
        {"\"disk_bytes\"", "", "plan.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *at = strstr(good, cases[i].from);
        assert_non_null(at);
        size_t head = (size_t)(at - good), size = strlen(good) + strlen(cases[i].to) + 1;
        char *bad = malloc(size);
        assert_non_null(bad);
        snprintf(bad, size, "%.*s%s%s", (int)head, good, cases[i].to, at + strlen(cases[i].from));
        write_file("run/plan.json", bad);
        free(bad);
        assert_refused(cases[i].words, qy_plan_load(&loaded, path_of("run"), &err), QY_ERR_FORMAT,
                       cases[i].words);
        assert_null(loaded);
    }
    good[strlen(good) / 2] = '\0';
    write_file("run/plan.json", good);
    assert_refused("torn", qy_plan_load(&loaded, path_of("run"), &err), QY_ERR_FORMAT, "plan.json");
    assert_refused("torn", record(NULL, 3, &n), QY_ERR_FORMAT, "plan.json");
    assert_int_equal(unlink(path_of("run/plan.json")), 0);
    assert_int_equal(qy_plan_load(&loaded, path_of("run"), &err), QY_ERR_IO);
    OK(record(NULL, 3, &n));

    /* job.yaml changed by hand. */
    char *bits = strstr(yaml, "bits: 2");
    assert_non_null(bits);
    bits[6] = '4';
    write_file("run/job.yaml", yaml);
    assert_refused("job", qy_plan_load(&loaded, path_of("run"), &err), QY_ERR_FORMAT,
                   "is not the plan of the job.yaml");
    free(good);
    free(yaml);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_digest_of_pair), cmocka_unit_test(test_hash_keys),
        cmocka_unit_test(test_hash_content),   cmocka_unit_test(test_large_shard),
        cmocka_unit_test(test_digest_of_gguf), cmocka_unit_test(test_record_and_load),
        cmocka_unit_test(test_resume),         cmocka_unit_test(test_without_model),
        cmocka_unit_test(test_foreign),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
