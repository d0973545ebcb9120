#include "kernels/loss.h"

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/optim.h"

enum {
    TEAM = 256,
    SUM_CHUNK = 4096, /* elements of one partial sum, as loss.h promises; a block's share */
    SUM_THREADS = 1024
};

/*
 * n parts in f64: each thread adds a run of neighbours in order, the runs are added in a tree.
 * out (= or +=) the sum / divisor.
 */
static __global__ void __launch_bounds__(SUM_THREADS)
    add_parts_kernel(float *out, const float *parts, int64_t n, double divisor, int accumulate)
{
    int64_t run = (n + SUM_THREADS - 1) / SUM_THREADS, first = threadIdx.x * run;
    double sum = 0.0;
    for (int64_t i = first; i < first + run && i < n; i++)
        sum += (double)parts[i];
    sum = team_sum<SUM_THREADS>(sum);
    if (threadIdx.x == 0)
        *out = (float)(sum / divisor) + (accumulate ? *out : 0.0f);
}

static qy_status_t add_parts(const qy_device_t *dev, float *out, const float *parts, int64_t n,
                             double divisor, int accumulate, qy_error_t *err)
{
    QY_LAUNCH(add_parts_kernel<<<1, SUM_THREADS, 0, qy_stream(dev)>>>(out, parts, n, divisor,
                                                                      accumulate));
    return QY_OK;
}

/* A block's chunk: its share of Σ (y − target)², and dy where it is wanted. */
template <typename T, int V>
static __global__ void __launch_bounds__(TEAM)
    mse_kernel(float *parts, T *dy, const T *y, const T *target, const float *hyper, int64_t n)
{
    int64_t first = blockIdx.x * (int64_t)SUM_CHUNK;
    int64_t end = first + SUM_CHUNK < n ? first + SUM_CHUNK : n;
    float factor = (float)(2.0 * (double)(hyper ? hyper[QY_HYPER_SCALE] : 1.0f) / (double)n);
    float sum = 0.0f, a[V], b[V];
    for (int64_t i = first + threadIdx.x * V; i < end; i += TEAM * V) {
        load<V>(a, y + i);
        load<V>(b, target + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            a[j] -= b[j];
            sum += a[j] * a[j];
            a[j] *= factor;
        }
        if (dy)
            store<V>(dy + i, a);
    }
    sum = team_sum<TEAM>(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

qy_status_t qy_cuda_mse(const qy_device_t *dev, qy_tensor_t *loss, qy_tensor_t *dy,
                        const qy_tensor_t *y, const qy_tensor_t *target, const qy_tensor_t *hyper,
                        qy_error_t *err)
{
    int64_t n = qy_tensor_count(y), n_chunks = qy_blocks(n, SUM_CHUNK);
    void *scratch;
    QY_TRY(qy_cuda_scratch(dev, &scratch, (size_t)n_chunks * sizeof(float), err));
    float *parts = static_cast<float *>(scratch);
    QY_WITH_TYPE(y->dtype, T, {
        const int V = 16 / sizeof(T);
        T *to = qy_data<T>(dy);
        const T *a = qy_data<T>(y), *b = qy_data<T>(target);
        const float *h = qy_data<float>(hyper);
        if (n % V == 0 && qy_aligned(to, a, b))
            QY_LAUNCH(mse_kernel<T, V>
                      <<<(unsigned)n_chunks, TEAM, 0, qy_stream(dev)>>>(parts, to, a, b, h, n));
        else
            QY_LAUNCH(mse_kernel<T, 1>
                      <<<(unsigned)n_chunks, TEAM, 0, qy_stream(dev)>>>(parts, to, a, b, h, n));
    });
    return add_parts(dev, qy_data<float>(loss), parts, n_chunks, (double)n, 0, err);
}

/* A block's row of logits: its maximum and Σ exp, merged into what earlier columns left. */
template <typename T>
static __global__ void __launch_bounds__(TEAM)
    stats_kernel(float *stats, float *picked, const T *logits, const int32_t *targets, int64_t n,
                 int64_t first_col)
{
    const T *row = logits + blockIdx.x * n;
    float *s = stats + 2 * (int64_t)blockIdx.x;
    float max = -INFINITY, sum = 0.0f, before = 0.0f, before_max = 0.0f;
    for (int64_t i = threadIdx.x; i < n; i += TEAM)
        max = max_t::of(max, to_f32(row[i]));
    max = team_max<TEAM>(max);
    if (first_col > 0) {
        before_max = s[0];
        before = s[1];
        if (!(before_max < max))
            max = before_max;
    }
    float shift = max == -INFINITY ? 0.0f : max;
    for (int64_t i = threadIdx.x; i < n; i += TEAM)
        sum += expf(to_f32(row[i]) - shift);
    sum = team_sum<TEAM>(sum);
    if (threadIdx.x != 0)
        return;
    s[0] = max;
    s[1] = first_col > 0 ? sum + before * expf(before_max - shift) : sum;
    if (targets) {
        int64_t col = targets[blockIdx.x] - first_col;
        if (col >= 0 && col < n)
            picked[blockIdx.x] = to_f32(row[col]);
    }
}

qy_status_t qy_cuda_softmax_stats(const qy_device_t *dev, qy_tensor_t *stats, qy_tensor_t *picked,
                                  const qy_tensor_t *logits, const qy_tensor_t *targets,
                                  int64_t first_col, qy_error_t *err)
{
    unsigned m = (unsigned)qy_tensor_rows(logits);
    QY_WITH_TYPE(logits->dtype, T,
                 QY_LAUNCH(stats_kernel<T><<<m, TEAM, 0, qy_stream(dev)>>>(
                     qy_data<float>(stats), qy_data<float>(picked), qy_data<T>(logits),
                     qy_data<int32_t>(targets), qy_tensor_cols(logits), first_col)));
    return QY_OK;
}

struct nll_t {
    float *nll;
    const float *stats, *picked;
    const int32_t *targets;
    template <int V> __device__ void run(int64_t i) const
    {
        nll[i] = targets[i] < 0 ? 0.0f : stats[2 * i] + logf(stats[2 * i + 1]) - picked[i];
    }
};

qy_status_t qy_cuda_cross_entropy_loss(const qy_device_t *dev, qy_tensor_t *nll,
                                       const qy_tensor_t *stats, const qy_tensor_t *picked,
                                       const qy_tensor_t *targets, qy_error_t *err)
{
    const nll_t body = {qy_data<float>(nll), qy_data<float>(stats), qy_data<float>(picked),
                        qy_data<int32_t>(targets)};
    return qy_each<1>(dev, qy_tensor_count(nll), true, body, err);
}

/* A block's row: scale (exp(x − max)/Σ − [column is the target]). dlogits may be logits. */
template <typename To, typename T>
static __global__ void __launch_bounds__(TEAM)
    cross_entropy_bwd_kernel(To *dlogits, const T *logits, const float *stats,
                             const int32_t *targets, int64_t n, int64_t first_col, float scale)
{
    const T *row = logits + blockIdx.x * n;
    To *to = dlogits + blockIdx.x * n;
    float max = stats[2 * (int64_t)blockIdx.x], inverse = 1.0f / stats[2 * (int64_t)blockIdx.x + 1];
    int32_t target = targets[blockIdx.x];
    int64_t hit = target - first_col;
    for (int64_t i = threadIdx.x; i < n; i += TEAM) {
        float p = expf(to_f32(row[i]) - max) * inverse;
        to[i] = from_f32<To>(target < 0 ? 0.0f : scale * (i == hit ? p - 1.0f : p));
    }
}

qy_status_t qy_cuda_cross_entropy_bwd(const qy_device_t *dev, qy_tensor_t *dlogits,
                                      const qy_tensor_t *logits, const qy_tensor_t *stats,
                                      const qy_tensor_t *targets, int64_t first_col, float scale,
                                      qy_error_t *err)
{
    unsigned m = (unsigned)qy_tensor_rows(logits);
    QY_WITH_TYPE(dev->compute, C, {
        QY_WITH_F32_OR(C, dlogits->dtype, To, {
            QY_WITH_F32_OR(C, logits->dtype, T, {
                QY_LAUNCH(cross_entropy_bwd_kernel<To, T><<<m, TEAM, 0, qy_stream(dev)>>>(
                    qy_data<To>(dlogits), qy_data<T>(logits), qy_data<float>(stats),
                    qy_data<int32_t>(targets), qy_tensor_cols(logits), first_col, scale));
            });
        });
    });
    return QY_OK;
}

/* A block's row: Σ p_t (log p_t − log p_s); where the teacher gives nothing the share is 0. */
template <typename T>
static __global__ void __launch_bounds__(TEAM)
    kl_kernel(float *kl, const T *student, const float *s_stats, const T *teacher,
              const float *t_stats, int64_t n, int accumulate)
{
    int64_t r = blockIdx.x;
    const T *s = student + r * n, *t = teacher + r * n;
    float s_max = s_stats[2 * r], s_log = logf(s_stats[2 * r + 1]);
    float t_max = t_stats[2 * r], t_log = logf(t_stats[2 * r + 1]), sum = 0.0f;
    for (int64_t i = threadIdx.x; i < n; i += TEAM) {
        float log_p_t = to_f32(t[i]) - t_max - t_log, log_p_s = to_f32(s[i]) - s_max - s_log;
        float p_t = expf(log_p_t);
        sum += p_t == 0.0f ? 0.0f : p_t * (log_p_t - log_p_s);
    }
    sum = team_sum<TEAM>(sum);
    if (threadIdx.x == 0)
        kl[r] = accumulate ? kl[r] + sum : sum;
}

qy_status_t qy_cuda_kl_loss(const qy_device_t *dev, qy_tensor_t *kl, const qy_tensor_t *student,
                            const qy_tensor_t *student_stats, const qy_tensor_t *teacher,
                            const qy_tensor_t *teacher_stats, int accumulate, qy_error_t *err)
{
    unsigned m = (unsigned)qy_tensor_rows(student);
    QY_WITH_TYPE(student->dtype, T,
                 QY_LAUNCH(kl_kernel<T><<<m, TEAM, 0, qy_stream(dev)>>>(
                     qy_data<float>(kl), qy_data<T>(student), qy_data<float>(student_stats),
                     qy_data<T>(teacher), qy_data<float>(teacher_stats), qy_tensor_cols(student),
                     accumulate)));
    return QY_OK;
}

/* A block's row: scale (p_s − p_t). dlogits may be either of the logits. */
template <typename To, typename T>
static __global__ void __launch_bounds__(TEAM)
    kl_bwd_kernel(To *dlogits, const T *student, const float *s_stats, const T *teacher,
                  const float *t_stats, int64_t n, float scale)
{
    int64_t r = blockIdx.x;
    float s_max = s_stats[2 * r], s_inverse = 1.0f / s_stats[2 * r + 1];
    float t_max = t_stats[2 * r], t_inverse = 1.0f / t_stats[2 * r + 1];
    for (int64_t i = r * n + threadIdx.x; i < (r + 1) * n; i += TEAM)
        dlogits[i] = from_f32<To>(scale * (expf(to_f32(student[i]) - s_max) * s_inverse -
                                           expf(to_f32(teacher[i]) - t_max) * t_inverse));
}

qy_status_t qy_cuda_kl_bwd(const qy_device_t *dev, qy_tensor_t *dlogits, const qy_tensor_t *student,
                           const qy_tensor_t *student_stats, const qy_tensor_t *teacher,
                           const qy_tensor_t *teacher_stats, float scale, qy_error_t *err)
{
    unsigned m = (unsigned)qy_tensor_rows(student);
    QY_WITH_TYPE(dev->compute, C, {
        QY_WITH_F32_OR(C, dlogits->dtype, To, {
            QY_WITH_F32_OR(C, student->dtype, T, {
                QY_LAUNCH(kl_bwd_kernel<To, T><<<m, TEAM, 0, qy_stream(dev)>>>(
                    qy_data<To>(dlogits), qy_data<T>(student), qy_data<float>(student_stats),
                    qy_data<T>(teacher), qy_data<float>(teacher_stats), qy_tensor_cols(student),
                    scale));
            });
        });
    });
    return QY_OK;
}

/* A block's chunk of Σ x or Σ x². */
static __global__ void __launch_bounds__(TEAM)
    sum_kernel(float *parts, const float *x, int64_t n, int squared)
{
    int64_t first = blockIdx.x * (int64_t)SUM_CHUNK;
    int64_t end = first + SUM_CHUNK < n ? first + SUM_CHUNK : n;
    float sum = 0.0f;
    for (int64_t i = first + threadIdx.x; i < end; i += TEAM)
        sum += squared ? x[i] * x[i] : x[i];
    sum = team_sum<TEAM>(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

qy_status_t qy_cuda_sum(const qy_device_t *dev, qy_tensor_t *out, const qy_tensor_t *x, int squared,
                        int accumulate, qy_error_t *err)
{
    int64_t n = qy_tensor_count(x), n_chunks = qy_blocks(n, SUM_CHUNK);
    void *scratch;
    QY_TRY(qy_cuda_scratch(dev, &scratch, (size_t)n_chunks * sizeof(float), err));
    float *parts = static_cast<float *>(scratch);
    QY_LAUNCH(sum_kernel<<<(unsigned)n_chunks, TEAM, 0, qy_stream(dev)>>>(parts, qy_data<float>(x),
                                                                          n, squared));
    return add_parts(dev, qy_data<float>(out), parts, n_chunks, 1.0, accumulate, err);
}
