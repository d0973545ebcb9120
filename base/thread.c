#include "base/thread.h"

#include <math.h>
#include <signal.h>
#include <time.h>

int qy_thread_start(pthread_t *out, void *(*run)(void *argument), void *argument)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(out, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

void qy_cond_init(pthread_cond_t *out)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(out, &attributes);
    pthread_condattr_destroy(&attributes);
}

int qy_cond_wait_s(pthread_cond_t *cond, pthread_mutex_t *mutex, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double ns = (double)until.tv_nsec + 1e9 * seconds, whole = floor(ns / 1e9);
    until.tv_sec += (time_t)whole;
    until.tv_nsec = (long)(ns - 1e9 * whole);
    return pthread_cond_timedwait(cond, mutex, &until);
}
