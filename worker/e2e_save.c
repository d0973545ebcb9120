/* Saved steps of a stage of E2E-QP: NAME/scales, NAME/scales_m, NAME/scales_v, f32 (O, G), in one
 * file per block. */
#include <stdlib.h>
#include <string.h>

#include "worker/e2e_stage.h"

static const char *const saved_names[3] = {"scales", "scales_m", "scales_v"};

static qy_status_t each_saved(qy_e2e_stage_t *s, int64_t i, qy_h5_t *file, int save,
                              qy_error_t *err)
{
    const qy_arch_t *a = &s->model->arch;
    float *host = malloc(qy_tensor_bytes(&s->scratch));
    qy_status_t status = host ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "e2e: out of host memory");
    for (int k = 0; k < QY_N_LINEARS && status == QY_OK; k++) {
        qy_e2e_layer_t *l = &s->blocks[i].layer[k];
        qy_tensor_t *t[3] = {&l->s, &l->s_m, &l->s_v};
        for (int j = 0; j < 3 && l->s.data && status == QY_OK; j++) {
            char name[QY_NAME_MAX + 16];
            qy_tensor_t h = qy_tensor_view(host, QY_F32, 2, t[j]->shape);
            snprintf(name, sizeof name, "%s/%s", a->linear[k].name, saved_names[j]);
            if (save) {
                status = qy_device_download(s->dev, host, t[j]->data, qy_tensor_bytes(&h), err);
                if (status == QY_OK)
                    status = qy_h5_write(file, name, &h, err);
            } else {
                status = qy_h5_read(file, name, &h, err);
                if (status == QY_OK)
                    status = qy_device_upload(s->dev, t[j]->data, host, qy_tensor_bytes(&h), err);
                if (status == QY_OK)
                    status = qy_device_wait(s->dev, err); /* host is filled again next */
            }
        }
    }
    free(host);
    return status;
}

/* It only ever falls, and each block's file has it: that of the last one counts. */
static qy_status_t load_scale(qy_e2e_stage_t *s, qy_h5_t *file, qy_error_t *err)
{
    double scale;
    QY_TRY(qy_h5_get_f64(file, "scale", &scale, err));
    if (!(scale >= 1 && scale <= (double)s->scale))
        return qy_fail(err, QY_ERR_FORMAT, "%s: a scale of %g", qy_h5_path(file), scale);
    s->scale = (float)scale;
    return QY_OK;
}

qy_status_t qy_e2e_stage_load(qy_e2e_stage_t *s, int64_t step, qy_error_t *err)
{
    for (int64_t i = 0; i < s->n; i++) {
        char path[QY_PATH_MAX];
        qy_h5_t *file = NULL;
        QY_TRY(qy_store_e2e(path, s->plan, step, s->first + i, err));
        qy_status_t status = qy_store_open(&file, path, s->plan, "e2e", err);
        if (status == QY_OK && s->scale != 1)
            status = load_scale(s, file, err);
        if (status == QY_OK)
            status = each_saved(s, i, file, 0, err);
        qy_h5_close(&file);
        QY_TRY(qy_store_set_aside(path, status, err));
    }
    return QY_OK;
}

/* The folder of a saved step. */
static qy_status_t make_step_folder(const qy_plan_t *plan, int64_t step, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_store_e2e(path, plan, step, 0, err));
    *strrchr(path, '/') = 0;
    return qy_make_dirs(path, err);
}

qy_status_t qy_e2e_stage_save(qy_e2e_stage_t *s, int64_t step, qy_error_t *err)
{
    QY_TRY(make_step_folder(s->plan, step, err));
    for (int64_t i = 0; i < s->n; i++) {
        char path[QY_PATH_MAX];
        qy_h5_t *file = NULL;
        QY_TRY(qy_store_e2e(path, s->plan, step, s->first + i, err));
        QY_TRY(qy_h5_create(&file, path, err));
        qy_status_t status = qy_store_mark(file, s->plan, "e2e", err);
        if (status == QY_OK)
            status = qy_h5_set_i64(file, "step", step, err);
        if (status == QY_OK && s->dev->compute == QY_F16)
            status = qy_h5_set_f64(file, "scale", (double)s->scale, err);
        if (status == QY_OK)
            status = each_saved(s, i, file, 1, err);
        if (status == QY_OK)
            status = qy_h5_commit(&file, err);
        qy_h5_close(&file);
        QY_TRY(status);
    }
    return QY_OK;
}
