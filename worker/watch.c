#include "worker/watch.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"

/* How often the thread looks, at most; a look that is later than this again finds that the process
 * was suspended. */
static const double look_s = 1.0;

struct qy_watch {
    char what[64];
    double least_s;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t end;
    bool ending, begun;
    double looked;             /* when quiet_s was counted up to */
    double quiet_s, longest_s; /* since the last beat; between two of them */
};

static double interval_s(const qy_watch_t *w)
{
    return fmin(look_s, w->least_s / 4);
}

/* Counts the time up to now. */
static void count(qy_watch_t *w)
{
    double now = qy_now_s(), gap = now - w->looked;
    w->looked = now;
    w->quiet_s += gap < interval_s(w) + look_s ? gap : 0;
}

static void give_up(const qy_watch_t *w)
{
    char text[256];
    snprintf(text, sizeof text,
             "%s has not got on for %.0f s (resources.worker_timeout), where its longest step "
             "took %.1f s, as where a device, a file system or another rank hangs",
             w->what, w->quiet_s, w->longest_s);
    qy_log(QY_LOG_ERROR, "%s", text);
    fprintf(stderr, "quarry: %s\n", text);
    _exit(EXIT_FAILURE);
}

static void *run(void *argument)
{
    qy_watch_t *w = argument;
    pthread_mutex_lock(&w->lock);
    w->looked = qy_now_s();
    while (!w->ending) {
        qy_cond_wait_s(&w->end, &w->lock, interval_s(w));
        count(w);
        if (!w->ending && w->begun && w->quiet_s > fmax(w->least_s, QY_WATCH_TIMES * w->longest_s))
            give_up(w);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

qy_status_t qy_watch_start(qy_watch_t **out, const char *what, double least_s, qy_error_t *err)
{
    qy_watch_t *w = calloc(1, sizeof *w);
    if (!w)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its watch", what);
    snprintf(w->what, sizeof w->what, "%s", what);
    w->least_s = least_s;
    pthread_mutex_init(&w->lock, NULL);
    qy_cond_init(&w->end);
    if (qy_thread_start(&w->thread, run, w) != 0) {
        pthread_cond_destroy(&w->end);
        pthread_mutex_destroy(&w->lock);
        free(w);
        return qy_fail(err, QY_ERR_MEMORY, "%s: no thread for its watch", what);
    }
    *out = w;
    return QY_OK;
}

void qy_watch_beat(qy_watch_t *w)
{
    pthread_mutex_lock(&w->lock);
    count(w);
    if (w->begun)
        w->longest_s = fmax(w->longest_s, w->quiet_s);
    w->begun = true;
    w->quiet_s = 0;
    pthread_mutex_unlock(&w->lock);
}

void qy_watch_end(qy_watch_t **watch)
{
    qy_watch_t *w = *watch;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    pthread_cond_signal(&w->end);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->end);
    pthread_mutex_destroy(&w->lock);
    free(w);
    *watch = NULL;
}
