#include "kernels/activation.h"

#include "kernels/cuda/rows.cuh"

/* Rows that do not fit into shared memory lie in device memory, of so many blocks at most. */
enum { SPILL_BLOCKS = 32, PLAIN_SHARED = 32768 };

struct plan_t {
    const int32_t *special, *offsets, *items; /* special NULL: no map */
    const float *weights;
    int n_special;
};

template <typename T> struct args_t {
    T *out, *out_up;      /* y; or dx, dup */
    const T *dy, *x, *up; /* dy: backward */
    const float *w, *b;
    float *mean, *rstd; /* written forward, read backward */
    plan_t map, back;
    T *spill;
    int64_t m, d, pitch, apart; /* pitch: of a row; apart: most special places; both padded */
    float q_max, eps;
    qy_make_t make;
};

template <int TEAM> __device__ static inline void team_sync()
{
    if (TEAM == 32)
        __syncwarp();
    else
        __syncthreads();
}

/* What a mapped place holds is a sum: of one column too, which turns −0 into 0. */
template <typename T> __device__ static inline float summed(float v, const plan_t &p)
{
    return p.special ? 0.0f + to_f32(from_f32<T>(v)) : v;
}

template <typename T, int V, int TEAM, bool BACK, bool CENTERED>
__device__ static inline void make_norm(T *made, const args_t<T> &a, int64_t row, int lane)
{
    const T *x = a.x + row * a.d;
    float mu = 0.0f, r, v[V], w[V], b[V] = {};
    if (BACK) {
        mu = CENTERED ? a.mean[row] : 0.0f;
        r = a.rstd[row];
    } else {
        norm_stats<T, V, TEAM, CENTERED>(x, a.d, lane, a.eps, mu, r);
        if (lane == 0) {
            a.rstd[row] = r;
            if (CENTERED)
                a.mean[row] = mu;
        }
    }
    for (int64_t i = lane * V; i < a.d; i += TEAM * V) {
        load<V>(v, x + i);
        load<V>(w, a.w + i);
        if (CENTERED)
            load<V>(b, a.b + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = summed<T>(norm_value<T, CENTERED>(v[j], mu, r, w[j], b[j]), a.map);
        store<V>(made + i, v);
    }
}

template <typename T, int V, int TEAM>
__device__ static inline void make_product(T *made, const args_t<T> &a, int64_t row, int lane)
{
    float v[V], u[V];
    for (int64_t i = lane * V; i < a.d; i += TEAM * V) {
        load<V>(v, a.x + row * a.d + i);
        if (a.make == QY_MAKE_SILU_MUL)
            load<V>(u, a.up + row * a.d + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = summed<T>(a.make == QY_MAKE_SILU_MUL ? silu_mul(v[j], u[j]) : relu(v[j]), a.map);
        store<V>(made + i, v);
    }
}

/* Mixes a row's special places where they are, by way of apart, of which a thread reads back what
 * it wrote. All of row is there; it is again after a team_sync. */
template <typename T, int TEAM>
__device__ static inline void mix_row(T *row, T *apart, const plan_t &p, int lane)
{
    for (int k = lane; k < p.n_special; k += TEAM) {
        int32_t j = p.special[k];
        apart[k] = from_f32<T>(mix_column(row, p.items, p.weights, p.offsets[j], p.offsets[j + 1]));
    }
    team_sync<TEAM>();
    for (int k = lane; k < p.n_special; k += TEAM)
        row[p.special[k]] = apart[k];
}

/* Makes and maps a row: what the quantizer reads. */
template <typename T, int V, int TEAM, bool BACK>
__device__ static inline act_row_t make_row(T *made, T *apart, const args_t<T> &a, int64_t row,
                                            int lane)
{
    if (a.make == QY_MAKE_RMSNORM)
        make_norm<T, V, TEAM, BACK, false>(made, a, row, lane);
    else if (a.make == QY_MAKE_LAYERNORM)
        make_norm<T, V, TEAM, BACK, true>(made, a, row, lane);
    else
        make_product<T, V, TEAM>(made, a, row, lane);
    if (a.map.special) { /* else every thread reads what it wrote */
        team_sync<TEAM>();
        mix_row<T, TEAM>(made, apart, a.map, lane);
        team_sync<TEAM>();
    }
    return act_row_of<T, V, TEAM>(made, a.d, lane, a.q_max);
}

/* From the gradient g of what was made to the outputs; every thread reads what it needs alone. */
template <typename T, int V, int TEAM>
__device__ static inline void finish_row(const T *gradient, const args_t<T> &a, int64_t row,
                                         int lane)
{
    float g[V], v[V], u[V];
    for (int64_t i = lane * V; i < a.d; i += TEAM * V) {
        int64_t at = row * a.d + i;
        load<V>(g, gradient + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            g[j] = summed<T>(g[j], a.back);
        if (a.make == QY_MAKE_SILU_MUL) {
            load<V>(v, a.x + at);
            load<V>(u, a.up + at);
#pragma unroll
            for (int j = 0; j < V; j++)
                silu_mul_back(v[j], u[j], g[j]);
            store<V>(a.out + at, v);
            store<V>(a.out_up + at, u);
            continue;
        }
        if (a.make == QY_MAKE_RELU) {
            load<V>(v, a.x + at);
#pragma unroll
            for (int j = 0; j < V; j++)
                g[j] = v[j] > 0.0f ? g[j] : 0.0f;
        }
        store<V>(a.out + at, g);
    }
}

template <typename T, int V, int TEAM>
__device__ static inline void backward_row(T *made, T *apart, const args_t<T> &a, int64_t row,
                                           int lane)
{
    act_row_t quantizer = make_row<T, V, TEAM, true>(made, apart, a, row, lane);
    act_gradient<T, V, TEAM>(made, a.dy + row * a.d, made, a.d, lane, quantizer);
    if (a.back.special) {
        team_sync<TEAM>();
        mix_row<T, TEAM>(made, apart, a.back, lane);
        team_sync<TEAM>();
    }
    finish_row<T, V, TEAM>(made, a, row, lane);
}

/*
 * A team owns a row at a time and keeps it, and its special places apart, in shared memory (SPILL:
 * in device memory). Between rows a thread reads only what it wrote, so that it may go ahead.
 */
template <typename T, int V, int TEAM, bool BACK, bool SPILL>
static __global__ void __launch_bounds__(TEAM *QY_TEAMS<TEAM>, TEAM == QY_WIDE_TEAM ? 2 : 4)
    activation_kernel(args_t<T> a)
{
    extern __shared__ uint4 shared[];
    int team = threadIdx.x / TEAM, lane = threadIdx.x % TEAM;
    T *made = SPILL ? a.spill + blockIdx.x * (a.pitch + a.apart)
                    : reinterpret_cast<T *>(shared) + team * (a.pitch + a.apart);
    T *apart = made + a.pitch;
    for (int64_t row = (int64_t)blockIdx.x * QY_TEAMS<TEAM> + team; row < a.m;
         row += (int64_t)gridDim.x * QY_TEAMS<TEAM>) {
        if (BACK) {
            backward_row<T, V, TEAM>(made, apart, a, row, lane);
        } else {
            act_row_t quantizer = make_row<T, V, TEAM, false>(made, apart, a, row, lane);
            act_store<T, V, TEAM>(a.out + row * a.d, made, a.d, lane, quantizer);
        }
    }
}

/* Bytes of shared memory that a block may have. */
static qy_status_t shared_limit(const qy_device_t *dev, size_t *bytes, qy_error_t *err)
{
    int limit;
    QY_CUDA(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                   qy_impl(dev)->index));
    *bytes = (size_t)limit - 1024; /* of which the sums' parts take some */
    return QY_OK;
}

template <typename T, int V, int TEAM, bool BACK>
static qy_status_t launch(const qy_device_t *dev, args_t<T> a, qy_error_t *err)
{
    size_t bytes = (size_t)(a.pitch + a.apart) * sizeof(T);
    size_t shared = bytes * QY_TEAMS<TEAM>, limit;
    QY_TRY(shared_limit(dev, &limit, err));
    if (TEAM == 32 || shared <= limit) {
        if (shared > PLAIN_SHARED)
            QY_CUDA(cudaFuncSetAttribute(activation_kernel<T, V, TEAM, BACK, false>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
        QY_LAUNCH(
            activation_kernel<T, V, TEAM, BACK, false>
            <<<qy_team_blocks<TEAM>(a.m), TEAM * QY_TEAMS<TEAM>, shared, qy_stream(dev)>>>(a));
        return QY_OK;
    }
    if constexpr (TEAM != 32) {
        /* as many blocks as the scratch memory that every plan counts has room for */
        int64_t blocks = (int64_t)(QY_CUDA_SCRATCH / bytes), m = a.m;
        void *spill;
        if (blocks > SPILL_BLOCKS)
            blocks = SPILL_BLOCKS;
        if (blocks < 1)
            blocks = 1;
        QY_TRY(qy_cuda_scratch(dev, &spill, (size_t)blocks * bytes, err));
        a.spill = static_cast<T *>(spill);
        QY_LAUNCH(activation_kernel<T, V, TEAM, BACK, true>
                  <<<(unsigned)(blocks < m ? blocks : m), TEAM, 0, qy_stream(dev)>>>(a));
    }
    return QY_OK;
}

template <typename T, bool BACK>
static qy_status_t run(const qy_device_t *dev, args_t<T> a, qy_error_t *err)
{
    const int V = 16 / sizeof(T);
    bool packs =
        a.d % V == 0 && qy_aligned(a.out, a.out_up, a.dy, a.x, a.up) && qy_aligned(a.w, a.b);
    a.pitch = qy_blocks(a.d, V) * V;
    a.apart = qy_blocks(a.map.n_special, V) * V;
    if (BACK && a.back.n_special > a.map.n_special)
        a.apart = qy_blocks(a.back.n_special, V) * V;
    QY_WITH_TEAM(a.d, TEAM, {
        if (packs)
            return launch<T, V, TEAM, BACK>(dev, a, err);
        return launch<T, 1, TEAM, BACK>(dev, a, err);
    });
}

static plan_t plan_of(const qy_column_plan_t *p)
{
    if (!p)
        return {};
    return {qy_data<int32_t>(p->special), qy_data<int32_t>(p->offsets), qy_data<int32_t>(p->items),
            qy_data<float>(p->weights), (int)p->n_special};
}

template <typename T>
static args_t<T> args_of(const qy_activation_t *a, const qy_tensor_t *mean, const qy_tensor_t *rstd)
{
    args_t<T> out = {};
    out.x = qy_data<T>(a->x);
    out.up = a->make == QY_MAKE_SILU_MUL ? qy_data<T>(a->up) : nullptr;
    out.w = qy_data<float>(a->w);
    out.b = qy_data<float>(a->b);
    out.mean = qy_data<float>(mean);
    out.rstd = qy_data<float>(rstd);
    out.map = plan_of(a->map);
    out.back = plan_of(a->back);
    out.m = qy_tensor_rows(a->x);
    out.d = qy_tensor_cols(a->x);
    out.q_max = qy_quant_max(a->bits);
    out.eps = a->eps;
    out.make = a->make;
    return out;
}

qy_status_t qy_cuda_activation_fwd(const qy_device_t *dev, qy_tensor_t *y, qy_tensor_t *mean,
                                   qy_tensor_t *rstd, const qy_activation_t *a, qy_error_t *err)
{
    QY_WITH_TYPE(y->dtype, T, {
        args_t<T> args = args_of<T>(a, mean, rstd);
        args.out = qy_data<T>(y);
        return run<T, false>(dev, args, err);
    });
}

qy_status_t qy_cuda_activation_bwd(const qy_device_t *dev, qy_tensor_t *dx, qy_tensor_t *dup,
                                   const qy_tensor_t *dy, const qy_tensor_t *mean,
                                   const qy_tensor_t *rstd, const qy_activation_t *a,
                                   qy_error_t *err)
{
    QY_WITH_TYPE(dy->dtype, T, {
        args_t<T> args = args_of<T>(a, mean, rstd);
        args.out = qy_data<T>(dx);
        args.out_up = qy_data<T>(dup);
        args.dy = qy_data<T>(dy);
        return run<T, true>(dev, args, err);
    });
}
