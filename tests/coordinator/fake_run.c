#include "tests/coordinator/fake_run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "jobs/finished.h"

enum { TEXT_BYTES = 96000, BLOCKS = 6 };

/* Every failure of a set-up is told with its text. */
static void must(qy_status_t status, const qy_error_t *err)
{
    if (status != QY_OK)
        fail_msg("%s", err->text);
}

/* --- the plan --------------------------------------------------------------------------------- */

static void write_text(const fake_run_t *run, const char *name, char mark)
{
    char path[QY_PATH_MAX], text[TEXT_BYTES];
    qy_error_t err;
    for (int i = 0; i < TEXT_BYTES; i++)
        text[i] = (char)((i + 1) % 6 == 0 ? ' ' : 'a' + i % 997 * (i % 997) % 23);
    text[0] = mark;
    must(qy_path(path, &err, "%s/%s", run->root, name), &err);
    must(qy_file_write(path, text, sizeof text, &err), &err);
}

void fake_run_plan_again(fake_run_t *run, bool with_e2e, char mark)
{
    static const char *const form =
        "model: %s/models/tiny-llama-kjv\n"
        "run_dir: run\n"
        "calibration: {text: text.txt, samples: 6, sequence_length: 16, validation_samples: 2}\n"
        "quantize: {weights: {bits: 2, group_size: 64}, segments: 3}\n"
        "%s"
        "evaluate: [{name: a, text: eval.txt, sequence_length: 64}]\n"
        "export: [gptq]\n";
    char path[QY_PATH_MAX], yaml[2 * QY_PATH_MAX];
    qy_error_t err;
    qy_spec_t *spec = calloc(1, sizeof *spec);
    assert_non_null(spec);
    qy_plan_destroy(&run->plan);
    write_text(run, "text.txt", 'T');
    write_text(run, "eval.txt", mark);
    int n = snprintf(yaml, sizeof yaml, form, TEST_DATA,
                     with_e2e ? "e2e_qp: {loss: distill, samples: 4, batch_size: 2}\n" : "");
    must(qy_path(path, &err, "%s/job.yaml", run->root), &err);
    must(qy_file_write(path, yaml, (size_t)n, &err), &err);
    must(qy_spec_read(spec, path, NULL, 0, &err), &err);
    must(qy_plan_make(&run->plan, spec, 3, &err), &err);
    must(qy_plan_record(run->plan, &err), &err);
    free(spec);
    assert_int_equal(run->plan->arch.n_blocks, BLOCKS);
    assert_int_equal(run->plan->n_ranges, 4);
}

void fake_run_create(fake_run_t *run, bool with_e2e, char mark)
{
    /* In memory where that is possible: a run waits for the disk hundreds of times. */
    bool memory = access("/dev/shm", W_OK) == 0;
    *run = (fake_run_t){.plan = NULL};
    snprintf(run->root, sizeof run->root, "%s/qy_run_XXXXXX", memory ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(run->root));
    fake_run_plan_again(run, with_e2e, mark);
}

void fake_run_destroy(fake_run_t *run)
{
    qy_plan_destroy(&run->plan);
    qy_remove_tree(run->root, NULL);
}

/* --- files ------------------------------------------------------------------------------------ */

static void write_marked(const char *path, const qy_plan_t *plan, const char *kind)
{
    qy_error_t err;
    qy_h5_t *file = NULL;
    must(qy_h5_create(&file, path, &err), &err);
    must(qy_store_mark(file, plan, kind, &err), &err);
    must(qy_h5_commit(&file, &err), &err);
}

/* Numbers that tell one block from another. */
static void fill_block(qy_qblock_t *q, int64_t block)
{
    for (int i = 0; i < QY_N_LINEARS; i++) {
        uint32_t *codes = q->codes[i].data;
        uint16_t *scales = q->scales[i].data;
        if (!codes)
            continue;
        for (int64_t j = 0; j < qy_tensor_count(&q->codes[i]); j++)
            codes[j] = (uint32_t)(j * 2654435761 + block);
        for (int64_t j = 0; j < qy_tensor_count(&q->scales[i]); j++)
            scales[j] = (uint16_t)(0x2c00 + block);
    }
}

void fake_write_block(fake_run_t *run, int64_t block, bool hollow)
{
    char path[QY_PATH_MAX];
    qy_error_t err;
    qy_h5_t *file = NULL;
    qy_qblock_t q;
    const qy_quant_form_t form = qy_plan_form(run->plan);
    must(qy_qblock_create(&q, &run->plan->arch, &form, &err), &err);
    fill_block(&q, block);
    must(qy_store_block(path, run->plan, block, &err), &err);
    must(qy_h5_create(&file, path, &err), &err);
    must(qy_store_mark(file, run->plan, "block", &err), &err);
    must(qy_h5_set_f64(file, "loss_first", 10.0 + (double)block, &err), &err);
    must(qy_h5_set_f64(file, "loss_last", 1.0 + (double)block, &err), &err);
    must(qy_h5_set_f64(file, "validation_before", 20.0, &err), &err);
    must(qy_h5_set_f64(file, "validation_after", 2.0, &err), &err);
    if (!hollow)
        must(qy_qblock_write(&q, &run->plan->arch, file, "", &err), &err);
    must(qy_h5_commit(&file, &err), &err);
    qy_qblock_free(&q);
    run->blocks_written++;
}

void fake_write_e2e(const fake_run_t *run)
{
    char path[QY_PATH_MAX];
    qy_error_t err;
    for (int64_t b = 0; b < run->plan->arch.n_blocks; b++) {
        must(qy_store_e2e(path, run->plan, run->plan->e2e.steps, b, &err), &err);
        *strrchr(path, '/') = '\0';
        must(qy_make_dirs(path, &err), &err);
        must(qy_store_e2e(path, run->plan, run->plan->e2e.steps, b, &err), &err);
        write_marked(path, run->plan, "e2e");
    }
}

double fake_nll(int32_t variant, int64_t window)
{
    return 63.0 * 3.0 + variant + 0.1 * (double)window;
}

/* --- the link --------------------------------------------------------------------------------- */

typedef struct item {
    struct item *next;
    int peer;
    size_t n;
    void *bytes;
} item_t;

typedef struct {
    item_t *first, *last;
} queue_t;

typedef struct {
    qy_link_t link;
    queue_t in;   /* for the coordinator */
    queue_t *out; /* for each worker */
    bool *cut;
} fake_link_t;

static void push(queue_t *queue, int peer, const void *bytes, size_t n)
{
    item_t *item = malloc(sizeof *item);
    assert_non_null(item);
    *item = (item_t){.peer = peer, .n = n, .bytes = malloc(n + 1)};
    assert_non_null(item->bytes);
    memcpy(item->bytes, bytes, n);
    if (queue->last)
        queue->last->next = item;
    else
        queue->first = item;
    queue->last = item;
}

/* The caller frees *bytes; NULL where there is nothing. */
static void pop(queue_t *queue, int *peer, void **bytes, size_t *n)
{
    item_t *item = queue->first;
    *bytes = NULL;
    if (!item)
        return;
    queue->first = item->next;
    if (!queue->first)
        queue->last = NULL;
    *peer = item->peer;
    *bytes = item->bytes;
    *n = item->n;
    free(item);
}

static qy_status_t link_send(qy_link_t *link, int peer, const void *bytes, size_t n,
                             qy_error_t *err)
{
    fake_link_t *f = (fake_link_t *)link;
    if (f->cut[peer])
        return qy_fail(err, QY_ERR_COMM, "the way to worker %d is cut", peer);
    push(&f->out[peer], 0, bytes, n);
    return QY_OK;
}

static qy_status_t link_poll(qy_link_t *link, int *peer, void **bytes, size_t *n, qy_error_t *err)
{
    (void)err;
    pop(&((fake_link_t *)link)->in, peer, bytes, n);
    return QY_OK;
}

static void drain(queue_t *queue)
{
    int peer;
    size_t n;
    void *bytes;
    for (pop(queue, &peer, &bytes, &n); bytes; pop(queue, &peer, &bytes, &n))
        free(bytes);
}

static void link_destroy(qy_link_t *link)
{
    fake_link_t *f = (fake_link_t *)link;
    drain(&f->in);
    for (int i = 0; i < link->n_peers; i++)
        drain(&f->out[i]);
    free(f->out);
    free(f->cut);
    free(f);
}

qy_link_t *fake_link_create(int n)
{
    fake_link_t *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->link =
        (qy_link_t){.send = link_send, .poll = link_poll, .destroy = link_destroy, .n_peers = n};
    f->out = calloc((size_t)n, sizeof *f->out);
    f->cut = calloc((size_t)n, sizeof *f->cut);
    assert_true(f->out && f->cut);
    return &f->link;
}

void fake_cut(qy_link_t *link, int peer)
{
    ((fake_link_t *)link)->cut[peer] = true;
}

bool fake_take(qy_link_t *link, int peer, qy_message_t *out)
{
    int unused;
    void *bytes;
    size_t n = 0;
    qy_error_t err;
    pop(&((fake_link_t *)link)->out[peer], &unused, &bytes, &n);
    if (!bytes)
        return false;
    must(qy_message_decode(out, bytes, n, &err), &err);
    free(bytes);
    return true;
}

void fake_say_raw(qy_link_t *link, int peer, const void *bytes, size_t n)
{
    push(&((fake_link_t *)link)->in, peer, bytes, n);
}

void fake_say(qy_link_t *link, int peer, qy_msg_kind_t kind, const void *payload, size_t bytes)
{
    void *message = NULL;
    size_t n = 0;
    qy_error_t err;
    must(qy_message_encode(kind, payload, bytes, &message, &n, &err), &err);
    fake_say_raw(link, peer, message, n);
    free(message);
}

void fake_say_hello(qy_link_t *link, int peer, const char *plan_hash)
{
    void *bytes = NULL;
    size_t n = 0;
    qy_error_t err;
    qy_hello_t hello = {.rank = peer, .pid = 1000 + peer, .host = "there"};
    snprintf(hello.plan_hash, sizeof hello.plan_hash, "%s", plan_hash);
    must(qy_hello_encode(&hello, &bytes, &n, &err), &err);
    fake_say(link, peer, QY_MSG_HELLO, bytes, n);
    free(bytes);
}

void fake_say_progress(qy_link_t *link, int peer, const qy_progress_t *progress)
{
    void *bytes = NULL;
    size_t n = 0;
    qy_error_t err;
    must(qy_progress_encode(progress, &bytes, &n, &err), &err);
    fake_say(link, peer, QY_MSG_PROGRESS, bytes, n);
    free(bytes);
}

void fake_say_result(qy_link_t *link, int peer, qy_msg_kind_t kind, const qy_result_t *result)
{
    void *bytes = NULL;
    size_t n = 0;
    qy_error_t err;
    must(qy_result_encode(result, &bytes, &n, &err), &err);
    fake_say(link, peer, kind, bytes, n);
    free(bytes);
}

/* --- a good worker ---------------------------------------------------------------------------- */

static void do_capture(const fake_run_t *run, const qy_task_t *task)
{
    char path[QY_PATH_MAX];
    qy_error_t err;
    if (task->set == QY_SET_E2E) {
        must(qy_store_teacher(path, run->plan, task->range, &err), &err);
        write_marked(path, run->plan, "teacher");
        return;
    }
    for (int64_t k = 1; k < run->plan->n_segments; k++) {
        must(qy_store_capture(path, run->plan, k, task->range, &err), &err);
        write_marked(path, run->plan, "capture");
    }
}

static void do_segment(fake_run_t *run, qy_link_t *link, int peer, const qy_task_t *task)
{
    const qy_plan_t *plan = run->plan;
    for (int64_t b = plan->segment_start[task->range]; b < plan->segment_start[task->range + 1];
         b++) {
        char path[QY_PATH_MAX];
        if (qy_store_block(path, plan, b, NULL) == QY_OK && qy_file_exists(path))
            continue;
        fake_write_block(run, b, false);
        fake_say_progress(link, peer,
                          &(qy_progress_t){.task_id = task->id,
                                           .kind = QY_TASK_SEGMENT,
                                           .block = b,
                                           .step = 6,
                                           .n_steps = 6,
                                           .loss = 1.0,
                                           .block_done = 1,
                                           .loss_before = 10.0 + (double)b,
                                           .loss_after = 1.0 + (double)b,
                                           .validation_before = 20.0,
                                           .validation_after = 2.0,
                                           .seconds = 4.0});
    }
}

static void do_evaluate(const fake_run_t *run, const qy_task_t *task, qy_result_t *result)
{
    int32_t *tokens = NULL;
    int64_t all, length, first;
    qy_error_t err;
    must(qy_store_read_tokens(&tokens, &all, &length, run->plan, "a", &err), &err);
    free(tokens);
    qy_plan_range(all, qy_plan_evaluate_ranges(run->plan, all, length), task->range, &first,
                  &result->n_values);
    result->values = malloc((size_t)result->n_values * sizeof *result->values);
    assert_non_null(result->values);
    for (int64_t i = 0; i < result->n_values; i++)
        result->values[i] = fake_nll(task->variant, first + i);
}

void fake_do_task(fake_run_t *run, qy_link_t *link, int peer, const qy_task_t *task)
{
    qy_result_t result = {.task_id = task->id, .kind = task->kind, .seconds = 0.5};
    assert_string_equal(task->plan_hash, run->plan->hash);
    assert_string_equal(task->run_dir, run->plan->spec.run_dir);
    if (task->kind == QY_TASK_CAPTURE)
        do_capture(run, task);
    else if (task->kind == QY_TASK_SEGMENT)
        do_segment(run, link, peer, task);
    else
        do_evaluate(run, task, &result);
    fake_say_result(link, peer, QY_MSG_RESULT, &result);
    qy_result_free(&result);
}
