/* The probe: does this rank's device work, in a process of its own? Memory, a product whose result
 * is exact in every compute type, and the way back. */
#include <stdlib.h>

#include "base/half.h"
#include "kernels/fill.h"
#include "kernels/linear.h"
#include "worker/run_task.h"

enum { ROWS = 64, COLS = 64, TENSORS = 4 };

static qy_status_t multiply(qy_device_t *dev, void *memory, float *out, qy_error_t *err)
{
    qy_arena_t arena;
    qy_tensor_t x, w, y;
    qy_arena_init(&arena, "probe", memory, TENSORS * ROWS * COLS * sizeof(float));
    QY_TRY(qy_arena_2d(&arena, &x, dev->compute, ROWS, COLS, err));
    QY_TRY(qy_arena_2d(&arena, &w, dev->compute, ROWS, COLS, err));
    QY_TRY(qy_arena_2d(&arena, &y, QY_F32, ROWS, ROWS, err));
    QY_TRY(qy_fill(dev, &x, 0.5f, err));
    QY_TRY(qy_fill(dev, &w, 2.0f, err));
    QY_TRY(qy_linear_fwd(dev, &y, &x, &w, NULL, err));
    return qy_device_download(dev, out, y.data, qy_tensor_bytes(&y), err);
}

qy_status_t qy_task_probe(const qy_work_t *work, const qy_task_t *task, qy_result_t *result,
                          qy_error_t *err)
{
    float out[ROWS * ROWS];
    void *memory = NULL;
    (void)task;
    (void)result;
    for (int i = 0; i < 2; i++) /* as often as a task looks in the midst of its work */
        QY_TRY(qy_hooks_check(work->hooks, err));
    QY_TRY(qy_device_alloc(work->dev, &memory, TENSORS * ROWS * COLS * sizeof(float), err));
    qy_status_t status = multiply(work->dev, memory, out, err);
    for (int i = 0; i < ROWS * ROWS && status == QY_OK; i++)
        if (!(out[i] == COLS))
            status = qy_fail(err, QY_ERR_DEVICE, "a product gave %g, not %d", (double)out[i], COLS);
    qy_device_free(work->dev, &memory);
    return status;
}
