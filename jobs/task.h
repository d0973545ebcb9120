/*
 * What one worker receives and answers: tasks, progress, results, and their bytes. Values are
 * written little-endian field by field; whatever is read back is checked (length, magic, kinds,
 * ranges).
 */
#ifndef QY_JOBS_TASK_H
#define QY_JOBS_TASK_H

#include <stdint.h>

#include "base/file.h"
#include "base/status.h"

typedef enum {
    QY_TASK_CAPTURE,  /* full-precision activations of a range of samples at every segment start */
    QY_TASK_SEGMENT,  /* the blocks of one segment, from the first unfinished one */
    QY_TASK_EVALUATE, /* negative log likelihood of a range of windows of one text */
    QY_TASK_FINAL_NORM, /* sums over a range of samples that the last norm is fitted from */
    QY_TASK_PROBE,      /* does the device work? of a worker, not of the coordinator */
    QY_N_TASK_KINDS
} qy_task_kind_t;

/* Which token windows a capture task walks. */
typedef enum { QY_SET_CALIBRATION, QY_SET_E2E } qy_sample_set_t;

/* Which model an evaluation runs: the checkpoint; the same plainly rounded (min-max), which shows
 * what the training is worth; the stitched blocks; those with E2E-QP's steps. */
typedef enum {
    QY_VARIANT_ORIGINAL,
    QY_VARIANT_ROUNDED,
    QY_VARIANT_STITCHED,
    QY_VARIANT_FINAL,
    QY_N_VARIANTS
} qy_variant_t;

typedef struct {
    qy_task_kind_t kind;
    int32_t id;      /* place in the phase's task list */
    int32_t attempt; /* from 1 */
    int32_t set;     /* capture: qy_sample_set_t */
    int32_t variant; /* evaluate: qy_variant_t */
    int32_t text;    /* evaluate: index into spec.evaluate */
    int64_t range;   /* capture, evaluate: index of the range; segment: index of the segment */
    double cost;     /* relative, for longest first */
    char plan_hash[65];
    char run_dir[QY_PATH_MAX];
} qy_task_t;

typedef struct {
    int32_t task_id;
    qy_task_kind_t kind;
    int64_t block; /* −1 where it has none */
    int64_t step, n_steps;
    double loss; /* NAN where there is none yet */
    double tokens_per_s;
    int32_t block_done; /* 1: this block's file has just been committed */
    double loss_before, loss_after, validation_before, validation_after; /* with block_done */
    double seconds; /* with block_done: time spent on it */
    double train_s,
        advance_s;  /* with block_done: of it, training (or fitting) and the streams' passes */
    double stall_s; /* with block_done: of it, time that the device waited for a disk */
} qy_progress_t;

typedef struct {
    int32_t task_id;
    qy_task_kind_t kind;
    qy_error_t error; /* status OK: done */
    double seconds;
    int64_t device_bytes; /* device memory that was allocated at most */
    int64_t n_values;
    double *values; /* evaluate: summed NLL of each window of the range, f64; owned */
} qy_result_t;

void qy_result_free(qy_result_t *result);

/* "segment 3", "capture e2e range 2", "evaluate kjv stitched range 0" for messages. */
void qy_task_name(const qy_task_t *task, char out[96]);

/* Bytes of each; the caller frees *bytes. Decoding: FORMAT with the reason. */
qy_status_t qy_task_encode(const qy_task_t *task, void **bytes, size_t *n, qy_error_t *err);
qy_status_t qy_task_decode(qy_task_t *task, const void *bytes, size_t n, qy_error_t *err);
qy_status_t qy_progress_encode(const qy_progress_t *progress, void **bytes, size_t *n,
                               qy_error_t *err);
qy_status_t qy_progress_decode(qy_progress_t *progress, const void *bytes, size_t n,
                               qy_error_t *err);
qy_status_t qy_result_encode(const qy_result_t *result, void **bytes, size_t *n, qy_error_t *err);
qy_status_t qy_result_decode(qy_result_t *result, const void *bytes, size_t n, qy_error_t *err);

#endif
