#include "model/reorder.h"

#include <stdlib.h>
#include <string.h>

bool qy_reorder_is_map(const qy_arch_t *arch, qy_site_t site)
{
    bool by_channel = arch->rope_kind != QY_ROPE_NONE || arch->norm[QY_NORM_Q].present;
    return site == QY_SITE_ATTENTION_IN || site == QY_SITE_MLP_IN ||
           ((site == QY_SITE_Q || site == QY_SITE_K) && by_channel);
}

/* Rows and columns of w (n_rows, n) into their orders, NULL as they are, by way of room for all. */
static void move(float *w, float *room, const int32_t *rows, const int32_t *columns, int64_t n_rows,
                 int64_t n, int threads)
{
    size_t bytes = (size_t)n * sizeof *w;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < n_rows; r++) {
        const float *from = w + (rows ? rows[r] : r) * n;
        for (int64_t c = 0; c < n; c++)
            room[r * n + c] = from[columns ? columns[c] : c];
    }
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < n_rows; r++)
        memcpy(w + r * n, room + r * n, bytes);
}

/* The sites whose orders a layer's columns and rows follow; QY_N_SITES: none. */
typedef struct {
    qy_site_t columns, rows;
} sides_t;

static sides_t sides_of(const qy_arch_t *arch, int linear)
{
    static const sides_t sides[QY_N_LINEARS] = {
        [QY_LINEAR_Q] = {QY_SITE_ATTENTION_IN, QY_SITE_Q},
        [QY_LINEAR_K] = {QY_SITE_ATTENTION_IN, QY_SITE_K},
        [QY_LINEAR_V] = {QY_SITE_ATTENTION_IN, QY_SITE_V},
        [QY_LINEAR_O] = {QY_SITE_O_IN, QY_N_SITES},
        [QY_LINEAR_GATE] = {QY_SITE_MLP_IN, QY_SITE_DOWN_IN},
        [QY_LINEAR_UP] = {QY_SITE_MLP_IN, QY_SITE_DOWN_IN},
        [QY_LINEAR_DOWN] = {QY_SITE_DOWN_IN, QY_N_SITES}};
    sides_t out = sides[linear];
    if (out.rows != QY_N_SITES && qy_reorder_is_map(arch, out.rows))
        out.rows = QY_N_SITES;
    return out;
}

qy_status_t qy_reorder_weights(qy_block_weights_t *weights, const qy_arch_t *arch,
                               const int32_t *const order[QY_N_SITES], int threads, qy_error_t *err)
{
    size_t most = 0;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (arch->linear[i].present && qy_tensor_bytes(&weights->linear[i]) > most)
            most = qy_tensor_bytes(&weights->linear[i]);
    float *room = malloc(most);
    if (!room)
        return qy_fail(err, QY_ERR_MEMORY, "no memory to reorder a layer of %zu bytes", most);
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        if (!d->present)
            continue;
        sides_t sides = sides_of(arch, i);
        const int32_t *rows = sides.rows == QY_N_SITES ? NULL : order[sides.rows];
        move(weights->linear[i].data, room, rows, order[sides.columns], d->out, d->in, threads);
        if (rows && d->bias)
            move(weights->bias[i].data, room, rows, NULL, d->out, 1, 1);
    }
    free(room);
    return QY_OK;
}
