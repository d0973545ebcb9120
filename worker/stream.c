#include "worker/stream.h"

#include <stdlib.h>
#include <string.h>

#include "worker/stream_io.h"

struct qy_stream {
    const qy_device_t *dev;
    int64_t n, in_memory, together;
    size_t sample_bytes;
    char *memory;
    int64_t *block;  /* of each sample */
    int64_t *stored; /* in memory: era of the last store into it */
    int64_t era;     /* since the device was last waited for; downloads of earlier ones are done */
    qy_records_t records;
    qy_stream_io_t *io; /* NULL: all is in memory */
};

/* --- set-up ----------------------------------------------------------------------------------- */

/* Where the samples of a file from before stand. */
static qy_status_t scan(qy_stream_t *s, qy_error_t *err)
{
    QY_TRY(qy_stream_expect_range(s, 0, s->n, err));
    for (int64_t i = s->in_memory; i < s->n; i++) {
        qy_stream_slot_t slot;
        QY_TRY(qy_stream_io_take(s->io, i, &slot, err));
        s->block[i] = slot.block;
        QY_TRY(qy_stream_io_give(s->io, 0, err));
    }
    return QY_OK;
}

static qy_status_t open_file(qy_stream_t *s, const qy_stream_options_t *o, qy_error_t *err)
{
    int kept;
    QY_TRY(qy_records_scratch(&s->records, o->scratch, o->name, s->in_memory, !o->buffered, &kept,
                              err));
    QY_TRY(qy_stream_io_create(&s->io, s->dev, &s->records, err));
    return kept ? scan(s, err) : QY_OK;
}

static qy_status_t set_up(qy_stream_t *s, const qy_stream_options_t *o, qy_error_t *err)
{
    s->block = malloc((size_t)(s->n + 1) * sizeof *s->block);
    s->stored = calloc((size_t)(s->n + 1), sizeof *s->stored);
    if (!s->block || !s->stored)
        return qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
    for (int64_t i = 0; i < s->n; i++)
        s->block[i] = -1;
    if (s->in_memory > 0)
        QY_TRY(qy_device_host_alloc(s->dev, (void **)&s->memory,
                                    (size_t)s->in_memory * s->sample_bytes, err));
    return s->in_memory < s->n ? open_file(s, o, err) : QY_OK;
}

qy_status_t qy_stream_create(qy_stream_t **out, const qy_device_t *dev,
                             const qy_stream_options_t *o, qy_error_t *err)
{
    qy_stream_t *s = calloc(1, sizeof *s);
    if (!s)
        return qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
    *s = (qy_stream_t){.dev = dev,
                       .n = o->n,
                       .in_memory = o->in_memory < o->n ? o->in_memory : o->n,
                       .together = o->together > 1 ? o->together : 1,
                       .sample_bytes = o->sample_bytes,
                       .era = 1,
                       .records = qy_records_of(o->n, o->sample_bytes, o->seed)};
    qy_status_t status = set_up(s, o, err);
    qy_device_stage(dev, (size_t)s->together * o->sample_bytes);
    if (status == QY_OK)
        *out = s;
    else
        qy_stream_destroy(&s);
    return status;
}

void qy_stream_destroy(qy_stream_t **stream)
{
    qy_stream_t *s = *stream;
    if (!s)
        return;
    qy_device_wait(s->dev, NULL); /* queued transfers use the memory */
    qy_stream_io_destroy(&s->io);
    qy_records_close(&s->records);
    qy_device_host_free(s->dev, (void **)&s->memory);
    free(s->block);
    free(s->stored);
    free(s);
    *stream = NULL;
}

void qy_stream_discard(qy_stream_t **stream)
{
    if (*stream)
        qy_records_unlink(&(*stream)->records);
    qy_stream_destroy(stream);
}

/* --- questions -------------------------------------------------------------------------------- */

int64_t qy_stream_count(const qy_stream_t *stream)
{
    return stream->n;
}

size_t qy_stream_sample_bytes(const qy_stream_t *stream)
{
    return stream->sample_bytes;
}

int64_t qy_stream_block(const qy_stream_t *stream, int64_t sample)
{
    return stream->block[sample];
}

int64_t qy_stream_lowest(const qy_stream_t *stream)
{
    int64_t lowest = INT64_MAX;
    for (int64_t i = 0; i < stream->n; i++)
        lowest = stream->block[i] < lowest ? stream->block[i] : lowest;
    return lowest;
}

void qy_stream_reset(qy_stream_t *stream, int64_t sample)
{
    stream->block[sample] = -1;
}

double qy_stream_stall_s(const qy_stream_t *stream)
{
    return stream->io ? qy_stream_io_stall_s(stream->io) : 0;
}

static qy_status_t check_range(const qy_stream_t *s, int64_t first, int64_t n, qy_error_t *err)
{
    if (first < 0 || n < 0 || first > s->n - n)
        return qy_fail(err, QY_ERR_ARG, "stream: samples %lld to %lld of %lld", (long long)first,
                       (long long)(first + n), (long long)s->n);
    return QY_OK;
}

static qy_status_t check_filled(const qy_stream_t *s, int64_t sample, qy_error_t *err)
{
    QY_TRY(check_range(s, sample, 1, err));
    if (s->block[sample] < 0)
        return qy_fail(err, QY_ERR_ARG, "stream: sample %lld has no activations",
                       (long long)sample);
    return QY_OK;
}

/* --- transfers -------------------------------------------------------------------------------- */

static char *memory_of(const qy_stream_t *s, int64_t sample)
{
    return s->memory + (size_t)sample * s->sample_bytes;
}

qy_status_t qy_stream_expect(qy_stream_t *s, const int64_t *samples, int64_t n, qy_error_t *err)
{
    if (!s->io)
        return QY_OK;
    for (int64_t at = 0, end; at < n; at = end + 1) { /* runs of samples that are in the file */
        for (end = at; end < n && samples[end] >= s->in_memory; end++)
            QY_TRY(check_range(s, samples[end], 1, err));
        if (end > at)
            QY_TRY(qy_stream_io_expect(s->io, samples + at, end - at, err));
    }
    return QY_OK;
}

qy_status_t qy_stream_expect_range(qy_stream_t *s, int64_t first, int64_t n, qy_error_t *err)
{
    if (!s->io)
        return QY_OK;
    int64_t *samples = malloc((size_t)(n + 1) * sizeof *samples);
    if (!samples)
        return qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
    for (int64_t i = 0; i < n; i++)
        samples[i] = first + i;
    qy_status_t status = qy_stream_expect(s, samples, n, err);
    free(samples);
    return status;
}

/* A record from the file is of the block that was written. */
static qy_status_t check_block(const qy_stream_t *s, int64_t sample, int64_t block, qy_error_t *err)
{
    if (block != s->block[sample])
        return qy_fail(err, QY_ERR_IO,
                       "%s: sample %lld is damaged: it reads as of block %lld, written was %lld",
                       s->records.path, (long long)sample, (long long)block,
                       (long long)s->block[sample]);
    return QY_OK;
}

/* A sample's record from the file, checked; to be given back. */
static qy_status_t take(qy_stream_t *s, int64_t sample, qy_stream_slot_t *slot, qy_error_t *err)
{
    QY_TRY(qy_stream_io_take(s->io, sample, slot, err));
    return check_block(s, sample, slot->block, err);
}

/* Until no queued transfer uses the samples in memory. */
static qy_status_t settle(qy_stream_t *s, qy_error_t *err)
{
    QY_TRY(qy_device_wait(s->dev, err));
    s->era++;
    return QY_OK;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static qy_status_t load_run(qy_stream_t *s, int64_t first, int64_t n, void *dst, qy_error_t *err)
{
    for (int64_t i = first; i < first + n; i++) {
        QY_TRY(check_filled(s, i, err));
        if (s->stored[i] == s->era) /* its download may still be on the way */
            QY_TRY(settle(s, err));
    }
    return qy_device_upload(s->dev, dst, memory_of(s, first), (size_t)n * s->sample_bytes, err);
}

static qy_status_t load_one(qy_stream_t *s, int64_t sample, void *dst, qy_error_t *err)
{
    qy_stream_slot_t slot;
    QY_TRY(check_filled(s, sample, err));
    QY_TRY(take(s, sample, &slot, err));
    QY_TRY(qy_device_upload(s->dev, dst, slot.record, s->sample_bytes, err));
    return qy_stream_io_give(s->io, 1, err);
}

qy_status_t qy_stream_load_range(qy_stream_t *s, int64_t first, int64_t n, void *dst,
                                 qy_error_t *err)
{
    for (int64_t i = first, run; i < first + n; i += run) {
        char *to = (char *)dst + (size_t)(i - first) * s->sample_bytes;
        run = least(least(s->in_memory, first + n) - i, s->together);
        if (run > 0) {
            QY_TRY(load_run(s, i, run, to, err));
        } else {
            run = 1;
            QY_TRY(load_one(s, i, to, err));
        }
    }
    return QY_OK;
}

qy_status_t qy_stream_load(qy_stream_t *s, const int64_t *samples, int64_t n, void *dst,
                           qy_error_t *err)
{
    for (int64_t i = 0; i < n; i++)
        QY_TRY(
            qy_stream_load_range(s, samples[i], 1, (char *)dst + (size_t)i * s->sample_bytes, err));
    return QY_OK;
}

static qy_status_t store_run(qy_stream_t *s, int64_t first, int64_t n, const void *src,
                             qy_error_t *err)
{
    for (int64_t i = first; i < first + n; i++)
        s->stored[i] = s->era;
    return qy_device_download_queued(s->dev, memory_of(s, first), src, (size_t)n * s->sample_bytes,
                                     err);
}

static qy_status_t store_one(qy_stream_t *s, int64_t sample, int64_t block, const void *src,
                             qy_error_t *err)
{
    qy_stream_slot_t slot;
    QY_TRY(qy_stream_io_room(s->io, &slot, err));
    QY_TRY(qy_device_download_queued(s->dev, slot.record, src, s->sample_bytes, err));
    return qy_stream_io_put(s->io, sample, block, 1, err);
}

qy_status_t qy_stream_store(qy_stream_t *s, int64_t first, int64_t n, int64_t block,
                            const void *src, qy_error_t *err)
{
    QY_TRY(check_range(s, first, n, err));
    for (int64_t i = first, run; i < first + n; i += run) {
        const char *from = (const char *)src + (size_t)(i - first) * s->sample_bytes;
        run = least(least(s->in_memory, first + n) - i, s->together);
        if (run > 0) {
            QY_TRY(store_run(s, i, run, from, err));
        } else {
            run = 1;
            QY_TRY(store_one(s, i, block, from, err));
        }
        for (int64_t k = i; k < i + run; k++)
            s->block[k] = block;
    }
    return QY_OK;
}

qy_status_t qy_stream_write(qy_stream_t *s, int64_t sample, int64_t block, const void *host,
                            qy_error_t *err)
{
    QY_TRY(check_range(s, sample, 1, err));
    if (sample < s->in_memory) {
        QY_TRY(settle(s, err));
        memcpy(memory_of(s, sample), host, s->sample_bytes);
    } else {
        qy_stream_slot_t slot;
        QY_TRY(qy_stream_io_room(s->io, &slot, err));
        memcpy(slot.record, host, s->sample_bytes);
        QY_TRY(qy_stream_io_put(s->io, sample, block, 0, err));
    }
    s->block[sample] = block;
    return QY_OK;
}

qy_status_t qy_stream_read(qy_stream_t *s, int64_t sample, void *host, qy_error_t *err)
{
    QY_TRY(check_filled(s, sample, err));
    if (sample < s->in_memory) {
        if (s->stored[sample] == s->era)
            QY_TRY(settle(s, err));
        memcpy(host, memory_of(s, sample), s->sample_bytes);
        return QY_OK;
    }
    qy_stream_slot_t slot;
    QY_TRY(take(s, sample, &slot, err));
    memcpy(host, slot.record, s->sample_bytes);
    return qy_stream_io_give(s->io, 0, err);
}

qy_status_t qy_stream_flush(qy_stream_t *s, qy_error_t *err)
{
    QY_TRY(settle(s, err));
    return s->io ? qy_stream_io_flush(s->io, err) : QY_OK;
}

/* --- from files ------------------------------------------------------------------------------- */

static qy_status_t check_rows(const qy_stream_t *s, qy_h5_t *file, qy_dtype_t dtype, int64_t n,
                              qy_error_t *err)
{
    qy_tensor_t x;
    QY_TRY(qy_h5_info(file, "x", &x, err));
    if (x.dtype != dtype || x.n_dims < 1 || x.shape[0] != n ||
        qy_tensor_bytes(&x) != (size_t)n * s->sample_bytes)
        return qy_fail(err, QY_ERR_FORMAT, "%s: x is not %lld samples of %zu bytes of %s",
                       qy_h5_path(file), (long long)n, s->sample_bytes, qy_dtype_name(dtype));
    return QY_OK;
}

/* One row into those streams that want it. */
static qy_status_t fill_one(qy_stream_t *const *streams, int n_streams, qy_h5_t *file, int64_t row,
                            int64_t sample, int64_t block, void *buffer, qy_error_t *err)
{
    int have = 0;
    for (int k = 0; k < n_streams; k++) {
        if (streams[k]->block[sample] >= 0)
            continue;
        if (!have++)
            QY_TRY(qy_h5_read_rows(file, "x", row, 1, buffer, err));
        QY_TRY(qy_stream_write(streams[k], sample, block, buffer, err));
    }
    return QY_OK;
}

qy_status_t qy_stream_fill(qy_stream_t *const *streams, int n_streams, qy_h5_t *file,
                           qy_dtype_t dtype, int64_t first, int64_t n, int64_t block,
                           qy_error_t *err)
{
    for (int k = 0; k < n_streams; k++)
        QY_TRY(check_range(streams[k], first, n, err));
    QY_TRY(check_rows(streams[0], file, dtype, n, err));
    void *buffer = malloc(streams[0]->sample_bytes);
    if (!buffer)
        return qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
    qy_status_t status = QY_OK;
    for (int64_t i = 0; i < n && status == QY_OK; i++)
        status = fill_one(streams, n_streams, file, i, first + i, block, buffer, err);
    free(buffer);
    return status;
}

/* --- saved streams ---------------------------------------------------------------------------- */

/* From where the sample lies: what is read ahead is the user's. */
static qy_status_t save_one(const qy_stream_t *s, const qy_records_t *to, int64_t sample,
                            char *record, qy_error_t *err)
{
    QY_TRY(check_filled(s, sample, err));
    if (sample < s->in_memory) {
        memcpy(record, memory_of(s, sample), s->sample_bytes);
    } else {
        QY_TRY(qy_records_read(&s->records, sample, record, err));
        QY_TRY(check_block(s, sample, qy_records_check(&s->records, sample, record), err));
    }
    qy_records_seal(to, sample, s->block[sample], record);
    return qy_records_write(to, sample, record, err);
}

qy_status_t qy_stream_save(const qy_stream_t *s, const char *path, const qy_hooks_t *hooks,
                           const atomic_int *cancel, qy_error_t *err)
{
    qy_records_t to = qy_records_of(s->n, s->sample_bytes, s->records.seed);
    QY_TRY(qy_records_create(&to, path, err));
    char *record = aligned_alloc(QY_RECORD_ALIGN, to.record_bytes);
    qy_status_t status = record ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
    for (int64_t i = 0; i < s->n && status == QY_OK; i++) {
        if (qy_hooks_asked(hooks) || (cancel && atomic_load(cancel)))
            status = qy_fail(err, QY_ERR_STOPPED, "stopped on request");
        else
            status = save_one(s, &to, i, record, err);
    }
    free(record);
    if (status == QY_OK)
        return qy_records_commit(&to, path, err);
    qy_records_close(&to);
    qy_records_unlink(&to);
    return status;
}

static qy_status_t restore_all(qy_stream_t *s, const qy_records_t *from, int64_t block,
                               char *record, qy_error_t *err)
{
    for (int64_t i = 0; i < s->n; i++) {
        if (s->block[i] >= block)
            continue;
        QY_TRY(qy_records_read(from, i, record, err));
        if (qy_records_check(from, i, record) == block)
            QY_TRY(qy_stream_write(s, i, block, record, err));
    }
    return QY_OK;
}

qy_status_t qy_stream_restore(qy_stream_t *s, const char *path, int64_t block, qy_error_t *err)
{
    qy_records_t from = qy_records_of(s->n, s->sample_bytes, s->records.seed);
    if (qy_stream_lowest(s) >= block || !qy_file_exists(path))
        return QY_OK;
    qy_status_t status = qy_records_open(&from, path, err);
    char *record = NULL;
    if (status == QY_OK) {
        record = aligned_alloc(QY_RECORD_ALIGN, from.record_bytes);
        status = record ? restore_all(s, &from, block, record, err)
                        : qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
    }
    free(record);
    qy_records_close(&from);
    return status;
}
