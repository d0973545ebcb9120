/*
 * Tensor cores of compute capability 8.0 and later, one warp at a time: tiles in shared memory,
 * fragments in registers, products of 16 × 8 × 16 with f32 sums.
 *
 * A fragment of sums, float c[4], holds rows lane/4 (c[0], c[1]) and lane/4 + 8 (c[2], c[3]) at
 * columns 2 (lane % 4) and the next. Rows of tiles are padded by 16 bytes, so that the 8 rows that
 * one access touches start in different banks. Source: PTX ISA 8.0, mma.m16n8k16 and ldmatrix.
 */
#ifndef QY_KERNELS_CUDA_MMA_CUH
#define QY_KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/cuda.cuh"

enum { TILE_PAD = 8 }; /* elements of 2 bytes */

template <typename T>
__device__ static inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#define DEFINE_MMA(T, name)                                                                        \
    template <>                                                                                    \
    __device__ inline void mma<T>(float(&c)[4], const uint32_t(&a)[4], uint32_t b0, uint32_t b1)   \
    {                                                                                              \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 "                \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"             \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));              \
    }
DEFINE_MMA(__half, "f16")
DEFINE_MMA(__nv_bfloat16, "bf16")
#undef DEFINE_MMA

/* Four 8 × 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ static inline void load_matrices(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

/* The same, each matrix transposed. */
__device__ static inline void load_matrices_transposed(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

/* BYTES (4, 16) from global to shared memory, not waited for; zeros where there is false. */
template <int BYTES>
__device__ static inline void copy_async(void *to, const void *from, bool there)
{
    uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
    int n = there ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                     "r"(n));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from),
                     "r"(n));
}

/* All of this thread's copies are there. */
__device__ static inline void copy_async_wait()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* 2^x for probabilities: −∞ and everything below f32's normal numbers give 0. */
__device__ static inline float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <typename T> __device__ static inline uint32_t pack_pair(float low, float high);
template <> __device__ inline uint32_t pack_pair<__half>(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}
template <> __device__ inline uint32_t pack_pair<__nv_bfloat16>(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* c (16 M, N) = a (16 M, K) b (N, K)ᵀ; a and b are tiles of rows of K elements. */
template <typename T, int M, int N, int K>
__device__ static inline void multiply_transposed(float (&c)[M][N / 8][4], const T *a, const T *b)
{
    const int STRIDE = K + TILE_PAD, lane = threadIdx.x % 32;
    a += lane % 16 * STRIDE + lane / 16 * 8;
    b += (lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                c[m][n][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        uint32_t left[M][4], right[4];
#pragma unroll
        for (int m = 0; m < M; m++)
            load_matrices(left[m], a + m * 16 * STRIDE + k);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            load_matrices(right, b + n * 16 * STRIDE + k);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma<T>(c[m][2 * n], left[m], right[0], right[1]);
                mma<T>(c[m][2 * n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/* c (16 M, N) += a (16 M, K) b (K, N): a is a fragment of sums, rounded to T; b a tile. */
template <typename T, int M, int N, int K>
__device__ static inline void add_product(float (&c)[M][N / 8][4], const float (&a)[M][K / 8][4],
                                          const T *b)
{
    const int STRIDE = N + TILE_PAD, lane = threadIdx.x % 32;
    b += lane % 16 * STRIDE + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
        uint32_t left[M][4], right[4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&from)[4] = a[m][2 * k + i / 2];
                left[m][i] = pack_pair<T>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
            }
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            load_matrices_transposed(right, b + k * 16 * STRIDE + n * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma<T>(c[m][2 * n], left[m], right[0], right[1]);
                mma<T>(c[m][2 * n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

#endif
