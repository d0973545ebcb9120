/* quarry run: runs a job, or goes on with it where it stopped. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "cli/door.h"
#include "cli/exports.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "coordinator/dispatch.h"
#include "coordinator/lock.h"
#include "jobs/store.h"
#include "worker/device_record.h"
#include "worker/serve.h"

/* Longest nap of the loop, ms: what a message to or from the in-process worker waits at most. */
enum { NAP_MS = 20 };

typedef struct {
    qy_progress_view_t view;
    const volatile sig_atomic_t *stop;
    qy_dispatch_t *dispatch; /* NULL until it is there */
} door_t;

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
    qy_dispatch_poll(door->dispatch, door->stop, &done, NULL);
}

/* Coordinator and worker of this process, turn by turn, until the run is over. */
static qy_status_t loop(qy_dispatch_t *dispatch, qy_server_t *server,
                        const volatile sig_atomic_t *stop, qy_error_t *err)
{
    int done = 0, left = 0;
    while (!done) {
        QY_TRY(qy_dispatch_poll(dispatch, stop, &done, err));
        if (!done && !left)
            QY_TRY(qy_server_poll(server, &left, err));
        if (!done)
            qy_server_wait(server, NAP_MS);
    }
    return QY_OK;
}

static qy_status_t work(const qy_plan_t *plan, door_t *door, qy_error_t *err)
{
    qy_link_t *coordinator_end = NULL, *worker_end = NULL;
    qy_server_t *server = NULL;
    const qy_dispatch_hooks_t hooks = {.on_progress = show_progress,
                                       .on_phase = show_phase,
                                       .run_export = run_export,
                                       .context = door};
    const qy_server_hooks_t server_hooks = {.stop = door->stop, .turn = take_turn, .context = door};
    qy_status_t status;
    QY_TRY(qy_link_pair(&coordinator_end, &worker_end, err));
    QY_TRY_GOTO(qy_dispatch_create(&door->dispatch, plan, coordinator_end, &hooks, err), destroy);
    QY_TRY_GOTO(qy_server_create(&server, plan, worker_end, 0, &server_hooks, err), destroy);
    status = loop(door->dispatch, server, door->stop, err);
destroy:
    qy_server_destroy(&server);
    qy_dispatch_destroy(&door->dispatch);
    qy_link_destroy(&worker_end);
    qy_link_destroy(&coordinator_end);
    qy_progress_end(&door->view);
    return status;
}

/* Everything that can be refused before anything is started. */
static qy_status_t prepare(const char *job, const char *const *overrides, int n_overrides,
                           qy_plan_t **plan, qy_error_t *err)
{
    qy_spec_t *spec = malloc(sizeof *spec);
    if (!spec)
        return qy_fail(err, QY_ERR_MEMORY, "out of memory");
    qy_status_t status = qy_spec_read(spec, job, overrides, n_overrides, err);
    if (status == QY_OK)
        status = qy_plan_make(plan, spec, 1, err);
    free(spec);
    return status;
}

/* The run directory made ready and ours: lock, plan, device, tokens. */
static qy_status_t enter(qy_plan_t *plan, qy_lock_t **lock, qy_error_t *err)
{
    QY_TRY(qy_make_dirs(plan->spec.run_dir, err));
    QY_TRY(qy_lock_take(lock, plan->spec.run_dir, err));
    QY_TRY(qy_plan_record(plan, err));
    QY_TRY(qy_store_prepare(plan, err));
    QY_TRY(qy_device_record(plan, QUARRY_VERSION, err));
    return qy_store_make_tokens(plan, err);
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
    qy_error_t err = {0};
    qy_plan_t *plan = NULL;
    qy_lock_t *lock = NULL;
    if (prepare(job, overrides, n_overrides, &plan, &err) != QY_OK)
        return qy_door_error(&err, QY_EXIT_INPUT);
    door_t door = {.stop = qy_door_catch_stop()};
    qy_progress_init(&door.view, quiet);
    int fresh = !qy_file_exists(plan->spec.run_dir);
    code = QY_EXIT_OK;
    if (enter(plan, &lock, &err) != QY_OK) {
        code = qy_door_error(&err, QY_EXIT_INPUT);
        if (fresh) /* nothing was started: leave nothing behind */
            qy_remove_tree(plan->spec.run_dir, NULL);
    } else if (work(plan, &door, &err) != QY_OK) {
        code = qy_door_error(&err, qy_door_exit(&err));
    } else if (qy_print_results(plan, stdout, &err) != QY_OK) {
        code = qy_door_error(&err, QY_EXIT_FAILED);
    }
    qy_lock_release(&lock);
    qy_plan_destroy(&plan);
    return code;
}
