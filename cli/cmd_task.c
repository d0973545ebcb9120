/* quarry task --fd N --parent PID: a task's own process, started by a worker. */
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/door.h"
#include "cli/verbs.h"
#include "worker/child.h"

int qy_cmd_task(int argc, char **argv)
{
    const char *fd = NULL, *parent = NULL;
    int n_words;
    const qy_option_t options[] = {
        {.name = "--fd", .help = "N  socket to the worker", .value = &fd},
        {.name = "--parent", .help = "PID  of the worker", .value = &parent},
    };
    int code =
        qy_door_options(argc, argv, "task --fd N --parent PID", options, 2, NULL, 0, &n_words);
    if (code >= 0)
        return code;
    qy_error_t err = {0};
    if (!fd || !parent) {
        qy_fail(&err, QY_ERR_ARG, "task is started by a worker, not by hand");
        return qy_door_error(&err, QY_EXIT_INPUT);
    }
    qy_log_open(stderr, QY_LOG_INFO, "task", (int)getpid()); /* the rank's log */
    if (qy_child_settle(atoll(parent), &err) != QY_OK ||
        qy_child_serve(atoi(fd), qy_door_catch_stop(), &err) != QY_OK)
        return qy_door_error(&err, QY_EXIT_FAILED);
    return QY_EXIT_OK;
}
