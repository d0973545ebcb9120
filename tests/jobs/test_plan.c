#include "jobs/plan_inner.h"
#include "tests/jobs/job_files.h"

#include <math.h>
#include <sys/stat.h>

static void test_ranges(void **state)
{
    (void)state;
    for (int64_t n = 0; n <= 40; n++)
        for (int64_t n_ranges = 1; n_ranges <= 16; n_ranges++) {
            int64_t next = 0, first, count;
            for (int64_t r = 0; r < n_ranges; r++) {
                qy_plan_range(n, n_ranges, r, &first, &count);
                assert_int_equal(first, next);
                assert_true(count == n / n_ranges || count == n / n_ranges + 1);
                next += count;
            }
            assert_int_equal(next, n);
            qy_plan_range(n, n_ranges, n_ranges, &first, &count);
            assert_true(first == 0 && count == 0);
        }
    int64_t first, count;
    qy_plan_range(10, 0, 0, &first, &count);
    assert_true(first == 0 && count == 0);
}

static void test_segments(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        int64_t workers, n, start[7];
    } cases[] = {
        {"quantize.segments=auto", 1, 1, {0, 6}},
        {"quantize.segments=auto", 4, 4, {0, 1, 3, 4, 6}},
        {"quantize.segments=auto", 100, 6, {0, 1, 2, 3, 4, 5, 6}},
        {"quantize.segments=4", 1, 4, {0, 1, 3, 4, 6}},
        {"quantize.segments=6", 2, 6, {0, 1, 2, 3, 4, 5, 6}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_plan_t *plan = make_plan(TINY_JOB, cases[i].set, cases[i].workers);
        assert_int_equal(plan->n_segments, cases[i].n);
        for (int64_t k = 0; k <= plan->n_segments; k++)
            assert_int_equal(plan->segment_start[k], cases[i].start[k]);
        for (int64_t b = 0; b < 6; b++) {
            int64_t k = qy_plan_segment_of(plan, b);
            assert_true(plan->segment_start[k] <= b && b < plan->segment_start[k + 1]);
        }
        assert_int_equal(plan->n_samples, 10);
        assert_int_equal(plan->n_ranges, plan->n_segments > 1 ? 4 : 0);
        qy_plan_destroy(&plan);
        assert_null(plan);
    }
}

/* --- rates ------------------------------------------------------------------------------------ */

static void assert_close(double a, double b, double relative)
{
    if (!(fabs(a - b) <= relative * fabs(b)))
        fail_msg("%.17g is not %.17g", a, b);
}

static void test_published_rates(void **state)
{
    (void)state;
    qy_plan_t *plan = calloc(1, sizeof *plan);
    assert_non_null(plan);
    plan->spec.block_ap.lr_unit = QY_LR_UNIT_ABSOLUTE;
    plan->block_ap.steps = 4096;
    static const struct {
        int64_t t;
        double rate;
    } golden[] = {{0, 1e-4},
                  {1, 9.999997205697588e-05},
                  {2, 9.999990219944329e-05},
                  {1024, 8.606182881852591e-05},
                  {2048, 5.246359588146619e-05},
                  {3072, 1.888670432170169e-05},
                  {4096, 5e-06}};
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++)
        assert_close(qy_block_ap_rate(plan, 1e-4, golden[i].t), golden[i].rate, 1e-12);
    plan->block_ap.steps = 8;
    static const double eight[] = {9.29061708e-05, 7.69510457e-05, 5.81959342e-05, 3.93534889e-05,
                                   2.31012879e-05, 1.16009176e-05, 5.93969559e-06, 5e-06};
    for (int64_t t = 1; t <= 8; t++)
        assert_close(qy_block_ap_rate(plan, 1e-4, t), eight[t - 1], 1e-8);

    /* The recursion itself, as torch's CosineAnnealingLR runs it. */
    double rate = 1e-4, m = 5e-6, pi = acos(-1.0);
    plan->block_ap.steps = 100;
    for (int64_t t = 1; t < 100; t++) {
        double cosine = m + (1e-4 - m) * (1.0 + cos(pi * (double)t / 100.0)) / 2.0;
        rate = m + (cosine - m) * (1.0 + cos(pi * (double)t / 100.0)) /
                       (1.0 + cos(pi * (double)(t - 1) / 100.0));
        assert_close(qy_block_ap_rate(plan, 1e-4, t), rate, 1e-12);
    }
    free(plan);
}

static void test_step_rates(void **state)
{
    (void)state;
    qy_plan_t *plan = make_plan(TINY_JOB, "calibration.samples=512", 1);
    assert_int_equal(plan->block_ap.steps_per_epoch, 256);
    assert_int_equal(plan->block_ap.steps, 512);
    assert_close(plan->block_ap.weight_lr, 7.43e-3, 1e-3);
    assert_close(plan->block_ap.quant_lr, 1.857e-3, 1e-3);
    assert_true(plan->block_ap.norm_lr == 0.0);
    double weights = 0.0, quant = 0.0;
    for (int64_t t = 0; t < 512; t++) {
        weights += qy_block_ap_rate(plan, plan->block_ap.weight_lr, t);
        quant += qy_block_ap_rate(plan, plan->block_ap.quant_lr, t);
    }
    assert_close(weights, 2.0, 1e-12); /* the travel */
    assert_close(quant, 0.5, 1e-12);
    assert_true(qy_block_ap_rate(plan, 1.0, 0) == 1.0);
    qy_plan_destroy(&plan);
}

static void test_auto_rates(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        double weight, quant, norm;
    } cases[] = {
        {"quantize.weights.bits=2", 0.01, 0.004, 0.0}, /* 8 steps: both at their cap */
        {"quantize.weights.bits=8", 0.01, 0.004, 0.0},
        {"block_ap={epochs: 100, batch_size: 1}", 2.0 / 420.475, 0.5 / 420.475, 0.0},
        {"block_ap={epochs: 100, batch_size: 1, quant_lr: 1e-3, norm_lr: 0.5}", 2.0 / 420.475, 1e-3,
         0.5},
        {"block_ap={lr_unit: absolute}", 2e-5, 1e-4, 2e-5},
        {"block_ap={lr_unit: absolute, weight_lr: 3e-5}", 3e-5, 1e-4, 3e-5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_plan_t *plan = make_plan(TINY_JOB, cases[i].set, 1);
        assert_close(plan->block_ap.weight_lr, cases[i].weight, 1e-15);
        assert_close(plan->block_ap.quant_lr, cases[i].quant, 1e-15);
        assert_close(plan->block_ap.norm_lr, cases[i].norm, 1e-15);
        qy_plan_destroy(&plan);
    }
    static const struct {
        const char *job;
        double weight;
    } bits[] = {
        {TINY_JOB "quantize: {weights: {bits: 3}}\n", 1.0 / 420.475},
        {TINY_JOB "quantize: {weights: {bits: 4}}\n", 1.2 / 420.475},
        {TINY_JOB "quantize: {weights: {bits: 6}}\n", 1.2 / 420.475},
    };
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        qy_plan_t *plan = make_plan(bits[i].job, "block_ap={epochs: 100, batch_size: 1}", 1);
        assert_close(plan->block_ap.weight_lr, bits[i].weight, 1e-15);
        qy_plan_destroy(&plan);
    }
    qy_plan_t *plan = make_plan(bits[0].job, "block_ap.lr_unit=absolute", 1);
    assert_close(plan->block_ap.weight_lr, 1e-5, 1e-15);
    qy_plan_destroy(&plan);
}

static void test_e2e_rates(void **state)
{
    (void)state;
    /* 128 updates with 4 of warmup: Σ is 65 peaks in units of the step, 1.28e-3 as published */
    qy_plan_t *plan =
        make_plan(TINY_JOB, "e2e_qp={samples: 128, batch_size: 4, epochs: 4, loss: distill}", 1);
    assert_int_equal(plan->e2e.steps, 128);
    assert_int_equal(plan->e2e.steps_per_epoch, 32);
    assert_int_equal(plan->e2e.warmup, 4);
    assert_close(plan->e2e.lr, 0.6 / 65.0, 1e-15);
    assert_int_equal(plan->n_e2e_ranges, 4);
    double sum = 0.0;
    for (int64_t k = 0; k < 128; k++)
        sum += qy_e2e_rate(plan, k);
    assert_close(sum, 0.6, 1e-12);
    assert_close(qy_e2e_rate(plan, 0), plan->e2e.lr / 4.0, 1e-15);
    assert_close(qy_e2e_rate(plan, 3), plan->e2e.lr, 1e-15);
    assert_close(qy_e2e_rate(plan, 4), plan->e2e.lr, 1e-15);
    assert_close(qy_e2e_rate(plan, 66), plan->e2e.lr / 2.0, 1e-12);
    qy_plan_destroy(&plan);

    plan = make_plan(TINY_JOB, "e2e_qp={samples: 128, batch_size: 4, epochs: 4, lr_unit: absolute}",
                     1);
    assert_close(plan->e2e.lr, 2e-5, 1e-15);
    assert_true(qy_e2e_rate(plan, 0) == 0.0);
    assert_close(qy_e2e_rate(plan, 1), 5e-6, 1e-15);
    sum = 0.0;
    for (int64_t k = 0; k < 128; k++)
        sum += qy_e2e_rate(plan, k);
    assert_close(sum, 1.28e-3, 1e-12);
    qy_plan_destroy(&plan);

    plan = make_plan(TINY_JOB, "e2e_qp.batch_size=8", 1); /* a single update, of warmup: capped */
    assert_int_equal(plan->e2e.steps, 1);
    assert_int_equal(plan->n_e2e_ranges, 0);
    assert_true(plan->e2e.lr == 0.02);
    assert_true(qy_e2e_rate(plan, 0) == 0.02);
    qy_plan_destroy(&plan);
    plan = make_plan(TINY_JOB, NULL, 1);
    assert_true(plan->e2e_samples == 0 && plan->e2e.steps == 0);
    qy_plan_destroy(&plan);
}

/* --- refusals --------------------------------------------------------------------------------- */

/* A .npy of i32 zeros whose header says this shape. */
static void write_ids(const char *name, const char *shape, size_t n)
{
    char header[118], bytes[10 + sizeof header + 4096] = "\x93NUMPY\x01";
    int used = snprintf(header, sizeof header,
                        "{'descr': '<i4', 'fortran_order': False, 'shape': %s, }", shape);
    bytes[8] = (char)sizeof header;
    memset(bytes + 10, ' ', sizeof header);
    memcpy(bytes + 10, header, (size_t)used);
    assert_true(4 * n <= 4096);
    OK(qy_file_write(path_of(name), bytes, 10 + sizeof header + 4 * n, &err));
}

/* Rows of token ids are the windows: 8 and 2 of 32. */
static void test_ids(void **state)
{
    (void)state;
    static const struct {
        const char *shape;
        size_t n;
        const char *words; /* NULL: taken */
    } cases[] = {{"(10, 32)", 320, NULL},
                 {"(11, 32)", 352, NULL},
                 {"(9, 32)", 288, "calibration.text|9 rows, the job takes 10"},
                 {"(10, 31)", 310, "calibration.text|rows of 31 tokens, windows of 32"},
                 {"(10, 32)", 319, "calibration.text|10 × 32"},
                 {"(320,)", 320, "calibration.text|(samples, length)"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_plan_t *plan = NULL;
        write_ids("ids.npy", cases[i].shape, cases[i].n);
        qy_spec_t *spec = read_job(TINY_JOB, "calibration.text=$FOLDER/ids.npy");
        qy_status_t status = qy_plan_make(&plan, spec, 1, &err);
        if (cases[i].words)
            assert_refused(cases[i].shape, status, QY_ERR_FORMAT, cases[i].words);
        else
            OK(status);
        free(spec);
        qy_plan_destroy(&plan);
    }
    write_file("no.npy", "ids");
    static const char *const sets[] = {"calibration.text=$FOLDER/no.npy",
                                       "e2e_qp={batch_size: 4, text: $FOLDER/no.npy}",
                                       "evaluate=[{name: a, text: $FOLDER/no.npy}]"};
    for (size_t i = 0; i < 3; i++) {
        qy_plan_t *plan = NULL;
        qy_spec_t *spec = read_job(TINY_JOB, sets[i]);
        assert_refused(sets[i], qy_plan_make(&plan, spec, 1, &err), QY_ERR_FORMAT,
                       "no.npy: is not a .npy file");
        free(spec);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const char job[] = TINY_JOB "e2e_qp: {batch_size: 4}\n";
    write_file("short.txt", "In the beginning God created");
    write_file("text.pdf", "%PDF");
    write_file("file", "");
    assert_int_equal(symlink(TINY, path_of("link")), 0);
    assert_int_equal(mkdir(path_of("mine"), 0777), 0);
    write_file("mine/job.yaml", "# my notes\n" TINY_JOB);
    static const struct {
        const char *set;
        qy_status_t status;
        const char *words;
    } cases[] = {
        {"model=/nowhere", QY_ERR_IO, "/nowhere/config.json"},
        {"quantize.segments=7", QY_ERR_ARG, "quantize.segments: 7|6 blocks"},
        {"quantize.weights.group_size=60", QY_ERR_ARG, "60|256 columns|self_attn.q_proj"},
        {"quantize.weights.group_size=512", QY_ERR_ARG, "512|256 columns"},
        {"calibration.sequence_length=1024", QY_ERR_ARG, "calibration.sequence_length: 1024|512"},
        {"e2e_qp.sequence_length=513", QY_ERR_ARG, "e2e_qp.sequence_length: 513|512"},
        {"evaluate=[{name: a, text: " TEST_DATA "/text/kjv/test.txt, sequence_length: 513}]",
         QY_ERR_ARG, "evaluate a.sequence_length: 513|512"},
        {"quantize={method: rptq, weights: {bits: 4, symmetric: true}}", QY_ERR_ARG,
         "quantize.weights.symmetric|rptq"},
        {"calibration.samples=1", QY_ERR_ARG, "block_ap.batch_size: 2|only 1"},
        {"e2e_qp.batch_size=9", QY_ERR_ARG, "e2e_qp.batch_size: 9|only 8"},
        {"e2e_qp.samples=3", QY_ERR_ARG, "e2e_qp.batch_size: 4|only 3"},
        {"calibration.text=/none.txt", QY_ERR_ARG, "calibration.text: /none.txt"},
        {"calibration.text=$FOLDER/text.pdf", QY_ERR_UNSUPPORTED, ".txt, .jsonl or .npy"},
        {"calibration.text=$FOLDER/short.txt", QY_ERR_FORMAT, "short.txt|28 bytes|32 tokens"},
        {"e2e_qp.text=$FOLDER/short.txt", QY_ERR_FORMAT, "e2e_qp.text|28 bytes|32 tokens"},
        {"evaluate=[{name: a, text: $FOLDER/short.txt}]", QY_ERR_FORMAT, "evaluate a|28 bytes"},
        {"evaluate=[{name: a, text: $FOLDER/none.txt}]", QY_ERR_ARG, "evaluate a|none.txt"},
        {"export=[wav]", QY_ERR_ARG, "\"wav\"|gptq"},
        {"export=[hf, hf]", QY_ERR_ARG, "\"hf\" is named twice"},
        {"run_dir=$FOLDER/file", QY_ERR_ARG, "run_dir|file is not a folder"},
        {"run_dir=$FOLDER/file/run", QY_ERR_ARG, "run_dir|file/run"},
        {"run_dir=" TINY, QY_ERR_ARG, "the model's folder"},
        {"run_dir=" TINY "/", QY_ERR_ARG, "the model's folder"},
        {"run_dir=" TINY "/../tiny-llama-kjv", QY_ERR_ARG, "the model's folder"},
        {"run_dir=$FOLDER/link", QY_ERR_ARG, "the model's folder"},
        {"run_dir=$FOLDER/mine", QY_ERR_ARG, "mine/job.yaml: give that file another name"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_plan_t *plan = NULL;
        qy_spec_t *spec = read_job(job, cases[i].set);
        assert_refused(cases[i].set, qy_plan_make(&plan, spec, 1, &err), cases[i].status,
                       cases[i].words);
        assert_null(plan);
        free(spec);
    }
    assert_false(qy_file_exists(path_of("run"))); /* nothing is left behind */
    qy_plan_t *plan = NULL;
    qy_spec_t *spec = read_job(job, NULL);
    assert_refused("workers", qy_plan_make(&plan, spec, 0, &err), QY_ERR_ARG, "workers: 0");
    free(spec);
}

static void test_read_only_run_dir(void **state)
{
    (void)state;
    if (geteuid() == 0)
        skip(); /* root may write anywhere */
    assert_int_equal(mkdir(path_of("read-only"), 0555), 0);
    qy_plan_t *plan = NULL;
    qy_spec_t *spec = read_job(TINY_JOB, "run_dir=$FOLDER/read-only/run");
    assert_refused("read-only", qy_plan_make(&plan, spec, 1, &err), QY_ERR_ARG,
                   "read-only|cannot write");
    free(spec);
}

/* Rounding needs no text and no activations. */
static void test_rtn(void **state)
{
    (void)state;
    qy_plan_t *plan =
        make_plan("model: " TINY "\nrun_dir: run\nquantize: {method: rtn, segments: 3}\n", NULL, 1);
    assert_true(plan->n_samples == 0 && plan->n_ranges == 0 && plan->stream_bytes == 0);
    assert_null(strstr(plan->canonical, "calibration"));
    assert_null(strstr(plan->canonical, "block_ap"));
    assert_non_null(strstr(plan->canonical, "\"rtn\":{\"init\":\"least-squares\"}"));
    qy_plan_destroy(&plan);
}

/* --- bytes ------------------------------------------------------------------------------------ */

static void test_bytes(void **state)
{
    (void)state;
    qy_plan_t *plan = make_plan(TINY_JOB, "quantize.segments=1", 1);
    assert_int_equal(plan->element_bytes, 4);
    /* two streams of 10 windows of 32 tokens, hidden 256 */
    assert_int_equal(plan->stream_bytes, 2 * 10 * 32 * 256 * 4);
    int64_t weights = 589824;
    assert_int_equal(qy_arch_block_weights(&plan->arch), weights);
    assert_int_equal(plan->host_bytes,
                     plan->stream_bytes + 2 * weights * 4 + weights * 12 + 9216 * 28);
    /* 6 blocks, twice: codes, and 3 bytes for each of 9216 groups */
    int64_t f32 = plan->stream_bytes, codes = 2 * 6 * (weights / 4 + weights / 64 * 3);
    /* and a checkpoint inside a block, twice */
    int64_t save = weights * 12 + 9216 * 28;
    assert_int_equal(plan->disk_bytes, codes + 10 * 32 * 4 + 2 * save);
    qy_plan_destroy(&plan);
    plan = make_plan(TINY_JOB, "quantize.segments=3", 1); /* two segment starts more */
    assert_int_equal(plan->disk_bytes, codes + 10 * 32 * 4 + 2 * save + f32);
    qy_plan_destroy(&plan);
    /* what is exported: codes with 4 bytes a group, and dense; embedding and head */
    plan = make_plan(TINY_JOB "quantize: {segments: 1}\n", "export=[gptq, hf]", 1);
    int64_t rim = 2 * plan->arch.vocab * 256 * 2, packed = 6 * (weights / 4 + weights / 64 * 4);
    assert_false(plan->arch.tied_head);
    assert_int_equal(plan->disk_bytes,
                     codes + 10 * 32 * 4 + 2 * save + rim + packed + rim + 6 * weights * 2);
    qy_plan_destroy(&plan);
    /* ggml's blocks: 18 bytes for 32 weights of any 2 or 3 bits, 22 of any 4, 18 for 64 of
     * symmetric 2 */
    static const struct {
        const char *set;
        int64_t elements, bytes;
    } blocks[] = {{"quantize.weights={bits: 2}", 32, 18},
                  {"quantize.weights={bits: 3}", 32, 18},
                  {"quantize.weights={bits: 4}", 32, 22},
                  {"quantize.weights={bits: 2, symmetric: true}", 64, 18}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        plan = make_plan(TINY_JOB "quantize: {segments: 1}\n", blocks[i].set, 1);
        qy_plan_t *with =
            make_plan(TINY_JOB "quantize: {segments: 1}\nexport: [gguf]\n", blocks[i].set, 1);
        assert_int_equal(with->disk_bytes - plan->disk_bytes,
                         rim + 6 * weights / blocks[i].elements * blocks[i].bytes);
        qy_plan_destroy(&with);
        qy_plan_destroy(&plan);
    }
    plan = make_plan(TINY_JOB, "resources={device: cuda, host_cache: 1000}", 1);
    assert_int_equal(plan->element_bytes, 2);
    assert_int_equal(plan->stream_bytes, f32 / 2);
    /* what is on its way to and from scratch: here everything, read ahead and written behind */
    assert_int_equal(plan->host_bytes, 1000 + f32 + 2 * weights * 4 + save);
    qy_plan_destroy(&plan);
}

/* The largest sizes that keys allow do not overflow, and what the disk cannot hold is refused. */
static void test_huge(void **state)
{
    (void)state;
    qy_plan_t *plan = make_plan(TINY_JOB, "quantize.segments=6", 1);
    plan->spec.calibration.samples = plan->spec.calibration.validation_samples = 1 << 20;
    plan->spec.calibration.sequence_length = 1 << 20;
    plan->spec.block_ap.batch_size = 65536;
    qy_plan_derive(plan, 6, 1);
    int64_t samples = 2LL << 20, sample = (1LL << 20) * 256 * 4;
    assert_true(plan->stream_bytes == 2 * samples * sample);
    assert_true(plan->disk_bytes > 5 * samples * sample);
    assert_refused("disk", qy_plan_check_fit(plan, &err), QY_ERR_ARG, "PiB of disk|has|left");
    plan->spec.block_ap.batch_size = 1;
    plan->arch.hidden = 1LL << 32;
    qy_plan_derive(plan, 6, 1);
    assert_true(plan->stream_bytes == INT64_MAX && plan->disk_bytes == INT64_MAX);
    qy_plan_destroy(&plan);
}

static void check_print(const char *job, const char *set, const char *const *wanted, size_t n)
{
    char *text = NULL;
    size_t bytes = 0;
    qy_plan_t *plan = make_plan(job, set, 4);
    FILE *file = open_memstream(&text, &bytes);
    assert_non_null(file);
    qy_plan_print(plan, file);
    fclose(file);
    for (size_t i = 0; i < n; i++)
        if (!strstr(text, wanted[i]))
            fail_msg("\"%s\" is not in:\n%s", wanted[i], text);
    free(text);
    qy_plan_destroy(&plan);
}

static void test_print(void **state)
{
    (void)state;
    static const char *const wanted[] = {
        "6 blocks, hidden 256",
        "block-ap, 2 bits, groups of 64, asymmetric, least-squares start",
        "segments   4 (auto), workers 4",
        "blocks 1 to 2",
        "block 3\n",
        "capture    8 tasks",
        "quantize   4 tasks",
        "distill, 2 steps (1 of warmup) of 4 windows",
        "kjv: /",
        "export     gptq",
        "MiB of host memory a worker"};
    static const char *const clusters[] = {
        "rptq, 4 bits, rows and clusters",
        "clusters: 32, 4 a head; activations 4 bits, KV cache 4 bits; weights by GPTQ"};
    static const char *const tensors[] = {"clusters: 1, 1 for all heads",
                                          "; weights by plain rounding"};
    check_print(TINY_JOB "e2e_qp: {batch_size: 4, loss: distill}\nexport: [gptq]\n",
                "evaluate=[{name: kjv, text: " TEST_DATA
                "/text/kjv/test.txt, sequence_length: 64}]",
                wanted, sizeof wanted / sizeof *wanted);
    check_print(TINY_JOB "rptq: {scheme: W4A4}\n", "quantize={method: rptq}", clusters, 2);
    check_print(TINY_JOB "rptq: {scheme: W4A4, clusters: 1, head_clusters: 0, weights: rtn}\n",
                "quantize={method: rptq}", tensors, 2);
}

/* A calibrating method that trains nothing: samples and segments as ever, no steps. */
/* QLLM's rate falls linearly from the first step on; the last norm is fitted only after training.
 */
static void test_qllm(void **state)
{
    (void)state;
    const char *const job = TINY_JOB "qllm: {epochs: 10, lr: 5.0e-4}\n";
    qy_plan_t *plan = make_plan(job, "quantize.method=qllm", 1);
    assert_int_equal(plan->qllm.steps, 80);
    assert_true(qy_qllm_rate(plan, 0) == 5e-4);
    for (int64_t k = 0; k < 80; k++)
        assert_true(fabs(qy_qllm_rate(plan, k) - 5e-4 * (1 - (double)k / 80)) <= 1e-18);
    assert_true(qy_plan_norm_ranges(plan) >= 1);
    qy_plan_destroy(&plan);
    plan = make_plan(TINY_JOB "qllm: {epochs: 0}\n", "quantize.method=qllm", 1);
    assert_int_equal(qy_plan_norm_ranges(plan), 0);
    qy_plan_destroy(&plan);
    plan = make_plan(TINY_JOB "quantize: {method: qllm}\n", "qllm.final_norm=false", 1);
    assert_int_equal(qy_plan_norm_ranges(plan), 0);
    qy_plan_destroy(&plan);
    plan = make_plan(TINY_JOB, NULL, 1);
    assert_int_equal(qy_plan_norm_ranges(plan), 0);
    qy_plan_destroy(&plan);
}

static void test_gptq(void **state)
{
    (void)state;
    qy_plan_t *plan = make_plan(TINY_JOB, "quantize.method=gptq", 4), *other;
    assert_true(plan->n_samples > 0 && plan->n_ranges > 0 && plan->n_segments == 4);
    assert_int_equal(plan->block_ap.steps, 0);
    other = make_plan(TINY_JOB "gptq: {damping: 0.02}\n", "quantize.method=gptq", 4);
    assert_string_not_equal(plan->hash, other->hash);
    qy_plan_destroy(&other);
    other = make_plan(TINY_JOB "gptq: {first_token: 0.1}\n", "quantize.method=gptq", 4);
    assert_string_not_equal(plan->hash, other->hash);
    qy_plan_destroy(&other);
    other = make_plan(TINY_JOB "rtn: {init: min-max}\n", "quantize.method=gptq", 4);
    assert_string_equal(plan->hash, other->hash);
    qy_plan_destroy(&other);
    qy_plan_destroy(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_published_rates),
        cmocka_unit_test(test_step_rates),
        cmocka_unit_test(test_auto_rates),
        cmocka_unit_test(test_e2e_rates),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_read_only_run_dir),
        cmocka_unit_test(test_rtn),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_huge),
        cmocka_unit_test(test_print),
        cmocka_unit_test(test_qllm),
        cmocka_unit_test(test_gptq),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
