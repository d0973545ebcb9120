/* Which of OpenBLAS's kernels fit this CPU, where it does not know that itself. */
#ifndef QY_KERNELS_BLAS_CORE_H
#define QY_KERNELS_BLAS_CORE_H

/*
 * A value for OPENBLAS_CORETYPE, which is read when the library is loaded; NULL: it has chosen
 * well, or nothing better is known. For a CPU that is newer than itself it takes the kernels of the
 * oldest, which are several times slower.
 */
const char *qy_blas_core(void);

#endif
