/*
 * A run without a model at work: a real plan of the tiny checkpoint, a link to any number of
 * workers that live in the test, and what a good worker would write and say.
 */
#ifndef TEST_COORDINATOR_FAKE_RUN_H
#define TEST_COORDINATOR_FAKE_RUN_H

#include <stdbool.h>

#include "jobs/link.h"
#include "jobs/protocol.h"
#include "jobs/store.h"

typedef struct {
    char root[64]; /* a temporary folder: text.txt, job.yaml, run/ */
    qy_plan_t *plan;
    int blocks_written;
} fake_run_t;

/* 6 blocks in 3 segments, 8 capture ranges; with_e2e: distilled, 4 teacher ranges, 2 steps; one
 * evaluation text "a" whose first letter is mark (another mark is another text). Plan recorded. */
void fake_run_create(fake_run_t *run, bool with_e2e, char mark);
/* Another plan for the same folder, as a changed job.yaml gives it. */
void fake_run_plan_again(fake_run_t *run, bool with_e2e, char mark);
void fake_run_destroy(fake_run_t *run);

/* The file of a finished block, as a worker writes it: content and losses depend on the block only.
 * With hollow, marks but no numbers. */
void fake_write_block(fake_run_t *run, int64_t block, bool hollow);
/* What E2E-QP leaves behind after its last step. */
void fake_write_e2e(const fake_run_t *run);
/* NLL of window i of the evaluation text. */
double fake_nll(int32_t variant, int64_t window);

/* The coordinator's end of a link to n workers. */
qy_link_t *fake_link_create(int n);
/* Next message for a worker; false where there is none. */
bool fake_take(qy_link_t *link, int peer, qy_message_t *out);
/* A message of a worker, whole or as bytes that need not be one. */
void fake_say(qy_link_t *link, int peer, qy_msg_kind_t kind, const void *payload, size_t bytes);
void fake_say_raw(qy_link_t *link, int peer, const void *bytes, size_t n);
/* From now on nothing can be sent to this worker. */
void fake_cut(qy_link_t *link, int peer);

void fake_say_hello(qy_link_t *link, int peer, const char *plan_hash);
void fake_say_progress(qy_link_t *link, int peer, const qy_progress_t *progress);
void fake_say_result(qy_link_t *link, int peer, qy_msg_kind_t kind, const qy_result_t *result);

/* Does a task as a good worker: files, a progress a block, the result. */
void fake_do_task(fake_run_t *run, qy_link_t *link, int peer, const qy_task_t *task);

#endif
