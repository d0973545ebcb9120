#include "worker/weights_ahead.h"

#include <stdlib.h>

#include "base/thread.h"

struct qy_weights_ahead {
    const qy_model_t *model;
    pthread_t thread;
    int reading; /* a thread is to be joined */
    int64_t block;
    qy_block_weights_t weights; /* there where status is OK */
    qy_status_t status;
    qy_error_t error;
};

static void *read_block(void *argument)
{
    qy_weights_ahead_t *a = argument;
    a->status = qy_block_weights_read(&a->weights, a->model, a->block, &a->error);
    return NULL;
}

/* Without a thread the block is read when it is wanted. */
static void start(qy_weights_ahead_t *a, const qy_model_t *model, int64_t block)
{
    a->model = model;
    a->block = block;
    a->reading = qy_thread_start(&a->thread, read_block, a) == 0;
}

/* What was read ahead, if it is this block; else it is dropped. */
static int finish(qy_weights_ahead_t *a, int64_t block, qy_block_weights_t *out,
                  qy_status_t *status, qy_error_t *err)
{
    if (!a->reading)
        return 0;
    pthread_join(a->thread, NULL);
    a->reading = 0;
    if (a->block != block) {
        if (a->status == QY_OK)
            qy_block_weights_free(&a->weights);
        return 0;
    }
    *status = a->status;
    if (a->status == QY_OK)
        *out = a->weights;
    else if (err)
        *err = a->error;
    return 1;
}

qy_status_t qy_weights_ahead_take(qy_weights_ahead_t **ahead, const qy_model_t *model,
                                  int64_t block, int64_t end, qy_block_weights_t *out,
                                  qy_error_t *err)
{
    qy_status_t status;
    if (!*ahead)
        *ahead = calloc(1, sizeof **ahead);
    qy_weights_ahead_t *a = *ahead;
    if (!a)
        return qy_fail(err, QY_ERR_MEMORY, "weights: out of host memory");
    if (!finish(a, block, out, &status, err))
        status = qy_block_weights_read(out, model, block, err);
    if (status == QY_OK && block + 1 < end)
        start(a, model, block + 1);
    return status;
}

void qy_weights_ahead_free(qy_weights_ahead_t **ahead)
{
    qy_weights_ahead_t *a = *ahead;
    if (!a)
        return;
    finish(a, -1, NULL, NULL, NULL);
    free(a);
    *ahead = NULL;
}
