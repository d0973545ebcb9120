/* Block results → model/model.h5: checks that every block is there, whole and of this plan. */
#ifndef QY_COORDINATOR_STITCH_H
#define QY_COORDINATOR_STITCH_H

#include "jobs/store.h"

/* FORMAT naming gaps, torn files, foreign plan hashes, shapes that do not fit. A block's file that
 * is there and cannot be read is set aside as NNN.h5.torn, so that the block is redone. */
qy_status_t qy_stitch(const qy_plan_t *plan, qy_error_t *err);

#endif
