#include "worker/rptq_sketch.h"

#include <math.h>
#include <stdlib.h>

#include "base/half.h"
#include "model/clusters.h"

enum { TOKENS = 8192 };

/* So many channels of a cluster are counted at a time, in bins of their own. */
enum { PIECE = 256 };

qy_status_t qy_rptq_sketch_create(qy_rptq_sketch_t *out, const qy_arch_t *arch,
                                  const qy_quant_form_t *form, int64_t length, qy_error_t *err)
{
    int64_t clusters = 0, widest = 0, pieces = 0;
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t n = qy_site_channels(arch, (qy_site_t)i), k = form->n_clusters[i];
        clusters += k;
        widest = n > widest ? n : widest;
        pieces = k + n / PIECE > pieces ? k + n / PIECE : pieces;
    }
    size_t words = (size_t)(clusters * (QY_CLUSTER_BINS + 2) + widest * length + 3 * pieces);
    *out = (qy_rptq_sketch_t){.memory = calloc(words, sizeof(float))};
    if (!out->memory)
        return qy_fail(err, QY_ERR_MEMORY, "rptq: %zu numbers of host memory", words);
    float *at = out->memory;
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t k = form->n_clusters[i];
        out->bins[i] = (uint32_t *)(void *)at;
        out->lo[i] = at + k * QY_CLUSTER_BINS;
        out->hi[i] = out->lo[i] + k;
        at = out->hi[i] + k;
    }
    out->values = at;
    out->piece = (void *)(at + widest * length);
    return QY_OK;
}

void qy_rptq_sketch_free(qy_rptq_sketch_t *s)
{
    free(s->memory);
    *s = (qy_rptq_sketch_t){0};
}

void qy_rptq_sketch_bound(qy_rptq_sketch_t *s, const qy_qblock_t *q, float *const lo[QY_N_SITES],
                          float *const hi[QY_N_SITES])
{
    for (int i = 0; i < QY_N_SITES; i++) {
        const int32_t *order = q->site_order[i].data, *counts = q->site_counts[i].data;
        for (int64_t c = 0; c < qy_tensor_count(&q->site_counts[i]); order += counts[c++]) {
            s->lo[i][c] = INFINITY;
            s->hi[i][c] = -INFINITY;
            for (int32_t j = 0; j < counts[c]; j++) {
                s->lo[i][c] = fminf(s->lo[i][c], lo[i][order[j]]);
                s->hi[i][c] = fmaxf(s->hi[i][c], hi[i][order[j]]);
            }
        }
    }
}

bool qy_rptq_sketch_wants(int64_t i, int64_t n, int64_t length)
{
    int64_t wanted = (TOKENS + length - 1) / length;
    wanted = wanted < n ? wanted : n;
    return (i + 1) * wanted / n > i * wanted / n;
}

/* Clusters in pieces; how many. */
static int64_t cut(qy_rptq_piece_t *piece, const int32_t *counts, int64_t k)
{
    int64_t n = 0;
    for (int32_t c = 0, at = 0; c < k; at += counts[c++])
        for (int32_t i = 0; i < counts[c]; i += PIECE)
            piece[n++] =
                (qy_rptq_piece_t){c, at + i, counts[c] - i < PIECE ? counts[c] - i : PIECE};
    return n;
}

/* Numbers [first, first + n) of x as f32, in room where they are not. */
static const float *widened(float *room, const void *x, qy_dtype_t dtype, int64_t first, int64_t n)
{
    if (dtype == QY_F32)
        return (const float *)x + first;
    if (dtype == QY_F16)
        qy_f16_widen(room, (const uint16_t *)x + first, n);
    else
        qy_bf16_widen(room, (const uint16_t *)x + first, n);
    return room;
}

/* The values of a piece, of the sample x that is in s->values. */
static void count(uint32_t *bins, const qy_rptq_sketch_t *s, const qy_tensor_t *x, int site,
                  const qy_rptq_piece_t *piece)
{
    float room[PIECE], lo = s->lo[site][piece->cluster], range = s->hi[site][piece->cluster] - lo;
    float per_width = range > 0 ? QY_CLUSTER_BINS / range : 0.0f;
    int32_t place[PIECE];
    int64_t n = qy_tensor_cols(x);
    for (int64_t row = 0; row < qy_tensor_rows(x); row++) {
        const float *value = widened(room, s->values, x->dtype, row * n + piece->first, piece->n);
#pragma omp simd
        for (int32_t i = 0; i < piece->n; i++) {
            float bin = (value[i] - lo) * per_width;
            bin = bin > 0 ? bin : 0.0f;
            place[i] = (int32_t)(bin < QY_CLUSTER_BINS - 1 ? bin : QY_CLUSTER_BINS - 1);
        }
        for (int32_t i = 0; i < piece->n; i++)
            bins[place[i]]++;
    }
}

qy_status_t qy_rptq_sketch_add(qy_rptq_sketch_t *s, const qy_device_t *dev, const qy_tensor_t *x,
                               const qy_qblock_t *q, int site, qy_error_t *err)
{
    const qy_tensor_t *counts = &q->site_counts[site];
    int64_t n_pieces = cut(s->piece, counts->data, qy_tensor_count(counts));
    QY_TRY(qy_device_download(dev, s->values, x->data, qy_tensor_bytes(x), err));
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic) if (dev->threads > 1)
    for (int64_t i = 0; i < n_pieces; i++) {
        uint32_t bins[QY_CLUSTER_BINS] = {0};
        uint32_t *all = s->bins[site] + (int64_t)s->piece[i].cluster * QY_CLUSTER_BINS;
        count(bins, s, x, site, &s->piece[i]);
#pragma omp critical(qy_rptq_sketch)
        for (int b = 0; b < QY_CLUSTER_BINS; b++)
            all[b] += bins[b];
    }
    return QY_OK;
}
