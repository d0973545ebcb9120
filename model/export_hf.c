/*
 * A dense checkpoint: the finished weights, all in f16, under the original's names. What any engine
 * loads, and what the other exports are compared with.
 */
#include <stdlib.h>

#include "model/export_common.h"

static qy_status_t declare(qy_tensor_list_t *list, const char *layer, const qy_linear_desc_t *d,
                           const qy_quant_form_t *form, qy_error_t *err)
{
    (void)form;
    return qy_tensor_list_add(list, layer, ".weight", "F16", 2, (int64_t[]){d->out, d->in}, err);
}

static qy_status_t write_layer(qy_st_writer_t *writer, const char *layer, const qy_qblock_t *block,
                               const qy_arch_t *arch, qy_linear_id_t linear, qy_error_t *err)
{
    const qy_linear_desc_t *d = &arch->linear[linear];
    char name[QY_TENSOR_NAME_MAX];
    size_t bytes = (size_t)(d->out * d->in) * sizeof(uint16_t);
    uint16_t *weight = malloc(bytes);
    if (!weight)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its %zu bytes", layer, bytes);
    snprintf(name, sizeof name, "%s.weight", layer);
    qy_status_t status = qy_qblock_dequantize(block, arch, linear, weight, 1, err);
    if (status == QY_OK)
        status = qy_st_writer_put(writer, name, weight, bytes, err);
    free(weight);
    return status;
}

/* Tells loaders that the tensors are f16, by the key that the file uses (4.x: torch_dtype). */
static qy_status_t write_config(const qy_export_t *job, const char *dir, qy_error_t *err)
{
    json_t *config;
    QY_TRY(qy_export_read_config(&config, job->model, err));
    const char *key = json_object_get(config, "dtype") ? "dtype" : "torch_dtype";
    qy_status_t status = json_object_set_new(config, key, json_string("float16")) == 0
                             ? qy_checkpoint_write_json(dir, "config.json", config, err)
                             : qy_fail(err, QY_ERR_MEMORY, "%s: no memory", dir);
    json_decref(config);
    return status;
}

static qy_status_t write_hf(const qy_export_t *job, const char *dir, qy_error_t *err)
{
    static const qy_layer_format_t format = {
        .all_f16 = true, .declare = declare, .write = write_layer};
    QY_TRY(write_config(job, dir, err));
    return qy_export_tensors(job, &format, dir, err);
}

const qy_exporter_t qy_exporter_hf = {
    .name = "hf",
    .help = "dense f16 weights, for any engine",
    .maps = true,
    .check = qy_export_check_groups,
    .write = write_hf,
};
