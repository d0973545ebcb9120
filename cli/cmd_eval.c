/* quarry eval: perplexity and zero-shot accuracy of a Hugging Face directory or of a run. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/door.h"
#include "cli/eval.h"
#include "cli/exports.h"
#include "cli/verbs.h"

static qy_status_t read_block(void *context, int64_t block, qy_qblock_t *out, qy_error_t *err)
{
    const eval_t *e = context;
    return qy_finished_read_model(e->plan, block, e->plan->spec.e2e_qp.present, out, err);
}

qy_variant_source_t qy_eval_source(eval_t *e)
{
    qy_variant_source_t source = {.context = e};
    if (e->plan) {
        source.form = qy_plan_form(e->plan);
        source.read_block = read_block;
    } else if (e->exported.blocks) {
        source.form = e->exported.form;
        source.maps = e->exported.blocks;
    }
    return source;
}

static qy_status_t open_all(eval_t *e, const char *path, const char *device, const char *compute,
                            int threads, qy_error_t *err)
{
    char plan_path[QY_PATH_MAX];
    QY_TRY(qy_path(plan_path, err, "%s/plan.json", path));
    if (qy_file_exists(plan_path)) {
        QY_TRY(qy_plan_load(&e->plan, path, err));
        QY_TRY(qy_check_finished(e->plan, err));
    }
    const char *model = e->plan ? e->plan->spec.model : path;
    QY_TRY(e->plan ? qy_plan_open_model(&e->model, e->plan, err)
                   : qy_model_open(&e->model, path, err));
    QY_TRY(e->plan ? qy_finished_final_norm(e->plan, e->model, err)
                   : qy_exported_read(&e->exported, e->model, err));
    if (e->length > e->model->arch.max_positions)
        return qy_fail(err, QY_ERR_ARG,
                       "windows of %lld tokens (--sequence-length): the model has %lld positions",
                       (long long)e->length, (long long)e->model->arch.max_positions);
    QY_TRY(qy_tokenizer_open(&e->tokenizer, model, err));
    QY_TRY(qy_device_open(&e->dev, device, compute, threads, err));
    e->model->threads = e->dev->threads;
    return QY_OK;
}

static void close_all(eval_t *e)
{
    qy_device_close(&e->dev);
    qy_tokenizer_close(&e->tokenizer);
    qy_exported_free(&e->exported);
    qy_model_close(&e->model);
    qy_plan_destroy(&e->plan);
}

static qy_status_t eval_tasks(eval_t *e, const char *const *tasks, int n, const char *items_path,
                              qy_error_t *err)
{
    FILE *items = items_path ? fopen(items_path, "w") : NULL;
    qy_status_t status = QY_OK;
    if (items_path && !items)
        return qy_fail(err, QY_ERR_IO, "%s: %s", items_path, strerror(errno));
    for (int i = 0; i < n && status == QY_OK; i++)
        status = qy_eval_task(e, tasks[i], items, err);
    if (items && fclose(items) != 0 && status == QY_OK)
        status = qy_fail(err, QY_ERR_IO, "%s: %s", items_path, strerror(errno));
    return status;
}

/* What is to be done. */
typedef struct {
    const char *model, *texts[QY_DOOR_LIST], *tasks[QY_DOOR_LIST], *items, *length, *bos, *device,
        *compute, *threads;
    int n_texts, n_tasks;
} request_t;

/* A window of one token scores none. */
static qy_status_t read_length(const char *text, int64_t *length, qy_error_t *err)
{
    QY_TRY(qy_door_count("--sequence-length", text, length, err));
    return *length >= 2 ? QY_OK
                        : qy_fail(err, QY_ERR_ARG, "--sequence-length: %s is less than 2", text);
}

static int eval(const request_t *r)
{
    qy_error_t err = {0};
    eval_t e = {.text_bos = r->bos && strcmp(r->bos, "auto") == 0,
                .task_bos = !r->bos || strcmp(r->bos, "auto") == 0};
    int64_t threads = 0;
    qy_status_t status = qy_door_count("--threads", r->threads, &threads, &err);
    if (status == QY_OK && r->n_texts)
        status = read_length(r->length, &e.length, &err);
    if (status == QY_OK)
        status = open_all(&e, r->model, r->device, r->compute, (int)threads, &err);
    int opened = status == QY_OK;
    if (status == QY_OK && r->n_tasks)
        status = eval_tasks(&e, r->tasks, r->n_tasks, r->items, &err);
    for (int i = 0; i < r->n_texts && status == QY_OK; i++)
        status = qy_eval_text(&e, r->texts[i], &err);
    close_all(&e);
    if (status == QY_OK)
        return QY_EXIT_OK;
    int input = !opened || status == QY_ERR_FORMAT || status == QY_ERR_ARG || status == QY_ERR_IO ||
                status == QY_ERR_UNSUPPORTED;
    return qy_door_error(&err, input ? QY_EXIT_INPUT : QY_EXIT_FAILED);
}

int qy_cmd_eval(int argc, char **argv)
{
    request_t r = {.length = "2048", .device = "auto", .compute = "auto"};
    int n_words;
    const qy_option_t options[] = {
        {.name = "--text",
         .help = "FILE...  .txt, .jsonl or .npy: perplexity",
         .list = r.texts,
         .n_list = &r.n_texts,
         .greedy = 1},
        {.name = "--task",
         .help = "FILE...  .mc.jsonl: zero-shot accuracy, plain and by bytes",
         .list = r.tasks,
         .n_list = &r.n_tasks,
         .greedy = 1},
        {.name = "--items", .help = "FILE  a JSON line for each task item", .value = &r.items},
        {.name = "--sequence-length", .help = "T  tokens in a window (2048)", .value = &r.length},
        {.name = "--bos",
         .help = "auto|none  the tokenizer's first tokens before a text (none), an item (auto)",
         .value = &r.bos},
        {.name = "--device", .help = "auto|cpu|cuda:N", .value = &r.device},
        {.name = "--compute",
         .help = "auto|f32|f16|bf16  what the device computes in (auto: f32 on cpu, bf16 on cuda)",
         .value = &r.compute},
        {.name = "--threads", .help = "N  of the CPU device", .value = &r.threads},
    };
    int code = qy_door_options(argc, argv,
                               "eval MODEL_OR_RUN_DIR [--text FILE...] [--task FILE...] [options]",
                               options, sizeof options / sizeof *options, &r.model, 1, &n_words);
    if (code >= 0)
        return code;
    if (r.items && !r.n_tasks) {
        fprintf(stderr, "quarry eval: --items: only a --task has items\n");
        return QY_EXIT_INPUT;
    }
    bool bos = !r.bos || strcmp(r.bos, "auto") == 0 || strcmp(r.bos, "none") == 0;
    if (n_words == 1 && r.n_texts + r.n_tasks > 0 && bos)
        return eval(&r);
    fprintf(stderr, bos ? "quarry eval: a model, and --text or --task are needed\n"
                        : "quarry eval: --bos: expected auto or none\n");
    return QY_EXIT_INPUT;
}
