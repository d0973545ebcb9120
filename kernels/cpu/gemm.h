/* One product of row-major matrices on the calling thread, by CBLAS. */
#ifndef QY_KERNELS_CPU_GEMM_H
#define QY_KERNELS_CPU_GEMM_H

#include <cblas.h>
#include <stdint.h>

/* C (m, n) = alpha op(A) op(B) + beta C; the sizes fit an int, which the wrappers have checked. */
static inline void qy_gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int64_t m, int64_t n, int64_t k,
                           float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                           float beta, float *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, ta, tb, (blasint)m, (blasint)n, (blasint)k, alpha, a, (blasint)lda,
                b, (blasint)ldb, beta, c, (blasint)ldc);
}

#endif
