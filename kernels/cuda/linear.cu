#include "kernels/linear.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"

/*
 * Products by cuBLASLt. Of the algorithms that its heuristic names for a shape, the first is taken:
 * a pure function of shape, types, alignment, GPU model and library version. Partial sums of split
 * products stay in f32 and are added in order.
 */

/* Everything the choice depends on; compared as bytes, so it is zeroed first. */
typedef struct {
    int64_t m, n, k; /* as in qy_cuda_product_t */
    qy_dtype_t in, out;
    int64_t lda, ldb, ldd;
    int transpose_a, transpose_b, bias, accumulate, alignment;
} shape_t;

struct product_t {
    shape_t key;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
};

struct qy_cuda_products {
    product_t *at;
    int n, capacity;
};

static void product_fini(product_t *p)
{
    if (p->operation)
        cublasLtMatmulDescDestroy(p->operation);
    cublasLtMatrixLayout_t layouts[] = {p->a, p->b, p->d};
    for (cublasLtMatrixLayout_t layout : layouts)
        if (layout)
            cublasLtMatrixLayoutDestroy(layout);
}

void qy_cuda_products_destroy(qy_cuda_products **products)
{
    if (!*products)
        return;
    for (int i = 0; i < (*products)->n; i++)
        product_fini(&(*products)->at[i]);
    free((*products)->at);
    free(*products);
    *products = NULL;
}

static cudaDataType_t cuda_type(qy_dtype_t dtype)
{
    return dtype == QY_F32 ? CUDA_R_32F : dtype == QY_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static qy_status_t describe(product_t *p, qy_error_t *err)
{
    const shape_t *k = &p->key;
    cublasOperation_t ta = k->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t tb = k->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cudaDataType_t in = cuda_type(k->in), out = cuda_type(k->out);
    QY_CUBLAS(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    QY_CUBLAS(
        cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta));
    QY_CUBLAS(
        cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb));
    if (k->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        QY_CUBLAS(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                 &epilogue, sizeof epilogue));
        QY_CUBLAS(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                                                 &in, sizeof in));
    }
    int64_t a_rows = ta ? k->k : k->m, a_cols = ta ? k->m : k->k;
    int64_t b_rows = tb ? k->n : k->k, b_cols = tb ? k->k : k->n;
    QY_CUBLAS(cublasLtMatrixLayoutCreate(&p->a, in, (uint64_t)a_rows, (uint64_t)a_cols, k->lda));
    QY_CUBLAS(cublasLtMatrixLayoutCreate(&p->b, in, (uint64_t)b_rows, (uint64_t)b_cols, k->ldb));
    QY_CUBLAS(cublasLtMatrixLayoutCreate(&p->d, out, (uint64_t)k->m, (uint64_t)k->n, k->ldd));
    return QY_OK;
}

static qy_status_t set_preference(cublasLtMatmulPreference_t preference, const shape_t *k,
                                  qy_error_t *err)
{
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    uint32_t alignment = (uint32_t)k->alignment, reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const size_t workspace = QY_CUDA_BLAS_WORKSPACE;
    QY_CUBLAS(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    QY_CUBLAS(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction));
    for (cublasLtMatmulPreferenceAttributes_t attribute : alignments)
        QY_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment,
                                                       sizeof alignment));
    return QY_OK;
}

static qy_status_t choose(const qy_device_t *dev, product_t *p, qy_error_t *err)
{
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t first;
    int n_found = 0;
    QY_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    qy_status_t status = set_preference(preference, &p->key, err);
    cublasStatus_t answer = CUBLAS_STATUS_SUCCESS;
    if (status == QY_OK)
        answer = cublasLtMatmulAlgoGetHeuristic(qy_impl(dev)->blas, p->operation, p->a, p->b, p->d,
                                                p->d, preference, 1, &first, &n_found);
    cublasLtMatmulPreferenceDestroy(preference);
    QY_TRY(status);
    if (answer != CUBLAS_STATUS_SUCCESS || n_found < 1)
        return qy_fail(err, QY_ERR_DEVICE,
                       "cuda: cublasLtMatmulAlgoGetHeuristic: %s for a product of %lld x %lld x "
                       "%lld in %s to %s",
                       cublasLtGetStatusString(answer), (long long)p->key.m, (long long)p->key.n,
                       (long long)p->key.k, qy_dtype_name(p->key.in), qy_dtype_name(p->key.out));
    p->algorithm = first.algo;
    return QY_OK;
}

/* Room for one more product; host memory only. */
static qy_status_t reserve(qy_cuda_impl *impl, qy_error_t *err)
{
    if (!impl->products)
        impl->products = static_cast<qy_cuda_products *>(calloc(1, sizeof *impl->products));
    qy_cuda_products *all = impl->products;
    if (all && all->n == all->capacity) {
        int capacity = all->capacity ? 2 * all->capacity : 64;
        void *grown = realloc(all->at, (size_t)capacity * sizeof *all->at);
        if (grown) {
            all->at = static_cast<product_t *>(grown);
            all->capacity = capacity;
        }
    }
    return all && all->n < all->capacity ? QY_OK
                                         : qy_fail(err, QY_ERR_MEMORY, "cuda: out of host memory");
}

/* The prepared product of a key; made at its first use. */
static qy_status_t find(const qy_device_t *dev, const shape_t *key, product_t **out,
                        qy_error_t *err)
{
    qy_cuda_impl *impl = qy_impl(dev);
    QY_TRY(reserve(impl, err));
    qy_cuda_products *all = impl->products;
    for (int i = 0; i < all->n; i++) {
        if (memcmp(&all->at[i].key, key, sizeof *key) == 0) {
            *out = &all->at[i];
            return QY_OK;
        }
    }
    product_t made = {};
    made.key = *key;
    qy_status_t status = describe(&made, err);
    if (status == QY_OK)
        status = choose(dev, &made, err);
    if (status != QY_OK) {
        product_fini(&made);
        return status;
    }
    all->at[all->n] = made;
    *out = &all->at[all->n++];
    return QY_OK;
}

/* The largest power of two, at most 16, that divides all addresses. */
static int alignment_of(const void *a, const void *b, const void *d, const void *bias)
{
    uintptr_t bits = (uintptr_t)a | (uintptr_t)b | (uintptr_t)d | (uintptr_t)bias | 16;
    return (int)(bits & -bits);
}

qy_status_t qy_cuda_multiply(const qy_device_t *dev, const qy_cuda_product_t *c, qy_error_t *err)
{
    const qy_cuda_impl *impl = qy_impl(dev);
    const void *bias = c->bias ? c->bias->data : NULL;
    const float beta = c->accumulate ? 1.0f : 0.0f;
    product_t *p;
    shape_t key;
    memset(&key, 0, sizeof key);
    key.m = c->m;
    key.n = c->n;
    key.k = c->k;
    key.lda = c->lda ? c->lda : c->transpose_a ? c->k : c->m;
    key.ldb = c->ldb ? c->ldb : c->transpose_b ? c->n : c->k;
    key.ldd = c->ldd ? c->ldd : c->m;
    key.in = c->a->dtype;
    key.out = c->d->dtype;
    key.transpose_a = c->transpose_a;
    key.transpose_b = c->transpose_b;
    key.bias = c->bias != NULL;
    key.accumulate = c->accumulate != 0;
    key.alignment = alignment_of(c->a->data, c->b->data, c->d->data, bias);
    QY_TRY(find(dev, &key, &p, err));
    if (bias)
        QY_CUBLAS(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                 &bias, sizeof bias));
    QY_CUBLAS(cublasLtMatmul(impl->blas, p->operation, &c->alpha, c->a->data, p->a, c->b->data,
                             p->b, &beta, c->d->data, p->d, c->d->data, p->d, &p->algorithm,
                             impl->blas_workspace, QY_CUDA_BLAS_WORKSPACE, impl->stream));
#ifdef QUARRY_SYNC_LAUNCHES
    QY_CUDA_NAMED("cublasLtMatmul", cudaDeviceSynchronize());
#endif
    return QY_OK;
}

/* y (M, O) f32 += bias of a half type: the one pair of types that no epilogue takes. */
template <typename T> struct add_bias_t {
    float *y;
    const T *bias;
    int64_t o;
    template <int V> __device__ void run(int64_t i) const
    {
        y[i] += to_f32(bias[i % o]);
    }
};

/* Row-major (M, O) is column-major (O, M): yᵀ = (w as (I, O))ᵀ (x as (I, M)). */
qy_status_t qy_cuda_linear_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                               const qy_tensor_t *w, const qy_tensor_t *bias, qy_error_t *err)
{
    bool apart = bias && y->dtype != bias->dtype;
    qy_cuda_product_t c = {};
    c.alpha = 1.0f;
    c.m = qy_tensor_rows(w);
    c.n = qy_tensor_rows(x);
    c.k = qy_tensor_cols(x);
    c.transpose_a = 1;
    c.a = w;
    c.b = x;
    c.bias = apart ? NULL : bias;
    c.d = y;
    QY_TRY(qy_cuda_multiply(dev, &c, err));
    if (!apart)
        return QY_OK;
    QY_WITH_TYPE(bias->dtype, T, {
        const add_bias_t<T> body = {qy_data<float>(y), qy_data<T>(bias), c.m};
        return qy_each<1>(dev, qy_tensor_count(y), true, body, err);
    });
}

/* dxᵀ (I, M) = (w as (I, O)) (dy as (O, M)) */
qy_status_t qy_cuda_linear_bwd_x(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                                 const qy_tensor_t *w, int accumulate, qy_error_t *err)
{
    qy_cuda_product_t c = {};
    c.alpha = 1.0f;
    c.m = qy_tensor_cols(w);
    c.n = qy_tensor_rows(dy);
    c.k = qy_tensor_cols(dy);
    c.accumulate = accumulate;
    c.a = w;
    c.b = dy;
    c.d = dx;
    return qy_cuda_multiply(dev, &c, err);
}

/* dwᵀ (I, O) = (x as (I, M)) (dy as (O, M))ᵀ */
qy_status_t qy_cuda_linear_bwd_w(const qy_device_t *dev, qy_tensor_t *dw, const qy_tensor_t *dy,
                                 const qy_tensor_t *x, qy_error_t *err)
{
    qy_cuda_product_t c = {};
    c.alpha = 1.0f;
    c.m = qy_tensor_cols(x);
    c.n = qy_tensor_cols(dy);
    c.k = qy_tensor_rows(dy);
    c.transpose_b = 1;
    c.a = x;
    c.b = dy;
    c.d = dw;
    return qy_cuda_multiply(dev, &c, err);
}
