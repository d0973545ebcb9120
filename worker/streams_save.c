#include "worker/streams_save.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread.h"

struct qy_streams_save {
    qy_stream_file_t file[QY_STREAMS_SAVED];
    const qy_hooks_t *hooks;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int n_done; /* files that the thread has left behind, whole or not */
    atomic_int cancel;
    qy_error_t error; /* the thread's until it is joined */
    double seconds;
};

static void *serve(void *argument)
{
    qy_streams_save_t *s = argument;
    double began = qy_now_s();
    for (int i = 0; i < QY_STREAMS_SAVED; i++) {
        if (s->error.status == QY_OK)
            (void)qy_stream_save(s->file[i].stream, s->file[i].path, s->hooks, &s->cancel,
                                 &s->error);
        pthread_mutex_lock(&s->mutex);
        s->n_done++;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->mutex);
    }
    s->seconds = qy_now_s() - began;
    return NULL;
}

static void discard(qy_streams_save_t *s)
{
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

qy_status_t qy_streams_save_start(qy_streams_save_t **out,
                                  const qy_stream_file_t files[QY_STREAMS_SAVED],
                                  const qy_hooks_t *hooks, qy_error_t *err)
{
    qy_streams_save_t *s = calloc(1, sizeof *s);
    if (!s)
        return qy_fail(err, QY_ERR_MEMORY, "saved streams: out of host memory");
    memcpy(s->file, files, sizeof s->file);
    s->hooks = hooks;
    atomic_init(&s->cancel, 0);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    int failed = qy_thread_start(&s->thread, serve, s);
    if (failed) {
        discard(s);
        return qy_fail(err, QY_ERR_MEMORY, "saved streams: no thread: %s", strerror(failed));
    }
    *out = s;
    return QY_OK;
}

int qy_streams_save_wait(qy_streams_save_t *s, const qy_stream_t *stream)
{
    pthread_mutex_lock(&s->mutex);
    for (int i = 0; i < QY_STREAMS_SAVED; i++)
        while (s->file[i].stream == stream && s->n_done <= i)
            pthread_cond_wait(&s->changed, &s->mutex);
    int all = s->n_done == QY_STREAMS_SAVED;
    pthread_mutex_unlock(&s->mutex);
    return all;
}

qy_status_t qy_streams_save_end(qy_streams_save_t **save, int cancel, double *seconds,
                                qy_error_t *err)
{
    qy_streams_save_t *s = *save;
    if (cancel)
        atomic_store(&s->cancel, 1);
    pthread_join(s->thread, NULL);
    qy_status_t status = s->error.status;
    *seconds = s->seconds;
    if (status != QY_OK && err)
        *err = s->error;
    discard(s);
    *save = NULL;
    return status;
}
