#include "kernels/static_quant.h"

#include "base/quant_rule.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/reduce.cuh"

/* This file is compiled without fused multiply-add: the codes are those of the CPU device. */

template <typename T> struct quantize_t {
    T *y;
    const T *x;
    const float *s, *z;
    int64_t cols;
    float q_max;
    template <int V> __device__ void run(int64_t i) const
    {
        float step = s[i % cols], zero = z[i % cols];
        y[i] = from_f32<T>((qy_code(to_f32(x[i]), step, zero, q_max) - zero) * step);
    }
};

qy_status_t qy_cuda_static_quant_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                                     const qy_tensor_t *s, const qy_tensor_t *z, int bits,
                                     qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const quantize_t<T> body = {qy_data<T>(y),     qy_data<T>(x),     qy_data<float>(s),
                                    qy_data<float>(z), qy_tensor_cols(x), qy_quant_max(bits)};
        return qy_each<1>(dev, qy_tensor_count(x), true, body, err);
    });
}

template <typename T> struct gradient_t {
    T *dx;
    const T *dy, *x;
    const float *s, *z;
    int64_t cols;
    float q_max;
    template <int V> __device__ void run(int64_t i) const
    {
        float u = qy_code_free(to_f32(x[i]), s[i % cols], z[i % cols]);
        dx[i] = u >= 0.0f && u <= q_max ? dy[i] : from_f32<T>(0.0f);
    }
};

qy_status_t qy_cuda_static_quant_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                                     const qy_tensor_t *x, const qy_tensor_t *s,
                                     const qy_tensor_t *z, int bits, qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const gradient_t<T> body = {qy_data<T>(dx),    qy_data<T>(dy),    qy_data<T>(x),
                                    qy_data<float>(s), qy_data<float>(z), qy_tensor_cols(x),
                                    qy_quant_max(bits)};
        return qy_each<1>(dev, qy_tensor_count(x), true, body, err);
    });
}

/* --- attention with rounded probabilities ---------------------------------------------------- */

enum { THREADS = 128, WARPS = THREADS / 32 };

/* Probabilities of THREADS keys at a time for the one query that a block owns; each of its threads
 * then holds an element of the result, or several. Keys are added in order. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) levels_kernel(attention_t a, float levels)
{
    __shared__ float p[THREADS], query[QY_PLAIN_MAX_D];
    int t = blockIdx.x, head = blockIdx.y, sample = blockIdx.z, kv_head = head / (a.h / a.n_kv);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const T *q = static_cast<const T *>(a.q) + row_at(a, sample, t, head, a.h);
    const T *k = static_cast<const T *>(a.k), *v = static_cast<const T *>(a.v);
    float lse = a.lse[((int64_t)sample * a.h + head) * a.t + t];
    float sum[QY_PLAIN_MAX_D / THREADS] = {};
    for (int c = threadIdx.x; c < a.d; c += THREADS)
        query[c] = to_f32(q[c]);
    for (int first = first_key(a, t); first <= t; first += THREADS) {
        int n = min(THREADS, t + 1 - first);
        __syncthreads();
        for (int j = warp; j < n; j += WARPS) {
            const T *key = k + row_at(a, sample, first + j, kv_head, a.n_kv);
            float score = 0.0f;
            for (int c = lane; c < a.d; c += 32)
                score += query[c] * to_f32(key[c]);
            score = lanes_reduce<add_t, 32>(score);
            if (lane == 0)
                p[j] = rintf(levels * expf(a.scale * score - lse)) / levels;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < QY_PLAIN_MAX_D / THREADS; i++) {
            int c = i * THREADS + (int)threadIdx.x;
            for (int j = 0; j < n && c < a.d; j++)
                sum[i] += p[j] * to_f32(v[row_at(a, sample, first + j, kv_head, a.n_kv) + c]);
        }
    }
    T *o = static_cast<T *>(a.o) + row_at(a, sample, t, head, a.h);
#pragma unroll
    for (int i = 0; i < QY_PLAIN_MAX_D / THREADS; i++)
        if (i * THREADS + (int)threadIdx.x < a.d)
            o[i * THREADS + threadIdx.x] = from_f32<T>(sum[i]);
}

qy_status_t qy_cuda_attention_levels_fwd(const qy_device_t *dev, qy_tensor_t *o,
                                         const qy_tensor_t *lse, const qy_tensor_t *q,
                                         const qy_tensor_t *k, const qy_tensor_t *v, float scale,
                                         int64_t window, int levels, qy_error_t *err)
{
    attention_t a = {};
    a.q = q->data;
    a.k = k->data;
    a.v = v->data;
    a.o = o->data;
    a.lse = qy_data<float>(lse);
    a.b = (int)q->shape[0];
    a.t = (int)q->shape[1];
    a.h = (int)q->shape[2];
    a.d = (int)q->shape[3];
    a.n_kv = (int)k->shape[2];
    a.window = window < a.t ? (int)window : 0;
    a.scale = scale;
    if (a.d > QY_PLAIN_MAX_D || a.h > 65535 || a.b > 65535)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "cuda: attention_levels_fwd: heads of %d, at most %d", a.d, QY_PLAIN_MAX_D);
    dim3 grid((unsigned)a.t, (unsigned)a.h, (unsigned)a.b);
    QY_WITH_TYPE(q->dtype, T, {
        QY_LAUNCH(levels_kernel<T><<<grid, THREADS, 0, qy_stream(dev)>>>(a, (float)levels));
        return QY_OK;
    });
}
