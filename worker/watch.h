/*
 * Ends this process where its work does not get on: a wait for a device, a file server or another
 * rank that never comes back is then a start that failed, and not hours in which nothing happens.
 */
#ifndef QY_WORKER_WATCH_H
#define QY_WORKER_WATCH_H

#include "base/status.h"

typedef struct qy_watch qy_watch_t;

/*
 * Begins to watch at the first beat. Where the next takes longer than least_s, and longer than
 * QY_WATCH_TIMES the longest before, the process logs and prints what has not got on and ends with
 * EXIT_FAILURE, as it is: other threads are not asked. Time in which the process was suspended does
 * not count. MEMORY where there is no thread for it.
 */
enum { QY_WATCH_TIMES = 20 };
qy_status_t qy_watch_start(qy_watch_t **out, const char *what, double least_s, qy_error_t *err);

/* The work has got on. */
void qy_watch_beat(qy_watch_t *watch);

/* NULL: nothing is done. */
void qy_watch_end(qy_watch_t **watch);

#endif
