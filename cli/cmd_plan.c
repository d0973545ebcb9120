/* quarry plan: checks a job and says what it will do and need. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/door.h"
#include "cli/estimate.h"
#include "cli/verbs.h"
#include "coordinator/lock.h"
#include "jobs/finished.h"
#include "jobs/served.h"
#include "worker/memory.h"

typedef struct {
    const char *job, *workers, *per_node, *batch, *length;
    const char *overrides[QY_DOOR_LIST];
    int n_overrides, save, calibrate;
} request_t;

/* The request's numbers; length 0: as in calibration. */
typedef struct {
    int64_t workers, per_node, batch, length;
} numbers_t;

static qy_status_t read_numbers(numbers_t *n, const request_t *r, qy_error_t *err)
{
    QY_TRY(qy_door_count("--workers", r->workers, &n->workers, err));
    QY_TRY(qy_door_count("--workers-per-node", r->per_node, &n->per_node, err));
    QY_TRY(qy_door_count("--batch", r->batch, &n->batch, err));
    QY_TRY(qy_door_count("--length", r->length, &n->length, err));
    if (n->per_node > n->workers)
        n->per_node = n->workers;
    return QY_OK;
}

static qy_status_t make(qy_plan_t **plan, const request_t *r, int64_t n_workers, qy_error_t *err)
{
    qy_spec_t *spec = malloc(sizeof *spec);
    qy_status_t status = spec ? qy_spec_read(spec, r->job, r->overrides, r->n_overrides, err)
                              : qy_fail(err, QY_ERR_MEMORY, "out of memory");
    if (status == QY_OK)
        status = qy_plan_make(plan, spec, n_workers, err);
    if (status == QY_OK)
        status = qy_memory_plan(*plan, err);
    free(spec);
    return status;
}

/* Where no run is at work: its tasks read the plan anew. */
static qy_status_t save(qy_plan_t *plan, qy_error_t *err)
{
    qy_lock_t *lock = NULL;
    QY_TRY(qy_lock_take(&lock, plan->spec.run_dir, err));
    qy_status_t status = qy_plan_record(plan, err);
    qy_lock_release(&lock);
    return status;
}

/* Everything that the verb does with a plan that stands. */
static qy_status_t show(qy_plan_t *plan, const request_t *r, const numbers_t *n, bool *go,
                        qy_error_t *err)
{
    char verdict[640];
    QY_TRY(qy_plan_continue(plan, err));
    if (r->calibrate)
        QY_TRY(qy_estimate_calibrate(plan, err));
    qy_estimate(plan);
    if (r->save)
        QY_TRY(save(plan, err));
    qy_quant_form_t form = qy_plan_form(plan);
    qy_plan_print(plan, stdout);
    qy_served_print(&plan->arch, &form, n->batch,
                    n->length ? n->length : plan->spec.calibration.sequence_length, stdout);
    *go = qy_estimate_verdict(plan, n->per_node, verdict, sizeof verdict);
    printf("%s\n", verdict);
    return QY_OK;
}

int qy_cmd_plan(int argc, char **argv)
{
    request_t r = {.workers = "1", .per_node = "1", .batch = "1"};
    int n_words, defaults = 0;
    const qy_option_t options[] = {
        {.name = "--workers",
         .help = "N  plan for N workers (segments: auto)",
         .value = &r.workers},
        {.name = "--workers-per-node",
         .help = "N  that share a node's memory and disk (1)",
         .value = &r.per_node},
        {.name = "--batch", .help = "N  memory where it is served: sequences", .value = &r.batch},
        {.name = "--length",
         .help = "N  … and their tokens; else as in calibration",
         .value = &r.length},
        {.name = "--set",
         .help = "KEY.PATH=VALUE  replaces a key of the job; may be repeated",
         .list = r.overrides,
         .n_list = &r.n_overrides},
        {.name = "--calibrate",
         .help = "measure this machine's device for the hours, and keep that for later plans",
         .flag = &r.calibrate},
        {.name = "--save", .help = "record the plan in the run directory", .flag = &r.save},
        {.name = "--defaults",
         .help = "print every key with type, range, default and meaning",
         .flag = &defaults},
    };
    int code = qy_door_options(argc, argv, "plan JOB.yaml [--workers N] [--set KEY=VALUE]...",
                               options, sizeof options / sizeof *options, &r.job, 1, &n_words);
    if (code >= 0)
        return code;
    if (defaults) {
        qy_spec_print_keys(stdout);
        return QY_EXIT_OK;
    }
    if (n_words != 1) {
        fprintf(stderr, "quarry plan: one JOB.yaml is needed\n");
        return QY_EXIT_INPUT;
    }
    qy_error_t err = {0};
    qy_plan_t *plan = NULL;
    numbers_t n;
    bool go = false;
    qy_status_t status = read_numbers(&n, &r, &err);
    if (status == QY_OK)
        status = make(&plan, &r, n.workers, &err);
    if (status == QY_OK)
        status = show(plan, &r, &n, &go, &err);
    qy_plan_destroy(&plan);
    if (status != QY_OK)
        return qy_door_error(&err, QY_EXIT_INPUT);
    return go ? QY_EXIT_OK : QY_EXIT_INPUT;
}
