/*
 * The run directory: names of everything in it, and the two marks that each HDF5 file carries: schema
 * version and plan hash. Layout as in README; one writer per file.
 */
#ifndef QY_JOBS_STORE_H
#define QY_JOBS_STORE_H

#include "base/file.h"
#include "jobs/plan.h"
#include "model/choices.h"
#include "model/h5.h"

enum { QY_SCHEMA_VERSION = 1 };

/* Paths, all inside plan->spec.run_dir. */
qy_status_t qy_store_tokens(char out[QY_PATH_MAX], const qy_plan_t *plan, const char *name,
                            qy_error_t *err); /* tokens/NAME.h5: "calibration", "e2e", evaluate names */
qy_status_t qy_store_capture(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t segment,
                             int64_t range, qy_error_t *err); /* segments/NN/RR.h5 */
qy_status_t qy_store_teacher(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t range,
                             qy_error_t *err); /* segments/teacher/RR.h5 */
qy_status_t qy_store_block(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t block,
                           qy_error_t *err); /* blocks/NNN.h5 */
qy_status_t qy_store_partial(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t block,
                             qy_error_t *err); /* blocks/NNN.partial.h5 */
qy_status_t qy_store_stream(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t segment,
                            int64_t block, const char *name,
                            qy_error_t *err); /* streams/NN/BBB-NAME.bin, in front of block BBB */
qy_status_t qy_store_model(char out[QY_PATH_MAX], const qy_plan_t *plan,
                           qy_error_t *err); /* model/model.h5 */
qy_status_t qy_store_norm(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t range,
                          qy_error_t *err); /* norm/RR.h5 */
qy_status_t qy_store_e2e(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t step,
                         int64_t block, qy_error_t *err); /* e2e/step-NNNNN/BBB.h5 */
qy_status_t qy_store_ledger(char out[QY_PATH_MAX], const qy_plan_t *plan, qy_error_t *err);
qy_status_t qy_store_metrics(char out[QY_PATH_MAX], const qy_plan_t *plan, qy_error_t *err);

/* Creates the folders of a run. */
qy_status_t qy_store_prepare(const qy_plan_t *plan, qy_error_t *err);

/* Writes the marks (schema version, plan hash, kind such as "block") into a new file. */
qy_status_t qy_store_mark(qy_h5_t *file, const qy_plan_t *plan, const char *kind, qy_error_t *err);

/* Opens a file of the run and checks its marks: FORMAT for a foreign plan, kind or version, or a torn
 * file; IO where it is not there. */
qy_status_t qy_store_open(qy_h5_t **out, const char *path, const qy_plan_t *plan, const char *kind,
                          qy_error_t *err);

/* 1 where the file is there and whole with the right marks; a bad one counts as absent (it is redone),
 * and its reason is put into why (may be NULL). */
int qy_store_has(const char *path, const qy_plan_t *plan, const char *kind, qy_error_t *why);

/*
 * After reading a file of the run has failed with status: where it is there but not whole (FORMAT,
 * SHAPE) it is renamed to PATH.torn, so that it counts as absent, and err becomes DAMAGED: what made
 * it makes it again. Returns the status that err now has.
 */
qy_status_t qy_store_set_aside(const char *path, qy_status_t status, qy_error_t *err);

/* Largest step of e2e/step-NNNNN whose files of all blocks (kind "e2e") are whole, or −1. */
int64_t qy_store_e2e_last(const qy_plan_t *plan, qy_error_t *err);

/* Removes the folders of all steps before this one. */
void qy_store_e2e_drop(const qy_plan_t *plan, int64_t before);

/* Token windows of a set, from its token file: (n, length) i32, each id below the vocabulary's size; the
 * caller frees. Windows of calibration: training, then validation. */
qy_status_t qy_store_read_tokens(int32_t **out, int64_t *n, int64_t *length, const qy_plan_t *plan,
                                 const char *name, qy_error_t *err);

/* The sequences of a zero-shot task, from tokens/NAME.h5; qy_choices_free. */
qy_status_t qy_store_read_choices(qy_choices_t *out, const qy_plan_t *plan, const char *name,
                                  qy_error_t *err);

/* Phase "tokens": makes every token file that is not there yet, or is of another text. FORMAT where a text
 * is shorter than a window, or has a token that the model does not know. */
qy_status_t qy_store_make_tokens(const qy_plan_t *plan, qy_error_t *err);

#endif
