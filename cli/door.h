/* What the verbs share: exit codes, the one place where an error is printed, options, stop
 * requests. */
#ifndef QY_CLI_DOOR_H
#define QY_CLI_DOOR_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/status.h"

enum { QY_EXIT_OK = 0, QY_EXIT_FAILED = 1, QY_EXIT_INPUT = 2, QY_EXIT_STOPPED = 75 };

/* Prints "quarry: text" to stderr and returns code. */
int qy_door_error(const qy_error_t *err, int code);

/* Exit code of a failure in the midst of work: STOPPED 75, anything else 1. */
int qy_door_exit(const qy_error_t *err);

/*
 * One option of a verb. Flags take no value; a list may be given again and collects its values.
 * Both "--name value" and "--name=value".
 */
typedef struct {
    const char *name; /* "--text" */
    const char *help; /* "FILE  what it is for" */
    int *flag;
    const char **value;
    const char **list; /* room for QY_DOOR_LIST */
    int *n_list;
    int greedy; /* a list that also takes the words that follow, up to the next option */
} qy_option_t;
enum { QY_DOOR_LIST = 64 };

/*
 * Parses argv against the options; positional arguments go to words (at most max_words, *n_words of
 * them). --help prints usage and options and returns 0; a mistake is printed and returns 2; −1: go
 * on.
 */
int qy_door_options(int argc, char **argv, const char *usage, const qy_option_t *options,
                    int n_options, const char **words, int max_words, int *n_words);

/* The number of an option: positive, at most 2^20; 0 where text is NULL. ARG names the option. */
qy_status_t qy_door_count(const char *name, const char *text, int64_t *out, qy_error_t *err);

/* SIGINT, SIGTERM and SIGUSR1 ask for a stop, also those that were held back so far; the flag that
 * they set. */
const atomic_int *qy_door_catch_stop(void);
/* The same without a signal. */
void qy_door_ask_stop(void);

#endif
