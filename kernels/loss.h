/*
 * Losses. The ones over a vocabulary work on chunks of columns, so that the matrix of all logits is
 * never in memory: softmax_stats over every chunk first, then the loss and gradient of every chunk.
 * Logits and their gradients are f32 or compute; statistics and losses are f32.
 */
#ifndef QY_KERNELS_LOSS_H
#define QY_KERNELS_LOSS_H

#include "kernels/device.h"

/*
 * loss = mean((y − target)²);  dy = c 2 (y − target) / n, c = hyper[QY_HYPER_SCALE] or 1 where hyper is NULL.
 * loss  out  f32 (1), summed in chunks of 4096 elements in f32, the chunks in order in f64.
 * dy    out  compute, or NULL.   y, target  in  compute, one count.
 */
qy_status_t qy_mse(const qy_device_t *dev, qy_tensor_t *loss, qy_tensor_t *dy, const qy_tensor_t *y,
                   const qy_tensor_t *target, const qy_tensor_t *hyper, qy_error_t *err);

/*
 * Running softmax statistics over columns [first_col, first_col + C) of a row's logits:
 *   stats[m] = {max, Σ exp(logit − max)}, started where first_col is 0, else updated.
 *   picked[m] = the logit of column targets[m] when it lies in this chunk.
 * stats  out  f32 (M, 2).   picked  out  f32 (M), NULL without targets.
 * logits  in  (M, C).   targets  in  i32 (M), −1 = row not scored, or NULL
 */
qy_status_t qy_softmax_stats(const qy_device_t *dev, qy_tensor_t *stats, qy_tensor_t *picked,
                             const qy_tensor_t *logits, const qy_tensor_t *targets,
                             int64_t first_col, qy_error_t *err);

/* nll[m] = max + log Σ − picked;  0 where targets[m] is −1.   nll  out  f32 (M) */
qy_status_t qy_cross_entropy_loss(const qy_device_t *dev, qy_tensor_t *nll, const qy_tensor_t *stats,
                                  const qy_tensor_t *picked, const qy_tensor_t *targets,
                                  qy_error_t *err);

/*
 * dlogits = scale (exp(logit − max)/Σ − [column is the target]);  0 in rows with target −1.
 * dlogits  out  (M, C), may alias logits
 */
qy_status_t qy_cross_entropy_bwd(const qy_device_t *dev, qy_tensor_t *dlogits,
                                 const qy_tensor_t *logits, const qy_tensor_t *stats,
                                 const qy_tensor_t *targets, int64_t first_col, float scale,
                                 qy_error_t *err);

/*
 * Share of these columns in KL(teacher ‖ student):
 *   kl[m] (= or +=) Σ_c p_t (log p_t − log p_s),  log p = logit − max − log Σ
 * kl  out  f32 (M).   student, teacher  in  (M, C)
 */
qy_status_t qy_kl_loss(const qy_device_t *dev, qy_tensor_t *kl, const qy_tensor_t *student,
                       const qy_tensor_t *student_stats, const qy_tensor_t *teacher,
                       const qy_tensor_t *teacher_stats, int accumulate, qy_error_t *err);

/* dlogits = scale (p_s − p_t), the gradient with respect to the student's logits; may alias either. */
qy_status_t qy_kl_bwd(const qy_device_t *dev, qy_tensor_t *dlogits, const qy_tensor_t *student,
                      const qy_tensor_t *student_stats, const qy_tensor_t *teacher,
                      const qy_tensor_t *teacher_stats, float scale, qy_error_t *err);

/*
 * out (= or +=) Σ x, or Σ x² with squared; in chunks of 4096 elements in f32, the chunks in order in f64.
 * out  out  f32 (1).   x  in  f32
 */
qy_status_t qy_sum(const qy_device_t *dev, qy_tensor_t *out, const qy_tensor_t *x, int squared,
                   int accumulate, qy_error_t *err);

#endif
