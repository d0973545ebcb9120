#include "worker/pipe.h"

void qy_pipe_destroy(qy_pipe_t **pipe)
{
    if (*pipe)
        (*pipe)->destroy(*pipe);
    *pipe = NULL;
}
