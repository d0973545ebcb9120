/*
 * Channel reassembly of one site: which channels to split, by the threshold that quantizes best,
 * and which to merge for it. Knows matrices only; what a candidate is judged by is the caller's.
 *
 * Source: QLLM, arXiv:2310.08041, section 4 and its official code, whose behaviour is `compat`: it
 * searches with merging before splitting, applies the opposite order, and never asks whether the
 * site were better left alone.
 */
#ifndef QY_WORKER_SITE_SEARCH_H
#define QY_WORKER_SITE_SEARCH_H

#include "worker/block.h"

/* Work space for sites of up to C channels and O outputs, all readers together. */
typedef struct {
    const qy_device_t *dev;
    qy_tensor_t score, gram;     /* f32 (C, C) */
    qy_tensor_t best;            /* f32 (2 C) */
    qy_tensor_t partner, origin; /* i32 (2 C) */
    qy_tensor_t free;            /* u8 (2 C) */
    qy_tensor_t sums;            /* f32 (C) */
    qy_tensor_t ones;            /* compute (O); f32 (2 C) */
    qy_tensor_t one_weights;
    qy_tensor_t w_mixed; /* f32 (O C) */
    qy_tensor_t s, z;    /* f32: steps and zero points of it */
    qy_channel_map_t map;
} qy_site_search_t;

/* A site and how it will be quantized. */
typedef struct {
    const qy_tensor_t *x;       /* compute (R, C): activations as they come */
    const qy_tensor_t *w;       /* f32 (O, C): its readers' weights, one after the other */
    qy_tensor_t *x_hat, *w_hat; /* compute, as x and w: where a candidate's are put */
    const float *size;          /* (C), host: largest magnitude of each channel */
    int bits, activation_bits;  /* of 16: not quantized */
    int64_t n_groups;           /* of a row of w */
    int symmetric, least_squares;
    int compat, compat_score; /* compat_score: the official formula (kernels/merge.h) */
    double channel_ratio;     /* most channels split off, of C */
    double least_gain;        /* share of the loss that a plan must take away; not with compat */
    /* How far the readers are off with x_hat and w_hat in place of x and w. */
    qy_status_t (*loss)(void *context, double *loss, qy_error_t *err);
    void *context;
} qy_site_case_t;

/* largest: numbers of the largest w of all sites; most_groups: of its s. */
qy_status_t qy_site_search_take(qy_site_search_t *search, const qy_device_t *dev, int64_t channels,
                                int64_t outputs, int64_t largest, int64_t most_groups,
                                qy_arena_t *arena, qy_error_t *err);

/* What the search found: the loss of the site left alone and of the plan chosen (both as it would
 * be quantized), candidates tried, and the threshold, the largest size where nothing is split. */
typedef struct {
    double loss_alone, loss, threshold;
    int64_t n_tried;
} qy_site_found_t;

/* The plan into offsets (C + 1) and items (QY_MAP_ITEMS C), on the host. w_hat and x_hat are left
 * as some candidate's. */
qy_status_t qy_site_search(qy_site_search_t *search, const qy_site_case_t *site, int32_t *offsets,
                           int32_t *items, qy_site_found_t *found, qy_error_t *err);

#endif
