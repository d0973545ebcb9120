/*
 * A pattern of a tokenizer.json, run by PCRE2 under limits. The file's patterns are written for
 * Oniguruma: white space is what it is there, and what else the two read differently is refused,
 * with the pattern, and not guessed. What remains: characters newer than a library's Unicode are of
 * no category.
 */
#ifndef QY_MODEL_TOKENIZER_PATTERN_H
#define QY_MODEL_TOKENIZER_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct qy_pattern qy_pattern_t;

/* literal: the text itself, else a regular expression. UNSUPPORTED shows the pattern. */
qy_status_t qy_pattern_create(qy_pattern_t **out, const char *pattern, bool literal,
                              const char *where, qy_error_t *err);
void qy_pattern_destroy(qy_pattern_t **pattern);

/* Scratch of one encoding, for all patterns. */
typedef struct qy_pattern_run qy_pattern_run_t;

qy_status_t qy_pattern_run_create(qy_pattern_run_t **out, qy_error_t *err);
void qy_pattern_run_destroy(qy_pattern_run_t **run);

/*
 * The next match of text[0…bytes), which is well-formed UTF-8, at or after `last`, where the one
 * before ended. *begin = *end is possible, but not at `last`: so Oniguruma's iterator goes on.
 * *found is false where there is none. FORMAT where a limit is reached.
 */
qy_status_t qy_pattern_next(const qy_pattern_t *pattern, qy_pattern_run_t *run, const char *text,
                            size_t bytes, size_t last, bool *found, size_t *begin, size_t *end,
                            qy_error_t *err);

#endif
