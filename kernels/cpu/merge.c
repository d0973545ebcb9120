#include "kernels/merge.h"

#include "kernels/cpu/cpu.h"

static inline float distance(float ii, float jj, float ij)
{
    float d = ii + jj - 2.0f * ij;
    return d > 0.0f ? d : 0.0f;
}

qy_status_t qy_cpu_merge_score(const qy_device_t *dev, qy_tensor_t *score,
                               const qy_tensor_t *gram_x, const qy_tensor_t *gram_w,
                               const qy_tensor_t *sums, qy_error_t *err)
{
    int64_t c = qy_tensor_cols(score), part = c;
    const float *x = gram_x->data, *w = gram_w ? gram_w->data : NULL;
    const float *sum = sums ? sums->data : NULL;
    float *out = score->data, *norms; /* the diagonals: score may lie over a Gram matrix */
    QY_TRY(qy_cpu_scratch(dev, &norms, 2, &part, err));
    float *norm_x = norms, *norm_w = norms + part;
    for (int64_t i = 0; i < c; i++) {
        norm_x[i] = x[i * c + i];
        norm_w[i] = w ? w[i * c + i] : 0.0f;
    }
#pragma omp parallel for num_threads(dev->threads) if (c > 64)
    for (int64_t i = 0; i < c; i++)
        for (int64_t j = 0; j < c; j++) {
            float dx = distance(norm_x[i], norm_x[j], x[i * c + j]), both;
            if (sum)
                both = (sum[i] + sum[j]) * (sum[i] + sum[j]);
            else
                both = 0.25f * distance(norm_w[i], norm_w[j], w[i * c + j]);
            out[i * c + j] = dx * both;
        }
    return QY_OK;
}

qy_status_t qy_cpu_merge_match(const qy_device_t *dev, qy_tensor_t *best, qy_tensor_t *partner,
                               const qy_tensor_t *score, const qy_tensor_t *origin,
                               const qy_tensor_t *free, qy_error_t *err)
{
    (void)err;
    int64_t n = qy_tensor_count(origin), c = qy_tensor_cols(score);
    const int32_t *channel = origin->data;
    const uint8_t *may = free->data;
    float *least = best->data;
    int32_t *with = partner->data;
#pragma omp parallel for num_threads(dev->threads) if (n > 64)
    for (int64_t i = 0; i < n; i++) {
        least[i] = HUGE_VALF;
        with[i] = -1;
        if (i % 2 || !may[i])
            continue;
        const float *row = qy_f32(score) + channel[i] * c;
        for (int64_t j = 1; j < n; j += 2)
            if (may[j] && row[channel[j]] < least[i]) {
                least[i] = row[channel[j]];
                with[i] = (int32_t)j;
            }
    }
    return QY_OK;
}
