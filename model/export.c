#include "model/export.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/export_common.h"
#include "model/target.h"

static const qy_exporter_t *const exporters[] = {
    &qy_exporter_autoround, &qy_exporter_awq,  &qy_exporter_compressed_tensors,
    &qy_exporter_gguf,      &qy_exporter_gptq, &qy_exporter_hf};
enum { N_EXPORTERS = sizeof exporters / sizeof *exporters };

const qy_exporter_t *qy_exporter_find(const char *name)
{
    for (int i = 0; i < N_EXPORTERS; i++)
        if (strcmp(exporters[i]->name, name) == 0)
            return exporters[i];
    return NULL;
}

const char *qy_exporter_names(void)
{
    return "auto-round, awq, compressed-tensors, gguf, gptq, hf";
}

/* --- files beside the tensors --- */

static qy_status_t write_text(const char *dir, const char *name, const char *text, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_path(path, err, "%s/%s", dir, name));
    return qy_file_write(path, text, strlen(text), err);
}

static json_t *make_numbers(const qy_tensor_t *t, int64_t n)
{
    const int32_t *numbers = t->data;
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(numbers[i]));
    return list;
}

/* The sites of a block that are reassembled, with their plans (model/channels.h), into list. */
static qy_status_t add_maps(json_t *list, const qy_export_t *job, int64_t block, qy_error_t *err)
{
    qy_qblock_t q;
    QY_TRY(job->source.read_block(job->source.context, block, &q, err));
    for (int i = 0; i < QY_N_SITES; i++) {
        const int32_t *offsets = q.map_offsets[i].data;
        int64_t n = qy_tensor_count(&q.map_offsets[i]) - 1;
        if (!offsets || qy_channels_is_identity(offsets, q.map_items[i].data, n))
            continue;
        json_array_append_new(list, json_pack("{s:I, s:s, s:o, s:o}", "block", (json_int_t)block,
                                              "site", qy_site_name((qy_site_t)i), "offsets",
                                              make_numbers(&q.map_offsets[i], n + 1), "items",
                                              make_numbers(&q.map_items[i], offsets[n])));
    }
    qy_qblock_free(&q);
    return QY_OK;
}

/* Weights behind a channel map are of use only with it, and only to readers that look for it. */
static qy_status_t make_maps(json_t **out, const qy_exporter_t *exporter, const qy_export_t *job,
                             qy_error_t *err)
{
    qy_status_t status = QY_OK;
    json_t *list = json_array();
    if (!list)
        return qy_fail(err, QY_ERR_MEMORY, "channel maps: no memory");
    for (int64_t b = 0; b < job->model->arch.n_blocks && status == QY_OK; b++)
        status = add_maps(list, job, b, err);
    const json_t *first = json_array_get(list, 0);
    if (status == QY_OK && first && !exporter->maps)
        status =
            qy_fail(err, QY_ERR_UNSUPPORTED,
                    "%s cannot say how channels are split and merged at run time, which block "
                    "%lld needs at %s and %zu sites in all; hf with quarry.json can, and with "
                    "qllm.reassembly: false nothing needs it",
                    exporter->name, (long long)json_integer_value(json_object_get(first, "block")),
                    json_string_value(json_object_get(first, "site")), json_array_size(list));
    if (status == QY_OK)
        *out = list;
    else
        json_decref(list);
    return status;
}

static qy_status_t write_provenance(const qy_exporter_t *exporter, const qy_export_t *job,
                                    const char *base, const char *dir, qy_error_t *err)
{
    json_int_t group = job->form.group > 0 ? job->form.group : -1;
    json_t *maps = NULL;
    if (job->form.map_sites)
        QY_TRY(make_maps(&maps, exporter, job, err));
    json_t *root = json_pack("{s:s, s:s, s:s, s:i, s:I, s:b}", "quarry_version", job->version,
                             "format", exporter->name, "base_model", base, "bits", job->form.bits,
                             "group_size", group, "symmetric", job->form.symmetric);
    if (root && qy_quant_activations(&job->form)) {
        json_object_set_new(root, "activation_bits",
                            json_integer(qy_quant_site_bits(&job->form, QY_SITE_Q)));
        json_object_set_new(root, "kv_bits",
                            json_integer(qy_quant_site_bits(&job->form, QY_SITE_K)));
        json_object_set_new(root, "activation_quantizer",
                            json_string(qy_quant_clustered(&job->form) ? "clusters" : "token"));
    }
    if (root && maps)
        json_object_set(root, "channel_maps", maps);
    json_decref(maps);
    if (root && job->plan_hash)
        json_object_set_new(root, "plan_hash", json_string(job->plan_hash));
    qy_status_t status =
        root ? qy_checkpoint_write_json(dir, qy_target_mark, root, err)
             : qy_fail(err, QY_ERR_FORMAT, "%s: not UTF-8 in the name \"%s\"", dir, base);
    json_decref(root);
    return status;
}

static qy_status_t write_all(const qy_exporter_t *exporter, const qy_export_t *job, const char *dir,
                             qy_error_t *err)
{
    char base[QY_PATH_MAX];
    QY_TRY(qy_checkpoint_origin(base, job->model->dir, err));
    QY_TRY(write_provenance(exporter, job, base, dir, err));
    QY_TRY(qy_export_write_card(exporter, job, base, dir, err));
    if (job->recipe)
        QY_TRY(write_text(dir, "recipe.yaml", job->recipe, err));
    if (!exporter->whole)
        QY_TRY(qy_checkpoint_copy_files(job->model->dir, dir, err));
    return exporter->write(job, dir, err);
}

qy_status_t qy_export_run(const qy_exporter_t *exporter, const qy_export_t *job, const char *dir,
                          qy_error_t *err)
{
    qy_target_t target;
    QY_TRY(exporter->check(&job->model->arch, &job->form, err));
    if (exporter->check_model)
        QY_TRY(exporter->check_model(job->model, err));
    QY_TRY(qy_target_begin(&target, dir, job->model->dir, job->overwrite, err));
    return qy_target_end(&target, write_all(exporter, job, target.temp, err), err);
}
