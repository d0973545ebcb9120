/* Rotation, and which kernels an attention call takes. */
#include "kernels/attention.h"

#include <limits.h>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/reduce.cuh"

enum { THREADS = 256 };

/* --- rope ------------------------------------------------------------------------------------ */

/* Pairs (i, i + d/2) of every head of every token, V pairs at a time. y may be x. */
template <typename T> struct rope_t {
    T *y;
    const T *x;
    const float *cosine, *sine;
    int64_t t, h, half;
    float sign;
    template <int V> __device__ void run(int64_t pair) const
    {
        int64_t i = pair % half, head = pair / half, position = head / h % t;
        int64_t at = head * 2 * half + i;
        float a[V], b[V], c[V], s[V], p[V], q[V];
        load<V>(a, x + at);
        load<V>(b, x + at + half);
        load<V>(c, cosine + position * half + i);
        load<V>(s, sine + position * half + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float turn = sign * s[j];
            p[j] = a[j] * c[j] - b[j] * turn;
            q[j] = b[j] * c[j] + a[j] * turn;
        }
        store<V>(y + at, p);
        store<V>(y + at + half, q);
    }
};

qy_status_t qy_cuda_rope(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                         const qy_tensor_t *cosine, const qy_tensor_t *sine, int backward,
                         qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const int V = 16 / sizeof(T);
        int64_t half = x->shape[3] / 2;
        const rope_t<T> body = {
            qy_data<T>(y), qy_data<T>(x), qy_data<float>(cosine), qy_data<float>(sine), x->shape[1],
            x->shape[2],   half,          backward ? -1.0f : 1.0f};
        bool aligned = half % V == 0 && qy_aligned(y->data, x->data, cosine->data, sine->data);
        return qy_each<V>(dev, qy_tensor_count(x) / 2, aligned, body, err);
    });
}

/* --- attention ------------------------------------------------------------------------------- */

/* A warp owns a row of a head: delta (B, H, T) = Σ_d d_o o. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    delta_kernel(float *delta, const T *d_o, const T *o, attention_t a)
{
    int64_t row = blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= (int64_t)a.b * a.t * a.h)
        return;
    float sum = 0.0f;
    for (int i = lane; i < a.d; i += 32)
        sum += to_f32(d_o[row * a.d + i]) * to_f32(o[row * a.d + i]);
    sum = team_sum<32>(sum);
    int64_t head = row % a.h, token = row / a.h;
    if (lane == 0)
        delta[(token / a.t * a.h + head) * a.t + token % a.t] = sum;
}

static qy_status_t describe(attention_t *a, const qy_tensor_t *q, const qy_tensor_t *k,
                            const qy_tensor_t *v, float scale, int64_t window, qy_error_t *err)
{
    const int64_t sizes[] = {q->shape[0], q->shape[1], q->shape[2], q->shape[0] * q->shape[2]};
    for (int64_t size : sizes)
        if (size > INT_MAX / 2)
            return qy_fail(err, QY_ERR_SHAPE, "attention: a size of %lld", (long long)size);
    if (q->shape[3] > QY_PLAIN_MAX_D)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "attention: heads of %lld, at most %d on a GPU",
                       (long long)q->shape[3], (int)QY_PLAIN_MAX_D);
    *a = {};
    a->q = q->data;
    a->k = k->data;
    a->v = v->data;
    a->b = (int)q->shape[0];
    a->t = (int)q->shape[1];
    a->h = (int)q->shape[2];
    a->n_kv = (int)k->shape[2];
    a->d = (int)q->shape[3];
    a->window = window < q->shape[1] ? (int)window : 0; /* a longer one hides nothing */
    a->scale = scale;
    return QY_OK;
}

static bool takes_mma(const attention_t &a, qy_dtype_t dtype)
{
    return dtype != QY_F32 && a.scale > 0.0f && a.d % 8 == 0 && a.d <= QY_MMA_MAX_D &&
           qy_aligned(a.q, a.k, a.v, a.o, a.d_o) && qy_aligned(a.dq, a.dk, a.dv);
}

qy_status_t qy_cuda_attention_fwd(const qy_device_t *dev, qy_tensor_t *o, qy_tensor_t *lse,
                                  const qy_tensor_t *q, const qy_tensor_t *k, const qy_tensor_t *v,
                                  float scale, int64_t window, qy_error_t *err)
{
    attention_t a;
    QY_TRY(describe(&a, q, k, v, scale, window, err));
    a.o = o->data;
    a.lse = qy_data<float>(lse);
    return takes_mma(a, q->dtype) ? qy_attention_mma_fwd(dev, a, err)
                                  : qy_attention_plain_fwd(dev, a, err);
}

qy_status_t qy_cuda_attention_bwd(const qy_device_t *dev, qy_tensor_t *dq, qy_tensor_t *dk,
                                  qy_tensor_t *dv, const qy_tensor_t *d_o, const qy_tensor_t *o,
                                  const qy_tensor_t *lse, const qy_tensor_t *q,
                                  const qy_tensor_t *k, const qy_tensor_t *v, float scale,
                                  int64_t window, qy_error_t *err)
{
    attention_t a;
    void *delta;
    QY_TRY(describe(&a, q, k, v, scale, window, err));
    a.d_o = d_o->data;
    a.dq = dq->data;
    a.dk = dk->data;
    a.dv = dv->data;
    a.lse = qy_data<float>(lse);
    QY_TRY(qy_cuda_scratch(dev, &delta, qy_tensor_bytes(lse), err));
    a.delta = static_cast<const float *>(delta);
    unsigned blocks = (unsigned)qy_blocks(qy_tensor_count(lse), THREADS / 32);
    QY_WITH_TYPE(q->dtype, T,
                 QY_LAUNCH(delta_kernel<T><<<blocks, THREADS, 0, qy_stream(dev)>>>(
                     static_cast<float *>(delta), qy_data<T>(d_o), qy_data<T>(o), a)));
    return takes_mma(a, q->dtype) ? qy_attention_mma_bwd(dev, a, err)
                                  : qy_attention_plain_bwd(dev, a, err);
}
