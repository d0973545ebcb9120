/* quarry eval: perplexity of a Hugging Face directory or of a run. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/door.h"
#include "cli/verbs.h"
#include "jobs/finished.h"
#include "model/text.h"
#include "worker/run_task.h"

typedef struct {
    qy_plan_t *plan; /* NULL: a plain model directory */
    qy_model_t *model;
    qy_device_t *dev;
    qy_tokenizer_t *tokenizer;
    int64_t length;
    int bos;
} eval_t;

static qy_status_t read_block(void *context, int64_t block, qy_qblock_t *out, qy_error_t *err)
{
    const eval_t *e = context;
    return qy_finished_read_model(e->plan, block, e->plan->spec.e2e_qp.present, out, err);
}

static qy_status_t open_all(eval_t *e, const char *path, const char *device, int threads,
                            qy_error_t *err)
{
    char plan_path[QY_PATH_MAX];
    QY_TRY(qy_path(plan_path, err, "%s/plan.json", path));
    if (qy_file_exists(plan_path))
        QY_TRY(qy_plan_load(&e->plan, path, err));
    const char *model = e->plan ? e->plan->spec.model : path;
    QY_TRY(qy_model_open(&e->model, model, err));
    if (e->length > e->model->arch.max_positions)
        return qy_fail(err, QY_ERR_ARG, "windows of %lld tokens: the model has %lld positions",
                       (long long)e->length, (long long)e->model->arch.max_positions);
    QY_TRY(qy_tokenizer_open(&e->tokenizer, model, err));
    return qy_device_open(&e->dev, device, "auto", threads, err);
}

static void close_all(eval_t *e)
{
    qy_device_close(&e->dev);
    qy_tokenizer_close(&e->tokenizer);
    qy_model_close(&e->model);
    qy_plan_destroy(&e->plan);
}

/* The text's tokens, after the post-processor's prefix where wanted; the caller frees. */
static qy_status_t read_tokens(const eval_t *e, const char *path, int32_t **tokens, int64_t *n,
                               qy_error_t *err)
{
    int32_t prefix[8];
    qy_text_t text;
    int n_prefix = e->bos ? qy_tokenizer_prefix(e->tokenizer, prefix, 8) : 0;
    QY_TRY(qy_text_read(&text, path, e->tokenizer, QY_TEXT_JOIN, err));
    int32_t *all = malloc((size_t)(text.n + n_prefix + 1) * sizeof *all);
    qy_status_t status = all ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", path);
    if (all) {
        memcpy(all, prefix, (size_t)n_prefix * sizeof *all);
        memcpy(all + n_prefix, text.ids, (size_t)text.n * sizeof *all);
        *tokens = all;
        *n = text.n + n_prefix;
        if (*n < e->length)
            status = qy_fail(err, QY_ERR_FORMAT, "%s: %lld tokens are less than one window of %lld",
                             path, (long long)*n, (long long)e->length);
    }
    qy_text_free(&text);
    return status;
}

static qy_status_t eval_text(eval_t *e, const char *path, double *perplexity, qy_error_t *err)
{
    int32_t *tokens = NULL;
    int64_t n = 0;
    double *nll = NULL, sum = 0;
    qy_stream_t *stream = NULL;
    qy_status_t status;
    QY_TRY_GOTO(read_tokens(e, path, &tokens, &n, err), free_tokens);
    int64_t windows = n / e->length;
    size_t bytes = (size_t)(e->length * e->model->arch.hidden) * qy_dtype_bytes(e->dev->compute);
    nll = malloc((size_t)windows * sizeof *nll);
    status = nll ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", path);
    if (status == QY_OK)
        status = qy_stream_create(&stream, e->dev, windows, bytes, 1, NULL, err);
    qy_variant_source_t source = {.context = e};
    if (e->plan) {
        source.form = qy_plan_form(e->plan);
        source.read_block = read_block;
    }
    if (status == QY_OK)
        status = qy_evaluate_windows(e->dev, e->model, &source, stream, tokens, windows, e->length,
                                     &(qy_hooks_t){0}, nll, err);
    for (int64_t i = 0; i < windows && status == QY_OK; i++)
        sum += nll[i];
    if (status == QY_OK)
        *perplexity = exp(sum / (double)(windows * (e->length - 1)));
    if (status == QY_OK)
        printf("%s: %lld windows of %lld tokens\n", path, (long long)windows, (long long)e->length);
    qy_stream_destroy(&stream);
    free(nll);
free_tokens:
    free(tokens);
    return status;
}

int qy_cmd_eval(int argc, char **argv)
{
    const char *model = NULL, *texts[QY_DOOR_LIST], *length = "2048", *bos = "none";
    const char *device = "auto", *threads = "0";
    int n_words, n_texts = 0;
    const qy_option_t options[] = {
        {.name = "--text",
         .help = "FILE...  .txt, .jsonl or .npy",
         .list = texts,
         .n_list = &n_texts,
         .greedy = 1},
        {.name = "--sequence-length", .help = "T  tokens in a window (2048)", .value = &length},
        {.name = "--bos",
         .help = "auto|none  the tokenizer's first tokens, once (none)",
         .value = &bos},
        {.name = "--device", .help = "auto|cpu|cuda:N", .value = &device},
        {.name = "--threads", .help = "N  of the CPU device", .value = &threads},
    };
    int code = qy_door_options(argc, argv, "eval MODEL_OR_RUN_DIR --text FILE... [options]",
                               options, sizeof options / sizeof *options, &model, 1, &n_words);
    if (code >= 0)
        return code;
    qy_error_t err = {0};
    eval_t e = {.length = strtoll(length, NULL, 10), .bos = strcmp(bos, "auto") == 0};
    if (n_words != 1 || n_texts == 0 || e.length < 2 || (!e.bos && strcmp(bos, "none") != 0)) {
        fprintf(stderr,
                "quarry eval: a model, --text, a --sequence-length of at least 2, and --bos "
                "auto or none are needed\n");
        return QY_EXIT_INPUT;
    }
    double perplexity = (double)NAN;
    qy_status_t status = open_all(&e, model, device, atoi(threads), &err);
    int opened = status == QY_OK;
    for (int i = 0; i < n_texts && status == QY_OK; i++) {
        status = eval_text(&e, texts[i], &perplexity, &err);
        if (status == QY_OK)
            printf("perplexity %.3f\n", perplexity);
    }
    close_all(&e);
    if (status == QY_OK)
        return QY_EXIT_OK;
    int input = !opened || status == QY_ERR_FORMAT || status == QY_ERR_ARG || status == QY_ERR_IO ||
                status == QY_ERR_UNSUPPORTED;
    return qy_door_error(&err, input ? QY_EXIT_INPUT : QY_EXIT_FAILED);
}
