/*
 * The link between coordinator and workers over MPI: nonblocking, on a communicator of its own.
 * Rank 0 is coordinator and worker; its own worker is reached by a link inside the process.
 */
#ifndef QY_COORDINATOR_LINK_MPI_H
#define QY_COORDINATOR_LINK_MPI_H

#include "jobs/link.h"

/* 1 where this process was started by an MPI launcher (mpirun, srun --mpi=pmix); asks the
 * environment. */
int qy_mpi_launched(void);

/* MPI_Init and the number of this process. With one process all links still work. Where the others
 * do not come within 300 s ($QUARRY_START_S), the process says so and ends. */
qy_status_t qy_mpi_begin(int *rank, int *n_ranks, qy_error_t *err);
/* This process's place among the *n of its node, from 0. All call it together. */
int qy_mpi_place(int *n);
/* Everybody is done: all return rank 0's code, and MPI ends. Where a rank does not come within 60 s
 * ($QUARRY_END_S) of rank 0, as one that was given up as silent, rank 0 says so and ends the launch
 * with its code. */
int qy_mpi_end(int code);
/* Ends all ranks of the launch at once; for failures in the midst of something that all do
 * together. */
void qy_mpi_abort(int code);

/* A failure of rank 0 before the run begins, told to all: every rank returns rank 0's code. */
int qy_mpi_agree(int code);

/* local: on rank 0 the coordinator's end of a link to its own worker (borrowed), else NULL. */
qy_status_t qy_link_mpi_create(qy_link_t **out, qy_link_t *local, qy_error_t *err);

#endif
