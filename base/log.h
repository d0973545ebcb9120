/*
 * Log lines for people: "level time role rank task | text". One sink per process, set up by cli.
 * Nothing in kernels/, model/ or jobs/ logs: they return errors.
 */
#ifndef QY_BASE_LOG_H
#define QY_BASE_LOG_H

#include <stdio.h>

typedef enum { QY_LOG_ERROR, QY_LOG_WARN, QY_LOG_INFO, QY_LOG_DEBUG } qy_log_level_t;

/* Lines up to level go to file (stays open; NULL: none). role and task are copied, short. */
void qy_log_open(FILE *file, qy_log_level_t level, const char *role, int rank);
void qy_log_task(const char *task);
void qy_log(qy_log_level_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
