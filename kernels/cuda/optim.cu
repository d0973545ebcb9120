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

struct adamw_t {
    float *p, *m, *v;
    const float *g, *unit, *hyper;
    int64_t per_unit;
    int lr_index;
    float floor;
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
            qy_adam_rule(pi + j, mi + j, vi + j, gi[j] * scale * u, u * step, bias2, floor);
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
    const adamw_t body = {qy_data<float>(p),
                          qy_data<float>(m),
                          qy_data<float>(v),
                          qy_data<float>(g),
                          qy_data<float>(unit),
                          qy_data<float>(hyper),
                          unit ? n / qy_tensor_count(unit) : n,
                          lr_index,
                          floor};
    return qy_each<4>(dev, n, qy_aligned(p->data, m->data, v->data, g->data), body, err);
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
struct rates_t {
    float scale, w_step, q_step, bias2;
    bool skip;
    __device__ explicit rates_t(const float *h)
        : scale(h[QY_HYPER_INV_SCALE]), w_step(h[QY_HYPER_LR_WEIGHT] / h[QY_HYPER_BIAS1]),
          q_step(h[QY_HYPER_LR_QUANT] / h[QY_HYPER_BIAS1]), bias2(h[QY_HYPER_BIAS2]),
          skip(h[QY_HYPER_SKIP] != 0.0f)
    {
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
    __device__ void update(float ds, float outside, float s_used, const rates_t &r, int train_zero)
    {
        qy_adam_rule(&s, &s_m, &s_v, ds * r.scale * unit, unit * r.q_step, r.bias2, -INFINITY);
        if (train_zero)
            qy_adam_rule(&z, &z_m, &z_v, -s_used * outside * r.scale, r.q_step, r.bias2, -INFINITY);
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
 * LANES threads own a group of 8 LANES elements: a thread holds 4 neighbours of its first half and
 * 4 of its second, from the first load to the new w_hat, so every number passes memory once.
 */
template <typename G, typename T, int LANES>
static __global__ void __launch_bounds__(THREADS) update_kernel(update_t<G, T> u)
{
    const rates_t rates(u.hyper);
    if (rates.skip)
        return;
    int64_t thread = blockIdx.x * (int64_t)THREADS + threadIdx.x, group = thread / LANES;
    int lane = threadIdx.x % LANES;
    bool mine = group < u.n_groups; /* the others only keep the warp together */
    int64_t j = mine ? group : 0, at[2] = {j * u.n + lane * 4, j * u.n + (LANES + lane) * 4};
    float w[2][4], m[2][4], v[2][4], g[2][4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        load<4>(w[h], u.w + at[h]);
        load<4>(m[h], u.w_m + at[h]);
        load<4>(v[h], u.w_v + at[h]);
        load<4>(g[h], u.dw_hat + at[h]);
    }
    group_t q(u, j);
    float s = qy_step_used(q.s), z = qy_zero_used(q.z, u.q_max), ds = 0.0f, outside = 0.0f;
    float w_rate = q.unit * rates.w_step;
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            group_gradient_t d = group_bwd(g[h][i], w[h][i], s, z, u.q_max);
            ds += d.ds;
            outside += d.outside;
            qy_adam_rule(&w[h][i], &m[h][i], &v[h][i], d.dw * rates.scale * q.unit, w_rate,
                         rates.bias2, -INFINITY);
        }
        if (mine) {
            store<4>(u.w + at[h], w[h]);
            store<4>(u.w_m + at[h], m[h]);
            store<4>(u.w_v + at[h], v[h]);
        }
    }
    ds = lanes_reduce<add_t, LANES>(ds);
    outside = lanes_reduce<add_t, LANES>(outside);
    q.update(ds, outside, s, rates, u.train_zero);
    s = qy_step_used(q.s);
    z = qy_zero_used(q.z, u.q_max);
    if (!mine)
        return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            w[h][i] = group_fwd(w[h][i], s, z, u.q_max);
        store<4>(u.w_hat + at[h], w[h]);
    }
    if (lane == 0)
        q.write(u, group);
}

/* A team owns a group of any size: gradients and w first, then w_hat from the new w. */
template <typename G, typename T, int TEAM>
static __global__ void __launch_bounds__(THREADS) update_any_kernel(update_t<G, T> u)
{
    const rates_t rates(u.hyper);
    int64_t group = blockIdx.x * (int64_t)(THREADS / TEAM) + threadIdx.x / TEAM;
    int lane = threadIdx.x % TEAM;
    if (rates.skip || group >= u.n_groups)
        return;
    group_t q(u, group);
    float s = qy_step_used(q.s), z = qy_zero_used(q.z, u.q_max), ds = 0.0f, outside = 0.0f;
    int64_t first = group * u.n, end = first + u.n;
    for (int64_t i = first + lane; i < end; i += TEAM) {
        group_gradient_t d = group_bwd(to_f32(u.dw_hat[i]), u.w[i], s, z, u.q_max);
        ds += d.ds;
        outside += d.outside;
        qy_adam_rule(u.w + i, u.w_m + i, u.w_v + i, d.dw * rates.scale * q.unit,
                     q.unit * rates.w_step, rates.bias2, -INFINITY);
    }
    ds = team_sum<TEAM>(ds);
    outside = team_sum<TEAM>(outside);
    q.update(ds, outside, s, rates, u.train_zero);
    s = qy_step_used(q.s);
    z = qy_zero_used(q.z, u.q_max);
    for (int64_t i = first + lane; i < end; i += TEAM)
        u.w_hat[i] = from_f32<T>(group_fwd(u.w[i], s, z, u.q_max));
    team_wait<TEAM>(); /* everyone has read the old step */
    if (lane == 0)
        q.write(u, group);
}

/* Groups up to this many elements are a warp's, longer ones a block's. */
static const int64_t WARP_GROUP = 1024;

template <typename G, typename T>
static qy_status_t launch_update(const qy_device_t *dev, const update_t<G, T> &u, qy_error_t *err)
{
    cudaStream_t stream = qy_stream(dev);
    bool aligned = qy_aligned(u.w, u.w_m, u.w_v, u.dw_hat, u.w_hat);
#define LAUNCH(LANES)                                                                              \
    QY_LAUNCH(update_kernel<G, T, LANES>                                                           \
              <<<(unsigned)qy_blocks(u.n_groups, THREADS / LANES), THREADS, 0, stream>>>(u))
    if (aligned && u.n == 32)
        LAUNCH(4);
    else if (aligned && u.n == 64)
        LAUNCH(8);
    else if (aligned && u.n == 128)
        LAUNCH(16);
    else if (aligned && u.n == 256)
        LAUNCH(32);
    else if (u.n <= WARP_GROUP)
        QY_LAUNCH(update_any_kernel<G, T, 32>
                  <<<(unsigned)qy_blocks(u.n_groups, THREADS / 32), THREADS, 0, stream>>>(u));
    else
        QY_LAUNCH(update_any_kernel<G, T, THREADS>
                  <<<(unsigned)u.n_groups, THREADS, 0, stream>>>(u));
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
            return launch_update(dev, u, err);
        });
    });
}
