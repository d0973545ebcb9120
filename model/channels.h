/*
 * Channel reassembly as whole numbers: large channels are split into equal copies, the same number
 * of small ones merged, so that as many are there as before. A plan lists for each of the C
 * channels after it the channels that it is made of: items[offsets[j]] … items[offsets[j+1] − 1],
 * ascending. A channel in T places is divided by T in each; a place with g > 1 channels holds their
 * mean.
 *
 * Source: QLLM, arXiv:2310.08041, section 4 and its official code (splitting, then matching
 * even with odd positions).
 */
#ifndef QY_MODEL_CHANNELS_H
#define QY_MODEL_CHANNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Places that the items of a plan over C channels may take: QY_MAP_ITEMS C, unused ones −1. */
enum { QY_MAP_ITEMS = 2 };

/* copies[c] = max(1, ⌈size[c] / threshold⌉); returns Σ copies − n, the number of channels too many.
 */
int64_t qy_channels_split(int32_t *copies, const float *size, int64_t n, double threshold);

/* origin[e] of the Σ copies expanded positions, the copies of a channel side by side. */
void qy_channels_expand(int32_t *origin, const int32_t *copies, int64_t n);

/*
 * The n_merge cheapest of E positions' best matches (kernels/merge.h: INFINITY has none), by cost,
 * then position: into[e] = the position that e is merged into, −1 for those that stay. ARG where
 * fewer have one.
 */
qy_status_t qy_channels_choose(int32_t *into, const float *best, const int32_t *partner, int64_t n,
                               int64_t n_merge, qy_error_t *err);

/*
 * The plan of E expanded positions, of which those with into ≥ 0 are gone; what is left is in
 * order. offsets (C + 1), items (QY_MAP_ITEMS C); E − the number of merged positions must be C, and
 * E at most QY_MAP_ITEMS C.
 */
qy_status_t qy_channels_plan(int32_t *offsets, int32_t *items, const int32_t *origin,
                             const int32_t *into, int64_t n_expanded, int64_t n, qy_error_t *err);

/*
 * The same plan with its places in another order: a channel that is still there keeps its place, or
 * one of its copies does; the other copies go to the places of those that were merged, in order. So
 * few places differ from the identity, which is what kernels pay for.
 */
qy_status_t qy_channels_settle(int32_t *offsets, int32_t *items, int64_t n, qy_error_t *err);

/* Every channel stays as it is. */
void qy_channels_identity(int32_t *offsets, int32_t *items, int64_t n);
bool qy_channels_is_identity(const int32_t *offsets, const int32_t *items, int64_t n);

/*
 * weights (QY_MAP_ITEMS C): 1/g or 1/T of each item, 0 for unused places; and the transposed plan
 * for the backward pass: the places that a channel went to, with the same weights.
 */
void qy_channels_weights(float *weights, int32_t *back_offsets, int32_t *back_items,
                         float *back_weights, const int32_t *offsets, const int32_t *items,
                         int64_t n);

/* Channels that were split, and places that hold several. */
qy_status_t qy_channels_count(const int32_t *offsets, const int32_t *items, int64_t n,
                              int64_t *n_split, int64_t *n_merged, qy_error_t *err);

/* FORMAT where the numbers are no plan: offsets that do not rise from 0, items out of range. */
qy_status_t qy_channels_check(const int32_t *offsets, const int32_t *items, int64_t n,
                              qy_error_t *err);

#endif
