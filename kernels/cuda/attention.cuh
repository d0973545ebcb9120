/*
 * One attention call as both families of kernels see it: attention_plain.cu, f32 arithmetic for any
 * type and head size; attention_mma.cu, tensor cores for the halves.
 */
#ifndef QY_KERNELS_CUDA_ATTENTION_CUH
#define QY_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/cuda.cuh"

/* q, o and theirs (B, T, H, d); k, v and theirs (B, T, K, d); lse and delta (B, H, T). */
struct attention_t {
    const void *q, *k, *v, *d_o;
    void *o, *dq, *dk, *dv;
    float *lse;
    const float *delta; /* Σ_d d_o o */
    int b, t, h, n_kv, d;
    int window; /* 0: none */
    float scale;
};

/* The first key that query t sees; the last is t. */
__host__ __device__ static inline int first_key(const attention_t &a, int t)
{
    return a.window > 0 && t >= a.window ? t - a.window + 1 : 0;
}

/* One past the last query that sees this key. */
__host__ __device__ static inline int end_query(const attention_t &a, int key)
{
    return a.window > 0 && a.t - key > a.window ? key + a.window : a.t;
}

/* Element of a head's row among queries (heads = H) or keys (heads = K). */
__device__ static inline int64_t row_at(const attention_t &a, int sample, int t, int head,
                                        int heads)
{
    return (((int64_t)sample * a.t + t) * heads + head) * a.d;
}

enum { QY_PLAIN_MAX_D = 256, QY_MMA_MAX_D = 128 };

qy_status_t qy_attention_plain_fwd(const qy_device_t *dev, const attention_t &a, qy_error_t *err);
qy_status_t qy_attention_plain_bwd(const qy_device_t *dev, const attention_t &a, qy_error_t *err);

/* Halves only, scale > 0, d a multiple of 8 up to QY_MMA_MAX_D, tensors aligned to 16 bytes. */
qy_status_t qy_attention_mma_fwd(const qy_device_t *dev, const attention_t &a, qy_error_t *err);
qy_status_t qy_attention_mma_bwd(const qy_device_t *dev, const attention_t &a, qy_error_t *err);

#endif
