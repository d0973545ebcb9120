#include "kernels/attention.h"

#include <omp.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vexp.h"

enum { QUERY_TILE = 64 };

static QY_CLONES void rotate_head(float *y, const float *x, const float *c, const float *s,
                                  float sign, int64_t half)
{
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half], turn = sign * s[i];
        y[i] = a * c[i] - b * turn;
        y[i + half] = b * c[i] + a * turn;
    }
}

qy_status_t qy_cpu_rope(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                        const qy_tensor_t *cosine, const qy_tensor_t *sine, int backward,
                        qy_error_t *err)
{
    (void)err;
    int64_t n_tokens = x->shape[0] * x->shape[1], t = x->shape[1], h = x->shape[2], d = x->shape[3];
#pragma omp parallel for num_threads(dev->threads) if (n_tokens > 1)
    for (int64_t i = 0; i < n_tokens; i++) {
        const float *c = qy_f32(cosine) + i % t * (d / 2), *s = qy_f32(sine) + i % t * (d / 2);
        for (int64_t head = 0; head < h; head++) {
            int64_t at = (i * h + head) * d;
            rotate_head(qy_f32(y) + at, qy_f32(x) + at, c, s, backward ? -1.0f : 1.0f, d / 2);
        }
    }
    return QY_OK;
}

/* Sizes and inputs of one call, and where a row of a head lies. */
typedef struct {
    const float *q, *k, *v;
    int64_t t, h, n_kv, d, window, q_stride, k_stride, n_tiles;
    float scale;
} call_t;

static call_t describe(const qy_tensor_t *q, const qy_tensor_t *k, const qy_tensor_t *v,
                       float scale, int64_t window)
{
    call_t a = {.q = q->data, .k = k->data, .v = v->data, .scale = scale, .window = window};
    a.t = q->shape[1];
    a.h = q->shape[2];
    a.n_kv = k->shape[2];
    a.d = q->shape[3];
    a.q_stride = a.h * a.d;
    a.k_stride = a.n_kv * a.d;
    a.n_tiles = qy_chunks(a.t, QUERY_TILE);
    return a;
}

/* Offsets of position t of a sample's head among queries, and among keys. */
static int64_t query_at(const call_t *a, int64_t sample, int64_t t, int64_t head)
{
    return (sample * a->t + t) * a->q_stride + head * a->d;
}

static int64_t key_at(const call_t *a, int64_t sample, int64_t t, int64_t head)
{
    return (sample * a->t + t) * a->k_stride + head * a->d;
}

/* Query rows [first, first + n) and the keys [key, key + n_keys) that any of them may see. */
typedef struct {
    int64_t first, n, key, n_keys;
} tile_t;

static int64_t first_key_of(const call_t *a, int64_t t)
{
    return a->window > 0 && t >= a->window ? t - a->window + 1 : 0;
}

static tile_t tile_of(const call_t *a, int64_t index)
{
    tile_t tile = {.first = index * QUERY_TILE};
    tile.n = qy_min(QUERY_TILE, a->t - tile.first);
    tile.key = first_key_of(a, tile.first);
    tile.n_keys = tile.first + tile.n - tile.key;
    return tile;
}

/* scores (n, n_keys) = scale q kᵀ, masked places included. */
static void find_scores(const call_t *a, const tile_t *tile, int64_t sample, int64_t head,
                        float *scores)
{
    qy_gemm(CblasNoTrans, CblasTrans, tile->n, tile->n_keys, a->d, a->scale,
            a->q + query_at(a, sample, tile->first, head), a->q_stride,
            a->k + key_at(a, sample, tile->key, head / (a->h / a->n_kv)), a->k_stride, 0.0f, scores,
            tile->n_keys);
}

/* row[lo, hi) becomes its softmax, the rest 0. Returns log Σ exp. */
static QY_CLONES float softmax_row(float *row, int64_t lo, int64_t hi, int64_t n)
{
    float *seen = row + lo, sum;
    int64_t n_seen = hi - lo;
    float max = qy_lane_max(seen, n_seen);
    QY_LANE_SUM(sum, i, n_seen, seen[i] = qy_exp(seen[i] - max));
    float inverse = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < n_seen; i++)
        seen[i] *= inverse;
    memset(row, 0, (size_t)lo * sizeof *row);
    memset(row + hi, 0, (size_t)(n - hi) * sizeof *row);
    return max + logf(sum);
}

static void forward_tile(const call_t *a, int64_t sample, int64_t head, int64_t index, float *o,
                         float *lse, float *scores)
{
    tile_t tile = tile_of(a, index);
    find_scores(a, &tile, sample, head, scores);
    for (int64_t r = 0; r < tile.n; r++) {
        int64_t t = tile.first + r;
        lse[(sample * a->h + head) * a->t + t] = softmax_row(
            scores + r * tile.n_keys, first_key_of(a, t) - tile.key, t + 1 - tile.key, tile.n_keys);
    }
    qy_gemm(CblasNoTrans, CblasNoTrans, tile.n, a->d, tile.n_keys, 1.0f, scores, tile.n_keys,
            a->v + key_at(a, sample, tile.key, head / (a->h / a->n_kv)), a->k_stride, 0.0f,
            o + query_at(a, sample, tile.first, head), a->q_stride);
}

qy_status_t qy_cpu_attention_fwd(const qy_device_t *dev, qy_tensor_t *o, qy_tensor_t *lse,
                                 const qy_tensor_t *q, const qy_tensor_t *k, const qy_tensor_t *v,
                                 float scale, int64_t window, qy_error_t *err)
{
    const call_t a = describe(q, k, v, scale, window);
    int64_t part = QUERY_TILE * a.t, n_tiles = q->shape[0] * a.h * a.n_tiles;
    float *scratch;
    QY_TRY(qy_cpu_scratch(dev, &scratch, dev->threads, &part, err));
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic) if (n_tiles > 1)
    for (int64_t i = 0; i < n_tiles; i++)
        forward_tile(&a, i / a.n_tiles / a.h, i / a.n_tiles % a.h, i % a.n_tiles, o->data,
                     lse->data, scratch + omp_get_thread_num() * part);
    return QY_OK;
}

/* row[lo, hi) becomes exp(row − lse), the rest 0. */
static QY_CLONES void probability_row(float *row, float lse, int64_t lo, int64_t hi, int64_t n)
{
#pragma omp simd
    for (int64_t i = lo; i < hi; i++)
        row[i] = qy_exp(row[i] - lse);
    memset(row, 0, (size_t)lo * sizeof *row);
    memset(row + hi, 0, (size_t)(n - hi) * sizeof *row);
}

static void levels_tile(const call_t *a, int64_t sample, int64_t head, int64_t index, float *o,
                        const float *lse, float levels, float *scores)
{
    tile_t tile = tile_of(a, index);
    find_scores(a, &tile, sample, head, scores);
    for (int64_t r = 0; r < tile.n; r++) {
        int64_t t = tile.first + r;
        float *row = scores + r * tile.n_keys;
        probability_row(row, lse[(sample * a->h + head) * a->t + t], first_key_of(a, t) - tile.key,
                        t + 1 - tile.key, tile.n_keys);
        for (int64_t i = 0; i < tile.n_keys; i++)
            row[i] = rintf(levels * row[i]) / levels;
    }
    qy_gemm(CblasNoTrans, CblasNoTrans, tile.n, a->d, tile.n_keys, 1.0f, scores, tile.n_keys,
            a->v + key_at(a, sample, tile.key, head / (a->h / a->n_kv)), a->k_stride, 0.0f,
            o + query_at(a, sample, tile.first, head), a->q_stride);
}

qy_status_t qy_cpu_attention_levels_fwd(const qy_device_t *dev, qy_tensor_t *o,
                                        const qy_tensor_t *lse, const qy_tensor_t *q,
                                        const qy_tensor_t *k, const qy_tensor_t *v, float scale,
                                        int64_t window, int levels, qy_error_t *err)
{
    const call_t a = describe(q, k, v, scale, window);
    int64_t part = QUERY_TILE * a.t, n_tiles = q->shape[0] * a.h * a.n_tiles;
    float *scratch;
    QY_TRY(qy_cpu_scratch(dev, &scratch, dev->threads, &part, err));
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic) if (n_tiles > 1)
    for (int64_t i = 0; i < n_tiles; i++)
        levels_tile(&a, i / a.n_tiles / a.h, i / a.n_tiles % a.h, i % a.n_tiles, o->data, lse->data,
                    (float)levels, scratch + omp_get_thread_num() * part);
    return QY_OK;
}

/* dp becomes ds = p (dp − Σ d_o o). */
static QY_CLONES void score_gradient_row(float *dp, const float *p, const float *d_o,
                                         const float *o, int64_t d, int64_t n)
{
    float delta;
    QY_LANE_SUM(delta, i, d, d_o[i] * o[i]);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dp[i] = p[i] * (dp[i] - delta);
}

typedef struct {
    float *dq, *dk, *dv;
    const float *d_o, *o, *lse;
} gradients_t;

/* One tile of query rows: its dq, and its share of dk and dv. p, dp: scratch (n, n_keys). */
static void backward_tile(const call_t *a, const gradients_t *g, int64_t sample, int64_t head,
                          int64_t index, float *p, float *dp)
{
    tile_t tile = tile_of(a, index);
    int64_t n = tile.n, n_keys = tile.n_keys, d = a->d;
    int64_t q_at = query_at(a, sample, tile.first, head);
    int64_t k_at = key_at(a, sample, tile.key, head / (a->h / a->n_kv));
    find_scores(a, &tile, sample, head, p);
    for (int64_t r = 0; r < n; r++) {
        int64_t t = tile.first + r;
        probability_row(p + r * n_keys, g->lse[(sample * a->h + head) * a->t + t],
                        first_key_of(a, t) - tile.key, t + 1 - tile.key, n_keys);
    }
    qy_gemm(CblasTrans, CblasNoTrans, n_keys, d, n, 1.0f, p, n_keys, g->d_o + q_at, a->q_stride,
            1.0f, g->dv + k_at, a->k_stride);
    qy_gemm(CblasNoTrans, CblasTrans, n, n_keys, d, 1.0f, g->d_o + q_at, a->q_stride, a->v + k_at,
            a->k_stride, 0.0f, dp, n_keys);
    for (int64_t r = 0; r < n; r++) {
        int64_t at = q_at + r * a->q_stride;
        score_gradient_row(dp + r * n_keys, p + r * n_keys, g->d_o + at, g->o + at, d, n_keys);
    }
    qy_gemm(CblasNoTrans, CblasNoTrans, n, d, n_keys, a->scale, dp, n_keys, a->k + k_at,
            a->k_stride, 0.0f, g->dq + q_at, a->q_stride);
    qy_gemm(CblasTrans, CblasNoTrans, n_keys, d, n, a->scale, dp, n_keys, a->q + q_at, a->q_stride,
            1.0f, g->dk + k_at, a->k_stride);
}

/* All query heads of one key head, in head order: the only thread that adds to its dk and dv. */
static void backward_group(const call_t *a, const gradients_t *g, int64_t sample, int64_t kv_head,
                           float *p, float *dp)
{
    int64_t group = a->h / a->n_kv;
    for (int64_t t = 0; t < a->t; t++) {
        memset(g->dk + key_at(a, sample, t, kv_head), 0, (size_t)a->d * sizeof(float));
        memset(g->dv + key_at(a, sample, t, kv_head), 0, (size_t)a->d * sizeof(float));
    }
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t tile = 0; tile < a->n_tiles; tile++)
            backward_tile(a, g, sample, head, tile, p, dp);
}

qy_status_t qy_cpu_attention_bwd(const qy_device_t *dev, qy_tensor_t *dq, qy_tensor_t *dk,
                                 qy_tensor_t *dv, const qy_tensor_t *d_o, const qy_tensor_t *o,
                                 const qy_tensor_t *lse, const qy_tensor_t *q, const qy_tensor_t *k,
                                 const qy_tensor_t *v, float scale, int64_t window, qy_error_t *err)
{
    const call_t a = describe(q, k, v, scale, window);
    const gradients_t g = {dq->data, dk->data, dv->data, d_o->data, o->data, lse->data};
    int64_t part = QUERY_TILE * a.t, n_groups = q->shape[0] * a.n_kv;
    float *scratch;
    QY_TRY(qy_cpu_scratch(dev, &scratch, 2 * (int64_t)dev->threads, &part, err));
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic) if (n_groups > 1)
    for (int64_t i = 0; i < n_groups; i++) {
        float *mine = scratch + 2 * omp_get_thread_num() * part;
        backward_group(&a, &g, i / a.n_kv, i % a.n_kv, mine, mine + part);
    }
    return QY_OK;
}
