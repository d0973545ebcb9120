#include "worker/block_save.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "jobs/store.h"

enum { ITEM_ALIGN = 64 };

typedef struct {
    char name[QY_NAME_MAX + 32];
    qy_tensor_t device, host; /* host.data: offset until memory is there */
} item_t;

/* What the thread is asked to do. */
typedef enum { IDLE, TAKE_MEMORY, WRITE, LEAVE } order_t;

struct qy_block_save {
    qy_saved_t of;
    int64_t block, step;
    double last; /* when the block began or was last saved */
    item_t *item;
    int n_items, room; /* room: how many items there is memory for */
    char *memory;      /* host, all items and then the losses; NULL: not taken yet */
    size_t bytes;
    float *losses;

    pthread_t thread;
    int started;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    order_t order; /* IDLE: done */
    double waited; /* s that the device had nothing to do for the copy at hand */
    qy_error_t written;
};

/* --- what is saved ---------------------------------------------------------------------------- */

qy_status_t qy_block_save_add(qy_block_save_t *s, const char *of, const char *what,
                              const qy_tensor_t *t, qy_error_t *err)
{
    if (!t->data)
        return QY_OK;
    if (s->n_items == s->room) {
        int room = 2 * s->room + 64;
        item_t *grown = realloc(s->item, (size_t)room * sizeof *grown);
        if (!grown)
            return qy_fail(err, QY_ERR_MEMORY, "checkpoints: out of host memory");
        s->item = grown;
        s->room = room;
    }
    item_t *item = &s->item[s->n_items++];
    snprintf(item->name, sizeof item->name, "%s%s%s", of, *of ? "/" : "", what);
    item->device = item->host = *t;
    item->host.data = NULL;
    s->bytes += (qy_tensor_bytes(t) + ITEM_ALIGN - 1) / ITEM_ALIGN * ITEM_ALIGN;
    return QY_OK;
}

/* --- memory ----------------------------------------------------------------------------------- */

static qy_status_t take_memory(qy_block_save_t *s, qy_error_t *err)
{
    size_t losses = (size_t)s->of.steps * sizeof(float), at = 0;
    if (s->memory)
        return QY_OK;
    void *memory;
    QY_TRY(qy_device_host_alloc(s->of.dev, &memory, s->bytes + losses, err));
    for (int i = 0; i < s->n_items; i++) {
        s->item[i].host.data = (char *)memory + at;
        at += (qy_tensor_bytes(&s->item[i].host) + ITEM_ALIGN - 1) / ITEM_ALIGN * ITEM_ALIGN;
    }
    s->losses = (float *)((char *)memory + at);
    s->memory = memory;
    return QY_OK;
}

/* --- writing, by the thread ------------------------------------------------------------------- */

static qy_status_t put(const qy_block_save_t *s, qy_h5_t *file, qy_error_t *err)
{
    QY_TRY(qy_store_mark(file, s->of.plan, "partial", err));
    QY_TRY(qy_h5_set_i64(file, "block", s->block, err));
    QY_TRY(qy_h5_set_i64(file, "step", s->step, err));
    for (int i = 0; i < s->n_items; i++)
        QY_TRY(qy_h5_write(file, s->item[i].name, &s->item[i].host, err));
    qy_tensor_t losses = qy_tensor_1d(s->losses, QY_F32, s->step);
    return qy_h5_write(file, "losses", &losses, err);
}

static qy_status_t write_file(const qy_block_save_t *s, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_h5_t *file = NULL;
    QY_TRY(qy_store_partial(path, s->of.plan, s->block, err));
    QY_TRY(qy_h5_create(&file, path, err));
    qy_status_t status = put(s, file, err);
    if (status == QY_OK)
        status = qy_h5_commit(&file, err);
    qy_h5_close(&file);
    return status;
}

static void *serve(void *argument)
{
    qy_block_save_t *s = argument;
    pthread_mutex_lock(&s->mutex);
    while (s->order != LEAVE) {
        if (s->order == IDLE) {
            pthread_cond_wait(&s->changed, &s->mutex);
            continue;
        }
        order_t order = s->order;
        qy_error_t error = {0};
        double began = qy_now_s();
        pthread_mutex_unlock(&s->mutex);
        if ((order == WRITE ? write_file(s, &error) : take_memory(s, &error)) != QY_OK)
            qy_log(QY_LOG_WARN, "block %lld: no checkpoint after step %lld: %s",
                   (long long)s->block, (long long)s->step, error.text);
        else if (order == WRITE)
            qy_log(
                QY_LOG_INFO,
                "block %lld saved after step %lld: copied in %.3f s, written beside the training "
                "in %.2f s",
                (long long)s->block, (long long)s->step, s->waited, qy_now_s() - began);
        pthread_mutex_lock(&s->mutex);
        s->written = error;
        if (order == TAKE_MEMORY && error.status != QY_OK)
            s->last = qy_now_s(); /* the next try is a checkpoint later, not a step */
        s->order = IDLE;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* --- the trainer's side ----------------------------------------------------------------------- */

static int is_idle(const qy_block_save_t *save)
{
    qy_block_save_t *s = (qy_block_save_t *)save;
    pthread_mutex_lock(&s->mutex);
    int idle = s->order == IDLE;
    pthread_mutex_unlock(&s->mutex);
    return idle;
}

void qy_block_save_settle(qy_block_save_t *s)
{
    pthread_mutex_lock(&s->mutex);
    while (s->order != IDLE)
        pthread_cond_wait(&s->changed, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}

static qy_status_t start_thread(qy_block_save_t *s, qy_error_t *err)
{
    if (s->started)
        return QY_OK;
    int failed = qy_thread_start(&s->thread, serve, s);
    if (failed)
        return qy_fail(err, QY_ERR_MEMORY, "block %lld: no thread for checkpoints: %s",
                       (long long)s->block, strerror(failed));
    s->started = 1;
    return QY_OK;
}

static void give_order(qy_block_save_t *s, order_t order)
{
    pthread_mutex_lock(&s->mutex);
    s->order = order;
    s->written = (qy_error_t){0};
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

qy_status_t qy_block_save_create(qy_block_save_t **out, const qy_saved_t *what, qy_error_t *err)
{
    qy_block_save_t *s = calloc(1, sizeof *s);
    if (!s)
        return qy_fail(err, QY_ERR_MEMORY, "checkpoints: out of host memory");
    s->of = *what;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    qy_status_t status = what->list(what->trainer, s, err);
    if (status == QY_OK)
        *out = s;
    else
        qy_block_save_destroy(&s);
    return status;
}

void qy_block_save_destroy(qy_block_save_t **save)
{
    qy_block_save_t *s = *save;
    if (!s)
        return;
    if (s->started) {
        qy_block_save_settle(s);
        give_order(s, LEAVE);
        pthread_join(s->thread, NULL);
    }
    if (s->memory)
        qy_device_host_free(s->of.dev, (void **)&s->memory);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
    free(s->item);
    free(s);
    *save = NULL;
}

int qy_block_save_due(const qy_block_save_t *s)
{
    double interval = s->of.plan->spec.checkpoint.minutes * 60;
    return is_idle(s) && qy_now_s() - s->last >= interval; /* the thread sets it, too */
}

/* Between two steps: all to host memory. */
static qy_status_t copy_out(qy_block_save_t *s, qy_error_t *err)
{
    const qy_device_t *dev = s->of.dev;
    for (int i = 0; i < s->n_items; i++)
        QY_TRY(qy_device_download_queued(dev, s->item[i].host.data, s->item[i].device.data,
                                         qy_tensor_bytes(&s->item[i].device), err));
    return qy_device_wait(dev, err);
}

qy_status_t qy_block_save_write(qy_block_save_t *s, const float *losses, int64_t step, int wait,
                                qy_error_t *err)
{
    QY_TRY(start_thread(s, err));
    if (wait)
        qy_block_save_settle(s);
    if (!s->memory && !wait) { /* taking much of it is slow: not while the device waits */
        give_order(s, TAKE_MEMORY);
        return QY_OK;
    }
    QY_TRY(take_memory(s, err));
    double began = qy_now_s();
    QY_TRY(copy_out(s, err));
    s->waited = qy_now_s() - began;
    memcpy(s->losses, losses, (size_t)step * sizeof *losses);
    s->step = step;
    s->last = qy_now_s();
    give_order(s, WRITE);
    if (!wait)
        return QY_OK;
    qy_block_save_settle(s);
    if (s->written.status != QY_OK && err)
        *err = s->written;
    return s->written.status;
}

qy_status_t qy_block_save_or_stop(qy_block_save_t *s, const qy_hooks_t *hooks, const float *losses,
                                  int64_t done, qy_error_t *err)
{
    qy_error_t stop = {0};
    qy_status_t asked = qy_hooks_check(hooks, &stop);
    int due = s && done < s->of.steps && qy_block_save_due(s);
    if (s && (asked == QY_ERR_STOPPED || (asked == QY_OK && due)))
        QY_TRY(qy_block_save_write(s, losses, done, asked == QY_ERR_STOPPED, err));
    if (asked != QY_OK && err)
        *err = stop;
    return asked;
}

/* --- reading ---------------------------------------------------------------------------------- */

static qy_status_t get(qy_block_save_t *s, qy_h5_t *file, int64_t block, qy_error_t *err)
{
    int64_t of, step, steps = s->of.steps;
    QY_TRY(qy_h5_get_i64(file, "block", &of, err));
    QY_TRY(qy_h5_get_i64(file, "step", &step, err));
    if (of != block || step < 1 || step > steps)
        return qy_fail(err, QY_ERR_FORMAT, "%s: of block %lld, step %lld of %lld", qy_h5_path(file),
                       (long long)of, (long long)step, (long long)steps);
    for (int i = 0; i < s->n_items; i++)
        QY_TRY(qy_h5_read(file, s->item[i].name, &s->item[i].host, err));
    qy_tensor_t losses = qy_tensor_1d(s->losses, QY_F32, step);
    QY_TRY(qy_h5_read(file, "losses", &losses, err));
    s->step = step;
    return QY_OK;
}

static qy_status_t read_file(qy_block_save_t *s, const char *path, int64_t block, qy_error_t *err)
{
    qy_h5_t *file = NULL;
    QY_TRY(qy_store_open(&file, path, s->of.plan, "partial", err));
    qy_status_t status = get(s, file, block, err);
    qy_h5_close(&file);
    return status;
}

/* Everything into the device, and what follows from it. */
static qy_status_t copy_in(const qy_block_save_t *s, qy_error_t *err)
{
    for (int i = 0; i < s->n_items; i++)
        QY_TRY(qy_device_upload(s->of.dev, s->item[i].device.data, s->item[i].host.data,
                                qy_tensor_bytes(&s->item[i].host), err));
    QY_TRY(s->of.loaded(s->of.trainer, err));
    return qy_device_wait(s->of.dev, err);
}

qy_status_t qy_block_save_load(qy_block_save_t *s, int64_t block, float *losses, int64_t *step,
                               qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_error_t why;
    s->block = block;
    s->step = *step = 0;
    s->last = qy_now_s();
    QY_TRY(qy_store_partial(path, s->of.plan, block, err));
    if (!qy_file_exists(path))
        return QY_OK;
    QY_TRY(take_memory(s, err));
    if (read_file(s, path, block, &why) != QY_OK) {
        qy_log(QY_LOG_WARN, "block %lld begins anew, its checkpoint is no good: %s",
               (long long)block, why.text);
        unlink(path);
        return QY_OK;
    }
    QY_TRY(copy_in(s, err));
    memcpy(losses, s->losses, (size_t)s->step * sizeof *losses);
    *step = s->step;
    qy_log(QY_LOG_INFO, "block %lld goes on after step %lld of %lld", (long long)block,
           (long long)*step, (long long)s->of.steps);
    return QY_OK;
}

void qy_block_save_drop(const qy_plan_t *plan, int64_t block)
{
    char path[QY_PATH_MAX];
    if (qy_store_partial(path, plan, block, NULL) == QY_OK)
        unlink(path);
}
