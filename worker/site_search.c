#include "worker/site_search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/act_quant.h"
#include "kernels/columns.h"
#include "kernels/fill.h"
#include "kernels/linear.h"
#include "kernels/merge.h"
#include "kernels/quant.h"
#include "model/qmodel.h"

/* Steps of the threshold from the largest size to the smallest: 100, more where sizes are far
 * apart. */
static const double least_steps = 100, threshold_step = 0.5;

qy_status_t qy_site_search_take(qy_site_search_t *search, const qy_device_t *dev, int64_t channels,
                                int64_t outputs, int64_t largest, int64_t most_groups,
                                qy_arena_t *arena, qy_error_t *err)
{
    int64_t places = QY_MAP_ITEMS * channels;
    *search = (qy_site_search_t){.dev = dev};
    QY_TRY(qy_arena_2d(arena, &search->score, QY_F32, channels, channels, err));
    QY_TRY(qy_arena_2d(arena, &search->gram, QY_F32, channels, channels, err));
    QY_TRY(qy_arena_1d(arena, &search->best, QY_F32, places, err));
    QY_TRY(qy_arena_1d(arena, &search->partner, QY_I32, places, err));
    QY_TRY(qy_arena_1d(arena, &search->origin, QY_I32, places, err));
    QY_TRY(qy_arena_1d(arena, &search->free, QY_U8, places, err));
    QY_TRY(qy_arena_1d(arena, &search->sums, QY_F32, channels, err));
    QY_TRY(qy_arena_1d(arena, &search->ones, dev->compute, outputs, err));
    QY_TRY(qy_arena_1d(arena, &search->one_weights, QY_F32, places, err));
    QY_TRY(qy_arena_1d(arena, &search->w_mixed, QY_F32, largest, err));
    QY_TRY(qy_arena_1d(arena, &search->s, QY_F32, most_groups, err));
    QY_TRY(qy_arena_1d(arena, &search->z, QY_F32, most_groups, err));
    return qy_block_map_take(&search->map, channels, arena, err);
}

/* One search under way. Host arrays hold 2 C numbers each, as a candidate may have so many
 * positions. */
typedef struct {
    qy_site_search_t *search;
    const qy_site_case_t *site;
    int64_t n; /* C */
    int32_t *copies, *origin, *partner, *into, *offsets, *items;
    float *best, *weights, *back_weights;
    int32_t *back_offsets, *back_items;
    uint8_t *free;
} run_t;

static qy_tensor_t first_of(const qy_tensor_t *t, int64_t n)
{
    return qy_tensor_1d(t->data, t->dtype, n);
}

static qy_tensor_t matrix_of(const qy_tensor_t *t, int64_t rows, int64_t cols)
{
    return qy_tensor_2d(t->data, t->dtype, rows, cols);
}

/* What merging any two channels costs, into search->score. w_hat holds w in the compute type. */
static qy_status_t score_all(run_t *r, qy_error_t *err)
{
    const qy_site_case_t *site = r->site;
    qy_site_search_t *q = r->search;
    int64_t c = r->n, o = qy_tensor_rows(site->w);
    qy_tensor_t score = matrix_of(&q->score, c, c), gram = matrix_of(&q->gram, c, c);
    qy_tensor_t sums = matrix_of(&q->sums, 1, c), ones = matrix_of(&q->ones, o, 1);
    QY_TRY(qy_linear_bwd_w(q->dev, &gram, site->x, site->x, err));
    QY_TRY(qy_convert(q->dev, site->w_hat, site->w, err));
    if (site->compat_score) {
        QY_TRY(qy_fill(q->dev, &ones, 1.0f, err));
        QY_TRY(qy_linear_bwd_w(q->dev, &sums, &ones, site->w_hat, err));
        return qy_merge_score(q->dev, &score, &gram, NULL, &sums, err);
    }
    QY_TRY(qy_linear_bwd_w(q->dev, &score, site->w_hat, site->w_hat, err));
    return qy_merge_score(q->dev, &score, &gram, &score, NULL, err);
}

/* into of n positions that stand for origin: the n_merge cheapest merges of those that are free. */
static qy_status_t match(run_t *r, int64_t n, int64_t n_merge, qy_error_t *err)
{
    const qy_device_t *dev = r->search->dev;
    qy_tensor_t score = matrix_of(&r->search->score, r->n, r->n);
    qy_tensor_t best = first_of(&r->search->best, n), partner = first_of(&r->search->partner, n);
    qy_tensor_t origin = first_of(&r->search->origin, n), free = first_of(&r->search->free, n);
    QY_TRY(qy_device_upload(dev, origin.data, r->origin, qy_tensor_bytes(&origin), err));
    QY_TRY(qy_device_upload(dev, free.data, r->free, qy_tensor_bytes(&free), err));
    QY_TRY(qy_merge_match(dev, &best, &partner, &score, &origin, &free, err));
    QY_TRY(qy_device_download(dev, r->best, best.data, qy_tensor_bytes(&best), err));
    QY_TRY(qy_device_download(dev, r->partner, partner.data, qy_tensor_bytes(&partner), err));
    return qy_channels_choose(r->into, r->best, r->partner, n, n_merge, err);
}

/* Split first, then match among the positions that there are then. */
static qy_status_t plan_split_first(run_t *r, int64_t extra, qy_error_t *err)
{
    qy_channels_expand(r->origin, r->copies, r->n);
    for (int64_t e = 0; e < r->n + extra; e++)
        r->free[e] = r->copies[r->origin[e]] == 1;
    QY_TRY(match(r, r->n + extra, extra, err));
    return qy_channels_plan(r->offsets, r->items, r->origin, r->into, r->n + extra, r->n, err);
}

/* Match among the original channels, then split: how the official code searches. */
static qy_status_t plan_merge_first(run_t *r, int64_t extra, qy_error_t *err)
{
    for (int64_t c = 0; c < r->n; c++) {
        r->origin[c] = (int32_t)c;
        r->free[c] = r->copies[c] == 1;
    }
    QY_TRY(match(r, r->n, extra, err));
    /* the same merges in terms of expanded positions; partner is free to hold where each begins */
    int64_t at = 0;
    for (int64_t c = 0; c < r->n; at += r->copies[c++])
        r->partner[c] = (int32_t)at;
    for (int64_t c = r->n - 1, e = at - 1; c >= 0; c--)
        for (int32_t k = 0; k < r->copies[c]; k++, e--)
            r->into[e] = r->into[c] < 0 ? -1 : r->partner[r->into[c]];
    qy_channels_expand(r->origin, r->copies, r->n);
    return qy_channels_plan(r->offsets, r->items, r->origin, r->into, at, r->n, err);
}

/* x_hat and w_hat of the plan at hand, and their loss. */
static qy_status_t judge(run_t *r, double *loss, qy_error_t *err)
{
    const qy_site_case_t *site = r->site;
    qy_site_search_t *q = r->search;
    const qy_device_t *dev = q->dev;
    int64_t c = r->n, o = qy_tensor_rows(site->w), places = QY_MAP_ITEMS * c;
    qy_tensor_t offsets = first_of(&q->map.offsets, c + 1), items = first_of(&q->map.items, places);
    qy_tensor_t weights = first_of(&q->map.weights, places);
    qy_tensor_t ones = first_of(&q->one_weights, places), mixed = matrix_of(&q->w_mixed, o, c);
    qy_tensor_t s = matrix_of(&q->s, o, site->n_groups), z = matrix_of(&q->z, o, site->n_groups);
    qy_channels_weights(r->weights, r->back_offsets, r->back_items, r->back_weights, r->offsets,
                        r->items, c);
    QY_TRY(qy_device_upload(dev, offsets.data, r->offsets, qy_tensor_bytes(&offsets), err));
    QY_TRY(qy_device_upload(dev, items.data, r->items, qy_tensor_bytes(&items), err));
    QY_TRY(qy_device_upload(dev, weights.data, r->weights, qy_tensor_bytes(&weights), err));
    QY_TRY(qy_column_mix(dev, site->x_hat, site->x, &offsets, &items, &weights, err));
    if (site->activation_bits != QY_BITS_NONE)
        QY_TRY(qy_act_quant_fwd(dev, site->x_hat, site->x_hat, site->activation_bits, err));
    QY_TRY(qy_column_mix(dev, &mixed, site->w, &offsets, &items, &ones, err));
    QY_TRY(
        qy_quant_start(dev, &s, &z, &mixed, site->bits, site->symmetric, site->least_squares, err));
    QY_TRY(qy_fake_quant_fwd(dev, site->w_hat, &mixed, &s, &z, site->bits, err));
    return site->loss(site->context, loss, err);
}

/* Positions that could be merged away, so that the rest has partners. */
static int64_t mergeable(const run_t *r, int split_first)
{
    int64_t even = 0, odd = 0, e = 0;
    for (int64_t c = 0; c < r->n; e += split_first ? r->copies[c] : 1, c++) {
        even += r->copies[c] == 1 && e % 2 == 0;
        odd += r->copies[c] == 1 && e % 2 == 1;
    }
    return odd > 0 ? even : 0;
}

static void keep_plan(const run_t *r, int32_t *offsets, int32_t *items)
{
    memcpy(offsets, r->offsets, (size_t)(r->n + 1) * sizeof *offsets);
    memcpy(items, r->items, (size_t)(QY_MAP_ITEMS * r->n) * sizeof *items);
}

/* The thresholds from the largest size down, each number of splits once. */
static qy_status_t try_thresholds(run_t *r, double most, double least, int32_t *offsets,
                                  int32_t *items, qy_site_found_t *found, qy_error_t *err)
{
    const qy_site_case_t *site = r->site;
    double steps = fmax(least_steps, floor(most / threshold_step)), step = (most - least) / steps;
    int64_t limit = (int64_t)((double)r->n * site->channel_ratio), before = 0;
    for (int64_t k = 0; k < (int64_t)steps && step > 0; k++) {
        double threshold = most - (double)k * step, loss;
        int64_t extra = qy_channels_split(r->copies, site->size, r->n, threshold);
        if (extra > limit || extra > mergeable(r, !site->compat))
            break;
        if (extra == before)
            continue;
        before = extra;
        QY_TRY(site->compat ? plan_merge_first(r, extra, err) : plan_split_first(r, extra, err));
        QY_TRY(judge(r, &loss, err));
        found->n_tried++;
        if (loss < found->loss) {
            found->loss = loss;
            found->threshold = threshold;
            keep_plan(r, offsets, items);
        }
    }
    return QY_OK;
}

static qy_status_t search_with(run_t *r, int32_t *offsets, int32_t *items, qy_site_found_t *found,
                               qy_error_t *err)
{
    const qy_site_case_t *site = r->site;
    qy_tensor_t ones = first_of(&r->search->one_weights, QY_MAP_ITEMS * r->n);
    float most = 0, least = HUGE_VALF;
    for (int64_t c = 0; c < r->n; c++) {
        most = site->size[c] > most ? site->size[c] : most;
        least = site->size[c] < least ? site->size[c] : least;
    }
    if (!(most < HUGE_VALF))
        return qy_fail(err, QY_ERR_NUMERIC, "reassembly: an activation is not finite");
    QY_TRY(qy_fill(r->search->dev, &ones, 1.0f, err));
    QY_TRY(score_all(r, err));
    qy_channels_identity(r->offsets, r->items, r->n);
    keep_plan(r, offsets, items);
    *found = (qy_site_found_t){.threshold = (double)most};
    QY_TRY(judge(r, &found->loss_alone, err));
    if (!isfinite(found->loss_alone))
        return qy_fail(err, QY_ERR_NUMERIC, "reassembly: the loss without it is %g",
                       found->loss_alone);
    /* The official code starts from a loss that anything beats. */
    found->loss = site->compat ? 1e5 : found->loss_alone;
    QY_TRY(try_thresholds(r, (double)most, (double)least, offsets, items, found, err));
    if (!site->compat) {
        if (found->n_tried > 0 && !(found->loss <= (1 - site->least_gain) * found->loss_alone)) {
            found->loss = found->loss_alone;
            found->threshold = (double)most;
            qy_channels_identity(offsets, items, r->n);
        }
        return QY_OK;
    }
    found->loss = found->loss_alone;
    int64_t extra = qy_channels_split(r->copies, site->size, r->n, found->threshold);
    if (extra == 0 || extra > mergeable(r, 1)) {
        qy_channels_identity(offsets, items, r->n);
        return QY_OK;
    }
    QY_TRY(plan_split_first(r, extra, err));
    keep_plan(r, offsets, items);
    return judge(r, &found->loss, err);
}

qy_status_t qy_site_search(qy_site_search_t *search, const qy_site_case_t *site, int32_t *offsets,
                           int32_t *items, qy_site_found_t *found, qy_error_t *err)
{
    size_t n = (size_t)qy_tensor_cols(site->x), places = QY_MAP_ITEMS * n;
    int32_t *whole = malloc((7 * places + 2 * (n + 1)) * sizeof *whole);
    float *real = malloc(3 * places * sizeof *real);
    uint8_t *free_places = malloc(places);
    qy_status_t status = QY_OK;
    if (!whole || !real || !free_places) {
        status = qy_fail(err, QY_ERR_MEMORY, "reassembly: out of host memory");
    } else {
        run_t run = {.search = search,
                     .site = site,
                     .n = (int64_t)n,
                     .copies = whole,
                     .origin = whole + places,
                     .partner = whole + 2 * places,
                     .into = whole + 3 * places,
                     .items = whole + 4 * places,
                     .back_items = whole + 5 * places,
                     .offsets = whole + 6 * places,
                     .back_offsets = whole + 6 * places + n + 1,
                     .best = real,
                     .weights = real + places,
                     .back_weights = real + 2 * places,
                     .free = free_places};
        status = search_with(&run, offsets, items, found, err);
        if (status == QY_OK)
            status = qy_channels_settle(offsets, items, run.n, err);
    }
    free(whole);
    free(real);
    free(free_places);
    return status;
}
