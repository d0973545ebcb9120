#include "model/channels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t qy_channels_split(int32_t *copies, const float *size, int64_t n, double threshold)
{
    int64_t extra = 0;
    for (int64_t c = 0; c < n; c++) {
        double t = ceil((double)size[c] / threshold);
        copies[c] = t > 1 ? (t < (double)INT32_MAX ? (int32_t)t : INT32_MAX) : 1;
        extra += copies[c] - 1;
    }
    return extra;
}

void qy_channels_expand(int32_t *origin, const int32_t *copies, int64_t n)
{
    int64_t e = 0;
    for (int64_t c = 0; c < n; c++)
        for (int32_t k = 0; k < copies[c]; k++)
            origin[e++] = (int32_t)c;
}

typedef struct {
    float cost;
    int32_t position;
} edge_t;

static int compare_edges(const void *a, const void *b)
{
    const edge_t *x = a, *y = b;
    if (x->cost != y->cost)
        return x->cost < y->cost ? -1 : 1;
    return (x->position > y->position) - (x->position < y->position);
}

qy_status_t qy_channels_choose(int32_t *into, const float *best, const int32_t *partner, int64_t n,
                               int64_t n_merge, qy_error_t *err)
{
    edge_t *edges = malloc((size_t)(n > 0 ? n : 1) * sizeof *edges);
    int64_t n_edges = 0;
    if (!edges)
        return qy_fail(err, QY_ERR_MEMORY, "channels: no memory for %lld matches", (long long)n);
    for (int64_t e = 0; e < n; e++) {
        into[e] = -1;
        if (partner[e] >= 0)
            edges[n_edges++] = (edge_t){best[e], (int32_t)e};
    }
    qy_status_t status = QY_OK;
    if (n_edges < n_merge)
        status = qy_fail(err, QY_ERR_ARG, "channels: %lld to merge, %lld have a partner",
                         (long long)n_merge, (long long)n_edges);
    qsort(edges, (size_t)n_edges, sizeof *edges, compare_edges);
    for (int64_t k = 0; k < n_merge && status == QY_OK; k++)
        into[edges[k].position] = partner[edges[k].position];
    free(edges);
    return status;
}

qy_status_t qy_channels_plan(int32_t *offsets, int32_t *items, const int32_t *origin,
                             const int32_t *into, int64_t n_expanded, int64_t n, qy_error_t *err)
{
    int32_t *slot = malloc((size_t)n_expanded * sizeof *slot), n_slots = 0;
    if (!slot)
        return qy_fail(err, QY_ERR_MEMORY, "channels: no memory for %lld positions",
                       (long long)n_expanded);
    for (int64_t c = 0; c <= n; c++)
        offsets[c] = 0;
    for (int64_t e = 0; e < n_expanded; e++)
        if (into[e] < 0)
            slot[e] = n_slots++;
    for (int64_t e = 0; e < n_expanded; e++) {
        if (into[e] >= 0)
            slot[e] = slot[into[e]];
        offsets[slot[e] + 1]++;
    }
    for (int64_t c = 0; c < n; c++)
        offsets[c + 1] += offsets[c];
    for (int64_t k = n_expanded; k < QY_MAP_ITEMS * n; k++)
        items[k] = -1;
    for (int64_t e = 0; e < n_expanded; e++) /* offsets move to where the next item goes … */
        items[offsets[slot[e]]++] = origin[e];
    for (int64_t c = n; c > 0; c--) /* … and back */
        offsets[c] = offsets[c - 1];
    offsets[0] = 0;
    free(slot);
    return QY_OK;
}

/* home[j] of each place: one that belongs to a channel in it, else one that is left. */
static void find_homes(int32_t *home, int32_t *at, const int32_t *offsets, const int32_t *items,
                       int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        at[c] = -1;
    for (int64_t j = 0; j < n; j++) {
        home[j] = -1;
        for (int32_t k = offsets[j]; k < offsets[j + 1] && home[j] < 0; k++)
            if (at[items[k]] < 0)
                at[home[j] = items[k]] = (int32_t)j;
    }
    for (int64_t j = 0, c = 0; j < n; j++) {
        if (home[j] >= 0)
            continue;
        while (at[c] >= 0)
            c++;
        at[home[j] = (int32_t)c] = (int32_t)j;
    }
}

qy_status_t qy_channels_settle(int32_t *offsets, int32_t *items, int64_t n, qy_error_t *err)
{
    int32_t n_items = offsets[n], next = 0;
    int32_t *home = malloc(((size_t)(3 * n + 1) + (size_t)n_items) * sizeof *home);
    if (!home)
        return qy_fail(err, QY_ERR_MEMORY, "channels: no memory for %lld", (long long)n);
    int32_t *at = home + n, *old_offsets = at + n, *old_items = old_offsets + n + 1;
    find_homes(home, at, offsets, items, n);
    memcpy(old_offsets, offsets, (size_t)(n + 1) * sizeof *offsets);
    memcpy(old_items, items, (size_t)n_items * sizeof *items);
    for (int64_t c = 0; c < n; c++) {
        int32_t first = old_offsets[at[c]], count = old_offsets[at[c] + 1] - first;
        memcpy(items + next, old_items + first, (size_t)count * sizeof *items);
        offsets[c] = next;
        next += count;
    }
    free(home);
    return QY_OK;
}

void qy_channels_identity(int32_t *offsets, int32_t *items, int64_t n)
{
    for (int64_t c = 0; c < n; c++) {
        offsets[c] = items[c] = (int32_t)c;
        items[n + c] = -1;
    }
    offsets[n] = (int32_t)n;
}

bool qy_channels_is_identity(const int32_t *offsets, const int32_t *items, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        if (offsets[c + 1] != (int32_t)c + 1 || items[c] != (int32_t)c)
            return false;
    return true;
}

void qy_channels_weights(float *weights, int32_t *back_offsets, int32_t *back_items,
                         float *back_weights, const int32_t *offsets, const int32_t *items,
                         int64_t n)
{
    for (int64_t c = 0; c <= n; c++)
        back_offsets[c] = 0;
    for (int64_t k = 0; k < QY_MAP_ITEMS * n; k++) {
        back_items[k] = -1;
        weights[k] = back_weights[k] = 0.0f;
    }
    for (int32_t k = 0; k < offsets[n]; k++)
        back_offsets[items[k] + 1]++;
    for (int64_t j = 0; j < n; j++) {
        int32_t g = offsets[j + 1] - offsets[j];
        for (int32_t k = offsets[j]; k < offsets[j + 1]; k++)
            weights[k] = 1.0f / (float)(g > 1 ? g : back_offsets[items[k] + 1]);
    }
    for (int64_t c = 0; c < n; c++)
        back_offsets[c + 1] += back_offsets[c];
    for (int64_t j = 0; j < n; j++) /* back_offsets move to where the next place goes … */
        for (int32_t k = offsets[j]; k < offsets[j + 1]; k++) {
            int32_t at = back_offsets[items[k]]++;
            back_items[at] = (int32_t)j;
            back_weights[at] = weights[k];
        }
    for (int64_t c = n; c > 0; c--) /* … and back */
        back_offsets[c] = back_offsets[c - 1];
    back_offsets[0] = 0;
}

qy_status_t qy_channels_count(const int32_t *offsets, const int32_t *items, int64_t n,
                              int64_t *n_split, int64_t *n_merged, qy_error_t *err)
{
    bool *seen = calloc((size_t)(2 * n), sizeof *seen), *again = seen + n;
    if (!seen)
        return qy_fail(err, QY_ERR_MEMORY, "channels: no memory for %lld", (long long)n);
    *n_split = *n_merged = 0;
    for (int64_t j = 0; j < n; j++)
        *n_merged += offsets[j + 1] - offsets[j] > 1;
    for (int32_t k = 0; k < offsets[n]; k++) {
        int32_t c = items[k];
        *n_split += seen[c] && !again[c];
        again[c] = seen[c];
        seen[c] = true;
    }
    free(seen);
    return QY_OK;
}

qy_status_t qy_channels_check(const int32_t *offsets, const int32_t *items, int64_t n,
                              qy_error_t *err)
{
    if (offsets[0] != 0)
        return qy_fail(err, QY_ERR_FORMAT, "a channel plan starts at %d, not 0", offsets[0]);
    for (int64_t j = 0; j < n; j++)
        if (offsets[j + 1] <= offsets[j] || offsets[j + 1] > QY_MAP_ITEMS * n)
            return qy_fail(err, QY_ERR_FORMAT, "a channel plan goes from %d to %d at %lld",
                           offsets[j], offsets[j + 1], (long long)j);
    for (int32_t k = 0; k < offsets[n]; k++)
        if (items[k] < 0 || items[k] >= n)
            return qy_fail(err, QY_ERR_FORMAT, "a channel plan names channel %d of %lld", items[k],
                           (long long)n);
    return QY_OK;
}
