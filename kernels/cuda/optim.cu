#include "kernels/optim.h"

#include "kernels/adam_rule.h"
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/group.cuh"
#include "kernels/cuda/reduce.cuh"

enum { THREADS = 256 };

/* --- nonfinite, step_begin, adamw ------------------------------------------------------------ */

/* Sets the flag where a number has all bits of the exponent set: infinity or NaN. */
template <typename Bits> struct nonfinite_t {
    float *flag;
    const Bits *x;
    Bits exponent;
    template <int V> __device__ void run(int64_t i) const
    {
        const pack_t<Bits, V> pack = *reinterpret_cast<const pack_t<Bits, V> *>(x + i);
        bool found = false;
#pragma unroll
        for (int j = 0; j < V; j++)
            found |= (pack.at[j] & exponent) == exponent;
        if (found)
            *flag = 1.0f; /* whoever writes, writes the same */
    }
};

template <typename Bits>
static qy_status_t find_nonfinite(const qy_device_t *dev, float *flag, const qy_tensor_t *x,
                                  Bits exponent, qy_error_t *err)
{
    const nonfinite_t<Bits> body = {flag, qy_data<Bits>(x), exponent};
    return qy_each<16 / sizeof(Bits)>(dev, qy_tensor_count(x), qy_aligned(x->data), body, err);
}

qy_status_t qy_cuda_nonfinite(const qy_device_t *dev, qy_tensor_t *flag, const qy_tensor_t *x,
                              int accumulate, qy_error_t *err)
{
    float *to = qy_data<float>(flag);
    if (!accumulate)
        QY_CUDA(cudaMemsetAsync(to, 0, sizeof *to, qy_stream(dev)));
    if (x->dtype == QY_F32)
        return find_nonfinite<uint32_t>(dev, to, x, 0x7f800000u, err);
    return find_nonfinite<uint16_t>(dev, to, x, x->dtype == QY_F16 ? 0x7c00u : 0x7f80u, err);
}

/* One thread: the step's numbers, in f64. */
static __global__ void step_begin_kernel(float *h, double *s, const float *flag)
{
    bool skip = flag && *flag != 0.0f, dynamic = s[QY_STATE_DYNAMIC] != 0.0;
    h[QY_HYPER_INV_SCALE] = (float)(1.0 / s[QY_STATE_SCALE]);
    if (skip) {
        s[QY_STATE_SKIPPED] += 1.0;
        s[QY_STATE_GOOD] = 0.0;
        if (dynamic)
            s[QY_STATE_SCALE] *= 0.5;
    } else {
        s[QY_STATE_T] += 1.0;
        s[QY_STATE_GOOD] += 1.0;
        if (dynamic && s[QY_STATE_GOOD] >= QY_LOSS_SCALE_GOOD) {
            s[QY_STATE_SCALE] *= 2.0;
            s[QY_STATE_GOOD] = 0.0;
        }
    }
    h[QY_HYPER_SKIP] = skip ? 1.0f : 0.0f;
    h[QY_HYPER_BIAS1] = (float)(1.0 - pow(QY_ADAM_BETA1, s[QY_STATE_T]));
    h[QY_HYPER_BIAS2] = (float)sqrt(1.0 - pow(QY_ADAM_BETA2, s[QY_STATE_T]));
    h[QY_HYPER_SCALE] = (float)s[QY_STATE_SCALE];
}

qy_status_t qy_cuda_step_begin(const qy_device_t *dev, qy_tensor_t *hyper, qy_tensor_t *state,
                               const qy_tensor_t *flag, qy_error_t *err)
{
    QY_LAUNCH(step_begin_kernel<<<1, 1, 0, qy_stream(dev)>>>(
        qy_data<float>(hyper), qy_data<double>(state), qy_data<float>(flag)));
    return QY_OK;
}

struct adamw_args_t {
    float *p, *m, *v;
    const float *g, *unit, *hyper;
    int64_t per_unit;
    int lr_index;
    float floor;
};

/* IN_UNITS: whether there is a unit, which ε depends on. */
template <bool IN_UNITS> struct adamw_t : adamw_args_t {
    template <int V> __device__ void run(int64_t i) const
    {
        if (hyper[QY_HYPER_SKIP] != 0.0f)
            return;
        float scale = hyper[QY_HYPER_INV_SCALE], bias2 = hyper[QY_HYPER_BIAS2];
        float step = hyper[lr_index] / hyper[QY_HYPER_BIAS1];
        float pi[V], mi[V], vi[V], gi[V];
        load<V>(pi, p + i);
        load<V>(mi, m + i);
        load<V>(vi, v + i);
        load<V>(gi, g + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float u = unit ? unit[(i + j) / per_unit] : 1.0f;
            qy_adam_rule(pi + j, mi + j, vi + j, gi[j] * scale * u, u * step, bias2,
                         qy_adam_eps(IN_UNITS), floor);
        }
        store<V>(p + i, pi);
        store<V>(m + i, mi);
        store<V>(v + i, vi);
    }
};

qy_status_t qy_cuda_adamw(const qy_device_t *dev, qy_tensor_t *p, qy_tensor_t *m, qy_tensor_t *v,
                          const qy_tensor_t *g, const qy_tensor_t *unit, const qy_tensor_t *hyper,
                          int lr_index, float floor, qy_error_t *err)
{
    int64_t n = qy_tensor_count(p);
    bool aligned = qy_aligned(p->data, m->data, v->data, g->data);
    const adamw_args_t args = {qy_data<float>(p),
                               qy_data<float>(m),
                               qy_data<float>(v),
                               qy_data<float>(g),
                               qy_data<float>(unit),
                               qy_data<float>(hyper),
                               unit ? n / qy_tensor_count(unit) : n,
                               lr_index,
                               floor};
    return unit ? qy_each<4>(dev, n, aligned, adamw_t<true>{args}, err)
                : qy_each<4>(dev, n, aligned, adamw_t<false>{args}, err);
}

/* --- quant_update ---------------------------------------------------------------------------- */

/* Arguments of a fused update: dw_hat of type G, w_hat of type T. */
template <typename G, typename T> struct update_t {
    T *w_hat;
    float *w, *w_m, *w_v, *s, *s_m, *s_v, *z, *z_m, *z_v;
    const G *dw_hat;
    const float *unit, *hyper;
    int64_t n_groups, n; /* all groups; elements of one */
    float q_max;
    int train_zero;
};

/* The step's numbers, read once by each thread. */
template <bool IN_UNITS> struct rates_t {
    float scale, w_step, q_step, bias2;
    bool skip;
    __device__ explicit rates_t(const float *h)
        : scale(h[QY_HYPER_INV_SCALE]), w_step(h[QY_HYPER_LR_WEIGHT] / h[QY_HYPER_BIAS1]),
          q_step(h[QY_HYPER_LR_QUANT] / h[QY_HYPER_BIAS1]), bias2(h[QY_HYPER_BIAS2]),
          skip(h[QY_HYPER_SKIP] != 0.0f)
    {
    }
    static __device__ float eps()
    {
        return qy_adam_eps(IN_UNITS);
    }
};

/* Step and zero point of one group with their moments, in registers. */
struct group_t {
    float s, s_m, s_v, z, z_m, z_v, unit;

    template <typename G, typename T>
    __device__ group_t(const update_t<G, T> &u, int64_t j)
        : s(u.s[j]), s_m(u.s_m[j]), s_v(u.s_v[j]), z(u.z[j]), z_m(u.train_zero ? u.z_m[j] : 0.0f),
          z_v(u.train_zero ? u.z_v[j] : 0.0f), unit(u.unit ? u.unit[j] : 1.0f)
    {
    }

    /* outside: Σ g (1 − M); s_used: the step that the forward pass saw. */
    template <bool IN_UNITS>
    __device__ void update(float ds, float outside, float s_used, const rates_t<IN_UNITS> &r,
                           int train_zero)
    {
        qy_adam_rule(&s, &s_m, &s_v, ds * r.scale * unit, unit * r.q_step, r.bias2, r.eps(),
                     -INFINITY);
        if (train_zero)
            qy_adam_rule(&z, &z_m, &z_v, -s_used * outside * r.scale, r.q_step, r.bias2, r.eps(),
                         -INFINITY);
    }

    template <typename G, typename T>
    __device__ void write(const update_t<G, T> &u, int64_t j) const
    {
        u.s[j] = s;
        u.s_m[j] = s_m;
        u.s_v[j] = s_v;
        if (!u.train_zero)
            return;
        u.z[j] = z;
        u.z_m[j] = z_m;
        u.z_v[j] = z_v;
    }
};

/*
 * 16 / W threads own a group of 16 K elements and hold it in registers from the first load to the
 * new w_hat, so that every number passes memory once. A thread has W neighbours of every 16
 * elements: W of the partial sums that the CPU keeps.
 */
template <bool IN_UNITS, int K, int W, typename G, typename T>
static __global__ void __launch_bounds__(THREADS) update_kernel(update_t<G, T> u)
{
    const int TEAM = QY_LANES / W;
    const rates_t<IN_UNITS> rates(u.hyper);
    if (rates.skip)
        return;
    int64_t thread = blockIdx.x * (int64_t)THREADS + threadIdx.x, group = thread / TEAM;
    int lane = threadIdx.x % TEAM;
    bool mine = group < u.n_groups; /* the others only keep the warp together */
    int64_t j = mine ? group : 0, at = j * QY_LANES * K + lane * W;
    float w[K][W], m[K][W], v[K][W], g[K][W], ds[W] = {}, outside[W] = {};
#pragma unroll
    for (int k = 0; k < K; k++) {
        load<W>(w[k], u.w + at + QY_LANES * k);
        load<W>(m[k], u.w_m + at + QY_LANES * k);
        load<W>(v[k], u.w_v + at + QY_LANES * k);
        load<W>(g[k], u.dw_hat + at + QY_LANES * k);
    }
    group_t q(u, j);
    float s = qy_step_used(q.s), z = qy_zero_used(q.z, u.q_max), w_rate = q.unit * rates.w_step;
#pragma unroll
    for (int k = 0; k < K; k++) {
#pragma unroll
        for (int i = 0; i < W; i++) {
            group_gradient_t d = group_bwd(g[k][i], w[k][i], s, z, u.q_max);
            ds[i] += d.ds;
            outside[i] += d.outside;
            qy_adam_rule(&w[k][i], &m[k][i], &v[k][i], d.dw * rates.scale * q.unit, w_rate,
                         rates.bias2, rates.eps(), -INFINITY);
        }
        if (mine) {
            store<W>(u.w + at + QY_LANES * k, w[k]);
            store<W>(u.w_m + at + QY_LANES * k, m[k]);
            store<W>(u.w_v + at + QY_LANES * k, v[k]);
        }
    }
    q.update(partials_sum<W>(ds), partials_sum<W>(outside), s, rates, u.train_zero);
    s = qy_step_used(q.s);
    z = qy_zero_used(q.z, u.q_max);
    if (!mine)
        return;
#pragma unroll
    for (int k = 0; k < K; k++) {
#pragma unroll
        for (int i = 0; i < W; i++)
            w[k][i] = group_fwd(w[k][i], s, z, u.q_max);
        store<W>(u.w_hat + at + QY_LANES * k, w[k]);
    }
    if (lane == 0)
        q.write(u, group);
}

/* 16 threads own a group of any size: gradients and w first, then w_hat from the new w. */
template <bool IN_UNITS, typename G, typename T>
static __global__ void __launch_bounds__(THREADS) update_any_kernel(update_t<G, T> u)
{
    const rates_t<IN_UNITS> rates(u.hyper);
    if (rates.skip)
        return;
    int64_t thread = blockIdx.x * (int64_t)THREADS + threadIdx.x, group = thread / QY_LANES;
    int lane = threadIdx.x % QY_LANES;
    bool mine = group < u.n_groups; /* the others only keep the warp together */
    int64_t j = mine ? group : 0, first = j * u.n + lane, end = mine ? (j + 1) * u.n : 0;
    group_t q(u, j);
    float s = qy_step_used(q.s), z = qy_zero_used(q.z, u.q_max), ds = 0.0f, outside = 0.0f;
    for (int64_t i = first; i < end; i += QY_LANES) {
        group_gradient_t d = group_bwd(to_f32(u.dw_hat[i]), u.w[i], s, z, u.q_max);
        ds += d.ds;
        outside += d.outside;
        qy_adam_rule(u.w + i, u.w_m + i, u.w_v + i, d.dw * rates.scale * q.unit,
                     q.unit * rates.w_step, rates.bias2, rates.eps(), -INFINITY);
    }
    q.update(lanes_sum_as_cpu(ds), lanes_sum_as_cpu(outside), s, rates, u.train_zero);
    s = qy_step_used(q.s);
    z = qy_zero_used(q.z, u.q_max);
    for (int64_t i = first; i < end; i += QY_LANES)
        u.w_hat[i] = from_f32<T>(group_fwd(u.w[i], s, z, u.q_max));
    __syncwarp(); /* everyone has read the old step */
    if (mine && lane == 0)
        q.write(u, group);
}

template <bool IN_UNITS, typename G, typename T>
static qy_status_t launch_update(const qy_device_t *dev, const update_t<G, T> &u, qy_error_t *err)
{
    cudaStream_t stream = qy_stream(dev);
    bool aligned = qy_aligned(u.w, u.w_m, u.w_v, u.dw_hat, u.w_hat);
#define LAUNCH(K, W)                                                                               \
    QY_LAUNCH(update_kernel<IN_UNITS, K, W>                                                        \
              <<<(unsigned)qy_blocks(u.n_groups, THREADS *W / QY_LANES), THREADS, 0, stream>>>(u))
    if (aligned && u.n == 32)
        LAUNCH(2, 2);
    else if (aligned && u.n == 64)
        LAUNCH(4, 2);
    else if (aligned && u.n == 128)
        LAUNCH(8, 2);
    else
        QY_LAUNCH(update_any_kernel<IN_UNITS>
                  <<<(unsigned)qy_blocks(u.n_groups, THREADS / QY_LANES), THREADS, 0, stream>>>(u));
#undef LAUNCH
    return QY_OK;
}

qy_status_t qy_cuda_quant_update(const qy_device_t *dev, qy_tensor_t *w_hat, qy_quant_vars_t *vars,
                                 const qy_tensor_t *dw_hat, const qy_tensor_t *unit,
                                 const qy_tensor_t *hyper, int bits, int train_zero,
                                 qy_error_t *err)
{
    int64_t n_groups = qy_tensor_count(&vars->s), n = qy_tensor_count(&vars->w) / n_groups;
    QY_WITH_TYPE(w_hat->dtype, T, {
        QY_WITH_F32_OR(T, dw_hat->dtype, G, {
            const update_t<G, T> u = {qy_data<T>(w_hat),
                                      qy_data<float>(&vars->w),
                                      qy_data<float>(&vars->w_m),
                                      qy_data<float>(&vars->w_v),
                                      qy_data<float>(&vars->s),
                                      qy_data<float>(&vars->s_m),
                                      qy_data<float>(&vars->s_v),
                                      qy_data<float>(&vars->z),
                                      qy_data<float>(&vars->z_m),
                                      qy_data<float>(&vars->z_v),
                                      qy_data<G>(dw_hat),
                                      qy_data<float>(unit),
                                      qy_data<float>(hyper),
                                      n_groups,
                                      n,
                                      qy_quant_max(bits),
                                      train_zero};
            return unit ? launch_update<true>(dev, u, err) : launch_update<false>(dev, u, err);
        });
    });
}
