/*
 * Checkpoints inside a block's training: blocks/NNN.partial.h5 holds all that the next step reads
 * (weights, steps, zero points, moments, loss scale, losses) and how many steps are done, which is
 * the place in the data as well. Between two steps everything is copied to host memory; a thread
 * then writes the file while training goes on. While it does, nobody else uses HDF5.
 */
#ifndef QY_WORKER_BLOCK_SAVE_H
#define QY_WORKER_BLOCK_SAVE_H

#include "worker/block_ap.h"

/* For the tensors of a trainer, whose blocks it serves one after the other. */
qy_status_t qy_block_save_create(qy_block_save_t **out, const qy_block_ap_t *trainer,
                                 qy_error_t *err);
/* Waits for what is being written. */
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

/* Waits until nothing is being written any more. */
void qy_block_save_settle(qy_block_save_t *save);

/* Removes the checkpoint of a block that is finished. */
void qy_block_save_drop(const qy_plan_t *plan, int64_t block);

#endif
