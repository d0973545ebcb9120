/* quarry status: what a run directory tells, while it runs or after. */
#include <stdio.h>
#include <unistd.h>

#include "cli/door.h"
#include "cli/verbs.h"
#include "coordinator/results.h"

int qy_cmd_status(int argc, char **argv)
{
    const char *run_dir = NULL;
    int n_words, json = 0, watch = 0;
    const qy_option_t options[] = {
        {.name = "--json", .help = "for machines", .flag = &json},
        {.name = "--watch", .help = "again every two seconds", .flag = &watch},
    };
    int code = qy_door_options(argc, argv, "status RUN_DIR [--watch] [--json]", options, 2,
                               &run_dir, 1, &n_words);
    if (code >= 0)
        return code;
    if (n_words != 1) {
        fprintf(stderr, "quarry status: a run directory is needed\n");
        return QY_EXIT_INPUT;
    }
    const atomic_int *stop = qy_door_catch_stop();
    qy_error_t err = {0};
    for (;;) {
        if (watch && isatty(STDOUT_FILENO))
            printf("\033[H\033[2J");
        if (qy_results_print_status(run_dir, json, stdout, &err) != QY_OK)
            return qy_door_error(&err, QY_EXIT_INPUT);
        fflush(stdout);
        if (!watch || *stop)
            return QY_EXIT_OK;
        sleep(2);
    }
}
