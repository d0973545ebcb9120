#include "kernels/merge.h"

#include "kernels/cuda/cuda.cuh"

enum { MATCH_THREADS = 256, SCORE_THREADS = 256 };

static __global__ void diagonal_kernel(float *out, const float *gram, int64_t c)
{
    int64_t i = (int64_t)blockIdx.x * SCORE_THREADS + threadIdx.x;
    if (i < c)
        out[i] = gram[i * c + i];
}

__device__ static inline float distance(float ii, float jj, float ij)
{
    float d = ii + jj - 2.0f * ij;
    return d > 0.0f ? d : 0.0f;
}

/* A thread owns an element; norm_x and norm_w are the diagonals. */
static __global__ void score_kernel(float *score, const float *gram_x, const float *gram_w,
                                    const float *sums, const float *norm_x, const float *norm_w,
                                    int64_t c)
{
    int64_t i = blockIdx.y, j = (int64_t)blockIdx.x * SCORE_THREADS + threadIdx.x;
    if (j >= c)
        return;
    float dx = distance(norm_x[i], norm_x[j], gram_x[i * c + j]), both;
    if (sums)
        both = (sums[i] + sums[j]) * (sums[i] + sums[j]);
    else
        both = 0.25f * distance(norm_w[i], norm_w[j], gram_w[i * c + j]);
    score[i * c + j] = dx * both;
}

qy_status_t qy_cuda_merge_score(const qy_device_t *dev, qy_tensor_t *score,
                                const qy_tensor_t *gram_x, const qy_tensor_t *gram_w,
                                const qy_tensor_t *sums, qy_error_t *err)
{
    int64_t c = qy_tensor_cols(score);
    unsigned blocks = (unsigned)qy_blocks(c, SCORE_THREADS);
    void *scratch;
    if (c > 65535)
        return qy_fail(err, QY_ERR_SHAPE, "merge_score: %lld channels are too many", (long long)c);
    QY_TRY(qy_cuda_scratch(dev, &scratch, 2 * (size_t)c * sizeof(float), err));
    float *norm_x = static_cast<float *>(scratch), *norm_w = norm_x + c;
    QY_LAUNCH(diagonal_kernel<<<blocks, SCORE_THREADS, 0, qy_stream(dev)>>>(
        norm_x, qy_data<float>(gram_x), c));
    if (gram_w)
        QY_LAUNCH(diagonal_kernel<<<blocks, SCORE_THREADS, 0, qy_stream(dev)>>>(
            norm_w, qy_data<float>(gram_w), c));
    QY_LAUNCH(score_kernel<<<dim3(blocks, (unsigned)c), SCORE_THREADS, 0, qy_stream(dev)>>>(
        qy_data<float>(score), qy_data<float>(gram_x), qy_data<float>(gram_w), qy_data<float>(sums),
        norm_x, norm_w, c));
    return QY_OK;
}

/* A block owns an even position; its threads share the odd ones. The least score, then the first. */
static __global__ void __launch_bounds__(MATCH_THREADS)
    match_kernel(float *best, int32_t *partner, const float *score, const int32_t *origin,
                 const uint8_t *may, int64_t n, int64_t c)
{
    __shared__ float least[MATCH_THREADS];
    __shared__ int32_t with[MATCH_THREADS];
    int64_t i = blockIdx.x;
    float b = INFINITY;
    int32_t p = -1;
    if (i % 2 == 0 && may[i]) {
        const float *row = score + origin[i] * c;
        for (int64_t j = 1 + 2 * (int64_t)threadIdx.x; j < n; j += 2 * MATCH_THREADS) {
            float v = may[j] ? row[origin[j]] : INFINITY;
            if (v < b) {
                b = v;
                p = (int32_t)j;
            }
        }
    }
    least[threadIdx.x] = b;
    with[threadIdx.x] = p;
    for (int half = MATCH_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            float other = least[threadIdx.x + half];
            int32_t q = with[threadIdx.x + half];
            if (other < least[threadIdx.x] ||
                (other == least[threadIdx.x] && q >= 0 &&
                 (with[threadIdx.x] < 0 || q < with[threadIdx.x]))) {
                least[threadIdx.x] = other;
                with[threadIdx.x] = q;
            }
        }
    }
    if (threadIdx.x == 0) {
        best[i] = least[0];
        partner[i] = with[0];
    }
}

qy_status_t qy_cuda_merge_match(const qy_device_t *dev, qy_tensor_t *best, qy_tensor_t *partner,
                                const qy_tensor_t *score, const qy_tensor_t *origin,
                                const qy_tensor_t *free, qy_error_t *err)
{
    int64_t n = qy_tensor_count(origin), c = qy_tensor_cols(score);
    QY_LAUNCH(match_kernel<<<(unsigned)n, MATCH_THREADS, 0, qy_stream(dev)>>>(
        qy_data<float>(best), qy_data<int32_t>(partner), qy_data<float>(score),
        qy_data<int32_t>(origin), qy_data<uint8_t>(free), n, c));
    return QY_OK;
}
