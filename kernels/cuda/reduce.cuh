/*
 * Sums and maxima over a team of threads, in an order that depends on nothing but the team's size:
 * a team is 32 threads (a warp) or a whole block. Every thread gets the result.
 */
#ifndef QY_KERNELS_CUDA_REDUCE_CUH
#define QY_KERNELS_CUDA_REDUCE_CUH

#include <cuda_runtime.h>

static const unsigned QY_WARP_ALL = 0xffffffffu;

struct add_t {
    template <typename T> __device__ static T of(T a, T b)
    {
        return a + b;
    }
};

/* The larger; a NaN in a is passed over, as on the CPU. */
struct max_t {
    __device__ static float of(float a, float b)
    {
        return b > a ? b : a;
    }
};

/* Over 2, 4, 8, 16 or 32 neighbouring lanes. All lanes of the warp must take part. */
template <typename Op, int LANES, typename T> __device__ static inline T lanes_reduce(T x)
{
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2)
        x = Op::of(x, __shfl_xor_sync(QY_WARP_ALL, x, offset));
    return x;
}

template <typename Op, int TEAM, typename T> __device__ static inline T team_reduce(T x)
{
    x = lanes_reduce<Op, 32>(x);
    if (TEAM == 32)
        return x;
    __shared__ T parts[TEAM / 32];
    __syncthreads(); /* an earlier sum's parts have been read */
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[0];
#pragma unroll
    for (int i = 1; i < TEAM / 32; i++)
        x = Op::of(x, parts[i]);
    return x;
}

template <int TEAM, typename T> __device__ static inline T team_sum(T x)
{
    return team_reduce<add_t, TEAM>(x);
}

template <int TEAM> __device__ static inline float team_max(float x)
{
    return team_reduce<max_t, TEAM>(x);
}

/*
 * The CPU's order of sums within a group: 16 partial sums, element i in number i mod 16, then added
 * in pairs 8, 4, 2 and 1 apart. Here 16 neighbouring lanes hold one each; all get the result.
 */
enum { QY_LANES = 16 };

template <typename T> __device__ static inline T lanes_sum_as_cpu(T x)
{
#pragma unroll
    for (int half = QY_LANES / 2; half > 0; half /= 2)
        x += __shfl_xor_sync(QY_WARP_ALL, x, half);
    return x;
}

/* The same where each of 16 / W lanes holds W neighbouring partial sums; they are used up. */
template <int W> __device__ static inline float partials_sum(float (&x)[W])
{
#pragma unroll
    for (int half = QY_LANES / W / 2; half > 0; half /= 2)
#pragma unroll
        for (int i = 0; i < W; i++)
            x[i] += __shfl_xor_sync(QY_WARP_ALL, x[i], half);
#pragma unroll
    for (int half = W / 2; half > 0; half /= 2)
#pragma unroll
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}

#endif
