/* Threads beside the main one. */
#ifndef QY_BASE_THREAD_H
#define QY_BASE_THREAD_H

#include <pthread.h>

/* pthread_create of a thread that no signal goes to: those are for the main thread. Its error
 * number, 0 where it runs. */
int qy_thread_start(pthread_t *out, void *(*run)(void *argument), void *argument);

/* A condition for qy_cond_wait_s. */
void qy_cond_init(pthread_cond_t *out);

/* Waits for at most so many seconds, of a clock that only goes forward; ETIMEDOUT, or 0 where it
 * was woken. */
int qy_cond_wait_s(pthread_cond_t *cond, pthread_mutex_t *mutex, double seconds);

#endif
