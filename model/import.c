#include "model/import.h"

#include <stdlib.h>

#include "model/checkpoint.h"
#include "model/export_common.h"
#include "model/gguf_model.h"
#include "model/target.h"

static qy_status_t copy_tensors(const qy_st_set_t *set, qy_st_writer_t *writer, qy_error_t *err)
{
    for (int64_t i = 0; i < qy_st_count(set); i++) {
        const qy_st_entry_t *e = qy_st_at(set, i);
        void *data = malloc((size_t)e->bytes);
        if (!data)
            return qy_fail(err, QY_ERR_MEMORY, "tensor %s: no memory for its %llu bytes", e->name,
                           (unsigned long long)e->bytes);
        qy_status_t status = qy_st_read(set, e, data, 0, e->bytes, err);
        if (status == QY_OK)
            status = qy_st_writer_put(writer, e->name, data, e->bytes, err);
        free(data);
        QY_TRY(status);
    }
    return QY_OK;
}

static qy_status_t write_tensors(const qy_st_set_t *set, const char *dir, qy_error_t *err)
{
    qy_tensor_list_t list = {0};
    qy_st_writer_t *writer = NULL;
    qy_status_t status = QY_OK;
    for (int64_t i = 0; i < qy_st_count(set) && status == QY_OK; i++) {
        const qy_st_entry_t *e = qy_st_at(set, i);
        status = qy_tensor_list_add(&list, e->name, "", e->dtype, e->n_dims, e->shape, err);
    }
    if (status == QY_OK)
        status = qy_st_writer_create(&writer, dir, list.specs, list.n, qy_export_shard_bytes, err);
    if (status == QY_OK)
        status = copy_tensors(set, writer, err);
    if (status == QY_OK)
        status = qy_st_writer_finish(&writer, err);
    qy_st_writer_abandon(&writer);
    qy_tensor_list_free(&list);
    return status;
}

static qy_status_t write_mark(const char *path, const char *dir, const char *version,
                              qy_error_t *err)
{
    char name[QY_PATH_MAX];
    QY_TRY(qy_checkpoint_origin(name, path, err));
    json_t *mark = json_pack("{s:s, s:s, s:s}", "quarry_version", version, "format", "import",
                             "base_model", name);
    qy_status_t status = mark ? qy_checkpoint_write_json(dir, qy_target_mark, mark, err)
                              : qy_fail(err, QY_ERR_FORMAT, "%s: not UTF-8 in its name", path);
    json_decref(mark);
    return status;
}

static qy_status_t write_config(const char *path, const char *dir, qy_error_t *err)
{
    char where[QY_PATH_MAX];
    json_t *config;
    QY_TRY(qy_checkpoint_config(&config, where, path, err));
    qy_status_t status = qy_checkpoint_write_json(dir, "config.json", config, err);
    json_decref(config);
    return status;
}

static qy_status_t write_all(const qy_model_t *model, const char *dir, const char *version,
                             qy_error_t *err)
{
    QY_TRY(write_mark(model->dir, dir, version, err));
    QY_TRY(write_config(model->dir, dir, err));
    QY_TRY(qy_checkpoint_copy_files(model->dir, dir, err));
    return write_tensors(model->tensors, dir, err);
}

qy_status_t qy_import(const char *gguf, const char *dir, bool overwrite, const char *version,
                      qy_error_t *err)
{
    qy_model_t *model;
    qy_target_t target;
    if (!qy_gguf_is_name(gguf))
        return qy_fail(err, QY_ERR_ARG, "%s: no file whose name ends in .gguf", gguf);
    QY_TRY(qy_model_open(&model, gguf, err));
    qy_status_t status = qy_target_begin(&target, dir, gguf, overwrite, err);
    if (status == QY_OK)
        status = qy_target_end(&target, write_all(model, target.temp, version, err), err);
    qy_model_close(&model);
    return status;
}
