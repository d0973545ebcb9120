#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>

#include "base/clock.h"

/* The one sink of the process; the lock keeps lines of several threads whole. */
static struct {
    pthread_mutex_t lock;
    FILE *file;
    qy_log_level_t level;
    int rank;
    char role[16];
    char task[48];
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER};

void qy_log_open(FILE *file, qy_log_level_t level, const char *role, int rank)
{
    pthread_mutex_lock(&sink.lock);
    sink.file = file;
    sink.level = level;
    sink.rank = rank;
    snprintf(sink.role, sizeof sink.role, "%s", role);
    pthread_mutex_unlock(&sink.lock);
}

void qy_log_task(const char *task)
{
    pthread_mutex_lock(&sink.lock);
    snprintf(sink.task, sizeof sink.task, "%s", task ? task : "");
    pthread_mutex_unlock(&sink.lock);
}

void qy_log(qy_log_level_t level, const char *format, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    char utc[24], text[1024];
    qy_utc(utc);
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    pthread_mutex_lock(&sink.lock);
    if (sink.file && level <= sink.level) {
        fprintf(sink.file, "%s %s %s %d %s | %s\n", names[level], utc, sink.role, sink.rank,
                sink.task[0] ? sink.task : "-", text);
        fflush(sink.file);
    }
    pthread_mutex_unlock(&sink.lock);
}
