/*
 * The whole contract between coordinator and worker, and between a worker and its task's child.
 *
 * A message is a frame (magic, version, kind, payload length, CRC-32 of the payload) and a payload of
 * jobs/task.h. Who speaks:
 *   worker → coordinator   HELLO once; then after each TASK: any number of PROGRESS, one RESULT.
 *                          PHASE_DONE answers E2E. ALIVE whenever nothing else was sent for a second.
 *                          ASKED where this rank was asked to stop the run (a signal).
 *   coordinator → worker   TASK to an idle worker (one at a time); E2E to all at once;
 *                          HALT: save what is being worked on, answer its task with STOPPED.
 *                          STOP: finish nothing more, answer nothing, leave.
 *   child → worker         after each TASK PROGRESS…, RESULT; the socket closing without RESULT means it died.
 *   worker → child         TASK, the next one after a RESULT without error. SIGTERM: save and answer STOPPED.
 * Anything else, a result for a task that the worker does not have, a wrong plan hash, a bad checksum:
 * refused and named by the receiver, nothing lost (the task is pending again).
 */
#ifndef QY_JOBS_PROTOCOL_H
#define QY_JOBS_PROTOCOL_H

#include <stdint.h>

#include "jobs/task.h"

typedef enum {
    QY_MSG_HELLO = 1,
    QY_MSG_TASK,
    QY_MSG_PROGRESS,
    QY_MSG_RESULT,
    QY_MSG_E2E,
    QY_MSG_PHASE_DONE, /* payload: a result, task_id −1 */
    QY_MSG_ALIVE,
    QY_MSG_STOP,
    QY_MSG_HALT,
    QY_MSG_ASKED,
    QY_N_MSGS
} qy_msg_kind_t;

enum { QY_FRAME_BYTES = 24, QY_MESSAGE_MAX = 64 << 20 };

typedef struct {
    qy_msg_kind_t kind;
    void *payload; /* owned; free with qy_message_free */
    size_t bytes;
} qy_message_t;

/* What a worker says of itself. */
typedef struct {
    int32_t rank;
    int64_t pid;
    char host[64];
    char plan_hash[65];
} qy_hello_t;

void qy_message_free(qy_message_t *message);

/* frame + payload into fresh bytes. */
qy_status_t qy_message_encode(qy_msg_kind_t kind, const void *payload, size_t payload_bytes,
                              void **bytes, size_t *n, qy_error_t *err);

/* Decodes one whole message of n bytes. FORMAT: magic, version, kind, length or checksum is wrong. */
qy_status_t qy_message_decode(qy_message_t *out, const void *bytes, size_t n, qy_error_t *err);

/* Over a stream: bytes that the message starting at bytes will have in all, 0 when fewer than
 * QY_FRAME_BYTES are there yet; FORMAT for a frame that is none. */
qy_status_t qy_message_length(const void *bytes, size_t n, size_t *total, qy_error_t *err);

qy_status_t qy_hello_encode(const qy_hello_t *hello, void **bytes, size_t *n, qy_error_t *err);
qy_status_t qy_hello_decode(qy_hello_t *hello, const void *bytes, size_t n, qy_error_t *err);

#endif
