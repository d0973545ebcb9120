#include "tests/bench/ops.h"

#include "base/half.h"

qy_tensor_t *ops_tensor(ops_work_t *w, qy_dtype_t dtype, int n_dims, const int64_t *shape,
                        float size)
{
    qy_tensor_t *t = &w->t[w->n];
    int half = dtype == QY_N_DTYPES && w->rounded != QY_F32;
    *t = bench_make(w->dev, dtype == QY_N_DTYPES ? w->dev->compute : dtype, n_dims, shape,
                    (uint64_t)w->n, size);
    if (half && t->dtype == QY_F32) { /* the CPU gets the numbers that the GPU rounded */
        float *x = t->data;
        for (int64_t i = 0; i < qy_tensor_count(t); i++)
            x[i] = w->rounded == QY_F16 ? qy_round_f16(x[i]) : qy_bf16_to_f32(qy_f32_to_bf16(x[i]));
    }
    w->n++;
    return t;
}

qy_tensor_t *ops_compute(ops_work_t *w, int64_t rows, int64_t cols, float size)
{
    return ops_tensor(w, QY_N_DTYPES, 2, (int64_t[]){rows, cols}, size);
}

qy_tensor_t *ops_f32(ops_work_t *w, int64_t rows, int64_t cols, float size)
{
    return ops_tensor(w, QY_F32, 2, (int64_t[]){rows, cols}, size);
}

double ops_bytes(const ops_work_t *w, int first, int n)
{
    double sum = 0;
    for (int i = first; i < first + n; i++)
        sum += (double)qy_tensor_bytes(&w->t[i]);
    return sum;
}

void ops_cost(ops_work_t *w, int n_outputs, double flops, double bytes)
{
    w->n_outputs = n_outputs;
    w->flops = flops;
    w->bytes = bytes > 0 ? bytes : ops_bytes(w, 0, w->n);
}

void ops_drop(ops_work_t *w)
{
    for (int i = 0; i < w->n; i++)
        bench_free(w->dev, &w->t[i]);
    w->n = 0;
}
