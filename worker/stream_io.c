#include "worker/stream_io.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread.h"

/* Two of each: one computes a checksum while the other's transfer is with the disk. */
enum { READERS = 2, WRITERS = 2, N_THREADS = READERS + WRITERS };
/* Buffers: this many bytes of them, within these numbers. */
enum { READ_BYTES = 256 << 20, WRITE_BYTES = 128 << 20, LEAST_SLOTS = 4, MOST_SLOTS = 64 };
/* How often the user, waiting for the disk, looks whether the device has run dry. */
static const double look_s = 5e-4;

typedef enum { EMPTY, BUSY, FULL, FAILED } state_t;

typedef struct {
    char *record;
    void *mark; /* the device may still use the record until it has passed */
    int64_t sample, block;
    state_t state; /* reading: BUSY, then FULL or FAILED; writing: FULL, then BUSY, then EMPTY */
    qy_error_t error;
} slot_t;

struct qy_stream_io {
    const qy_device_t *dev;
    const qy_records_t *records;
    void *memory;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[N_THREADS];
    int n_threads, n_reading, stop;
    int64_t n_read_slots, n_write_slots;
    slot_t *read_slots, *write_slots;
    /* Expected samples: [0, taken) are done with, [taken, claimed) are read or being read. Entry i
     * has slot (base + i) mod n_read_slots. */
    int64_t *expected, n_expected, capacity, claimed, taken, base;
    int64_t n_put, n_written; /* claimed by a writer; slot i mod n_write_slots */
    qy_error_t write_error;
    double stall_s;
};

static int64_t slots_of(size_t bytes, size_t record_bytes, int64_t n)
{
    int64_t slots = (int64_t)(bytes / record_bytes);
    slots = slots < LEAST_SLOTS ? LEAST_SLOTS : slots > MOST_SLOTS ? MOST_SLOTS : slots;
    return slots < n ? slots : n;
}

size_t qy_stream_io_bytes(size_t record_bytes, int64_t n)
{
    int64_t slots = slots_of(READ_BYTES, record_bytes, n) + slots_of(WRITE_BYTES, record_bytes, n);
    return (size_t)slots * record_bytes + QY_RECORD_ALIGN;
}

/* --- the threads ------------------------------------------------------------------------------ */

static slot_t *read_slot(const qy_stream_io_t *io, int64_t i)
{
    return &io->read_slots[(io->base + i) % io->n_read_slots];
}

static int is_being_written(const qy_stream_io_t *io, int64_t sample)
{
    for (int64_t i = 0; i < io->n_write_slots; i++)
        if (io->write_slots[i].state != EMPTY && io->write_slots[i].sample == sample)
            return 1;
    return 0;
}

static qy_status_t read_record(qy_stream_io_t *io, slot_t *slot)
{
    QY_TRY(qy_device_mark_wait(io->dev, slot->mark, &slot->error));
    QY_TRY(qy_records_read(io->records, slot->sample, slot->record, &slot->error));
    slot->block = qy_records_check(io->records, slot->sample, slot->record);
    return QY_OK;
}

static void *reader(void *context)
{
    qy_stream_io_t *io = context;
    pthread_mutex_lock(&io->lock);
    while (!io->stop) {
        if (io->claimed == io->n_expected || read_slot(io, io->claimed)->state != EMPTY) {
            pthread_cond_wait(&io->changed, &io->lock);
            continue;
        }
        slot_t *slot = read_slot(io, io->claimed);
        slot->sample = io->expected[io->claimed++];
        slot->state = BUSY;
        io->n_reading++;
        while (is_being_written(io, slot->sample))
            pthread_cond_wait(&io->changed, &io->lock);
        pthread_mutex_unlock(&io->lock);
        qy_status_t status = read_record(io, slot);
        pthread_mutex_lock(&io->lock);
        slot->state = status == QY_OK ? FULL : FAILED;
        io->n_reading--;
        pthread_cond_broadcast(&io->changed);
    }
    pthread_mutex_unlock(&io->lock);
    return NULL;
}

static qy_status_t write_record(qy_stream_io_t *io, slot_t *slot)
{
    QY_TRY(qy_device_mark_wait(io->dev, slot->mark, &slot->error));
    qy_records_seal(io->records, slot->sample, slot->block, slot->record);
    return qy_records_write(io->records, slot->sample, slot->record, &slot->error);
}

static void *writer(void *context)
{
    qy_stream_io_t *io = context;
    pthread_mutex_lock(&io->lock);
    while (!io->stop || io->n_written < io->n_put) {
        if (io->n_written == io->n_put) {
            pthread_cond_wait(&io->changed, &io->lock);
            continue;
        }
        slot_t *slot = &io->write_slots[io->n_written++ % io->n_write_slots];
        slot->state = BUSY;
        pthread_mutex_unlock(&io->lock);
        qy_status_t status = write_record(io, slot);
        pthread_mutex_lock(&io->lock);
        if (status != QY_OK && io->write_error.status == QY_OK)
            io->write_error = slot->error;
        slot->state = EMPTY;
        pthread_cond_broadcast(&io->changed);
    }
    pthread_mutex_unlock(&io->lock);
    return NULL;
}

/* --- set-up ----------------------------------------------------------------------------------- */

static qy_status_t start_threads(qy_stream_io_t *io, qy_error_t *err)
{
    int code = 0;
    while (io->n_threads < N_THREADS && !code) {
        code = qy_thread_start(&io->threads[io->n_threads],
                               io->n_threads < READERS ? reader : writer, io);
        io->n_threads += !code;
    }
    return code ? qy_fail(err, QY_ERR_MEMORY, "stream: no thread: %s", strerror(code)) : QY_OK;
}

static qy_status_t take_buffers(qy_stream_io_t *io, qy_error_t *err)
{
    const qy_records_t *r = io->records;
    io->n_read_slots = slots_of(READ_BYTES, r->record_bytes, r->n);
    io->n_write_slots = slots_of(WRITE_BYTES, r->record_bytes, r->n);
    int64_t n = io->n_read_slots + io->n_write_slots;
    io->read_slots = calloc((size_t)n, sizeof *io->read_slots);
    if (!io->read_slots)
        return qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
    io->write_slots = io->read_slots + io->n_read_slots;
    QY_TRY(
        qy_device_host_alloc(io->dev, &io->memory, qy_stream_io_bytes(r->record_bytes, r->n), err));
    size_t skip = QY_RECORD_ALIGN - (uintptr_t)io->memory % QY_RECORD_ALIGN;
    for (int64_t i = 0; i < n; i++)
        io->read_slots[i].record = (char *)io->memory + skip + (size_t)i * r->record_bytes;
    return QY_OK;
}

qy_status_t qy_stream_io_create(qy_stream_io_t **out, const qy_device_t *dev,
                                const qy_records_t *records, qy_error_t *err)
{
    qy_stream_io_t *io = calloc(1, sizeof *io);
    if (!io)
        return qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
    io->dev = dev;
    io->records = records;
    pthread_mutex_init(&io->lock, NULL);
    qy_cond_init(&io->changed);
    qy_status_t status = take_buffers(io, err);
    if (status == QY_OK)
        status = start_threads(io, err);
    if (status == QY_OK)
        *out = io;
    else
        qy_stream_io_destroy(&io);
    return status;
}

void qy_stream_io_destroy(qy_stream_io_t **pointer)
{
    qy_stream_io_t *io = *pointer;
    if (!io)
        return;
    pthread_mutex_lock(&io->lock);
    io->stop = 1;
    pthread_cond_broadcast(&io->changed);
    pthread_mutex_unlock(&io->lock);
    for (int i = 0; i < io->n_threads; i++)
        pthread_join(io->threads[i], NULL);
    for (int64_t i = 0; io->read_slots && i < io->n_read_slots + io->n_write_slots; i++) {
        qy_device_mark_wait(io->dev, io->read_slots[i].mark, NULL);
        qy_device_mark_free(io->dev, &io->read_slots[i].mark);
    }
    qy_device_host_free(io->dev, &io->memory);
    pthread_cond_destroy(&io->changed);
    pthread_mutex_destroy(&io->lock);
    free(io->read_slots);
    free(io->expected);
    free(io);
    *pointer = NULL;
}

/* --- the user's side -------------------------------------------------------------------------- */

/* Waits for a thread to have done something. */
static void wait_for_change(qy_stream_io_t *io)
{
    int idle = qy_device_idle(io->dev);
    double began = qy_now_s();
    qy_cond_wait_s(&io->changed, &io->lock, look_s);
    if (idle)
        io->stall_s += qy_now_s() - began;
}

/* Ends all expectations; called with the lock. */
static void forget(qy_stream_io_t *io)
{
    io->n_expected = io->claimed; /* no thread takes another one */
    while (io->n_reading > 0)
        wait_for_change(io);
    for (int64_t i = io->taken; i < io->claimed; i++)
        read_slot(io, i)->state = EMPTY;
    io->base = (io->base + io->claimed) % io->n_read_slots;
    io->n_expected = io->claimed = io->taken = 0;
}

/* Called with the lock. */
static qy_status_t append(qy_stream_io_t *io, const int64_t *samples, int64_t n, qy_error_t *err)
{
    if (io->taken == io->n_expected)
        forget(io); /* which starts the list anew */
    if (io->n_expected + n > io->capacity) {
        int64_t capacity = 2 * (io->n_expected + n);
        int64_t *grown = realloc(io->expected, (size_t)capacity * sizeof *grown);
        if (!grown)
            return qy_fail(err, QY_ERR_MEMORY, "stream: out of host memory");
        io->expected = grown;
        io->capacity = capacity;
    }
    memcpy(io->expected + io->n_expected, samples, (size_t)n * sizeof *samples);
    io->n_expected += n;
    pthread_cond_broadcast(&io->changed);
    return QY_OK;
}

qy_status_t qy_stream_io_expect(qy_stream_io_t *io, const int64_t *samples, int64_t n,
                                qy_error_t *err)
{
    pthread_mutex_lock(&io->lock);
    qy_status_t status = append(io, samples, n, err);
    pthread_mutex_unlock(&io->lock);
    return status;
}

static qy_status_t failed(const qy_error_t *error, qy_error_t *err)
{
    if (err)
        *err = *error;
    return error->status;
}

static qy_status_t take(qy_stream_io_t *io, int64_t sample, qy_stream_slot_t *out, qy_error_t *err)
{
    if (io->taken == io->n_expected || io->expected[io->taken] != sample) {
        forget(io);
        QY_TRY(append(io, &sample, 1, err));
    }
    slot_t *slot = read_slot(io, io->taken);
    while (slot->state != FULL && slot->state != FAILED && io->write_error.status == QY_OK)
        wait_for_change(io);
    if (io->write_error.status != QY_OK)
        return failed(&io->write_error, err);
    if (slot->state == FAILED)
        return failed(&slot->error, err);
    *out = (qy_stream_slot_t){slot->record, slot->block};
    return QY_OK;
}

qy_status_t qy_stream_io_take(qy_stream_io_t *io, int64_t sample, qy_stream_slot_t *slot,
                              qy_error_t *err)
{
    pthread_mutex_lock(&io->lock);
    qy_status_t status = take(io, sample, slot, err);
    pthread_mutex_unlock(&io->lock);
    return status;
}

qy_status_t qy_stream_io_give(qy_stream_io_t *io, int uploading, qy_error_t *err)
{
    slot_t *slot = read_slot(io, io->taken);
    qy_status_t status = uploading ? qy_device_mark(io->dev, &slot->mark, QY_UPLOADS, err) : QY_OK;
    pthread_mutex_lock(&io->lock);
    slot->state = EMPTY;
    io->taken++;
    pthread_cond_broadcast(&io->changed);
    pthread_mutex_unlock(&io->lock);
    return status;
}

qy_status_t qy_stream_io_room(qy_stream_io_t *io, qy_stream_slot_t *out, qy_error_t *err)
{
    pthread_mutex_lock(&io->lock);
    slot_t *slot = &io->write_slots[io->n_put % io->n_write_slots];
    while (slot->state != EMPTY && io->write_error.status == QY_OK)
        wait_for_change(io);
    qy_status_t status = io->write_error.status == QY_OK ? QY_OK : failed(&io->write_error, err);
    pthread_mutex_unlock(&io->lock);
    if (status == QY_OK)
        *out = (qy_stream_slot_t){slot->record, -1};
    return status;
}

qy_status_t qy_stream_io_put(qy_stream_io_t *io, int64_t sample, int64_t block, int downloading,
                             qy_error_t *err)
{
    slot_t *slot = &io->write_slots[io->n_put % io->n_write_slots];
    if (downloading)
        QY_TRY(qy_device_mark(io->dev, &slot->mark, QY_DOWNLOADS, err));
    pthread_mutex_lock(&io->lock);
    for (int64_t i = io->taken; i < io->claimed; i++)
        if (io->expected[i] == sample) { /* what was read ahead is no longer so */
            forget(io);
            break;
        }
    while (is_being_written(io, sample)) /* two writers could change places */
        wait_for_change(io);
    slot->sample = sample;
    slot->block = block;
    slot->state = FULL;
    io->n_put++;
    pthread_cond_broadcast(&io->changed);
    pthread_mutex_unlock(&io->lock);
    return QY_OK;
}

qy_status_t qy_stream_io_flush(qy_stream_io_t *io, qy_error_t *err)
{
    pthread_mutex_lock(&io->lock);
    for (int64_t i = 0; i < io->n_write_slots; i++)
        while (io->write_slots[i].state != EMPTY)
            wait_for_change(io);
    qy_status_t status = io->write_error.status == QY_OK ? QY_OK : failed(&io->write_error, err);
    pthread_mutex_unlock(&io->lock);
    return status;
}

double qy_stream_io_stall_s(const qy_stream_io_t *io)
{
    return io->stall_s;
}
