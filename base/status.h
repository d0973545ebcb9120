/* Status codes and the error text that travels with them. Nothing here prints. */
#ifndef QY_BASE_STATUS_H
#define QY_BASE_STATUS_H

/* Name, text, and whether another worker may try the same task. */
#define QY_STATUS_LIST(X)                                                                          \
    X(OK, "ok", 0)                                                                                 \
    X(ARG, "bad argument", 0)                                                                      \
    X(SHAPE, "shape mismatch", 0)                                                                  \
    X(MEMORY, "out of memory", 1)                                                                  \
    X(IO, "input/output error", 1)                                                                 \
    X(FORMAT, "malformed file", 0)                                                                 \
    X(NUMERIC, "non-finite number", 0)                                                             \
    X(DEVICE, "device failure", 1)                                                                 \
    X(COMM, "communication failure", 1)                                                            \
    X(UNSUPPORTED, "unsupported", 0)                                                               \
    X(STOPPED, "stopped on request", 0)                                                            \
    X(CRASHED, "process died", 1)                                                                  \
    X(DAMAGED, "damaged file of the run, to be made again", 0)

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
#define X(name, text, retry) QY_ERR_##name,
    QY_STATUS_LIST(X)
#undef X
        QY_N_STATUS
} qy_status_t;
#define QY_OK QY_ERR_OK

/* Status and text in one fixed-size value without pointers: it rides in a message unchanged. */
typedef struct {
    qy_status_t status;
    char text[508];
} qy_error_t;

const char *qy_status_name(qy_status_t status);

/* 1 where the failure may be the worker's and not the task's. */
int qy_status_retry(qy_status_t status);

/* Fills err (may be NULL) and returns status. The function that decides what went wrong calls it. */
qy_status_t qy_fail(qy_error_t *err, qy_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* Puts "name: " before the text: for a boundary (task, block, file). Returns err->status. */
qy_status_t qy_fail_in(qy_error_t *err, const char *format, ...)
    __attribute__((format(printf, 2, 3), cold));

#ifdef __cplusplus
}
#endif

/* Passes a failure up; adds nothing, prints nothing. */
#define QY_TRY(call)                                                                               \
    do {                                                                                           \
        qy_status_t qy_try_status_ = (call);                                                       \
        if (qy_try_status_ != QY_OK)                                                               \
            return qy_try_status_;                                                                 \
    } while (0)

/* The same with a jump to the label that undoes what was set up; needs a local `status`. */
#define QY_TRY_GOTO(call, label)                                                                   \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != QY_OK)                                                                       \
            goto label;                                                                            \
    } while (0)

#endif
