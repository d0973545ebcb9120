#include "jobs/plan_time.h"
#include "model/qmodel.h"
#include "tests/jobs/job_files.h"

#include <math.h>
#include <sys/stat.h>

/* Tiny job: 6 blocks, 8 + 2 samples of 32 tokens, 2 epochs of 4 steps, E2E-QP of 2 steps. */
static const char job[] = TINY_JOB "e2e_qp: {batch_size: 4, micro_batch_size: 2}\n"
                                   "export: [hf]\n";

/* Everything at once but for what a test slows down. */
static qy_speed_t endless(void)
{
    return (qy_speed_t){.kind = "cpu",
                        .model = "a test's",
                        .compute = "f32",
                        .source = "made up",
                        .threads = 1,
                        .open_s = 1e-30,
                        .pin = 1e30,
                        .read = 1e30,
                        .load = 1e30,
                        .start = 1e30,
                        .freeze = 1e30,
                        .decode = 1e30,
                        .update = 1e30,
                        .forward = 1e30,
                        .train = 1e30,
                        .head = 1e30,
                        .tokenize = 1e30,
                        .disk = 1e30};
}

static void assert_near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-6 * want + 1e-12))
        fail_msg("%.9g, wanted %.9g", got, want);
}

static double phase_s(const char *set, int64_t workers, const qy_speed_t *speed,
                      qy_time_phase_t phase)
{
    qy_plan_t *plan = make_plan(job, set, workers);
    OK(qy_plan_estimate(plan, speed, &err));
    double s = plan->time.phase_s[phase];
    qy_plan_destroy(&plan);
    return s;
}

static double weights_of(const char *set)
{
    qy_plan_t *plan = make_plan(job, set, 1);
    double weights = (double)qy_arch_block_weights(&plan->arch);
    qy_plan_destroy(&plan);
    return weights;
}

/* A step takes a second: 8 steps a block, 6 blocks, on so many workers. */
static void test_steps(void **state)
{
    (void)state;
    qy_speed_t speed = endless();
    speed.update = weights_of(NULL);
    assert_near(phase_s("quantize.segments=1", 1, &speed, QY_TIME_QUANTIZE), 48);
    assert_near(phase_s("quantize.segments=1", 4, &speed, QY_TIME_QUANTIZE), 48);
    assert_near(phase_s("quantize.segments=3", 3, &speed, QY_TIME_QUANTIZE), 16);
    assert_near(phase_s("quantize.segments=3", 2, &speed, QY_TIME_QUANTIZE), 32);
    assert_near(phase_s("quantize.segments=4", 4, &speed, QY_TIME_QUANTIZE), 16);
    assert_near(phase_s("quantize.segments=1", 1, &speed, QY_TIME_E2E_QP), 0);
}

static double rounding_s(const char *set, const qy_speed_t *speed)
{
    qy_plan_t *plan = make_plan(TINY_JOB, set, 1);
    double s = qy_plan_rounding_s(plan, speed);
    qy_plan_destroy(&plan);
    return s;
}

/* GPTQ and RPTQ: walks over 8 samples, moments and factors of four inputs, spreading of errors. */
static void test_rounding(void **state)
{
    (void)state;
    qy_speed_t speed = endless(), gpu;
    qy_plan_t *plan = make_plan(job, NULL, 1);
    const qy_arch_t *a = &plan->arch;
    const double h = (double)a->hidden, m = (double)a->intermediate;
    const double inputs[] = {h, (double)(a->n_heads * a->head_dim), h, m};
    double walk = qy_block_flops(a, 8 * 32, 32), moments = 0, single = 0, channels = 0;
    for (int i = 0; i < 4; i++) {
        moments += 2 * 8 * 32 * inputs[i] * inputs[i];
        single += inputs[i] * inputs[i] * inputs[i] * 2 / 3;
    }
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (a->linear[i].present)
            single += (double)a->linear[i].out * (double)a->linear[i].in * (double)a->linear[i].in;
    for (int i = 0; i < QY_N_SITES; i++)
        channels += (double)qy_site_channels(a, (qy_site_t)i);
    double weights = (double)qy_arch_block_weights(a);
    qy_plan_destroy(&plan);
    speed.forward = 1e9;
    gpu = speed;
    snprintf(gpu.kind, sizeof gpu.kind, "cuda");
    assert_near(rounding_s("quantize.method=gptq", &speed), (6 * walk + moments + single) / 1e9);
    assert_near(rounding_s("quantize.method=gptq", &gpu), (6 * walk + moments + 16 * single) / 1e9);
    assert_near(rounding_s("quantize={method: rptq}", &speed), (3 * walk + moments + single) / 1e9);
    plan = make_plan(TINY_JOB "rptq: {weights: rtn}\n", "quantize={method: rptq}", 1);
    assert_near(qy_plan_rounding_s(plan, &speed), 3 * walk / 1e9);
    qy_plan_destroy(&plan);
    speed.forward = 1e30;
    speed.freeze = 1e6;
    assert_near(rounding_s("quantize={method: rptq}", &speed), weights / 1e6);
    assert_near(rounding_s("quantize={method: rptq, kv_cache: {bits: 4}}", &speed),
                (weights + 8 * 32 * channels) / 1e6);
    /* All of a block's share is counted, for each block. */
    speed = endless();
    speed.forward = 1e9;
    double without = phase_s("block_ap.epochs=0", 1, &speed, QY_TIME_QUANTIZE);
    double with = phase_s("quantize.method=gptq", 1, &speed, QY_TIME_QUANTIZE);
    assert_near(with - without, 6 * (6 * walk + moments + single) / 1e9);
}

/* All samples through a block take a second: a target and an input stream, and the capture up to
 * the last segment's start, four ranges of two or three samples. */
static void test_forward(void **state)
{
    (void)state;
    qy_speed_t speed = endless();
    qy_plan_t *plan = make_plan(job, NULL, 1);
    assert_int_equal(plan->n_samples, 10);
    speed.forward = qy_block_flops(&plan->arch, 10 * 32, 32);
    qy_plan_destroy(&plan);
    double validation = 2 * 0.2;
    assert_near(phase_s("quantize.segments=1", 1, &speed, QY_TIME_QUANTIZE), 11 + 6 * validation);
    assert_near(phase_s("quantize.segments=1", 1, &speed, QY_TIME_CAPTURE), 0);
    assert_near(phase_s("quantize.segments=2", 1, &speed, QY_TIME_CAPTURE), 3);
    assert_near(phase_s("quantize.segments=2", 5, &speed, QY_TIME_CAPTURE), 0.75);
}

/* A worker's process opens its device once, in the first phase that has tasks for it, and anew
 * after E2E-QP. */
static void test_open(void **state)
{
    (void)state;
    qy_speed_t speed = endless();
    const char *evaluated = "evaluate=[{name: a, text: " TEST_DATA "/text/kjv/test.txt, "
                            "sequence_length: 32}]";
    speed.open_s = 1;
    assert_near(phase_s("quantize.segments=3", 1, &speed, QY_TIME_CAPTURE), 1);
    assert_near(phase_s("quantize.segments=3", 1, &speed, QY_TIME_QUANTIZE), 0);
    assert_near(phase_s(evaluated, 1, &speed, QY_TIME_EVALUATE), 1);
    assert_near(phase_s("quantize.segments=1", 1, &speed, QY_TIME_CAPTURE), 0);
    assert_near(phase_s("quantize.segments=1", 1, &speed, QY_TIME_QUANTIZE), 1);
}

/* A zero-shot task has no sequence length of its own: its file's tokens count, in one range, for
 * each variant; only products with the head take time here. */
static void test_task(void **state)
{
    (void)state;
    qy_speed_t speed = endless();
    const char *set = "evaluate=[{name: a, task: " TEST_DATA "/tasks/kjv.mc.jsonl}]";
    qy_plan_t *plan = make_plan(job, set, 1);
    double length = (double)plan->arch.max_positions, window = qy_head_flops(&plan->arch, length);
    assert_true(length <= 2048);
    qy_plan_destroy(&plan);
    speed.head = window;
    double s = phase_s(set, 1, &speed, QY_TIME_EVALUATE) / QY_N_VARIANTS;
    assert_true(s >= 1); /* not so for what is no number */
    assert_near(s, round(s));
}

/* A pipeline of two stages needs three turns for two micro-batches. */
static void test_pipeline(void **state)
{
    (void)state;
    qy_speed_t speed = endless();
    speed.decode = weights_of(NULL);
    assert_near(phase_s(NULL, 1, &speed, QY_TIME_E2E_QP), 2 * 2 * 6);
    assert_near(phase_s(NULL, 2, &speed, QY_TIME_E2E_QP), 2 * 3 * 3);
}

static void test_attention(void **state)
{
    (void)state;
    qy_plan_t *plan = make_plan(job, NULL, 1);
    const qy_arch_t *a = &plan->arch;
    double weights = (double)qy_arch_block_weights(a);
    /* q kᵀ and p v: 2 operations each for heads × head_dim over half of the positions. */
    double want = 100 * (2 * weights + 4 * 32 * (double)(a->n_heads * a->head_dim));
    assert_near(qy_block_flops(a, 100, 64), want);
    qy_plan_destroy(&plan);
}

/* Streams of 10 samples that do not fit: in and out of the disk at the pace of a block. */
static void test_scratch(void **state)
{
    (void)state;
    qy_speed_t speed = endless();
    speed.update = weights_of(NULL) * 8; /* a block takes a second */
    qy_plan_t *plan = make_plan(job, "resources.host_cache=1", 1);
    OK(qy_plan_estimate(plan, &speed, &err));
    double file = (double)plan->stream_bytes - 1;
    assert_near(plan->time.stream_bytes_per_s, 4.0 * file);
    assert_near(plan->time.train_bytes_per_s, 2.0 * file); /* which is all of its time */
    assert_near(plan->time.train_share, 1);
    /* Walks take no time here, and so wait for all of theirs. */
    assert_near(qy_plan_stream_wait(&plan->time, 2 * file), 1 / 2.0);
    assert_near(qy_plan_stream_wait(&plan->time, file), 3 / 4.0);
    qy_plan_destroy(&plan);
    plan = make_plan(job, "resources.host_cache=1", 1);
    speed.forward = qy_block_flops(&plan->arch, 10 * 32, 32); /* each walk a second as well */
    OK(qy_plan_estimate(plan, &speed, &err));
    assert_near(plan->time.walk_bytes_per_s, file);
    assert_near(plan->time.walk_share, 2 / 3.4); /* validation takes the rest */
    assert_near(qy_plan_stream_wait(&plan->time, file / 2), (2 + 3) / (2 + 3 + 3.4));
    qy_plan_destroy(&plan);
    plan = make_plan(job, NULL, 1);
    OK(qy_plan_estimate(plan, &speed, &err));
    assert_near(plan->time.stream_bytes_per_s, 0);
    assert_near(qy_plan_stream_wait(&plan->time, 1), 0);
    qy_plan_destroy(&plan);
}

/* What was said before the run stays, whatever a later start would say; a task's child reads it. */
static void test_recorded(void **state)
{
    (void)state;
    qy_speed_t speed = endless();
    speed.update = weights_of(NULL);
    qy_plan_t *plan = make_plan(job, "quantize.segments=1", 1), *again = NULL;
    OK(qy_plan_estimate(plan, &speed, &err));
    OK(qy_plan_record(plan, &err));
    speed.update *= 2;
    OK(qy_plan_estimate(plan, &speed, &err));
    assert_near(plan->time.phase_s[QY_TIME_QUANTIZE], 24);
    OK(qy_plan_record(plan, &err));
    assert_near(plan->time.phase_s[QY_TIME_QUANTIZE], 48);
    OK(qy_plan_load(&again, plan->spec.run_dir, &err));
    assert_near(again->time.phase_s[QY_TIME_QUANTIZE], 48);
    assert_near(qy_plan_total_s(again), 48);
    assert_string_equal(again->time.device, "a test's");
    assert_string_equal(again->hash, plan->hash);
    qy_plan_destroy(&again);
    qy_plan_destroy(&plan);
    OK(qy_remove_tree(path_of("run"), &err));
}

/* Each text is tokenized once, whoever takes windows of it. */
static void test_tokens(void **state)
{
    (void)state;
    static const char text[] = TEST_DATA "/text/kjv/test.txt",
                      other[] = TEST_DATA "/text/kjv/train.txt";
    static const struct {
        const char *set;
        double test, train; /* how often each counts */
    } cases[] = {{NULL, 1, 0},
                 {"quantize.method=rtn", 1, 0}, /* e2e_qp's alone */
                 {"e2e_qp.text=" TEST_DATA "/text/kjv/test.txt", 1, 0},
                 {"e2e_qp.text=" TEST_DATA "/text/kjv/train.txt", 1, 1},
                 {"e2e_qp.epochs=0", 1, 0}};
    struct stat st;
    qy_speed_t speed = endless();
    speed.tokenize = 1000;
    assert_int_equal(stat(text, &st), 0);
    double test_s = (double)st.st_size / 1000;
    assert_int_equal(stat(other, &st), 0);
    double train_s = (double)st.st_size / 1000;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_near(phase_s(cases[i].set, 1, &speed, QY_TIME_TOKENS),
                    cases[i].test * test_s + cases[i].train * train_s);
}

/* The cache: the newest of a device first, others kept; CPU speeds grow with threads. */
static void test_cache(void **state)
{
    (void)state;
    qy_speed_t speed = endless(), found;
    assert_int_equal(setenv("XDG_CACHE_HOME", path_of("cache"), 1), 0);
    assert_refused("unknown", qy_speed_find(&found, "cpu", 0, &err), QY_ERR_UNSUPPORTED,
                   "cpu|--calibrate");
    OK(qy_speed_find(&found, "cuda:1", 0, &err));
    assert_string_equal(found.model, "NVIDIA H200");
    speed.train = 1e10;
    OK(qy_speed_keep(&speed, &err));
    speed.train = 2e10;
    OK(qy_speed_keep(&speed, &err));
    qy_speed_t gpu = endless();
    snprintf(gpu.kind, sizeof gpu.kind, "cuda");
    gpu.threads = 0;
    OK(qy_speed_keep(&gpu, &err));
    OK(qy_speed_find(&found, "cpu", 0, &err));
    assert_near(found.train, 2e10);
    OK(qy_speed_find(&found, "cpu", 4, &err));
    assert_near(found.train, 8e10);
    assert_near(found.open_s, speed.open_s);
    OK(qy_speed_find(&found, "auto", 0, &err));
    assert_string_equal(found.kind, "cuda");
    OK(qy_speed_find(&found, "cuda", 8, &err));
    assert_near(found.train, gpu.train);
    write_file("cache/quarry/speeds.json", "{\"speeds\": [{\"kind\": \"cpu\", \"read\": -1}]}");
    assert_refused("broken", qy_speed_find(&found, "cpu", 0, &err), QY_ERR_FORMAT,
                   "speeds.json|not a positive number");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),    cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_forward),  cmocka_unit_test(test_open),
        cmocka_unit_test(test_pipeline), cmocka_unit_test(test_attention),
        cmocka_unit_test(test_scratch),  cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_cache),    cmocka_unit_test(test_task),
        cmocka_unit_test(test_tokens),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
