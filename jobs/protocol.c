#include "jobs/protocol.h"

#include "base/hash.h"
#include "jobs/wire.h"

#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x47535951, VERSION = 1 }; /* "QYSG" */

/* Frame: magic, version, kind, CRC-32 of the payload (u32 each), payload length (i64). */
typedef struct {
    uint32_t kind, crc;
    size_t bytes;
} frame_t;

static qy_status_t read_frame(frame_t *frame, const void *bytes, qy_error_t *err)
{
    qy_wire_in_t in = qy_wire_open(bytes, QY_FRAME_BYTES);
    uint32_t magic = qy_get_u32(&in), version = qy_get_u32(&in);
    frame->kind = qy_get_u32(&in);
    frame->crc = qy_get_u32(&in);
    int64_t length = qy_get_i64(&in);
    if (magic != MAGIC)
        return qy_fail(err, QY_ERR_FORMAT, "message: not one of ours (magic %08x)",
                       (unsigned)magic);
    if (version != VERSION)
        return qy_fail(err, QY_ERR_FORMAT, "message: protocol version %u, this is %d",
                       (unsigned)version, VERSION);
    if (frame->kind < QY_MSG_HELLO || frame->kind >= QY_N_MSGS)
        return qy_fail(err, QY_ERR_FORMAT, "message: unknown kind %u", (unsigned)frame->kind);
    if (length < 0 || length > QY_MESSAGE_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "message: %lld payload bytes, at most %d",
                       (long long)length, QY_MESSAGE_MAX);
    frame->bytes = (size_t)length;
    return QY_OK;
}

void qy_message_free(qy_message_t *message)
{
    free(message->payload);
    message->payload = NULL;
    message->bytes = 0;
}

qy_status_t qy_message_encode(qy_msg_kind_t kind, const void *payload, size_t payload_bytes,
                              void **bytes, size_t *n, qy_error_t *err)
{
    if (kind < QY_MSG_HELLO || kind >= QY_N_MSGS || payload_bytes > QY_MESSAGE_MAX)
        return qy_fail(err, QY_ERR_ARG, "message of kind %d with %zu bytes, at most %d", (int)kind,
                       payload_bytes, QY_MESSAGE_MAX);
    qy_wire_out_t out = {0};
    qy_put_u32(&out, MAGIC);
    qy_put_u32(&out, VERSION);
    qy_put_u32(&out, (uint32_t)kind);
    qy_put_u32(&out, qy_crc32(payload, payload_bytes));
    qy_put_i64(&out, (int64_t)payload_bytes);
    qy_put_bytes(&out, payload, payload_bytes);
    return qy_wire_finish(&out, bytes, n, err);
}

qy_status_t qy_message_decode(qy_message_t *out, const void *bytes, size_t n, qy_error_t *err)
{
    frame_t frame = {0};
    if (n < QY_FRAME_BYTES)
        return qy_fail(err, QY_ERR_FORMAT, "message: %zu bytes, a frame has %d", n, QY_FRAME_BYTES);
    QY_TRY(read_frame(&frame, bytes, err));
    const unsigned char *payload = (const unsigned char *)bytes + QY_FRAME_BYTES;
    if (n != QY_FRAME_BYTES + frame.bytes)
        return qy_fail(err, QY_ERR_FORMAT, "message: %zu payload bytes, its frame says %zu",
                       n - QY_FRAME_BYTES, frame.bytes);
    uint32_t crc = qy_crc32(payload, frame.bytes);
    if (crc != frame.crc)
        return qy_fail(err, QY_ERR_FORMAT, "message: checksum %08x, its frame says %08x",
                       (unsigned)crc, (unsigned)frame.crc);
    void *copy = malloc(frame.bytes + 1);
    if (!copy)
        return qy_fail(err, QY_ERR_MEMORY, "message: no memory for its %zu bytes", frame.bytes);
    memcpy(copy, payload, frame.bytes);
    *out = (qy_message_t){.kind = (qy_msg_kind_t)frame.kind, .payload = copy, .bytes = frame.bytes};
    return QY_OK;
}

qy_status_t qy_message_length(const void *bytes, size_t n, size_t *total, qy_error_t *err)
{
    frame_t frame = {0};
    if (n < QY_FRAME_BYTES) {
        *total = 0;
        return QY_OK;
    }
    QY_TRY(read_frame(&frame, bytes, err));
    *total = QY_FRAME_BYTES + frame.bytes;
    return QY_OK;
}

qy_status_t qy_hello_encode(const qy_hello_t *hello, void **bytes, size_t *n, qy_error_t *err)
{
    qy_wire_out_t out = {0};
    qy_put_u32(&out, (uint32_t)hello->rank);
    qy_put_i64(&out, hello->pid);
    qy_put_string(&out, hello->host);
    qy_put_string(&out, hello->plan_hash);
    return qy_wire_finish(&out, bytes, n, err);
}

qy_status_t qy_hello_decode(qy_hello_t *hello, const void *bytes, size_t n, qy_error_t *err)
{
    qy_wire_in_t in = qy_wire_open(bytes, n);
    qy_hello_t read;
    memset(&read, 0, sizeof read);
    read.rank = qy_get_i32(&in);
    read.pid = qy_get_i64(&in);
    qy_get_string(&in, read.host, sizeof read.host);
    qy_get_string(&in, read.plan_hash, sizeof read.plan_hash);
    if (read.rank < 0)
        qy_wire_refuse(&in, "a negative rank");
    if (read.pid < 1)
        qy_wire_refuse(&in, "a process id below 1");
    QY_TRY(qy_wire_close(&in, "hello", err));
    *hello = read;
    return QY_OK;
}
