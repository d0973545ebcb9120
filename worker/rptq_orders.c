/* Clusters of a block's channels and the orders that put them side by side. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/clusters.h"
#include "worker/rptq_orders.h"

/* A cluster problem's place in the random numbers: block, site, head. */
enum { SITE_SHIFT = 24, BLOCK_SHIFT = 32 };

/* A block's ranges on their way to its orders. */
typedef struct {
    const qy_arch_t *arch;
    float *const *lo, *const *hi;
    uint32_t seed;
    int64_t block;
    float *features; /* 4 of the most channels */
    int threads;
} ranges_t;

static int32_t *order_of(const qy_qblock_t *q, int site)
{
    return q->site_order[site].data;
}

static int32_t *counts_of(const qy_qblock_t *q, int site)
{
    return q->site_counts[site].data;
}

static uint64_t stream_of(const ranges_t *r, int site, int64_t head)
{
    return ((uint64_t)r->block << BLOCK_SHIFT) + ((uint64_t)site << SITE_SHIFT) + (uint64_t)head;
}

/* One problem over all channels of a site. */
static qy_status_t order_site(const ranges_t *r, int site, qy_qblock_t *q, qy_error_t *err)
{
    int64_t n = qy_tensor_count(&q->site_order[site]), k = qy_tensor_count(&q->site_counts[site]);
    for (int64_t i = 0; i < n; i++) {
        r->features[2 * i] = r->hi[site][i];
        r->features[2 * i + 1] = r->lo[site][i];
    }
    return qy_clusters_find(order_of(q, site), counts_of(q, site), r->features, n, 2, k, r->seed,
                            stream_of(r, site, 0), r->threads, err);
}

/* The largest (or, of −x, the least) over the query heads that read a key head. */
static float over_group(const float *x, float sign, const qy_arch_t *a, int64_t kv_head, int64_t c)
{
    int64_t group = a->n_heads / a->n_kv_heads;
    float most = -INFINITY;
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; h++)
        most = fmaxf(most, sign * x[h * a->head_dim + c]);
    return sign * most;
}

/* All channels in one cluster, in the order they come in. */
static void keep_order(qy_qblock_t *q, int site)
{
    int64_t n = qy_tensor_count(&q->site_order[site]);
    for (int64_t i = 0; i < n; i++)
        order_of(q, site)[i] = (int32_t)i;
    counts_of(q, site)[0] = (int32_t)n;
}

/* Two sites of each head that share their orders. */
typedef struct {
    int queries, keys; /* or contexts, values */
    bool scores;       /* both sites' ranges count */
    int64_t k;
} heads_t;

/* The problem of one key head, repeated for the query heads that read it. */
static qy_status_t order_head(const ranges_t *r, const heads_t *sites, int64_t head, qy_qblock_t *q,
                              qy_error_t *err)
{
    const qy_arch_t *a = r->arch;
    int64_t d = a->head_dim, group = a->n_heads / a->n_kv_heads, k = sites->k;
    int64_t n_features = sites->scores ? 4 : 2;
    float *features = r->features + head * d * n_features;
    int32_t *order = order_of(q, sites->keys) + head * d;
    int32_t *counts = counts_of(q, sites->keys) + head * k;
    for (int64_t c = 0; c < d; c++) {
        float *to = features + c * n_features;
        to[0] = over_group(r->hi[sites->queries], 1.0f, a, head, c);
        to[n_features / 2] = over_group(r->lo[sites->queries], -1.0f, a, head, c);
        if (!sites->scores)
            continue;
        to[1] = r->hi[sites->keys][head * d + c];
        to[3] = r->lo[sites->keys][head * d + c];
    }
    QY_TRY(qy_clusters_find(order, counts, features, d, n_features, k, r->seed,
                            stream_of(r, sites->keys, head), 1, err));
    for (int64_t i = head * group; i < (head + 1) * group; i++) {
        memcpy(counts_of(q, sites->queries) + i * k, counts, (size_t)k * sizeof *counts);
        for (int64_t c = 0; c < d; c++)
            order_of(q, sites->queries)[i * d + c] = (int32_t)(i * d) + order[c];
    }
    for (int64_t c = 0; c < d; c++)
        order[c] += (int32_t)(head * d);
    return QY_OK;
}

/* Queries and keys share their orders (by their ranges), values and contexts theirs (by the
 * contexts'). One cluster for all heads leaves them as they are. */
static qy_status_t order_heads(const ranges_t *r, int of_queries, int of_keys, qy_qblock_t *q,
                               qy_error_t *err)
{
    int64_t n = r->arch->n_kv_heads;
    const heads_t sites = {of_queries, of_keys, of_queries == QY_SITE_Q,
                           q->form.n_clusters[of_keys] / n};
    qy_status_t status = QY_OK;
    if (q->form.n_clusters[of_queries] < r->arch->n_heads) {
        keep_order(q, of_queries);
        keep_order(q, of_keys);
        return QY_OK;
    }
#pragma omp parallel for num_threads(r->threads) schedule(dynamic) if (r->threads > 1)
    for (int64_t head = 0; head < n; head++) {
        qy_error_t error;
        qy_status_t one = order_head(r, &sites, head, q, &error);
#pragma omp critical(qy_rptq_orders)
        if (one != QY_OK && status == QY_OK) {
            status = one;
            if (err)
                *err = error;
        }
    }
    return status;
}

qy_status_t qy_rptq_orders(qy_qblock_t *q, const qy_arch_t *arch, float *const lo[QY_N_SITES],
                           float *const hi[QY_N_SITES], int64_t seed, int64_t block, int threads,
                           qy_error_t *err)
{
    int64_t most = 0;
    for (int i = 0; i < QY_N_SITES; i++)
        if (qy_site_channels(arch, (qy_site_t)i) > most)
            most = qy_site_channels(arch, (qy_site_t)i);
    float *features = malloc((size_t)(4 * most) * sizeof *features);
    const ranges_t r = {arch, lo, hi, (uint32_t)seed, block, features, threads};
    qy_status_t status =
        features ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "clusters: out of host memory");
    QY_TRY_GOTO(status, free_features);
    QY_TRY_GOTO(order_site(&r, QY_SITE_ATTENTION_IN, q, err), free_features);
    QY_TRY_GOTO(order_site(&r, QY_SITE_MLP_IN, q, err), free_features);
    QY_TRY_GOTO(order_site(&r, QY_SITE_DOWN_IN, q, err), free_features);
    QY_TRY_GOTO(order_heads(&r, QY_SITE_Q, QY_SITE_K, q, err), free_features);
    status = order_heads(&r, QY_SITE_O_IN, QY_SITE_V, q, err);
free_features:
    free(features);
    return status == QY_OK ? QY_OK : qy_fail_in(err, "block %lld", (long long)block);
}
