/*
 * The disk's side of a stream: threads that read records ahead in the order they were told, threads
 * that write records behind, and the buffers in pinned memory between them and the device. One
 * thread, the stream's user, calls everything here; the others never touch the device but to wait
 * for a mark.
 */
#ifndef QY_WORKER_STREAM_IO_H
#define QY_WORKER_STREAM_IO_H

#include "kernels/device.h"
#include "worker/records.h"

typedef struct qy_stream_io qy_stream_io_t;

/* A buffer that the user holds between take and give, or between room and put. */
typedef struct {
    char *record;  /* pinned, aligned; the sample's bytes come first */
    int64_t block; /* taken: of the record; −1 where it is damaged */
} qy_stream_slot_t;

/* records are open and stay the caller's; at most n samples are ever in flight. */
qy_status_t qy_stream_io_create(qy_stream_io_t **out, const qy_device_t *dev,
                                const qy_records_t *records, qy_error_t *err);
/* What was put is written before it returns. */
void qy_stream_io_destroy(qy_stream_io_t **io);

/* Bytes of pinned memory that create takes for records of this size. */
size_t qy_stream_io_bytes(size_t record_bytes, int64_t n);

/* These samples will be taken next, in this order, after those that are expected already. */
qy_status_t qy_stream_io_expect(qy_stream_io_t *io, const int64_t *samples, int64_t n,
                                qy_error_t *err);

/* The record of a sample; one that was not expected ends all expectations and is read now. IO where
 * it could not be read, or an earlier write failed. */
qy_status_t qy_stream_io_take(qy_stream_io_t *io, int64_t sample, qy_stream_slot_t *slot,
                              qy_error_t *err);
/* Returns what was taken last. uploading: an upload from it has been queued. */
qy_status_t qy_stream_io_give(qy_stream_io_t *io, int uploading, qy_error_t *err);

/* A buffer to be written from. */
qy_status_t qy_stream_io_room(qy_stream_io_t *io, qy_stream_slot_t *slot, qy_error_t *err);
/* Writes it as this sample's record in front of block, behind the user's back. downloading: a
 * download into it has been queued. */
qy_status_t qy_stream_io_put(qy_stream_io_t *io, int64_t sample, int64_t block, int downloading,
                             qy_error_t *err);

/* Waits until all that was put is written. */
qy_status_t qy_stream_io_flush(qy_stream_io_t *io, qy_error_t *err);

/* Seconds that the device had nothing to do because the disk was not ready. */
double qy_stream_io_stall_s(const qy_stream_io_t *io);

#endif
