/*
 * Tasks in a child process: `quarry task --fd 3 --parent PID`, started from the main thread, one
 * task after the other in, progress and results out over a socket. A crash, a sticky GPU error or
 * the OOM killer takes the child and one attempt, not the rank. Each task opens plan, device and
 * model and closes them again; what stays from one to the next is what a process has loaded (a
 * GPU's context and kernels, about a second). The child dies with its parent, is the OOM killer's
 * first choice, and sees none of the launcher's environment or descriptors.
 */
#ifndef QY_WORKER_CHILD_H
#define QY_WORKER_CHILD_H

#include <stdatomic.h>

#include "jobs/protocol.h"

typedef struct qy_child qy_child_t;

/* log_path: where the child's standard output and error are appended to. */
qy_status_t qy_child_start(qy_child_t **out, const char *log_path, qy_error_t *err);

/* A task, where it has none. COMM where the child is gone. */
qy_status_t qy_child_give(qy_child_t *child, const qy_task_t *task, qy_error_t *err);

/*
 * The next message of the child, without waiting: message->payload is NULL where there is none.
 * *ended is set when the child is gone; then *how says of what ("signal 9 (Killed)", "exit code
 * 3"). FORMAT for bytes that are no message.
 */
qy_status_t qy_child_poll(qy_child_t *child, qy_message_t *message, int *ended, char how[64],
                          qy_error_t *err);

/* Processor time that it has taken with all its threads, s; < 0 where that is not known. */
double qy_child_cpu_s(const qy_child_t *child);

/* To wait on with poll(2). */
int qy_child_fd(const qy_child_t *child);

/* Asks it to save what it is at and to answer with STOPPED. */
void qy_child_stop(const qy_child_t *child);

/* Kills it where it lives, reaps it, frees. One that a hung file system or device keeps from dying
 * is left behind after 30 s. */
void qy_child_destroy(qy_child_t **child);

/* --- the child's side
 * ----------------------------------------------------------------------------- */

/* Ties this process to its parent's life and offers it to the OOM killer. parent: its pid, as it
 * told on the command line. COMM where the parent is gone. */
qy_status_t qy_child_settle(long long parent, qy_error_t *err);

/* Reads tasks from fd, runs each until it is done or *stop ≠ 0, answers on fd; leaves after one
 * that did not end well, or where the worker has closed its end. */
qy_status_t qy_child_serve(int fd, const atomic_int *stop, qy_error_t *err);

#endif
