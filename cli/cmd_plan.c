/* quarry plan: checks a job and says what it will do and need. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/door.h"
#include "cli/verbs.h"
#include "jobs/finished.h"
#include "jobs/served.h"
#include "worker/memory.h"

/* 1 … 2^20, or 0 where it is no such number. */
static long positive(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);
    return *text && !*end && n >= 1 && n <= 1 << 20 ? n : 0;
}

int qy_cmd_plan(int argc, char **argv)
{
    const char *overrides[QY_DOOR_LIST], *workers = "1", *job = NULL;
    const char *batch = "1", *length = NULL;
    int n_overrides = 0, n_words, defaults = 0, save = 0;
    const qy_option_t options[] = {
        {.name = "--workers", .help = "N  plan for N workers (segments: auto)", .value = &workers},
        {.name = "--batch", .help = "N  memory where it is served: sequences", .value = &batch},
        {.name = "--length",
         .help = "N  … and their tokens; else as in calibration",
         .value = &length},
        {.name = "--set",
         .help = "KEY.PATH=VALUE  replaces a key of the job; may be repeated",
         .list = overrides,
         .n_list = &n_overrides},
        {.name = "--save", .help = "record the plan in the run directory", .flag = &save},
        {.name = "--defaults",
         .help = "print every key with type, range, default and meaning",
         .flag = &defaults},
    };
    int code = qy_door_options(argc, argv, "plan JOB.yaml [--workers N] [--set KEY=VALUE]...",
                               options, sizeof options / sizeof *options, &job, 1, &n_words);
    if (code >= 0)
        return code;
    if (defaults) {
        qy_spec_print_keys(stdout);
        return QY_EXIT_OK;
    }
    qy_error_t err = {0};
    long n = positive(workers), n_batch = positive(batch), n_length = length ? positive(length) : 1;
    if (n_words != 1 || !n || !n_batch || !n_length) {
        fprintf(stderr, "quarry plan: one JOB.yaml is needed, and positive numbers\n");
        return QY_EXIT_INPUT;
    }
    qy_spec_t *spec = malloc(sizeof *spec);
    qy_plan_t *plan = NULL;
    qy_status_t status = spec ? qy_spec_read(spec, job, overrides, n_overrides, &err)
                              : qy_fail(&err, QY_ERR_MEMORY, "out of memory");
    if (status == QY_OK)
        status = qy_plan_make(&plan, spec, n, &err);
    if (status == QY_OK)
        status = qy_memory_plan(plan, &err);
    if (status == QY_OK && save)
        status = qy_make_dirs(spec->run_dir, &err);
    if (status == QY_OK && save)
        status = qy_plan_record(plan, &err);
    if (status == QY_OK) {
        qy_quant_form_t form = qy_plan_form(plan);
        qy_plan_print(plan, stdout);
        qy_served_print(&plan->arch, &form, n_batch,
                        length ? n_length : plan->spec.calibration.sequence_length, stdout);
    }
    qy_plan_destroy(&plan);
    free(spec);
    return status == QY_OK ? QY_EXIT_OK : qy_door_error(&err, QY_EXIT_INPUT);
}
