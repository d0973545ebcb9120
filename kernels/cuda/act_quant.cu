#include "kernels/act_quant.h"

#include "kernels/cuda/rows.cuh"

template <typename T> struct rows_t {
    T *out;           /* y, or dx */
    const T *dy, *x;  /* dy: backward */
    int64_t m, d;
    float q_max;
};

/* A team owns a row: range, then what is written; backward the sums between them. */
template <typename T, int V, int TEAM, bool BACK>
static __global__ void __launch_bounds__(TEAM *QY_TEAMS<TEAM>) quantize_kernel(rows_t<T> a)
{
    int64_t row = blockIdx.x * (int64_t)QY_TEAMS<TEAM> + threadIdx.x / TEAM;
    int lane = threadIdx.x % TEAM;
    if (row >= a.m)
        return;
    const T *x = a.x + row * a.d;
    act_row_t quantizer = act_row_of<T, V, TEAM>(x, a.d, lane, a.q_max);
    if (BACK)
        act_gradient<T, V, TEAM>(a.out + row * a.d, a.dy + row * a.d, x, a.d, lane, quantizer);
    else
        act_store<T, V, TEAM>(a.out + row * a.d, x, a.d, lane, quantizer);
}

template <typename T, bool BACK>
static qy_status_t run(cudaStream_t stream, const rows_t<T> &a, qy_error_t *err)
{
    const int V = 16 / sizeof(T);
    bool packs = a.d % V == 0 && qy_aligned(a.out, a.x, a.dy);
    QY_WITH_TEAM(a.d, TEAM, {
        if (packs)
            QY_LAUNCH(quantize_kernel<T, V, TEAM, BACK>
                      <<<qy_team_blocks<TEAM>(a.m), TEAM * QY_TEAMS<TEAM>, 0, stream>>>(a));
        else
            QY_LAUNCH(quantize_kernel<T, 1, TEAM, BACK>
                      <<<qy_team_blocks<TEAM>(a.m), TEAM * QY_TEAMS<TEAM>, 0, stream>>>(a));
    });
    return QY_OK;
}

qy_status_t qy_cuda_act_quant_fwd(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                                  int bits, qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const rows_t<T> a = {qy_data<T>(y),     nullptr,           qy_data<T>(x),
                             qy_tensor_rows(x), qy_tensor_cols(x), qy_quant_max(bits)};
        return run<T, false>(qy_stream(dev), a, err);
    });
}

qy_status_t qy_cuda_act_quant_bwd(const qy_device_t *dev, qy_tensor_t *dx, const qy_tensor_t *dy,
                                  const qy_tensor_t *x, int bits, qy_error_t *err)
{
    QY_WITH_TYPE(x->dtype, T, {
        const rows_t<T> a = {qy_data<T>(dx),    qy_data<T>(dy),    qy_data<T>(x),
                             qy_tensor_rows(x), qy_tensor_cols(x), qy_quant_max(bits)};
        return run<T, true>(qy_stream(dev), a, err);
    });
}
