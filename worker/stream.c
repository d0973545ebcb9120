#include "worker/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct qy_stream {
    const qy_device_t *dev;
    int64_t n;
    size_t sample_bytes;
    char *memory; /* all samples, or one bounce buffer of a sample where there is a file */
    int fd;       /* −1: in memory */
    char path[QY_PATH_MAX];
};

static qy_status_t open_scratch(qy_stream_t *s, const char *scratch, qy_error_t *err)
{
    QY_TRY(qy_make_dirs(scratch, err));
    QY_TRY(qy_path(s->path, err, "%s/quarry-stream-XXXXXX", scratch));
    s->fd = mkstemp(s->path);
    if (s->fd < 0 || fcntl(s->fd, F_SETFD, FD_CLOEXEC) != 0)
        return qy_fail(err, QY_ERR_IO, "%s: cannot make a scratch file: %s", scratch,
                       strerror(errno));
    unlink(s->path);
    int code = posix_fallocate(s->fd, 0, (off_t)((size_t)s->n * s->sample_bytes));
    if (code)
        return qy_fail(err, QY_ERR_IO, "%s: no room for %zu bytes of scratch: %s", scratch,
                       (size_t)s->n * s->sample_bytes, strerror(code));
    return QY_OK;
}

qy_status_t qy_stream_create(qy_stream_t **out, const qy_device_t *dev, int64_t n,
                             size_t sample_bytes, int in_memory, const char *scratch,
                             qy_error_t *err)
{
    qy_status_t status;
    qy_stream_t *s = calloc(1, sizeof *s);
    if (!s)
        return qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
    *s = (qy_stream_t){.dev = dev, .n = n, .sample_bytes = sample_bytes, .fd = -1};
    if (!in_memory)
        QY_TRY_GOTO(open_scratch(s, scratch, err), destroy);
    size_t bytes = in_memory ? (size_t)n * sample_bytes : sample_bytes;
    QY_TRY_GOTO(qy_device_host_alloc(dev, (void **)&s->memory, bytes, err), destroy);
    *out = s;
    return QY_OK;
destroy:
    qy_stream_destroy(&s);
    return status;
}

void qy_stream_destroy(qy_stream_t **stream)
{
    qy_stream_t *s = *stream;
    if (!s)
        return;
    if (s->memory)
        qy_device_host_free(s->dev, (void **)&s->memory);
    if (s->fd >= 0)
        close(s->fd);
    free(s);
    *stream = NULL;
}

int64_t qy_stream_count(const qy_stream_t *stream)
{
    return stream->n;
}

size_t qy_stream_sample_bytes(const qy_stream_t *stream)
{
    return stream->sample_bytes;
}

static qy_status_t check_range(const qy_stream_t *s, int64_t first, int64_t n, qy_error_t *err)
{
    if (first < 0 || n < 0 || first > s->n - n)
        return qy_fail(err, QY_ERR_ARG, "stream: samples %lld to %lld of %lld", (long long)first,
                       (long long)(first + n), (long long)s->n);
    return QY_OK;
}

static qy_status_t write_file(const qy_stream_t *s, int64_t sample, const char *src,
                              qy_error_t *err)
{
    size_t done = 0;
    while (done < s->sample_bytes) {
        ssize_t n = pwrite(s->fd, src + done, s->sample_bytes - done,
                           (off_t)((size_t)sample * s->sample_bytes + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return qy_fail(err, QY_ERR_IO, "%s: writing sample %lld: %s", s->path,
                           (long long)sample, strerror(errno));
        done += (size_t)n;
    }
    return QY_OK;
}

static qy_status_t read_file(const qy_stream_t *s, int64_t sample, char *dst, qy_error_t *err)
{
    return qy_pread(s->fd, s->path, dst, s->sample_bytes, (uint64_t)sample * s->sample_bytes, err);
}

qy_status_t qy_stream_load(qy_stream_t *s, const int64_t *samples, int64_t n, void *dst,
                           qy_error_t *err)
{
    for (int64_t i = 0; i < n; i++) {
        QY_TRY(check_range(s, samples[i], 1, err));
        const char *src = s->memory + (size_t)samples[i] * s->sample_bytes;
        if (s->fd >= 0) {
            /* The bounce buffer is one: the copy out of it must be done before it is filled again.
             */
            QY_TRY(qy_device_wait(s->dev, err));
            QY_TRY(read_file(s, samples[i], s->memory, err));
            src = s->memory;
        }
        QY_TRY(qy_device_upload(s->dev, (char *)dst + (size_t)i * s->sample_bytes, src,
                                s->sample_bytes, err));
    }
    return QY_OK;
}

qy_status_t qy_stream_store(qy_stream_t *s, int64_t first, int64_t n, const void *src,
                            qy_error_t *err)
{
    QY_TRY(check_range(s, first, n, err));
    if (s->fd < 0)
        return qy_device_download(s->dev, s->memory + (size_t)first * s->sample_bytes, src,
                                  (size_t)n * s->sample_bytes, err);
    for (int64_t i = 0; i < n; i++) {
        QY_TRY(qy_device_download(s->dev, s->memory,
                                  (const char *)src + (size_t)i * s->sample_bytes, s->sample_bytes,
                                  err));
        QY_TRY(write_file(s, first + i, s->memory, err));
    }
    return QY_OK;
}

qy_status_t qy_stream_write(qy_stream_t *s, int64_t first, int64_t n, const void *host,
                            qy_error_t *err)
{
    QY_TRY(check_range(s, first, n, err));
    if (s->fd < 0) {
        memcpy(s->memory + (size_t)first * s->sample_bytes, host, (size_t)n * s->sample_bytes);
        return QY_OK;
    }
    for (int64_t i = 0; i < n; i++)
        QY_TRY(write_file(s, first + i, (const char *)host + (size_t)i * s->sample_bytes, err));
    return QY_OK;
}

qy_status_t qy_stream_read(qy_stream_t *s, int64_t first, int64_t n, void *host, qy_error_t *err)
{
    QY_TRY(check_range(s, first, n, err));
    if (s->fd < 0) {
        memcpy(host, s->memory + (size_t)first * s->sample_bytes, (size_t)n * s->sample_bytes);
        return QY_OK;
    }
    for (int64_t i = 0; i < n; i++)
        QY_TRY(read_file(s, first + i, (char *)host + (size_t)i * s->sample_bytes, err));
    return QY_OK;
}
