#include "kernels/activation.h"

#include "kernels/cuda/rows.cuh"

/* Two rows that do not fit into shared memory lie in device memory, of so many blocks at most. */
enum { SPILL_BLOCKS = 32, PLAIN_SHARED = 32768, AT_ONCE = 8 };

struct plan_t {
    const int32_t *whole, *offsets, *items; /* whole NULL: no map */
    const float *weights;
};

template <typename T> struct args_t {
    T *out, *out_up;        /* y; or dx, dup */
    const T *dy, *x, *up;   /* dy: backward */
    const float *w, *b;
    float *mean, *rstd;     /* written forward, read backward */
    plan_t map, back;
    T *spill;
    int64_t m, d, pitch;
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
            v[j] = norm_value<T, CENTERED>(v[j], mu, r, w[j], b[j]);
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
            v[j] = a.make == QY_MAKE_SILU_MUL ? silu_mul(v[j], u[j]) : relu(v[j]);
        store<V>(made + i, v);
    }
}

/* to = from with its columns mixed; neighbouring threads own neighbouring places, first those that
 * hold a column as it is, AT_ONCE of them at a time, then the few others. The row's range goes into
 * lo and hi. All of from is there; to is there for the team after a team_sync. */
template <typename T, int TEAM>
__device__ static inline void mix_row(T *to, const T *from, const plan_t &p, int64_t d, int lane,
                                      float &lo, float &hi)
{
    for (int64_t first = lane; first < d; first += AT_ONCE * TEAM) {
        int32_t whole[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            whole[k] = first + k * TEAM < d ? p.whole[first + k * TEAM] : -1;
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (whole[k] >= 0) {
                T v = from_f32<T>(0.0f + to_f32(from[whole[k]])); /* as a sum: −0 becomes 0 */
                to[first + k * TEAM] = v;
                widen(lo, hi, to_f32(v));
            }
    }
    for (int64_t k = lane; k < d; k += TEAM) {
        int32_t j = p.whole[d + k];
        if (j < 0)
            break;
        T v = from_f32<T>(
            mix_column(from, p.items, p.weights, p.offsets[j], p.offsets[j + 1]));
        to[j] = v;
        widen(lo, hi, to_f32(v));
    }
}

/* Makes and maps a row: what the quantizer reads, in made or in mixed. */
template <typename T, int V, int TEAM, bool BACK>
__device__ static inline T *make_row(T *made, T *mixed, const args_t<T> &a, int64_t row, int lane,
                                     act_row_t &quantizer)
{
    if (a.make == QY_MAKE_RMSNORM)
        make_norm<T, V, TEAM, BACK, false>(made, a, row, lane);
    else if (a.make == QY_MAKE_LAYERNORM)
        make_norm<T, V, TEAM, BACK, true>(made, a, row, lane);
    else
        make_product<T, V, TEAM>(made, a, row, lane);
    if (!a.map.whole) { /* every thread reads what it wrote */
        quantizer = act_row_of<T, V, TEAM>(made, a.d, lane, a.q_max);
        return made;
    }
    float lo = INFINITY, hi = -INFINITY;
    team_sync<TEAM>();
    mix_row<T, TEAM>(mixed, made, a.map, a.d, lane, lo, hi);
    team_sync<TEAM>();
    quantizer = act_row<TEAM>(lo, hi, a.q_max);
    return mixed;
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
__device__ static inline void backward_row(T *made, T *mixed, const args_t<T> &a, int64_t row,
                                           int lane)
{
    act_row_t quantizer;
    T *read = make_row<T, V, TEAM, true>(made, mixed, a, row, lane, quantizer);
    act_gradient<T, V, TEAM>(read, a.dy + row * a.d, read, a.d, lane, quantizer);
    if (a.map.whole) {
        float lo = 0.0f, hi = 0.0f; /* of no use here */
        team_sync<TEAM>();
        mix_row<T, TEAM>(made, mixed, a.back, a.d, lane, lo, hi);
        team_sync<TEAM>();
    }
    finish_row<T, V, TEAM>(made, a, row, lane);
}

/*
 * A team owns a row at a time and keeps two copies of it, as made and as mapped, in shared memory
 * (SPILL: in device memory). A copy is next written after a team_sync that follows its last use.
 */
template <typename T, int V, int TEAM, bool BACK, bool SPILL>
static __global__ void __launch_bounds__(TEAM *QY_TEAMS<TEAM>, TEAM == QY_WIDE_TEAM ? 2 : 4)
    activation_kernel(args_t<T> a)
{
    extern __shared__ uint4 shared[];
    int team = threadIdx.x / TEAM, lane = threadIdx.x % TEAM;
    int64_t copies = a.map.whole ? 2 : 1;
    T *made = SPILL ? a.spill + blockIdx.x * copies * a.pitch
                    : reinterpret_cast<T *>(shared) + team * copies * a.pitch;
    T *mixed = made + a.pitch;
    for (int64_t row = (int64_t)blockIdx.x * QY_TEAMS<TEAM> + team; row < a.m;
         row += (int64_t)gridDim.x * QY_TEAMS<TEAM>) {
        if (BACK) {
            backward_row<T, V, TEAM>(made, mixed, a, row, lane);
        } else {
            act_row_t quantizer;
            const T *read = make_row<T, V, TEAM, false>(made, mixed, a, row, lane, quantizer);
            act_store<T, V, TEAM>(a.out + row * a.d, read, a.d, lane, quantizer);
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
    size_t copies = (size_t)a.pitch * sizeof(T) * (a.map.whole ? 2 : 1);
    size_t shared = copies * QY_TEAMS<TEAM>, limit;
    QY_TRY(shared_limit(dev, &limit, err));
    if (TEAM == 32 || shared <= limit) {
        if (shared > PLAIN_SHARED)
            QY_CUDA(cudaFuncSetAttribute(activation_kernel<T, V, TEAM, BACK, false>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
        QY_LAUNCH(activation_kernel<T, V, TEAM, BACK, false>
                  <<<qy_team_blocks<TEAM>(a.m), TEAM * QY_TEAMS<TEAM>, shared, qy_stream(dev)>>>(
                      a));
        return QY_OK;
    }
    if constexpr (TEAM != 32) {
        /* as many blocks as the scratch memory that every plan counts has room for */
        int64_t blocks = (int64_t)(QY_CUDA_SCRATCH / copies), m = a.m;
        void *spill;
        if (blocks > SPILL_BLOCKS)
            blocks = SPILL_BLOCKS;
        if (blocks < 1)
            blocks = 1;
        QY_TRY(qy_cuda_scratch(dev, &spill, (size_t)blocks * copies, err));
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
    bool packs = a.d % V == 0 && qy_aligned(a.out, a.out_up, a.dy, a.x, a.up) &&
                 qy_aligned(a.w, a.b);
    a.pitch = qy_blocks(a.d, V) * V;
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
    return {qy_data<int32_t>(p->whole), qy_data<int32_t>(p->offsets), qy_data<int32_t>(p->items),
            qy_data<float>(p->weights)};
}

template <typename T>
static args_t<T> args_of(const qy_activation_t *a, const qy_tensor_t *mean,
                         const qy_tensor_t *rstd)
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
