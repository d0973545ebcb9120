#include "cli/settings.h"

#include <cblas.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * Threads that wait for each other must give way: where cores are shared, OpenMP's long spinning
 * makes two threads several times slower than one.
 */
static bool wait_briefly(void)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY"))
        return false;
    return setenv("GOMP_SPINCOUNT", "2000", 1) == 0;
}

/*
 * OpenBLAS takes the kernels of the oldest CPU for one that is newer than itself, which are several
 * times slower: it is told of what that CPU can do.
 */
static bool choose_core(void)
{
#ifdef __x86_64__
    if (getenv("OPENBLAS_CORETYPE") || strcmp(openblas_get_corename(), "Prescott") != 0)
        return false;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return setenv("OPENBLAS_CORETYPE", "SkylakeX", 1) == 0;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return setenv("OPENBLAS_CORETYPE", "Haswell", 1) == 0;
#endif
    return false;
}

void qy_settings_apply(char **argv)
{
    bool waits = wait_briefly(), core = choose_core();
    if (waits || core)
        execv("/proc/self/exe", argv); /* where it fails, things only go slower */
}
