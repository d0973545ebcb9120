#include "coordinator/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

enum { REAL_DIGITS = 9 };

struct qy_metrics {
    char path[QY_PATH_MAX];
    int fd;
};

static qy_status_t fail_io(const char *path, const char *call, qy_error_t *err)
{
    return qy_fail(err, QY_ERR_IO, "%s: %s: %s", path, call, strerror(errno));
}

/* After a torn last line the next one starts on its own. */
static qy_status_t end_torn_line(const qy_metrics_t *metrics, qy_error_t *err)
{
    char last = '\n';
    struct stat st;
    if (fstat(metrics->fd, &st) != 0)
        return fail_io(metrics->path, "fstat", err);
    if (st.st_size > 0)
        QY_TRY(qy_pread(metrics->fd, metrics->path, &last, 1, (uint64_t)st.st_size - 1, err));
    return last == '\n' ? QY_OK : qy_write_all(metrics->fd, metrics->path, "\n", 1, err);
}

qy_status_t qy_metrics_open(qy_metrics_t **out, const char *path, qy_error_t *err)
{
    qy_metrics_t *metrics = calloc(1, sizeof *metrics);
    if (!metrics)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory to open it", path);
    metrics->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    qy_status_t status = metrics->fd < 0 ? fail_io(path, "open", err) : QY_OK;
    if (status == QY_OK)
        status = qy_path(metrics->path, err, "%s", path);
    if (status == QY_OK)
        status = end_torn_line(metrics, err);
    if (status != QY_OK) {
        qy_metrics_close(&metrics);
        return status;
    }
    *out = metrics;
    return QY_OK;
}

void qy_metrics_close(qy_metrics_t **metrics)
{
    if (!*metrics)
        return;
    if ((*metrics)->fd >= 0)
        close((*metrics)->fd);
    free(*metrics);
    *metrics = NULL;
}

static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *to_object(const qy_metric_t *metric)
{
    const qy_progress_t *p = &metric->progress;
    if (metric->device_bytes > 0)
        return json_pack("{s:s, s:s, s:s, s:I, s:I}", "time", metric->time, "phase", metric->phase,
                         "task", metric->task, "worker", (json_int_t)metric->worker, "device_bytes",
                         (json_int_t)metric->device_bytes);
    json_t *object = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:o}", "time",
                               metric->time, "phase", metric->phase, "task", metric->task, "worker",
                               (json_int_t)metric->worker, "block", (json_int_t)p->block, "step",
                               (json_int_t)p->step, "n_steps", (json_int_t)p->n_steps, "loss",
                               real(p->loss), "tokens_per_s", real(p->tokens_per_s));
    if (!object || !p->block_done)
        return object;
    int failed = json_object_set_new(object, "block_done", json_true()) |
                 json_object_set_new(object, "loss_before", real(p->loss_before)) |
                 json_object_set_new(object, "loss_after", real(p->loss_after)) |
                 json_object_set_new(object, "validation_before", real(p->validation_before)) |
                 json_object_set_new(object, "validation_after", real(p->validation_after)) |
                 json_object_set_new(object, "seconds", real(p->seconds)) |
                 json_object_set_new(object, "train_s", real(p->train_s)) |
                 json_object_set_new(object, "advance_s", real(p->advance_s)) |
                 json_object_set_new(object, "stall_s", real(p->stall_s));
    if (failed) {
        json_decref(object);
        return NULL;
    }
    return object;
}

qy_status_t qy_metrics_append(qy_metrics_t *metrics, const qy_metric_t *metric, qy_error_t *err)
{
    qy_metric_t timed = *metric;
    if (!timed.time[0])
        qy_utc(timed.time);
    json_t *object = to_object(&timed);
    char *text =
        object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(REAL_DIGITS)) : NULL;
    json_decref(object);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: a line cannot be made", metrics->path);
    size_t n = strlen(text);
    text[n] = '\n'; /* one write a line: the NUL is not needed any more */
    qy_status_t status = qy_write_all(metrics->fd, metrics->path, text, n + 1, err);
    free(text);
    return status;
}

static double get_real(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static int64_t get_whole(json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static void get_text(json_t *object, const char *key, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(object, key));
    snprintf(out, size, "%s", text ? text : "");
}

static int parse_line(qy_metric_t *out, const char *line, size_t n)
{
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    int is_object = json_is_object(object);
    memset(out, 0, sizeof *out);
    get_text(object, "time", out->time, sizeof out->time);
    get_text(object, "phase", out->phase, sizeof out->phase);
    get_text(object, "task", out->task, sizeof out->task);
    out->worker = get_whole(object, "worker");
    out->progress =
        (qy_progress_t){.block = get_whole(object, "block"),
                        .step = get_whole(object, "step"),
                        .n_steps = get_whole(object, "n_steps"),
                        .loss = get_real(object, "loss"),
                        .tokens_per_s = get_real(object, "tokens_per_s"),
                        .block_done = json_is_true(json_object_get(object, "block_done")),
                        .loss_before = get_real(object, "loss_before"),
                        .loss_after = get_real(object, "loss_after"),
                        .validation_before = get_real(object, "validation_before"),
                        .validation_after = get_real(object, "validation_after"),
                        .seconds = get_real(object, "seconds"),
                        .train_s = get_real(object, "train_s"),
                        .advance_s = get_real(object, "advance_s"),
                        .stall_s = get_real(object, "stall_s")};
    int is_progress = is_object && !json_object_get(object, "device_bytes");
    json_decref(object);
    return is_progress;
}

/* The last max_bytes of the file, from the first line that starts there. */
static qy_status_t read_tail(const char *path, size_t max_bytes, char **out, size_t *n,
                             qy_error_t *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_io(path, "open", err);
    qy_status_t status = fstat(fd, &st) == 0 ? QY_OK : fail_io(path, "fstat", err);
    size_t size = status == QY_OK ? (size_t)st.st_size : 0;
    size_t skip = size > max_bytes ? size - max_bytes : 0;
    char *text = malloc(size - skip + 1);
    if (!text && status == QY_OK)
        status = qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %zu bytes", path, size - skip);
    if (status == QY_OK)
        status = qy_pread(fd, path, text, size - skip, skip, err);
    close(fd);
    if (status != QY_OK) {
        free(text);
        return status;
    }
    const char *first = skip ? memchr(text, '\n', size - skip) : text;
    size_t cut = first ? (size_t)(first - text) : size - skip;
    memmove(text, text + cut, size - skip - cut);
    *out = text;
    *n = size - skip - cut;
    return QY_OK;
}

qy_status_t qy_metrics_read(qy_metric_t **out, int64_t *n, const char *path, size_t max_bytes,
                            qy_error_t *err)
{
    char *text = NULL;
    size_t bytes = 0, n_lines = 0;
    if (qy_file_exists(path))
        QY_TRY(read_tail(path, max_bytes, &text, &bytes, err));
    for (size_t i = 0; i < bytes; i++)
        n_lines += text[i] == '\n';
    qy_metric_t *metrics = malloc((n_lines + 1) * sizeof *metrics);
    if (!metrics) {
        free(text);
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %zu lines", path, n_lines);
    }
    int64_t kept = 0;
    for (size_t at = 0; at < bytes;) {
        const char *end = memchr(text + at, '\n', bytes - at);
        if (!end)
            break;
        kept += parse_line(&metrics[kept], text + at, (size_t)(end - (text + at)));
        at = (size_t)(end + 1 - text);
    }
    free(text);
    *out = metrics;
    *n = kept;
    return QY_OK;
}
