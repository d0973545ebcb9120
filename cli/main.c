/* The door: finds the verb and hands over. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/door.h"
#include "cli/settings.h"
#include "cli/verbs.h"

typedef struct {
    const char *name, *help;
    int (*run)(int argc, char **argv);
} verb_t;

static const verb_t verbs[] = {
    {"plan", "check a job and print what it will do and need; starts nothing", qy_cmd_plan},
    {"run", "run a job, or go on with it where it stopped", qy_cmd_run},
    {"submit", "send a job to Slurm; it requeues itself until it is done", qy_cmd_submit},
    {"status", "progress and results of a run directory", qy_cmd_status},
    {"report", "a run as one HTML page: curves, times, results", qy_cmd_report},
    {"eval", "perplexity of a model (a directory, a GGUF file) or of a run", qy_cmd_eval},
    {"export", "write a finished run as a checkpoint for other engines", qy_cmd_export},
    {"import", "write a GGUF file as a Hugging Face directory", qy_cmd_import},
    {"task", NULL, qy_cmd_task},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static void usage(FILE *file)
{
    fprintf(file, "usage: quarry <verb> [arguments]\n\n");
    for (int i = 0; i < N_VERBS; i++)
        if (verbs[i].help)
            fprintf(file, "  %-8s %s\n", verbs[i].name, verbs[i].help);
    fprintf(file,
            "\n`quarry <verb> --help` tells more. Exit codes: 0 done; 2 bad input, nothing was "
            "started;\n75 stopped on request, run again to go on; 1 anything else.\n");
}

int main(int argc, char **argv)
{
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error that names it, not a death */
    qy_settings_apply(argv);
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        usage(stdout);
        return QY_EXIT_OK;
    }
    if (argc >= 2 && strcmp(argv[1], "--version") == 0) {
        printf("quarry %s\n", QUARRY_VERSION);
        return QY_EXIT_OK;
    }
    for (int i = 0; argc >= 2 && i < N_VERBS; i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    if (argc >= 2)
        fprintf(stderr, "quarry: unknown verb %s\n", argv[1]);
    usage(stderr);
    return QY_EXIT_INPUT;
}
