/*
 * Checkpoints inside a block's training: blocks/NNN.partial.h5 holds all that the next step reads
 * (weights or corrections, steps, zero points, moments, loss scale, losses) and how many steps are
 * done, which is the place in the data as well. Between two steps everything is copied to host
 * memory; a thread then writes the file while training goes on. While it does, nobody else uses
 * HDF5.
 */
#ifndef QY_WORKER_BLOCK_SAVE_H
#define QY_WORKER_BLOCK_SAVE_H

#include "jobs/plan.h"
#include "kernels/device.h"
#include "worker/hooks.h"

typedef struct qy_block_save qy_block_save_t;

/* A training that is saved, of a block or a round of blocks, which goes by its first one. */
typedef struct {
    const qy_plan_t *plan;
    const qy_device_t *dev;
    int64_t steps; /* of the training */
    /* Calls qy_block_save_add for everything that the next step reads. */
    qy_status_t (*list)(void *trainer, qy_block_save_t *save, qy_error_t *err);
    /* All that was listed has been loaded: makes what follows from it. */
    qy_status_t (*loaded)(void *trainer, qy_error_t *err);
    void *trainer;
} qy_saved_t;

qy_status_t qy_block_save_create(qy_block_save_t **out, const qy_saved_t *what, qy_error_t *err);
/* A tensor in device memory, under the name OF/WHAT (of "": WHAT); one without data is left out. */
qy_status_t qy_block_save_add(qy_block_save_t *save, const char *of, const char *what,
                              const qy_tensor_t *t, qy_error_t *err);
/* Waits for what is being written; NULL is fine. */
void qy_block_save_destroy(qy_block_save_t **save);

/*
 * From the block's checkpoint into the trainer, which has been started. *step: steps that are done,
 * 0 without a checkpoint; losses: theirs. One that is torn, damaged or foreign is named in the log
 * and removed.
 */
qy_status_t qy_block_save_load(qy_block_save_t *save, int64_t block, float *losses, int64_t *step,
                               qy_error_t *err);

/* checkpoint.minutes have gone by since the block began or was last saved, and nothing is being
 * written. */
int qy_block_save_due(const qy_block_save_t *save);

/*
 * Saves what is there after `step` steps. wait 0: returns when it is copied, and a failure to write
 * is only logged, as nothing is lost yet; where memory for the copy is still being made, nothing
 * happens and it stays due. wait 1: returns when the file is there.
 */
qy_status_t qy_block_save_write(qy_block_save_t *save, const float *losses, int64_t step, int wait,
                                qy_error_t *err);

/*
 * After `done` steps, all of whose losses have been looked at: a checkpoint where one is due before
 * the last step; STOPPED, with one, where a stop was asked for. save NULL: none is made.
 */
qy_status_t qy_block_save_or_stop(qy_block_save_t *save, const qy_hooks_t *hooks,
                                  const float *losses, int64_t done, qy_error_t *err);

/* Waits until nothing is being written any more. */
void qy_block_save_settle(qy_block_save_t *save);

/* Removes the checkpoint of a block that is finished. */
void qy_block_save_drop(const qy_plan_t *plan, int64_t block);

#endif
