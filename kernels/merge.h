/*
 * Which channels to merge: what merging a pair would cost, and each channel's best partner. Scores
 * are a full C × C matrix, made once for a site from two Gram matrices (linear_bwd_w of a matrix
 * with itself).
 *
 * Source: QLLM, arXiv:2310.08041, equations 4 and 5, and its official code.
 */
#ifndef QY_KERNELS_MERGE_H
#define QY_KERNELS_MERGE_H

#include "kernels/device.h"

/*
 * With d(G)ij = max(0, (Gii + Gjj) − 2 Gij), the squared distance of columns i and j:
 *   sums NULL:  score = d(gram_x) d(gram_w) / 4, the exact error of merging (equation 5)
 *   else        score = d(gram_x) (sums_i + sums_j)², as the official code; gram_w NULL
 * score  out  f32 (C, C), may alias gram_w or gram_x.   gram_x, gram_w  in  f32 (C, C)
 * sums  in  f32 (C): of each column over all outputs
 */
qy_status_t qy_merge_score(const qy_device_t *dev, qy_tensor_t *score, const qy_tensor_t *gram_x,
                           const qy_tensor_t *gram_w, const qy_tensor_t *sums, qy_error_t *err);

/*
 * Over E positions, of which position e stands for channel origin[e]: for each even one that is
 * free the free odd one of least score (on ties the first): best[e], partner[e]. Others get
 * INFINITY, −1. best  out  f32 (E).   partner  out  i32 (E).   score  in  f32 (C, C).   origin  in
 * i32 (E), in [0, C) free  in  u8 (E)
 */
qy_status_t qy_merge_match(const qy_device_t *dev, qy_tensor_t *best, qy_tensor_t *partner,
                           const qy_tensor_t *score, const qy_tensor_t *origin,
                           const qy_tensor_t *free, qy_error_t *err);

#endif
