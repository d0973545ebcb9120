/* quarry export: a finished run as a checkpoint for other engines. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/door.h"
#include "cli/exports.h"
#include "cli/verbs.h"
#include "model/export.h"

/* The names in "a,b,c" take the place of the plan's own exports. */
static qy_status_t choose(qy_plan_t *plan, const char *formats, qy_error_t *err)
{
    qy_spec_t *spec = &plan->spec;
    const char *at = formats;
    for (spec->n_export = 0;; at++) {
        size_t n = strcspn(at, ",");
        if (n == 0 || n >= QY_FORMAT_NAME_MAX || spec->n_export == QY_MAX_EXPORT)
            return qy_fail(err, QY_ERR_ARG,
                           "--format: \"%s\" is no list of at most %d formats; known: %s", formats,
                           QY_MAX_EXPORT, qy_exporter_names());
        snprintf(spec->export_format[spec->n_export++], QY_FORMAT_NAME_MAX, "%.*s", (int)n, at);
        at += n;
        if (!*at)
            return QY_OK;
    }
}

/* Before the first is written, all are looked at. */
static qy_status_t check_formats(const qy_plan_t *plan, qy_error_t *err)
{
    qy_model_t *model = NULL;
    QY_TRY(qy_plan_open_model(&model, plan, err));
    qy_status_t status = qy_plan_check_exports(plan, model, err);
    qy_model_close(&model);
    return status;
}

/* Every format into dir/NAME, or into dir itself where there is one. */
static qy_status_t export_each(const qy_plan_t *plan, const char *dir, int overwrite,
                               qy_error_t *err)
{
    int several = plan->spec.n_export > 1;
    for (int i = 0; i < plan->spec.n_export; i++) {
        const char *name = plan->spec.export_format[i];
        char path[QY_PATH_MAX];
        QY_TRY(several ? qy_path(path, err, "%s/%s", dir, name) : qy_path(path, err, "%s", dir));
        QY_TRY(qy_export_of_run(plan, name, path, overwrite, 0, err));
        printf("%s: %s\n", name, path);
    }
    return QY_OK;
}

int qy_cmd_export(int argc, char **argv)
{
    const char *run_dir = NULL, *format = NULL, *output = NULL;
    int n_words, overwrite = 0;
    char format_help[128];
    snprintf(format_help, sizeof format_help, "NAME[,NAME...]  %s", qy_exporter_names());
    const qy_option_t options[] = {
        {.name = "--format", .help = format_help, .value = &format},
        {.name = "--output",
         .help = "DIR  where to (one folder per format if several)",
         .value = &output},
        {.name = "--overwrite", .help = "replace what is there", .flag = &overwrite},
    };
    int code = qy_door_options(argc, argv, "export RUN_DIR --format NAME[,NAME] --output DIR",
                               options, 3, &run_dir, 1, &n_words);
    if (code >= 0)
        return code;
    if (n_words != 1 || !format || !output) {
        fprintf(stderr, "quarry export: RUN_DIR, --format and --output are needed\n");
        return QY_EXIT_INPUT;
    }
    qy_error_t err = {0};
    qy_plan_t *plan = NULL;
    qy_status_t status = qy_plan_load(&plan, run_dir, &err);
    if (status == QY_OK)
        status = qy_check_finished(plan, &err);
    if (status == QY_OK)
        status = choose(plan, format, &err);
    if (status == QY_OK)
        status = check_formats(plan, &err);
    int started = status == QY_OK;
    if (status == QY_OK)
        status = export_each(plan, output, overwrite, &err);
    qy_plan_destroy(&plan);
    if (status == QY_OK)
        return QY_EXIT_OK;
    int input = !started || err.status == QY_ERR_ARG || err.status == QY_ERR_UNSUPPORTED;
    return qy_door_error(&err, input ? QY_EXIT_INPUT : QY_EXIT_FAILED);
}
