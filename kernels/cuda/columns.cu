#include "kernels/columns.h"

#include "kernels/cuda/rows.cuh"

enum { MIX_THREADS = 128, MIX_ROWS = 16, RANGE_COLS = 32, RANGE_ROWS = 16 };

/* A thread owns a column of MIX_ROWS rows: it reads the plan once. */
template <typename T>
static __global__ void __launch_bounds__(MIX_THREADS)
    mix_kernel(T *y, const T *x, const int32_t *offsets, const int32_t *items,
               const float *weights, int64_t m, int64_t c, int64_t cols)
{
    int64_t j = (int64_t)blockIdx.x * MIX_THREADS + threadIdx.x, row = blockIdx.y * MIX_ROWS;
    if (j >= cols)
        return;
    int32_t first = offsets[j], end = offsets[j + 1];
    for (int64_t last = min(row + MIX_ROWS, m); row < last; row++)
        y[row * cols + j] = from_f32<T>(mix_column(x + row * c, items, weights, first, end));
}

qy_status_t qy_cuda_column_mix(const qy_device_t *dev, qy_tensor_t *y, const qy_tensor_t *x,
                               const qy_tensor_t *offsets, const qy_tensor_t *items,
                               const qy_tensor_t *weights, qy_error_t *err)
{
    int64_t m = qy_tensor_rows(x), c = qy_tensor_cols(x), cols = qy_tensor_cols(y);
    dim3 grid((unsigned)qy_blocks(cols, MIX_THREADS), (unsigned)qy_blocks(m, MIX_ROWS));
    if (qy_blocks(m, MIX_ROWS) > 65535)
        return qy_fail(err, QY_ERR_SHAPE, "column_mix: %lld rows are too many", (long long)m);
    QY_WITH_TYPE(x->dtype, T, {
        QY_LAUNCH(mix_kernel<T><<<grid, MIX_THREADS, 0, qy_stream(dev)>>>(
            qy_data<T>(y), qy_data<T>(x), qy_data<int32_t>(offsets), qy_data<int32_t>(items),
            qy_data<float>(weights), m, c, cols));
        return QY_OK;
    });
}

/* A block owns RANGE_COLS columns; RANGE_ROWS of its threads share one. */
template <typename T>
static __global__ void __launch_bounds__(RANGE_COLS *RANGE_ROWS)
    range_kernel(float *lo, float *hi, const T *x, int64_t m, int64_t c, int accumulate)
{
    __shared__ float least[RANGE_ROWS][RANGE_COLS], most[RANGE_ROWS][RANGE_COLS];
    int col = threadIdx.x % RANGE_COLS, part = threadIdx.x / RANGE_COLS;
    int64_t at = (int64_t)blockIdx.x * RANGE_COLS + col;
    float l = INFINITY, h = -INFINITY;
    for (int64_t row = part; row < m && at < c; row += RANGE_ROWS) {
        float v = to_f32(x[row * c + at]);
        l = v < l ? v : l;
        h = v > h ? v : h;
    }
    least[part][col] = l;
    most[part][col] = h;
    __syncthreads();
    if (part != 0 || at >= c)
        return;
    for (int i = 1; i < RANGE_ROWS; i++) {
        l = least[i][col] < l ? least[i][col] : l;
        h = most[i][col] > h ? most[i][col] : h;
    }
    lo[at] = accumulate && lo[at] < l ? lo[at] : l;
    hi[at] = accumulate && hi[at] > h ? hi[at] : h;
}

qy_status_t qy_cuda_column_range(const qy_device_t *dev, qy_tensor_t *lo, qy_tensor_t *hi,
                                 const qy_tensor_t *x, int accumulate, qy_error_t *err)
{
    int64_t m = qy_tensor_rows(x), c = qy_tensor_cols(x);
    unsigned blocks = (unsigned)qy_blocks(c, RANGE_COLS);
    QY_WITH_TYPE(x->dtype, T, {
        QY_LAUNCH(range_kernel<T><<<blocks, RANGE_COLS * RANGE_ROWS, 0, qy_stream(dev)>>>(
            qy_data<float>(lo), qy_data<float>(hi), qy_data<T>(x), m, c, accumulate));
        return QY_OK;
    });
}
