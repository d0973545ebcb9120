#include "cli/door.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int qy_door_error(const qy_error_t *err, int code)
{
    fprintf(stderr, "quarry: %s\n", err->text);
    return code;
}

int qy_door_exit(const qy_error_t *err)
{
    return err->status == QY_ERR_STOPPED ? QY_EXIT_STOPPED : QY_EXIT_FAILED;
}

static void print_usage(FILE *file, const char *usage, const qy_option_t *options, int n)
{
    fprintf(file, "usage: quarry %s\n", usage);
    for (int i = 0; i < n; i++)
        fprintf(file, "  %-18s %s\n", options[i].name, options[i].help);
}

static int mistake(const char *verb, const char *what, const char *word)
{
    fprintf(stderr, "quarry %s: %s %s (see quarry %s --help)\n", verb, what, word, verb);
    return QY_EXIT_INPUT;
}

static int put(const qy_option_t *o, const char *verb, const char *value)
{
    if (o->value)
        *o->value = value;
    else if (*o->n_list < QY_DOOR_LIST)
        o->list[(*o->n_list)++] = value;
    else
        return mistake(verb, "too many values for", o->name);
    return -1;
}

/* Handles argv[*i], which starts with "--"; moves *i over what it takes. */
static int take_option(int argc, char **argv, int *i, const qy_option_t *options, int n)
{
    const char *word = argv[*i], *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    for (int k = 0; k < n; k++) {
        const qy_option_t *o = &options[k];
        if (strlen(o->name) != length || strncmp(o->name, word, length) != 0)
            continue;
        if (o->flag) {
            if (equals)
                return mistake(argv[0], "no value belongs to", o->name);
            *o->flag = 1;
            return -1;
        }
        if (equals)
            return put(o, argv[0], equals + 1);
        if (*i + 1 >= argc)
            return mistake(argv[0], "a value is missing after", o->name);
        int code = put(o, argv[0], argv[++*i]);
        while (o->greedy && code < 0 && *i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0)
            code = put(o, argv[0], argv[++*i]);
        return code;
    }
    return mistake(argv[0], "unknown option", word);
}

int qy_door_options(int argc, char **argv, const char *usage, const qy_option_t *options,
                    int n_options, const char **words, int max_words, int *n_words)
{
    *n_words = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_usage(stdout, usage, options, n_options);
            return QY_EXIT_OK;
        }
        if (strncmp(argv[i], "--", 2) == 0) {
            int code = take_option(argc, argv, &i, options, n_options);
            if (code >= 0)
                return code;
        } else if (*n_words < max_words) {
            words[(*n_words)++] = argv[i];
        } else {
            return mistake(argv[0], "one argument too many:", argv[i]);
        }
    }
    return -1;
}

qy_status_t qy_door_count(const char *name, const char *text, int64_t *out, qy_error_t *err)
{
    char *end = NULL;
    *out = text ? strtoll(text, &end, 10) : 0;
    if (text && (*end || end == text || *out < 1 || *out > 1 << 20))
        return qy_fail(err, QY_ERR_ARG, "%s: \"%s\" is not a positive number", name, text);
    return QY_OK;
}

static atomic_int stop_requested; /* set by a signal handler, read by several threads */

static void request_stop(int signal_number)
{
    (void)signal_number;
    stop_requested = 1;
}

const atomic_int *qy_door_catch_stop(void)
{
    struct sigaction action = {.sa_handler = request_stop};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &ours, NULL);
    return &stop_requested;
}

void qy_door_ask_stop(void)
{
    stop_requested = 1;
}
