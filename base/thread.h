/* Threads beside the main one. */
#ifndef QY_BASE_THREAD_H
#define QY_BASE_THREAD_H

#include <pthread.h>

/* pthread_create of a thread that no signal goes to: those are for the main thread. Its error
 * number, 0 where it runs. */
int qy_thread_start(pthread_t *out, void *(*run)(void *argument), void *argument);

#endif
