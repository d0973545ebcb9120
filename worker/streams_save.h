/*
 * Streams saved beside the work that loads from them: one thread, one file after the other,
 * straight from where the samples lie. A stream is stored to again only after qy_streams_save_wait.
 */
#ifndef QY_WORKER_STREAMS_SAVE_H
#define QY_WORKER_STREAMS_SAVE_H

#include "base/file.h"
#include "worker/stream.h"

enum { QY_STREAMS_SAVED = 2 };

typedef struct {
    const qy_stream_t *stream; /* flushed */
    char path[QY_PATH_MAX];
} qy_stream_file_t;

typedef struct qy_streams_save qy_streams_save_t;

/* Begins, in this order; files are copied, streams and hooks borrowed until the end. */
qy_status_t qy_streams_save_start(qy_streams_save_t **out,
                                  const qy_stream_file_t files[QY_STREAMS_SAVED],
                                  const qy_hooks_t *hooks, qy_error_t *err);

/* Until this stream is not looked at any more; 1 where none is. */
int qy_streams_save_wait(qy_streams_save_t *save, const qy_stream_t *stream);

/* Waits for the thread and frees; cancel: a file that is not whole yet is dropped. OK where all are
 * there, with *seconds that it took; STOPPED where it was cancelled or a stop was asked for. */
qy_status_t qy_streams_save_end(qy_streams_save_t **save, int cancel, double *seconds,
                                qy_error_t *err);

#endif
