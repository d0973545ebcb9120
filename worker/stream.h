/*
 * Activations of many samples at one place in the model: a stream, advanced in place block by
 * block. Its first samples live in host memory that the device copies from and to at full speed,
 * the others in a scratch file (worker/records.h) that is read ahead and written behind by threads
 * of its own. Each sample knows in front of which block it stands. One thread uses a stream, beside
 * it one may save it.
 */
#ifndef QY_WORKER_STREAM_H
#define QY_WORKER_STREAM_H

#include <stdatomic.h>

#include "kernels/device.h"
#include "model/h5.h"
#include "worker/hooks.h"

typedef struct qy_stream qy_stream_t;

typedef struct {
    int64_t n; /* samples */
    size_t sample_bytes;
    int64_t in_memory;   /* samples [0, in_memory) are held in memory */
    int64_t together;    /* neighbours of these that pass in one transfer, at most (0: one), for
                            short samples: the device takes stages of that size */
    const char *scratch; /* folder for the others */
    const char *name;    /* their file there, which outlives the process; NULL: it is nameless */
    uint64_t seed;       /* whose samples they are: part of every record's checksum */
    int buffered;        /* 1: through the page cache, also where O_DIRECT would work */
} qy_stream_options_t;

/*
 * Samples found whole in a named file from before stand where their records say; all others stand
 * nowhere (block −1). Strings are borrowed for the call.
 */
qy_status_t qy_stream_create(qy_stream_t **out, const qy_device_t *dev,
                             const qy_stream_options_t *options, qy_error_t *err);
/* A named file stays. */
void qy_stream_destroy(qy_stream_t **stream);
/* The same, and removes a named file: its samples are not needed again. */
void qy_stream_discard(qy_stream_t **stream);

int64_t qy_stream_count(const qy_stream_t *stream);
size_t qy_stream_sample_bytes(const qy_stream_t *stream);
/* The block in front of which a sample stands; −1 where it has no activations yet. */
int64_t qy_stream_block(const qy_stream_t *stream, int64_t sample);
/* The smallest of all samples'. */
int64_t qy_stream_lowest(const qy_stream_t *stream);
/* Forgets a sample's activations. */
void qy_stream_reset(qy_stream_t *stream, int64_t sample);

/* These samples will be loaded next, in this order: what is not in memory is read ahead. A hint:
 * loads in another order are slower and otherwise the same. */
qy_status_t qy_stream_expect(qy_stream_t *stream, const int64_t *samples, int64_t n,
                             qy_error_t *err);
/* Samples [first, first + n) in their order. */
qy_status_t qy_stream_expect_range(qy_stream_t *stream, int64_t first, int64_t n, qy_error_t *err);

/*
 * n samples by index, one after the other, or samples [first, first + n), into device memory at
 * dst; and samples [first, first + n), now in front of block, from device memory at src. All are
 * queued on the device. IO where the disk fails or a record is damaged, ARG for a sample without
 * activations.
 */
qy_status_t qy_stream_load(qy_stream_t *stream, const int64_t *samples, int64_t n, void *dst,
                           qy_error_t *err);
qy_status_t qy_stream_load_range(qy_stream_t *stream, int64_t first, int64_t n, void *dst,
                                 qy_error_t *err);
qy_status_t qy_stream_store(qy_stream_t *stream, int64_t first, int64_t n, int64_t block,
                            const void *src, qy_error_t *err);

/* Between host memory and the stream: one sample. */
qy_status_t qy_stream_write(qy_stream_t *stream, int64_t sample, int64_t block, const void *host,
                            qy_error_t *err);
qy_status_t qy_stream_read(qy_stream_t *stream, int64_t sample, void *host, qy_error_t *err);

/* Rows [0, n) of dataset "x" of file into samples [first, first + n) of each of n_streams, in front
 * of block, where these have no activations yet. FORMAT with the path where the rows are not such
 * samples. */
qy_status_t qy_stream_fill(qy_stream_t *const *streams, int n_streams, qy_h5_t *file,
                           qy_dtype_t dtype, int64_t first, int64_t n, int64_t block,
                           qy_error_t *err);

/* Until all that was stored is where it belongs. */
qy_status_t qy_stream_flush(qy_stream_t *stream, qy_error_t *err);

/* All samples into a file of records at path, committed whole; STOPPED where a stop was asked for
 * or *cancel is set. Any thread, while the stream is loaded from and after a flush not stored to.
 */
qy_status_t qy_stream_save(const qy_stream_t *stream, const char *path, const qy_hooks_t *hooks,
                           const atomic_int *cancel, qy_error_t *err);
/* Takes samples that stand before this block from a file that was saved in front of it; one that is
 * not whole there stays as it is, and all do where there is no file. */
qy_status_t qy_stream_restore(qy_stream_t *stream, const char *path, int64_t block,
                              qy_error_t *err);

/* Seconds so far in which the device had nothing to do because the disk was not ready. */
double qy_stream_stall_s(const qy_stream_t *stream);

#endif
