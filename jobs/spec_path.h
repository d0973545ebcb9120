/* Paths as people write them into a job, made absolute. */
#ifndef QY_JOBS_SPEC_PATH_H
#define QY_JOBS_SPEC_PATH_H

#include "base/file.h"

/*
 * Expands ~/ at the start, $NAME, ${NAME}, ${NAME:-word} (word where NAME is unset or empty) and
 * $$, then puts base (a real path) in front of a relative result. ARG: an unset variable, a bad
 * ${…}, ~user, too long. An empty text stays empty.
 */
qy_status_t qy_spec_path(char out[QY_PATH_MAX], const char *text, const char *base,
                         qy_error_t *err);

/* The real path of the folder that a file lies in, or of the current directory where file is NULL.
 */
qy_status_t qy_spec_base(char out[QY_PATH_MAX], const char *file, qy_error_t *err);

#endif
