#include "cli/settings.h"

#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/blas_core.h"

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

static bool choose_core(void)
{
    const char *core = getenv("OPENBLAS_CORETYPE") ? NULL : qy_blas_core();
    return core && setenv("OPENBLAS_CORETYPE", core, 1) == 0;
}

void qy_settings_apply(char **argv)
{
    bool waits = wait_briefly(), core = choose_core();
    if (waits || core)
        execv("/proc/self/exe", argv); /* where it fails, things only go slower */
}
