/*
 * A pattern of a tokenizer.json, run by PCRE2 under limits. The file's patterns are written for
 * Oniguruma: what the two read differently is refused, with the pattern, and not guessed.
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
 * The next non-empty match of text[0…bytes) at or after `at`: [*begin, *end), both = bytes where
 * there is none. text is well-formed UTF-8. FORMAT where a limit is reached.
 */
qy_status_t qy_pattern_next(const qy_pattern_t *pattern, qy_pattern_run_t *run, const char *text,
                            size_t bytes, size_t at, size_t *begin, size_t *end, qy_error_t *err);

#endif
