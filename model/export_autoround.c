/*
 * AutoRound checkpoints: GPTQ's packed tensors under AutoRound's keys. packing_format
 * "auto_round:auto_gptq" has v1 zero points, which its readers take for symmetric models only;
 * "auto_round" has v2's, for asymmetric ones. See model/export_gptq.c.
 *
 * Source: auto-round 0.16.1, export/export_to_autoround/export.py and inference/backend.py.
 */
#include <stdio.h>
#include <string.h>

#include "model/export_gptq.h"

static qy_status_t check(const qy_arch_t *arch, const qy_quant_form_t *form, qy_error_t *err)
{
    return qy_gptq_check("auto-round", arch, form, err);
}

/* autoround_version: readers compare it with what they can do. iters 0: its own rounding was not
 * used. */
static json_t *make_quantization_config(const qy_export_t *job)
{
    const qy_quant_form_t *form = &job->form;
    static const char root[] = "model.";
    const char *prefix = job->model->arch.block_prefix; /* "model.layers.", or bare */
    bool bare = strncmp(prefix, root, strlen(root)) != 0;
    char blocks[QY_TENSOR_NAME_MAX]; /* a module's name, whose root the files may leave out */
    snprintf(blocks, sizeof blocks, "%s%.*s", bare ? root : "", (int)strlen(prefix) - 1, prefix);
    return json_pack("{s:s, s:i, s:I, s:b, s:s, s:s, s:s, s:s, s:i}", "quant_method", "auto-round",
                     "bits", form->bits, "group_size",
                     (json_int_t)(form->group > 0 ? form->group : -1), "sym", form->symmetric,
                     "data_type", "int", "packing_format",
                     form->symmetric ? "auto_round:auto_gptq" : "auto_round", "autoround_version",
                     "0.16.1", "block_name_to_quantize", blocks, "iters", 0);
}

static qy_status_t write_autoround(const qy_export_t *job, const char *dir, qy_error_t *err)
{
    static const qy_layer_format_t format = {.declare = qy_gptq_declare, .write = qy_gptq_write};
    json_t *quantization = make_quantization_config(job);
    qy_status_t status = qy_export_write_config(job, dir, quantization, err);
    if (status == QY_OK)
        status = qy_checkpoint_write_json(dir, "quantization_config.json", quantization, err);
    json_decref(quantization);
    QY_TRY(status);
    return qy_export_tensors(job, &format, dir, err);
}

const qy_exporter_t qy_exporter_autoround = {
    .name = "auto-round",
    .help = "packed codes under AutoRound's keys: 2, 3, 4 or 8 bits",
    .check = check,
    .write = write_autoround,
};
