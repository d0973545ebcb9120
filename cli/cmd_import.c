/* quarry import: a GGUF file as a Hugging Face directory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/door.h"
#include "cli/verbs.h"
#include "model/import.h"

int qy_cmd_import(int argc, char **argv)
{
    const char *gguf = NULL, *output = NULL;
    int n_words, overwrite = 0;
    const qy_option_t options[] = {
        {.name = "--output", .help = "DIR  where to", .value = &output},
        {.name = "--overwrite", .help = "replace what is there", .flag = &overwrite},
    };
    int code = qy_door_options(argc, argv, "import FILE.gguf --output DIR", options, 2, &gguf, 1,
                               &n_words);
    if (code >= 0)
        return code;
    if (n_words != 1 || !output) {
        fprintf(stderr, "quarry import: FILE.gguf and --output are needed\n");
        return QY_EXIT_INPUT;
    }
    qy_error_t err = {0};
    if (access(gguf, R_OK) != 0) {
        qy_fail(&err, QY_ERR_IO, "%s: %s", gguf, strerror(errno));
        return qy_door_error(&err, QY_EXIT_INPUT);
    }
    qy_status_t status = qy_import(gguf, output, overwrite != 0, QUARRY_VERSION, &err);
    if (status == QY_OK) {
        printf("import: %s\n", output);
        return QY_EXIT_OK;
    }
    int input = status == QY_ERR_ARG || status == QY_ERR_UNSUPPORTED || status == QY_ERR_FORMAT;
    return qy_door_error(&err, input ? QY_EXIT_INPUT : QY_EXIT_FAILED);
}
