/*
 * ledger.jsonl: what happened, one event a line, appended and fsynced. Each line is a JSON object
 * followed by a tab and the CRC-32 of the object's bytes in eight hexadecimal digits. A torn last
 * line is dropped on opening; a bad line before the last is FORMAT with its number.
 */
#ifndef QY_COORDINATOR_LEDGER_H
#define QY_COORDINATOR_LEDGER_H

#include "jobs/task.h"

typedef struct qy_ledger qy_ledger_t;

typedef enum {
    QY_LEDGER_START,  /* a run began: host, pid, workers */
    QY_LEDGER_ASSIGN, /* a task went to a worker */
    QY_LEDGER_BLOCK,  /* a block's file was committed, with its losses */
    QY_LEDGER_DONE,   /* a task is done; evaluation values with it */
    QY_LEDGER_FAILED, /* an attempt failed, with its error */
    QY_LEDGER_PHASE,  /* a phase is done, with its seconds; < 0: it begins */
    QY_LEDGER_STOP,   /* the run ended: "done", "stopped", or an error's text */
    QY_N_LEDGER
} qy_ledger_kind_t;

typedef struct {
    qy_ledger_kind_t kind;
    char time[24];
    char phase[24];
    char task[96]; /* qy_task_name */
    int32_t task_id, attempt, rank;
    char host[64];
    int64_t pid, workers, block;
    double seconds, stall_s, loss_before, loss_after, validation_before, validation_after;
    qy_status_t status;
    char text[508];
    int64_t n_values;
    /* DONE of an evaluation: NLL of each window; of an E2E-QP stage: busy s, wall s, ideal share.
     * STOP: messages that the coordinator took in, and its seconds for them and what followed.
     * Owned by the ledger when read back. */
    double *values;
} qy_entry_t;

/* Opens or creates, drops a torn last line, reads all entries. */
qy_status_t qy_ledger_open(qy_ledger_t **out, const char *path, qy_error_t *err);
/* Opens for reading only (status); nothing is changed; a torn last line is ignored. */
qy_status_t qy_ledger_read(qy_ledger_t **out, const char *path, qy_error_t *err);
void qy_ledger_close(qy_ledger_t **ledger);

int64_t qy_ledger_count(const qy_ledger_t *ledger);
/* Valid until the next append. */
const qy_entry_t *qy_ledger_at(const qy_ledger_t *ledger, int64_t i);

/* time is filled in where it is empty. Durable when it returns. */
qy_status_t qy_ledger_append(qy_ledger_t *ledger, const qy_entry_t *entry, qy_error_t *err);

#endif
