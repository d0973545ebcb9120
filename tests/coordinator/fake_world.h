/*
 * A run under way in a test: the dispatcher, its link, and workers that do well unless a trick
 * makes them do something else.
 */
#ifndef TEST_COORDINATOR_FAKE_WORLD_H
#define TEST_COORDINATOR_FAKE_WORLD_H

#include "coordinator/dispatch.h"
#include "tests/coordinator/fake_run.h"

enum { MAX_PEERS = 4 };

typedef struct world world_t;

/* What a worker does with a task instead of the good thing; false: the good thing. */
typedef bool (*trick_t)(world_t *w, int peer, const qy_task_t *task);

struct world {
    fake_run_t *run;
    qy_link_t *link;
    qy_dispatch_t *dispatch;
    atomic_int stop;
    trick_t trick;
    int played;                    /* times the trick was done */
    qy_task_t kept;                /* one that a trick has kept for later */
    bool told_to_leave[MAX_PEERS]; /* STOP */
    bool told_to_halt[MAX_PEERS];  /* HALT */
    int n_tasks[QY_N_TASK_KINDS];  /* given out */
    int n_e2e, n_exports, n_blocks_done;
    char phases[256];                 /* names of those that were done, in order */
    qy_error_t e2e_answer[MAX_PEERS]; /* PHASE_DONE */
    bool e2e_nonsense, e2e_silent, e2e_hollow;
    int turns_left; /* < 0: no limit */
};

/* Counts phases and finished blocks; an export is an empty folder. */
qy_dispatch_hooks_t world_hooks(world_t *w);
/* Opens the run with n workers, which have said nothing yet. */
void world_begin(world_t *w, fake_run_t *run, int n_workers);
void world_end(world_t *w);
void world_say_hello_all(world_t *w);
/* Both, with workers that know a trick (or NULL). */
void world_open(world_t *w, fake_run_t *run, int n_workers, trick_t trick);

/* A worker's answer to a message of the coordinator. */
void world_act(world_t *w, int peer, const qy_message_t *message);
/* Of all workers to all messages; false where there was none. */
bool world_act_all(world_t *w);

/* Turns until the run is over, or turns_left are used up: then *done is 0. */
qy_status_t world_drive(world_t *w, int *done, qy_error_t *err);
/* To an end that must be good, with all workers told to leave. */
void world_drive_to_end(world_t *w);
/* To an end that must have this status; what the run says of it. */
qy_error_t world_drive_to_failure(world_t *w, qy_status_t status);
/* So many good turns at the most; whether the run is over. */
bool world_drive_turns(world_t *w, int turns);
/* A run from where it stands to its end with n good workers. */
void world_finish_run(fake_run_t *run, int n_workers);

/* The answer of a worker whose task failed. */
void world_fail_task(world_t *w, int peer, const qy_task_t *task, qy_status_t status,
                     const char *text);

/* Number of ledger entries of a kind whose text has the word. */
int world_count_entries(const fake_run_t *run, qy_ledger_kind_t kind, const char *word);
/* Ranges that the evaluation text of the run is cut into; more than one. */
int64_t world_ranges(const fake_run_t *run);

/* Those of the first n variants are exact, the others are not there. */
void world_check_perplexities(const fake_run_t *run, int n_variants);

#endif
