/* Finished blocks of a run: from the segments' files, from the stitched model, with E2E-QP's steps.
 */
#ifndef QY_JOBS_FINISHED_H
#define QY_JOBS_FINISHED_H

#include "jobs/store.h"
#include "model/qmodel.h"
#include "model/weights.h"

/* Sites that the plan's method may give channel maps: 1 << qy_site_t, or-ed. */
unsigned qy_plan_map_sites(const qy_plan_t *plan);

/* How the plan quantizes weights and activations. */
qy_quant_form_t qy_plan_form(const qy_plan_t *plan);

/* How plain rounding is done that the method is compared with: the same, but with whole rows and
 * activations as they are where the plan has clusters. */
qy_quant_form_t qy_plan_rounded_form(const qy_plan_t *plan);

/* Reads blocks/NNN.h5; checks plan hash, types and shapes. */
qy_status_t qy_finished_read(const qy_plan_t *plan, int64_t block, qy_qblock_t *out,
                             qy_error_t *err);

/* A block of model/model.h5; with final, its steps from the last e2e/ step (which must be there).
 */
qy_status_t qy_finished_read_model(const qy_plan_t *plan, int64_t block, int final,
                                   qy_qblock_t *out, qy_error_t *err);

/*
 * The model's last norm from here on, where the plan fits it (qllm.final_norm) and norm/ holds the
 * sums of all ranges; otherwise it stays the checkpoint's. With h the normed rows of the quantized
 * model's last hidden states and y what the original model has behind its last norm:
 *   without biases   w = Σ y h / Σ h²
 *   with biases      w = cov(y, h) / var(h),  b = mean(y) − w mean(h)
 * per channel, in f64, rounded to f16; a channel without h keeps the checkpoint's.
 */
qy_status_t qy_finished_final_norm(const qy_plan_t *plan, qy_model_t *model, qy_error_t *err);

/* Rows of norm/RR.h5, "sums" f64 (QY_N_NORM_SUMS, H), beside the attribute "rows". */
typedef enum {
    QY_NORM_SUM_YH,
    QY_NORM_SUM_HH,
    QY_NORM_SUM_Y,
    QY_NORM_SUM_H,
    QY_N_NORM_SUMS
} qy_norm_sum_t;

#endif
