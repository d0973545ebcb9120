/* The last norm's fit: sums of the task against f64 sums over the same hidden states, and the
 * fitted norm, which leaves no smaller error in any channel. */
#include <math.h>

#include "jobs/finished.h"
#include "base/half.h"
#include "base/random.h"
#include "tests/jobs/job_files.h"
#include "worker/forward.h"
#include "worker/run_task.h"

enum { SAMPLES = 8, LENGTH = 32, ROWS = SAMPLES * LENGTH };

static const char job[] =
    "model: " TEST_DATA "/models/%s\nrun_dir: run\n"
    "calibration: {text: " TEST_DATA "/text/kjv/test.txt, samples: 8, sequence_length: 32,\n"
    "              validation_samples: 2}\n"
    "quantize: {method: qllm, weights: {bits: 4, group_size: -1}, activations: {bits: 4}}\n"
    "qllm: {epochs: 1}\n";

typedef struct {
    qy_plan_t *plan;
    qy_device_t *dev;
    qy_model_t *model;
    double *before, *after; /* (ROWS, H): last hidden states of the original, of the quantized */
} run_t;

/* Small random weights behind the checkpoint's norms. */
static void fill_block(const run_t *r, qy_qblock_t *q, int64_t block)
{
    qy_block_weights_t w;
    OK(qy_block_weights_read(&w, r->model, block, &err));
    for (int k = 0; k < QY_N_LINEARS; k++) {
        uint32_t *codes = q->codes[k].data;
        uint16_t *scales = q->scales[k].data;
        uint8_t *zeros = q->zeros[k].data;
        if (!codes)
            continue;
        for (int64_t i = 0; i < qy_tensor_count(&q->codes[k]); i++)
            codes[i] = (uint32_t)qy_random_u64(1, QY_PHASE_CALIBRATION, (uint64_t)i,
                                               (uint64_t)(block * QY_N_LINEARS + k));
        for (int64_t i = 0; i < qy_tensor_count(&q->scales[k]); i++) {
            scales[i] = qy_f32_to_f16(0.01f);
            zeros[i] = 8;
        }
    }
    for (int k = 0; k < QY_N_NORMS; k++) {
        if (w.norm[k].data)
            memcpy(q->norm[k].data, w.norm[k].data, qy_tensor_bytes(&w.norm[k]));
        if (w.norm_bias[k].data)
            memcpy(q->norm_bias[k].data, w.norm_bias[k].data, qy_tensor_bytes(&w.norm_bias[k]));
    }
    qy_block_weights_free(&w);
}

static void write_model(const run_t *r)
{
    char path[QY_PATH_MAX], prefix[32];
    qy_h5_t *file = NULL;
    const qy_quant_form_t form = qy_plan_form(r->plan);
    OK(qy_store_model(path, r->plan, &err));
    OK(qy_h5_create(&file, path, &err));
    OK(qy_store_mark(file, r->plan, "model", &err));
    for (int64_t b = 0; b < r->plan->arch.n_blocks; b++) {
        qy_qblock_t q;
        OK(qy_qblock_create(&q, &r->plan->arch, &form, &err));
        fill_block(r, &q, b);
        snprintf(prefix, sizeof prefix, "%03d/", (int)b);
        OK(qy_qblock_write(&q, &r->plan->arch, file, prefix, &err));
        qy_qblock_free(&q);
    }
    OK(qy_h5_commit(&file, &err));
}

/* Last hidden states of all training samples. */
static double *walk(const run_t *r, const int32_t *tokens, int quantized)
{
    qy_work_t work = {.plan = r->plan, .dev = r->dev, .model = r->model};
    const qy_quant_form_t form = qy_plan_form(r->plan);
    int64_t hidden = r->plan->arch.hidden;
    qy_forward_t f;
    qy_stream_t *stream = NULL;
    OK(qy_forward_create(&f, r->dev, r->model, &form, SAMPLES, LENGTH, &err));
    OK(qy_work_stream(&work, SAMPLES, LENGTH, 1, NULL, &stream, &err));
    OK(qy_forward_embed(&f, &stream, 1, tokens, &err));
    for (int64_t b = 0; b < r->plan->arch.n_blocks; b++) {
        qy_qblock_t q = {0};
        if (quantized) {
            OK(qy_finished_read_model(r->plan, b, 0, &q, &err));
            OK(qy_forward_load_quantized(&f, &q, &err));
        } else {
            OK(qy_forward_load_original(&f, b, &err));
        }
        OK(qy_forward_advance(&f, stream, b, &(qy_hooks_t){0}, &err));
        qy_qblock_free(&q);
    }
    float *rows = malloc((size_t)(ROWS * hidden) * sizeof *rows);
    double *out = malloc((size_t)(ROWS * hidden) * sizeof *out);
    assert_non_null(rows);
    assert_non_null(out);
    for (int64_t i = 0; i < SAMPLES; i++)
        OK(qy_stream_read(stream, i, rows + i * LENGTH * hidden, &err));
    for (int64_t i = 0; i < ROWS * hidden; i++)
        out[i] = (double)rows[i];
    free(rows);
    qy_stream_destroy(&stream);
    qy_forward_free(&f);
    return out;
}

static void open_run(run_t *r, const char *model)
{
    char text[1024];
    int32_t *tokens = NULL;
    int64_t n, length;
    snprintf(text, sizeof text, job, model);
    r->plan = make_plan(text, NULL, 1);
    OK(qy_store_prepare(r->plan, &err));
    OK(qy_store_make_tokens(r->plan, &err));
    OK(qy_device_open(&r->dev, "cpu", "auto", 1, &err));
    OK(qy_model_open(&r->model, r->plan->spec.model, &err));
    write_model(r);
    OK(qy_store_read_tokens(&tokens, &n, &length, r->plan, "calibration", &err));
    r->before = walk(r, tokens, 0);
    r->after = walk(r, tokens, 1);
    free(tokens);
}

static void close_run(run_t *r)
{
    char path[QY_PATH_MAX];
    OK(qy_path(path, &err, "%s", r->plan->spec.run_dir));
    qy_model_close(&r->model);
    qy_device_close(&r->dev);
    qy_plan_destroy(&r->plan);
    free(r->before);
    free(r->after);
    OK(qy_remove_tree(path, &err));
}

/* A row without weights and biases, in f64. */
static void normed(double *out, const double *x, const qy_arch_t *arch)
{
    double mean = 0, square = 0;
    int64_t n = arch->hidden;
    for (int64_t c = 0; c < n && arch->norm_kind != QY_NORM_RMS; c++)
        mean += x[c] / (double)n;
    for (int64_t c = 0; c < n; c++)
        square += (x[c] - mean) * (x[c] - mean) / (double)n;
    for (int64_t c = 0; c < n; c++)
        out[c] = (x[c] - mean) / sqrt(square + (double)arch->norm_eps);
}

/* y, h (ROWS, H): what the original has behind its norm; what the quantized model's norm weighs. */
static void make_pair(const run_t *r, const qy_outer_weights_t *outer, double *y, double *h)
{
    int64_t n = r->plan->arch.hidden;
    const float *w = outer->original_norm.data, *b = outer->original_norm_bias.data;
    for (int64_t i = 0; i < ROWS; i++) {
        normed(y + i * n, r->before + i * n, &r->plan->arch);
        normed(h + i * n, r->after + i * n, &r->plan->arch);
        for (int64_t c = 0; c < n; c++)
            y[i * n + c] = y[i * n + c] * (double)w[c] + (b ? (double)b[c] : 0);
    }
}

static double error_of(const double *y, const double *h, int64_t n, int64_t c, double w, double b)
{
    double sum = 0;
    for (int64_t i = 0; i < ROWS; i++) {
        double d = w * h[i * n + c] + b - y[i * n + c];
        sum += d * d;
    }
    return sum;
}

/* The least error a channel can have is what the fit leaves, but for its rounding to f16. */
static void check_fit(const run_t *r, const double *y, const double *h)
{
    qy_outer_weights_t outer;
    OK(qy_outer_weights_read(&outer, r->model, &err));
    const float *w = outer.final_norm.data, *b = outer.final_norm_bias.data;
    const float *before = outer.original_norm.data;
    int64_t n = r->plan->arch.hidden;
    for (int64_t c = 0; c < n; c++) {
        double found = error_of(y, h, n, c, (double)w[c], b ? (double)b[c] : 0), slack = 1e-5;
        assert_true(found <= error_of(y, h, n, c, (double)before[c], 0) * (1 + slack) + slack ||
                    b != NULL);
        for (int k = -1; k <= 1; k += 2) {
            double step = 0.01 * k;
            double aside = error_of(y, h, n, c, (double)w[c] + step, b ? (double)b[c] : 0);
            assert_true(found <= aside);
            if (b)
                assert_true(found <= error_of(y, h, n, c, (double)w[c], (double)b[c] + step));
        }
        assert_true((double)fabsf(w[c] - before[c]) < 10);
    }
    qy_outer_weights_free(&outer);
}

static void check_model(const char *model)
{
    run_t r = {0};
    qy_outer_weights_t outer;
    open_run(&r, model);
    int64_t n = r.plan->arch.hidden, ranges = qy_plan_norm_ranges(r.plan);
    qy_work_t work = {.plan = r.plan, .dev = r.dev, .model = r.model, .hooks = &(qy_hooks_t){0}};
    assert_true(ranges > 1);
    assert_true(qy_finished_final_norm(r.plan, r.model, &err) != QY_OK); /* no sums yet */
    for (int64_t k = 0; k < ranges; k++) {
        qy_result_t result = {0};
        qy_task_t task = {.kind = QY_TASK_FINAL_NORM, .attempt = 1, .range = k};
        OK(qy_task_final_norm(&work, &task, &result, &err));
    }
    OK(qy_finished_final_norm(r.plan, r.model, &err));
    double *y = calloc((size_t)(2 * ROWS * n), sizeof *y), *h = y + ROWS * n;
    assert_non_null(y);
    OK(qy_outer_weights_read(&outer, r.model, &err));
    make_pair(&r, &outer, y, h);
    assert_true(memcmp(outer.final_norm.data, outer.original_norm.data,
                       qy_tensor_bytes(&outer.final_norm)) != 0);
    qy_outer_weights_free(&outer);
    check_fit(&r, y, h);
    OK(qy_model_set_final_norm(r.model, NULL, NULL, &err));
    assert_null(r.model->final_norm);
    free(y);
    close_run(&r);
}

static void test_rms_norm(void **state)
{
    (void)state;
    check_model("tiny-llama-kjv");
}

static void test_layer_norm_and_bias(void **state)
{
    (void)state;
    check_model("tiny-opt-kjv");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rms_norm),
                                       cmocka_unit_test(test_layer_norm_and_bias)};
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
