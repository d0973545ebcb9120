/*
 * metrics.jsonl: progress for machines, a JSON object a line: time, phase, task, worker, block,
 * step, n_steps, loss, tokens_per_s; with block_done the block's losses, seconds, and of these
 * stall_s. A line of a finished task has device_bytes instead, the device memory that it allocated
 * at most. Appended, never needed by the run itself: no checksum, and a reader skips a line that a
 * crash has torn.
 */
#ifndef QY_COORDINATOR_METRICS_H
#define QY_COORDINATOR_METRICS_H

#include <stddef.h>

#include "jobs/task.h"

typedef struct qy_metrics qy_metrics_t;

typedef struct {
    char time[24], phase[24], task[96];
    int64_t worker;
    qy_progress_t progress; /* numbers that were not finite are NAN */
    int64_t device_bytes;   /* > 0: of a finished task */
} qy_metric_t;

qy_status_t qy_metrics_open(qy_metrics_t **out, const char *path, qy_error_t *err);
void qy_metrics_close(qy_metrics_t **metrics);

/* time is filled in where it is empty. */
qy_status_t qy_metrics_append(qy_metrics_t *metrics, const qy_metric_t *metric, qy_error_t *err);

/* The lines of progress in the last max_bytes of the file, oldest first; none where there is no
 * file. The caller frees *out. */
qy_status_t qy_metrics_read(qy_metric_t **out, int64_t *n, const char *path, size_t max_bytes,
                            qy_error_t *err);

#endif
