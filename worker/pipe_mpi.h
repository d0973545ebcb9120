/* The pipe of E2E-QP over MPI: through host memory, on a communicator of its own. */
#ifndef QY_WORKER_PIPE_MPI_H
#define QY_WORKER_PIPE_MPI_H

#include <signal.h>

#include "worker/pipe.h"

/* All ranks call it together, MPI being initialized. */
qy_status_t qy_pipe_mpi_create(qy_pipe_t **out, qy_error_t *err);

#endif
