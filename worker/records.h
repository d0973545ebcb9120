/*
 * A file of samples: scratch beyond host memory, or a stream that was saved. Record i starts at
 * i × record_bytes, a multiple of 4096: the sample's bytes, zeros, and in its last 16 bytes the
 * block that the sample stands in front of and an XXH3 of the bytes, seeded with whose sample it is
 * and which. So a torn, foreign or misplaced record is never taken for data.
 */
#ifndef QY_WORKER_RECORDS_H
#define QY_WORKER_RECORDS_H

#include <stdint.h>

#include "base/file.h"

enum { QY_RECORD_ALIGN = 4096 };

typedef struct {
    int fd; /* −1: closed */
    int64_t n;
    size_t sample_bytes, record_bytes;
    uint64_t seed; /* of run, segment and stream */
    char path[QY_PATH_MAX];
} qy_records_t;

/* Nothing open yet. */
qy_records_t qy_records_of(int64_t n, size_t sample_bytes, uint64_t seed);

/*
 * Scratch in folder for records [first, n), with all their room taken at once; those before it are
 * a hole. name: a file that outlives this process; NULL, or where another process holds that file:
 * one that is unlinked at once. *kept: it was there already, of this size. direct: O_DIRECT where
 * the file system takes it. IO where there is no room.
 */
qy_status_t qy_records_scratch(qy_records_t *r, const char *folder, const char *name, int64_t first,
                               int direct, int *kept, qy_error_t *err);
/* An existing file for reading; FORMAT where its length is another. */
qy_status_t qy_records_open(qy_records_t *r, const char *path, qy_error_t *err);
/* A temporary file that becomes path on commit; close without commit removes it. */
qy_status_t qy_records_create(qy_records_t *r, const char *path, qy_error_t *err);
qy_status_t qy_records_commit(qy_records_t *r, const char *path, qy_error_t *err);
void qy_records_close(qy_records_t *r);
/* Removes the file's name, where it has one. */
void qy_records_unlink(qy_records_t *r);

/* Everything behind the sample's bytes of a record in memory. */
void qy_records_seal(const qy_records_t *r, int64_t sample, int64_t block, char *record);
/* The block of a record in memory; −1 where it is not whole or not this sample's. */
int64_t qy_records_check(const qy_records_t *r, int64_t sample, const char *record);

/* Whole records; record is aligned to QY_RECORD_ALIGN. Any thread. */
qy_status_t qy_records_read(const qy_records_t *r, int64_t sample, char *record, qy_error_t *err);
qy_status_t qy_records_write(const qy_records_t *r, int64_t sample, const char *record,
                             qy_error_t *err);

#endif
