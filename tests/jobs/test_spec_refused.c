/* Jobs that are refused, with the place, the key and what it expects. */
#include "tests/jobs/job_files.h"

/* A job's text that is refused, alone or with an override. */
static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *set, *words;
    } cases[] = {
        {"run_dir: r\n", NULL, "job.yaml:1:1|model is missing"},
        {"model: m\n", NULL, "run_dir is missing"},
        {"- a\n", NULL, "job.yaml:1:1|keys"},
        {"model: m\nrun_dir: r\n", NULL, "calibration.text is missing|this method"},
        {"model: m\nrun_dir: r\ncalibration: {samples: 3}\n", NULL,
         "job.yaml:3:14|calibration.text is missing"},
        {"model: m\nrun_dir: r\nquantize: {method: rtn}\ne2e_qp: {}\n", NULL,
         "calibration.text is missing|e2e_qp"},
        {"model:\nrun_dir: r\n", NULL, "job.yaml:1:7|model: a path"},
        {"modle: m\nrun_dir: r\n", NULL, "job.yaml:1:1|\"modle\"|\"model\""},
        {"seed: [1, 2]\n", NULL, "job.yaml:1:7|seed|not a list"},
        {"calibration: 5\n", NULL, "job.yaml:1:14|calibration: keys"},
        {"calibration:\n", NULL, "job.yaml:1:13|calibration: is empty"},
        {"calibration: [a]\n", NULL, "calibration: keys"},
        {"evaluate: {name: x}\n", NULL, "evaluate: a list"},
        {"evaluate: [x]\n", NULL, "job.yaml:1:12|evaluate: keys"},
        {"evaluate: [{nam: x}]\n", NULL, "\"evaluate[].nam\"|\"evaluate[].name\""},
        {"export: [[gptq]]\n", NULL, "job.yaml:1:10|export: words"},
        {"export: [a,b,c,d,e,f,g,h,i]\n", NULL, "export: at most 8"},
        {"\"quantize.weights\": {bits: 2}\n", NULL, "unknown key \"quantize.weights\""},
        {TINY_JOB, "calibration.sampels=1", "--set:1:1|\"calibration.samples\""},
        {TINY_JOB, "quantize.bits=3", "\"quantize.bits\"|\"quantize.weights.bits\""},
        {TINY_JOB "quantize: {method: rptq, kv_cache: {bits: 8}}\nrptq: {scheme: W4A4}\n", NULL,
         "kv_cache.bits: 8, but rptq.scheme sets it to 4"},
        {TINY_JOB, "rptq.head_clusters=65", "rptq.head_clusters: 65; expected 0 to 64"},
        {TINY_JOB, "rptq.weights=normal", "rptq.weights: normal; expected gptq, rtn"},
        {TINY_JOB "gptq: {act_order: true}\n", "quantize.method=gptq",
         "act_order: needs static_groups"},
        {TINY_JOB, "gptq.block_size=129", "gptq.block_size: 129; expected 1 to 128"},
        {TINY_JOB, "quantize.method=magic", "quantize.method: magic; expected block-ap, rtn"},
        {TINY_JOB, "quantize.activations.bits=5", "activations.bits: 5; expected 4, 6, 8, 16"},
        {TINY_JOB, "quantize.kv_cache.bits=5", "kv_cache.bits: 5; expected 3, 4, 6, 8, 16"},
        {TINY_JOB, "quantize.weights.bits=5", "bits: 5; expected 2, 3, 4, 6, 8"},
        {TINY_JOB, "quantize.weights.bits=2.0", "2.0; expected a whole number"},
        {TINY_JOB, "quantize.weights.bits='2'", "\"2\"; expected a whole number"},
        {TINY_JOB, "quantize.weights.bits=0x2", "0x2; expected a whole number"},
        {TINY_JOB, "quantize.weights.bits=2x", "2x; expected a whole number"},
        {TINY_JOB, "quantize.weights.bits=", "expected a whole number"},
        {TINY_JOB, "quantize.weights.group_size=0", "group_size: 0; expected -1, 1 to"},
        {TINY_JOB, "quantize.weights.group_size=-2", "group_size: -2"},
        {TINY_JOB, "quantize.weights.symmetric=yes", "yes; expected true or false"},
        {TINY_JOB, "quantize.weights.symmetric='true'", "\"true\"; expected true or false"},
        {TINY_JOB, "quantize.segments=0", "segments: 0; expected auto, 1 to 1024"},
        {TINY_JOB, "seed=-1", "seed: -1; expected 0 to 4294967295"},
        {TINY_JOB, "seed=99999999999999999999", "expected a whole number"},
        {TINY_JOB, "seed=auto", "seed: auto; expected a whole number"},
        {TINY_JOB, "calibration.samples=1048577", "expected 1 to 1048576"},
        {TINY_JOB, "block_ap.weight_lr=fast", "fast; expected a number"},
        {TINY_JOB, "block_ap.weight_lr=inf", "expected a number"},
        {TINY_JOB, "block_ap.weight_lr=nan", "expected a number"},
        {TINY_JOB, "block_ap.weight_lr=1e999", "expected a number"},
        {TINY_JOB, "block_ap.weight_lr=-0.1", "expected auto, 0 to 1"},
        {TINY_JOB, "block_ap.weight_lr=1.01", "expected auto, 0 to 1"},
        {TINY_JOB, "resources.host_cache=64Gib/s", "64Gib/s; expected a size"},
        {TINY_JOB, "resources.host_cache=0", "expected auto, 1 to 1e15"},
        {TINY_JOB, "resources.host_cache=9e9TiB", "expected a size"},
        {TINY_JOB, "resources.host_cache=999999999TiB", "expected auto, 1 to 1e15"},
        {TINY_JOB, "resources.device=tpu", "tpu; expected auto, cpu, cuda"},
        {TINY_JOB, "calibration.text=$QUARRY_UNSET/x",
         "calibration.text: |no variable QUARRY_UNSET"},
        {TINY_JOB, "calibration.text='${QUARRY_UNSET'", "\"${QUARRY_UNSET\""},
        {TINY_JOB, "calibration.text=$1", "after $"},
        {TINY_JOB, "calibration.text=~nobody/x", "~nobody/x"},
        {TINY_JOB, "evaluate=[{name: a/b, text: t.txt}]", "evaluate[].name: \"a/b\""},
        {TINY_JOB, "evaluate=[{name: .., text: t.txt}]", "evaluate[].name"},
        {TINY_JOB, "evaluate=[{name: e2e, text: t.txt}]", "evaluate.0.name: \"e2e\""},
        {TINY_JOB, "evaluate=[{name: a, text: t.txt}, {name: a, text: u.txt}]",
         "--set:1:33|evaluate.1.name: \"a\"|evaluate.0"},
        {TINY_JOB, "evaluate=[{name: a}]", "evaluate.0.text is missing"},
        {TINY_JOB, "evaluate=[{name: a, text: t.txt, task: t.mc.jsonl}]", "a text and a task"},
        {TINY_JOB, "evaluate=[{name: a, task: t.mc.jsonl, sequence_length: 9}]",
         "--set:1:47|evaluate.0.sequence_length"},
        {TINY_JOB, "e2e_qp={batch_size: 4, micro_batch_size: 3}", "3 does not divide batch_size 4"},
        {TINY_JOB, "seed=[", "--set:2:1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_spec_t *spec = calloc(1, sizeof *spec);
        assert_non_null(spec);
        const char *path = write_file("job.yaml", cases[i].text), *set = cases[i].set;
        qy_status_t status = qy_spec_read(spec, path, &set, set ? 1 : 0, &err);
        assert_refused(set ? set : cases[i].text, status, QY_ERR_FORMAT, cases[i].words);
        assert_string_equal(spec->model, ""); /* outputs are set on success only */
        free(spec);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
