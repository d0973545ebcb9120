/* Jobs as they are read, written and compared. */
#include "jobs/spec_table.h"
#include "tests/jobs/job_files.h"

#include <math.h>

static void test_defaults(void **state)
{
    (void)state;
    qy_spec_t *s = read_job("model: m\nrun_dir: /r\ncalibration: {text: t.txt}\n", NULL);
    assert_string_equal(s->model, path_of("m"));
    assert_string_equal(s->run_dir, "/r");
    assert_string_equal(s->calibration.text, path_of("t.txt"));
    assert_int_equal(s->seed, 2);
    assert_int_equal(s->calibration.samples, 4096);
    assert_int_equal(s->calibration.sequence_length, 2048);
    assert_int_equal(s->calibration.validation_samples, 64);
    assert_int_equal(s->calibration.sampling, QY_SAMPLING_STREAM);
    assert_int_equal(s->quantize.method, QY_METHOD_BLOCK_AP);
    assert_int_equal(s->quantize.weights.bits, 2);
    assert_int_equal(s->quantize.weights.group_size, 64);
    assert_false(s->quantize.weights.symmetric);
    assert_int_equal(s->quantize.activation_bits, 16);
    assert_int_equal(s->quantize.kv_bits, 16);
    assert_int_equal(s->quantize.segments, 0);
    assert_int_equal(s->block_ap.init, QY_INIT_LEAST_SQUARES);
    assert_int_equal(s->block_ap.epochs, 2);
    assert_int_equal(s->block_ap.batch_size, 2);
    assert_int_equal(s->block_ap.lr_unit, QY_LR_UNIT_STEP);
    assert_true(isnan(s->block_ap.weight_lr) && isnan(s->block_ap.quant_lr) &&
                isnan(s->block_ap.norm_lr));
    assert_true(s->block_ap.shuffle);
    assert_int_equal(s->rtn.init, QY_INIT_LEAST_SQUARES);
    assert_false(s->e2e_qp.present);
    assert_int_equal(s->n_evaluate, 0);
    assert_int_equal(s->n_export, 0);
    assert_string_equal(s->resources.device, "auto");
    assert_string_equal(s->resources.compute, "auto");
    assert_int_equal(s->resources.gpu_memory, 0);
    assert_int_equal(s->resources.worker_timeout, 600);
    assert_true(s->checkpoint.minutes == 10.0 && s->checkpoint.recompute_minutes == 10.0);
    free(s);
}

/* Jobs that say the same are the same bytes. */
static void test_equal_specs(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"block_ap.norm_lr=-0.0", "block_ap.norm_lr=0"},
        {"resources.host_cache=1KiB", "resources.host_cache=1024 b"},
        {"quantize.segments=+3", "quantize.segments=03"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        qy_spec_t *a = read_job(TINY_JOB, pairs[i][0]), *b = read_job(TINY_JOB, pairs[i][1]);
        if (memcmp(a, b, sizeof *a) != 0)
            fail_msg("%s is not %s", pairs[i][0], pairs[i][1]);
        free(a);
        free(b);
    }
}

static void test_e2e_section(void **state)
{
    (void)state;
    qy_spec_t *s = read_job(TINY_JOB "e2e_qp: {}\n", NULL);
    assert_true(s->e2e_qp.present);
    assert_int_equal(s->e2e_qp.loss, QY_LOSS_NEXT_TOKEN);
    assert_int_equal(s->e2e_qp.batch_size, 32);
    assert_int_equal(s->e2e_qp.micro_batch_size, 1);
    assert_int_equal(s->e2e_qp.epochs, 1);
    assert_int_equal(s->e2e_qp.samples, 0);
    assert_int_equal(s->e2e_qp.sequence_length, 0);
    assert_true(isnan(s->e2e_qp.lr) && s->e2e_qp.shuffle && !s->e2e_qp.text[0]);
    free(s);
    /* No epochs is the same job as no section. */
    qy_spec_t *off = read_job(TINY_JOB "e2e_qp: {loss: distill, epochs: 0}\n", NULL);
    qy_spec_t *absent = read_job(TINY_JOB, NULL);
    assert_memory_equal(off, absent, sizeof *off);
    free(off);
    free(absent);
}

/* Everything set to what is not its default. */
static const char full_job[] =
    "model: /m\nrun_dir: /r/$$x\nseed: 4294967295\n"
    "calibration: {text: /t.jsonl, samples: 10, sequence_length: 20, validation_samples: 0,\n"
    "              sampling: documents}\n"
    "quantize:\n"
    "  method: rtn\n"
    "  weights: {bits: 3, group_size: -1, symmetric: true}\n"
    "  activations: {bits: 16}\n"
    "  kv_cache: {bits: 16}\n"
    "  segments: 12\n"
    "block_ap: {init: min-max, epochs: 0, batch_size: 5, lr_unit: absolute, weight_lr: 2e-5,\n"
    "           quant_lr: 1e-4, norm_lr: 0, shuffle: false}\n"
    "rtn: {init: min-max}\n"
    "e2e_qp: {loss: distill, text: \"/a b \\\"c\\\" \\u00e9.txt\", samples: 7, sequence_length: "
    "9,\n"
    "         batch_size: 6, micro_batch_size: 3, lr_unit: absolute, lr: 0.30000000000000004, "
    "epochs: 4,\n"
    "         shuffle: false}\n"
    "evaluate:\n"
    "  - {name: one, text: /1.txt, sequence_length: 99}\n"
    "  - {name: two-2.x, text: /2.npy}\n"
    "  - {name: three, task: /3.mc.jsonl}\n"
    "export: [gptq, hf]\n"
    "resources: {device: cuda, compute: bf16, gpu_memory: 64GiB, host_cache: 1.5 TB,\n"
    "            scratch: /s, threads: 8, worker_timeout: 30}\n"
    "checkpoint: {minutes: 0.5, recompute_minutes: 0}\n";

static void test_full(void **state)
{
    (void)state;
    qy_spec_t *s = read_job(full_job, NULL);
    assert_string_equal(s->run_dir, "/r/$x");
    assert_int_equal(s->seed, 4294967295);
    assert_int_equal(s->calibration.sampling, QY_SAMPLING_DOCUMENTS);
    assert_int_equal(s->quantize.method, QY_METHOD_RTN);
    assert_int_equal(s->quantize.weights.group_size, -1);
    assert_true(s->quantize.weights.symmetric);
    assert_int_equal(s->quantize.segments, 12);
    assert_int_equal(s->block_ap.lr_unit, QY_LR_UNIT_ABSOLUTE);
    assert_true(s->block_ap.weight_lr == 2e-5 && s->block_ap.norm_lr == 0.0);
    assert_int_equal(s->rtn.init, QY_INIT_MIN_MAX);
    assert_true(s->e2e_qp.lr == 0.30000000000000004 && s->e2e_qp.lr != 0.3);
    assert_int_equal(s->e2e_qp.loss, QY_LOSS_DISTILL);
    assert_string_equal(s->e2e_qp.text, "/a b \"c\" \xc3\xa9.txt");
    assert_int_equal(s->n_evaluate, 3);
    assert_string_equal(s->evaluate[1].name, "two-2.x");
    assert_int_equal(s->evaluate[1].sequence_length, 20); /* calibration's */
    assert_string_equal(s->evaluate[2].task, "/3.mc.jsonl");
    assert_string_equal(s->evaluate[2].text, "");
    assert_int_equal(s->evaluate[2].sequence_length, 0); /* a task has no windows */
    assert_int_equal(s->n_export, 2);
    assert_string_equal(s->export_format[1], "hf");
    assert_true(s->resources.gpu_memory == 64LL << 30);
    assert_true(s->resources.host_cache == 1500000000000);
    assert_string_equal(s->resources.compute, "bf16");
    assert_true(s->checkpoint.minutes == 0.5);
    free(s);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const jobs[] = {full_job, TINY_JOB, TINY_JOB "e2e_qp: {lr: 0.1}\n"};
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        qy_spec_t *before = read_job(jobs[i], NULL), *after;
        char *yaml = NULL, *again = NULL;
        OK(qy_spec_write(before, &yaml, &err));
        after = read_job(yaml, NULL);
        assert_memory_equal(before, after, sizeof *before);
        OK(qy_spec_write(after, &again, &err));
        assert_string_equal(yaml, again);
        free(yaml);
        free(again);
        free(before);
        free(after);
    }
}

static void test_overrides(void **state)
{
    (void)state;
    const char *path = write_file("job.yaml", TINY_JOB);
    const char *const sets[] = {"seed=3",
                                "seed=4",
                                "block_ap={epochs: 7}",
                                "e2e_qp.batch_size=8",
                                "evaluate=[{name: a, text: a.txt}]",
                                "evaluate.0.name=b",
                                "calibration.text=../x=y.txt",
                                "export=[]"};
    qy_spec_t *spec = malloc(sizeof *spec);
    assert_non_null(spec);
    OK(qy_spec_read(spec, path, sets, sizeof sets / sizeof *sets, &err));
    assert_int_equal(spec->seed, 4); /* the last one counts */
    assert_int_equal(spec->block_ap.epochs, 7);
    assert_true(spec->e2e_qp.present); /* an override makes the section */
    assert_string_equal(spec->evaluate[0].name, "b");
    /* Relative paths: those of overrides start here, those of the file at its folder. */
    char here[QY_PATH_MAX], wanted[QY_PATH_MAX];
    assert_non_null(getcwd(here, sizeof here));
    OK(qy_path(wanted, &err, "%s/a.txt", here));
    assert_string_equal(spec->evaluate[0].text, wanted);
    *strrchr(here, '/') = '\0';
    OK(qy_path(wanted, &err, "%s/x=y.txt", here));
    assert_string_equal(spec->calibration.text, wanted);
    assert_string_equal(spec->run_dir, path_of("run"));
    const char *bad[] = {"seed", "=3", "run_dir.x=1"};
    for (int i = 0; i < 3; i++)
        assert_refused(bad[i], qy_spec_read(spec, path, &bad[i], 1, &err), QY_ERR_ARG, "--set");
    free(spec);
}

/* Every ready-made job reads, and the demo's plan can be made where the project stands. */
static void test_configs(void **state)
{
    (void)state;
    static const char *const names[] = {"demo",
                                        "llama_w2g64",
                                        "llama_w4g128_sym",
                                        "llama_gptq_w4g128",
                                        "opt_rptq_w4a4",
                                        "published/llama2_7b_w2g64",
                                        "published/llama2_70b_w2g64"};
    static const char *const variables[] = {"MODEL", "RUN_DIR", "CALIBRATION_TEXT", "REDPAJAMA",
                                            "WIKITEXT2_TEST"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        assert_int_equal(setenv(variables[i], "/somewhere/else.txt", 1), 0);
    qy_spec_t *spec = malloc(sizeof *spec);
    qy_plan_t *plan = NULL;
    assert_non_null(spec);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[QY_PATH_MAX];
        OK(qy_path(path, &err, TEST_DATA "/../../configs/%s.yaml", names[i]));
        OK(qy_spec_read(spec, path, NULL, 0, &err));
        assert_int_equal(spec->n_evaluate, 1);
        if (i > 0)
            continue;
        assert_non_null(strstr(spec->run_dir, "/demo-run"));
        OK(qy_path(spec->run_dir, &err, "%s", path_of("run")));
        OK(qy_plan_make(&plan, spec, 1, &err));
        qy_plan_destroy(&plan);
    }
    assert_int_equal(spec->block_ap.init, QY_INIT_MIN_MAX); /* the last is a published one */
    assert_int_equal(spec->block_ap.lr_unit, QY_LR_UNIT_ABSOLUTE);
    assert_int_equal(spec->calibration.sampling, QY_SAMPLING_DOCUMENTS);
    assert_false(spec->block_ap.shuffle);
    free(spec);
}

static qy_status_t fixed_digest(void *context, const char *key, const char *path, char hex[65],
                                qy_error_t *error)
{
    (void)error;
    assert_string_equal(context, "context");
    assert_true(path[0] == '/');
    snprintf(hex, 65, "%064d", key[0]);
    return QY_OK;
}

static char *canonical(const char *job, const char *set)
{
    char *json = NULL;
    qy_spec_t *spec = read_job(job, set);
    char context[] = "context";
    OK(qy_spec_canonical(spec, fixed_digest, context, &json, &err));
    free(spec);
    return json;
}

static void test_canonical(void **state)
{
    (void)state;
    char *json = canonical("model: /m\nrun_dir: /r\nquantize: {method: rtn}\n", NULL);
    assert_string_equal(
        json, "{\"model\":\"0000000000000000000000000000000000000000000000000000000000000109\","
              "\"quantize\":{\"activations\":{\"bits\":16},\"kv_cache\":{\"bits\":16},"
              "\"method\":\"rtn\",\"segments\":\"auto\","
              "\"weights\":{\"bits\":2,\"group_size\":64,\"symmetric\":false}},"
              "\"rtn\":{\"init\":\"least-squares\"},\"seed\":2}");
    free(json);
}

static void test_difference(void **state)
{
    (void)state;
    char text[400];
    char *a = canonical(TINY_JOB, NULL), *b = canonical(TINY_JOB, "quantize.weights.bits=3");
    OK(qy_spec_difference(a, b, text, sizeof text, &err));
    assert_string_equal(text, "quantize.weights.bits: 3, was 2");
    free(b);
    b = canonical(TINY_JOB, "block_ap={weight_lr: 0.001, shuffle: false}");
    OK(qy_spec_difference(a, b, text, sizeof text, &err));
    assert_non_null(strstr(text, "block_ap.weight_lr: 0.001, was auto"));
    assert_non_null(strstr(text, "; block_ap.shuffle: false, was true") ||
                    strstr(text, "block_ap.shuffle: false, was true; "));
    free(b);
    b = canonical(TINY_JOB, "e2e_qp.loss=distill");
    OK(qy_spec_difference(a, b, text, sizeof text, &err));
    assert_non_null(strstr(text, "e2e_qp.loss: distill, was none"));
    OK(qy_spec_difference(b, a, text, sizeof text, &err));
    assert_non_null(strstr(text, "e2e_qp.loss: none, was distill"));
    free(b);
    free(a);
    /* Plain rounding is another result, which GPTQ's keys have no part in. */
    a = canonical(TINY_JOB, "quantize={method: rptq}");
    b = canonical(TINY_JOB "rptq: {weights: rtn, head_clusters: 0}\n", "quantize={method: rptq}");
    OK(qy_spec_difference(a, b, text, sizeof text, &err));
    assert_non_null(strstr(text, "rptq.weights: rtn, was gptq"));
    assert_non_null(strstr(text, "rptq.head_clusters: 0, was 4"));
    assert_non_null(strstr(text, "gptq.damping: none, was 0.01"));
    assert_non_null(strstr(text, "gptq.block_size: none, was 128"));
    free(b);
    OK(qy_spec_difference(a, a, text, sizeof text, &err));
    assert_string_equal(text, "");
    assert_int_equal(qy_spec_difference(a, "[1]", text, sizeof text, &err), QY_ERR_FORMAT);
    free(a);
}

static void test_print_keys(void **state)
{
    (void)state;
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);
    assert_non_null(file);
    qy_spec_print_keys(file);
    fclose(file);
    static const char *const wanted[] = {
        "quantize.weights.group_size       whole: -1, 1 to 1048576", "\nmodel ", "\nexport[] ",
        "required", "\nresources.worker_timeout "};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!strstr(text, wanted[i]))
            fail_msg("\"%s\" is not in the table:\n%s", wanted[i], text);
    int lines = 0;
    for (const char *at = text; (at = strchr(at, '\n')) != NULL; at++)
        lines++;
    assert_int_equal(lines, qy_key_count() + 1);
    free(text);
}

/* Published steps of RPTQ's weights come from whole ranges: with compat, and from 4 bits on. */
static void test_rptq_init(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        qy_init_t want;
    } cases[] = {{"rptq={scheme: W4A4}", QY_INIT_MIN_MAX},
                 {"rptq={scheme: W3A3KV}", QY_INIT_LEAST_SQUARES},
                 {"rptq={scheme: W3A3KV, compat: true}", QY_INIT_MIN_MAX}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *sets[] = {"quantize={method: rptq}", cases[i].set};
        qy_spec_t *spec = calloc(1, sizeof *spec);
        assert_non_null(spec);
        OK(qy_spec_read(spec, write_file("job.yaml", TINY_JOB), sets, 2, &err));
        assert_int_equal(qy_spec_init(spec), cases[i].want);
        free(spec);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),    cmocka_unit_test(test_e2e_section),
        cmocka_unit_test(test_equal_specs), cmocka_unit_test(test_full),
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_configs),     cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_difference),  cmocka_unit_test(test_print_keys),
        cmocka_unit_test(test_rptq_init),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
