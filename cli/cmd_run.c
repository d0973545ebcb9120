/* quarry run: runs a job, or goes on with it where it stopped. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/door.h"
#include "cli/estimate.h"
#include "cli/exports.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "coordinator/dispatch.h"
#include "coordinator/ledger.h"
#include "coordinator/link_mpi.h"
#include "coordinator/lock.h"
#include "jobs/plan_time.h"
#include "jobs/store.h"
#include "worker/device_record.h"
#include "worker/memory.h"
#include "worker/pipe_mpi.h"
#include "worker/serve.h"

/* Longest nap of the loop, ms: what a message to or from the in-process worker waits at most. */
enum { NAP_MS = 20 };

static const double halt_interval_s = 0.25;

typedef struct {
    qy_progress_view_t view;
    const atomic_int *stop;
    qy_dispatch_t *dispatch; /* rank 0's; NULL until it is there */
    qy_lock_t *lock;         /* rank 0's */
    int mpi, rank, n_ranks;
    char halt[QY_PATH_MAX]; /* rank 0's: a file of this name asks for a stop */
    double looked;          /* for it, last */
    int ended;              /* the run is over, and every rank is told so */
} door_t;

/* Now and then: the run directory may be on a busy file server. */
static void look_for_halt(door_t *door)
{
    double now = qy_now_s();
    if (door->rank > 0 || now - door->looked < halt_interval_s)
        return;
    door->looked = now;
    if (qy_file_exists(door->halt))
        qy_door_ask_stop();
}

static void show_progress(void *context, int worker, const char *task, const qy_progress_t *p)
{
    qy_progress_show(&((door_t *)context)->view, worker, task, p);
}

static void show_phase(void *context, const char *phase, double seconds)
{
    qy_progress_phase(&((door_t *)context)->view, phase, seconds);
}

static qy_status_t run_export(void *context, const qy_plan_t *plan, const char *format,
                              qy_error_t *err)
{
    char dir[QY_PATH_MAX];
    (void)context;
    QY_TRY(qy_export_dir(dir, plan, format, err));
    return qy_export_of_run(plan, format, dir, 0, 1, err);
}

/* E2E-QP works in this process: the coordinator takes in what it says. What goes wrong here comes
 * up again in the loop. */
static void take_turn(void *context)
{
    door_t *door = context;
    int done;
    look_for_halt(door);
    qy_dispatch_poll(door->dispatch, door->stop, &done, NULL);
}

/* Coordinator (on rank 0) and worker of this process, turn by turn, until the run is over. */
static qy_status_t loop(door_t *door, qy_server_t *server, qy_error_t *err)
{
    int done = 0, left = 0;
    while (!done) {
        if (door->lock && qy_lock_lost(door->lock))
            return qy_fail(err, QY_ERR_IO, "another run has taken the run directory over");
        look_for_halt(door);
        if (door->dispatch) {
            qy_status_t status = qy_dispatch_poll(door->dispatch, door->stop, &done, err);
            door->ended = done;
            QY_TRY(status);
        }
        if (!left)
            QY_TRY(qy_server_poll(server, &left, err));
        if (!door->dispatch)
            done = door->ended = left;
        if (!done)
            qy_server_wait(server, NAP_MS);
    }
    return QY_OK;
}

/* The transports of this process: between the coordinator and its own worker, and over MPI to the
 * rest. */
typedef struct {
    qy_link_t *local_coordinator, *local_worker; /* rank 0 */
    qy_link_t *mpi;
    qy_pipe_t *pipe;
} transports_t;

static qy_status_t open_transports(transports_t *t, const door_t *door, qy_error_t *err)
{
    *t = (transports_t){0};
    if (door->rank == 0)
        QY_TRY(qy_link_pair(&t->local_coordinator, &t->local_worker, err));
    if (!door->mpi)
        return QY_OK;
    QY_TRY(qy_link_mpi_create(&t->mpi, t->local_coordinator, err));
    return qy_pipe_mpi_create(&t->pipe, err);
}

static void close_transports(transports_t *t)
{
    qy_pipe_destroy(&t->pipe);
    qy_link_destroy(&t->mpi);
    qy_link_destroy(&t->local_worker);
    qy_link_destroy(&t->local_coordinator);
}

/* A failure before door->ended is this rank's alone: the others wait for it and do not know. */
static qy_status_t work(const qy_plan_t *plan, door_t *door, qy_error_t *err)
{
    transports_t t;
    qy_server_t *server = NULL;
    const qy_dispatch_hooks_t hooks = {.on_progress = show_progress,
                                       .on_phase = show_phase,
                                       .run_export = run_export,
                                       .context = door};
    qy_status_t status;
    QY_TRY_GOTO(open_transports(&t, door, err), close);
    if (door->rank == 0)
        QY_TRY_GOTO(qy_dispatch_create(&door->dispatch, plan, t.mpi ? t.mpi : t.local_coordinator,
                                       &hooks, err),
                    close);
    const qy_server_hooks_t server_hooks = {.pipe = t.pipe,
                                            .stop = door->stop,
                                            .turn = door->rank == 0 ? take_turn : NULL,
                                            .context = door};
    QY_TRY_GOTO(qy_server_create(&server, plan, door->rank == 0 ? t.local_worker : t.mpi,
                                 door->rank, &server_hooks, err),
                close);
    status = loop(door, server, err);
close:
    qy_server_destroy(&server);
    qy_dispatch_destroy(&door->dispatch);
    close_transports(&t);
    qy_progress_end(&door->view);
    return status;
}

/* Everything that can be refused before anything is started. */
static qy_status_t prepare(const char *job, const char *const *overrides, int n_overrides,
                           int n_workers, qy_plan_t **plan, qy_error_t *err)
{
    qy_spec_t *spec = malloc(sizeof *spec);
    if (!spec)
        return qy_fail(err, QY_ERR_MEMORY, "out of memory");
    qy_status_t status = qy_spec_read(spec, job, overrides, n_overrides, err);
    if (status == QY_OK)
        status = qy_plan_make(plan, spec, n_workers, err);
    if (status == QY_OK)
        status = qy_memory_plan(*plan, err);
    if (status == QY_OK) {
        qy_estimate(*plan);
        status = qy_plan_check_saves(*plan, err);
    }
    free(spec);
    return status;
}

/* A damaged ledger is refused while all ranks still wait for the word to go on. */
static qy_status_t check_ledger(const qy_plan_t *plan, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_ledger_t *ledger = NULL;
    QY_TRY(qy_store_ledger(path, plan, err));
    QY_TRY(qy_ledger_open(&ledger, path, err));
    qy_ledger_close(&ledger);
    return QY_OK;
}

/* The run directory made ready and ours: lock, plan, ledger, device, tokens. */
static qy_status_t enter(qy_plan_t *plan, qy_lock_t **lock, qy_error_t *err)
{
    QY_TRY(qy_lock_take(lock, plan->spec.run_dir, err));
    QY_TRY(qy_plan_record(plan, err));
    QY_TRY(qy_store_prepare(plan, err));
    QY_TRY(check_ledger(plan, err));
    QY_TRY(qy_device_record(plan, QUARRY_VERSION, err));
    return qy_store_make_tokens(plan, err);
}

/* Rank 0: from the job file to a run directory that is ready. Exit code, 0 to go on. */
static int open_run(const char *job, const char *const *overrides, int n_overrides, door_t *door,
                    qy_plan_t **plan)
{
    qy_error_t err = {0};
    if (prepare(job, overrides, n_overrides, door->n_ranks, plan, &err) != QY_OK)
        return qy_door_error(&err, QY_EXIT_INPUT);
    if (qy_path(door->halt, &err, "%s/halt", (*plan)->spec.run_dir) != QY_OK)
        return qy_door_error(&err, QY_EXIT_INPUT);
    if (qy_file_exists(door->halt)) {
        qy_fail(&err, QY_ERR_ARG, "%s: this run was told to halt; remove the file to go on",
                door->halt);
        return qy_door_error(&err, QY_EXIT_INPUT);
    }
    int fresh = !qy_file_exists((*plan)->spec.run_dir);
    if (enter(*plan, &door->lock, &err) == QY_OK)
        return QY_EXIT_OK;
    if (fresh && door->lock) { /* ours, and nothing was started: leave nothing behind */
        qy_lock_release(&door->lock);
        qy_remove_tree((*plan)->spec.run_dir, NULL);
    }
    return qy_door_error(&err, QY_EXIT_INPUT);
}

/* The others: the plan that rank 0 has recorded. */
static int join_run(const char *job, const char *const *overrides, int n_overrides,
                    qy_plan_t **plan)
{
    qy_error_t err = {0};
    qy_spec_t *spec = malloc(sizeof *spec);
    qy_status_t status = spec ? qy_spec_read(spec, job, overrides, n_overrides, &err)
                              : qy_fail(&err, QY_ERR_MEMORY, "out of memory");
    if (status == QY_OK)
        status = qy_plan_load(plan, spec->run_dir, &err);
    free(spec);
    return status == QY_OK ? QY_EXIT_OK : qy_door_error(&err, QY_EXIT_FAILED);
}

/* logs/rank-NNN.log, where the rank's tasks write as well. Without it the run goes on. */
static void open_log(const qy_plan_t *plan, int rank)
{
    char path[QY_PATH_MAX];
    if (qy_path(path, NULL, "%s/logs/rank-%03d.log", plan->spec.run_dir, rank) != QY_OK)
        return;
    FILE *file = fopen(path, "a");
    if (file) {
        setvbuf(file, NULL, _IOLBF, 0);
        qy_log_open(file, QY_LOG_INFO, rank == 0 ? "coordinator" : "worker", rank);
        qy_log(QY_LOG_INFO, "run begins, plan %.12s", plan->hash);
    }
}

static int run_job(const char *job, const char *const *overrides, int n_overrides, door_t *door)
{
    qy_error_t err = {0};
    qy_plan_t *plan = NULL;
    int code = QY_EXIT_OK;
    if (door->rank == 0)
        code = open_run(job, overrides, n_overrides, door, &plan);
    if (door->mpi)
        code = qy_mpi_agree(code);
    if (code == QY_EXIT_OK && door->rank > 0) {
        code = join_run(job, overrides, n_overrides, &plan);
        if (code != QY_EXIT_OK)
            qy_mpi_abort(code); /* the others count on this rank */
    }
    if (code == QY_EXIT_OK)
        open_log(plan, door->rank);
    if (code == QY_EXIT_OK && work(plan, door, &err) != QY_OK) {
        qy_log(QY_LOG_ERROR, "run ends: %s", err.text);
        code = door->rank == 0 || !door->ended ? qy_door_error(&err, qy_door_exit(&err))
                                               : qy_door_exit(&err);
        if (door->mpi && door->n_ranks > 1 && !door->ended) {
            qy_lock_release(&door->lock);
            qy_mpi_abort(code);
        }
    }
    if (code == QY_EXIT_OK && door->rank == 0 && qy_print_results(plan, stdout, &err) != QY_OK)
        code = qy_door_error(&err, QY_EXIT_FAILED);
    qy_lock_release(&door->lock);
    qy_plan_destroy(&plan);
    return code;
}

int qy_cmd_run(int argc, char **argv)
{
    const char *job = NULL, *overrides[QY_DOOR_LIST];
    int n_words, n_overrides = 0, quiet = 0;
    const qy_option_t options[] = {
        {.name = "--set",
         .help = "KEY.PATH=VALUE  replaces a key of the job; may be repeated",
         .list = overrides,
         .n_list = &n_overrides},
        {.name = "--quiet", .help = "no progress", .flag = &quiet},
    };
    int code = qy_door_options(argc, argv, "run JOB.yaml [--set KEY=VALUE]... [--quiet]", options,
                               2, &job, 1, &n_words);
    if (code >= 0)
        return code;
    if (n_words != 1) {
        fprintf(stderr, "quarry run: one JOB.yaml is needed\n");
        return QY_EXIT_INPUT;
    }
    door_t door = {.stop = qy_door_catch_stop(), .mpi = qy_mpi_launched(), .n_ranks = 1};
    qy_error_t err = {0};
    qy_progress_init(&door.view, quiet);
    if (door.mpi && qy_mpi_begin(&door.rank, &door.n_ranks, &err) != QY_OK)
        return qy_door_error(&err, QY_EXIT_FAILED);
    if (door.mpi && door.n_ranks > 1) {
        int n_places, place = qy_mpi_place(&n_places);
        qy_device_bind(place, n_places);
    }
    code = run_job(job, overrides, n_overrides, &door);
    return door.mpi ? qy_mpi_end(code) : code;
}
