#include "coordinator/stitch.h"

#include <stdio.h>
#include <unistd.h>

#include "jobs/finished.h"

/* One block's numbers in memory at a time, from its file into the model's. */
static qy_status_t copy_block(const qy_plan_t *plan, qy_h5_t *model, int64_t block, qy_error_t *err)
{
    char path[QY_PATH_MAX], prefix[32];
    qy_qblock_t q;
    QY_TRY(qy_store_block(path, plan, block, err));
    if (!qy_file_exists(path))
        return qy_fail(err, QY_ERR_DAMAGED, "%s: is missing, so the model has a gap at block %lld",
                       path, (long long)block);
    snprintf(prefix, sizeof prefix, "%03lld/", (long long)block);
    qy_status_t status = qy_finished_read(plan, block, &q, err);
    if (status != QY_OK)
        return status;
    status = qy_qblock_write(&q, &plan->arch, model, prefix, err);
    qy_qblock_free(&q);
    return status;
}

static qy_status_t write_model(const qy_plan_t *plan, qy_h5_t *model, qy_error_t *err)
{
    qy_quant_form_t form = qy_plan_form(plan);
    QY_TRY(qy_store_mark(model, plan, "model", err));
    QY_TRY(qy_h5_set_i64(model, "blocks", plan->arch.n_blocks, err));
    QY_TRY(qy_h5_set_i64(model, "bits", form.bits, err));
    QY_TRY(qy_h5_set_i64(model, "group_size", form.group, err));
    QY_TRY(qy_h5_set_i64(model, "symmetric", form.symmetric, err));
    for (int64_t b = 0; b < plan->arch.n_blocks; b++)
        QY_TRY(copy_block(plan, model, b, err));
    return QY_OK;
}

/* Those that outlived their blocks, because a kill came between a block's commit and their removal.
 */
static void drop_checkpoints(const qy_plan_t *plan)
{
    char path[QY_PATH_MAX];
    for (int64_t b = 0; b < plan->arch.n_blocks; b++)
        if (qy_store_partial(path, plan, b, NULL) == QY_OK)
            unlink(path);
}

qy_status_t qy_stitch(const qy_plan_t *plan, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_h5_t *model = NULL;
    QY_TRY(qy_store_model(path, plan, err));
    if (qy_store_has(path, plan, "model", NULL))
        return QY_OK;
    QY_TRY(qy_h5_create(&model, path, err));
    qy_status_t status = write_model(plan, model, err);
    if (status == QY_OK)
        status = qy_h5_commit(&model, err);
    qy_h5_close(&model);
    if (status == QY_OK)
        drop_checkpoints(plan);
    return status;
}
