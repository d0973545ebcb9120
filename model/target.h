/*
 * A folder that appears whole: what goes into it is written to DIR.tmp, which then becomes DIR.
 * What is in the way is replaced only on request, and only where quarry.json marks it as made by
 * us. DIR.tmp and DIR.tmp.old of a killed export are removed by the same mark, so it is what a
 * writer puts into temp first.
 */
#ifndef QY_MODEL_TARGET_H
#define QY_MODEL_TARGET_H

#include <stdbool.h>

#include "base/file.h"

typedef struct {
    char path[QY_PATH_MAX], temp[QY_PATH_MAX], old[QY_PATH_MAX];
} qy_target_t;

/* Name of the file that marks a folder which may be overwritten. */
extern const char qy_target_mark[];

/* Makes an empty out->temp. ARG where dir is in use, or holds the model, or where something of that
 * name or of out->old is not ours to remove. */
qy_status_t qy_target_begin(qy_target_t *out, const char *dir, const char *model, bool overwrite,
                            qy_error_t *err);

/* Puts temp in dir's place where status is OK, else removes it; returns how that went, or status.
 */
qy_status_t qy_target_end(const qy_target_t *target, qy_status_t status, qy_error_t *err);

#endif
