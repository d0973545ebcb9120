/* quarry report: a run as one HTML page. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/door.h"
#include "cli/verbs.h"
#include "coordinator/report.h"

static qy_status_t write_report(const char *run_dir, const char *path, qy_error_t *err)
{
    char *page = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&page, &n);
    if (!out)
        return qy_fail(err, QY_ERR_MEMORY, "report: out of memory");
    qy_status_t status = qy_report_write(out, run_dir, QUARRY_VERSION, err);
    int failed = ferror(out);
    if ((fclose(out) != 0 || failed) && status == QY_OK)
        status = qy_fail(err, QY_ERR_MEMORY, "report: out of memory");
    if (status == QY_OK)
        status = qy_file_write(path, page, n, err);
    free(page);
    return status;
}

int qy_cmd_report(int argc, char **argv)
{
    const char *run_dir = NULL, *output = NULL;
    int n_words;
    char path[QY_PATH_MAX];
    qy_error_t err = {0};
    const qy_option_t options[] = {
        {.name = "--output", .help = "FILE  (RUN_DIR/report.html)", .value = &output}};
    int code = qy_door_options(argc, argv, "report RUN_DIR [--output FILE]", options, 1, &run_dir,
                               1, &n_words);
    if (code >= 0)
        return code;
    if (n_words != 1) {
        fprintf(stderr, "quarry report: a run directory is needed\n");
        return QY_EXIT_INPUT;
    }
    qy_status_t status =
        output ? qy_path(path, &err, "%s", output) : qy_path(path, &err, "%s/report.html", run_dir);
    if (status == QY_OK)
        status = write_report(run_dir, path, &err);
    if (status != QY_OK)
        return qy_door_error(&err, QY_EXIT_INPUT);
    printf("%s\n", path);
    return QY_EXIT_OK;
}
