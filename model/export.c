#include "model/export.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/export_common.h"
#include "model/target.h"

static const qy_exporter_t *const exporters[] = {&qy_exporter_compressed_tensors, &qy_exporter_gguf,
                                                 &qy_exporter_gptq, &qy_exporter_hf};
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
    return "compressed-tensors, gguf, gptq, hf";
}

/* --- files beside the tensors --- */

static qy_status_t write_text(const char *dir, const char *name, const char *text, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_path(path, err, "%s/%s", dir, name));
    return qy_file_write(path, text, strlen(text), err);
}

static qy_status_t write_provenance(const qy_exporter_t *exporter, const qy_export_t *job,
                                    const char *base, const char *dir, qy_error_t *err)
{
    json_int_t group = job->form.group > 0 ? job->form.group : -1;
    json_t *root = json_pack("{s:s, s:s, s:s, s:i, s:I, s:b}", "quarry_version", job->version,
                             "format", exporter->name, "base_model", base, "bits", job->form.bits,
                             "group_size", group, "symmetric", job->form.symmetric);
    if (root && qy_quant_activations(&job->form)) {
        json_object_set_new(root, "activation_bits",
                            json_integer(qy_quant_site_bits(&job->form, QY_SITE_Q)));
        json_object_set_new(root, "kv_bits",
                            json_integer(qy_quant_site_bits(&job->form, QY_SITE_K)));
    }
    if (root && job->plan_hash)
        json_object_set_new(root, "plan_hash", json_string(job->plan_hash));
    qy_status_t status =
        root ? qy_checkpoint_write_json(dir, qy_target_mark, root, err)
             : qy_fail(err, QY_ERR_FORMAT, "%s: not UTF-8 in the name \"%s\"", dir, base);
    json_decref(root);
    return status;
}

/* A YAML string in double quotes. */
static void print_quoted(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fputc('\\', out);
        if (c < 0x20 || c == 0x7f)
            fprintf(out, "\\x%02x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static void print_card(FILE *out, const qy_exporter_t *exporter, const qy_export_t *job,
                       const char *base)
{
    const qy_quant_form_t *form = &job->form;
    fputs("---\nbase_model: ", out);
    print_quoted(out, base);
    fprintf(out,
            "\nbase_model_relation: quantized\nlibrary_name: transformers\n"
            "pipeline_tag: text-generation\ntags:\n- quarry\n- %s\n- %d-bit\n---\n\n",
            exporter->name, form->bits);
    fprintf(out, "# %s, %d bits\n\nWeights of the linear layers quantized by Quarry %s: %d bits, ",
            base, form->bits, job->version, form->bits);
    if (form->group > 0)
        fprintf(out, "groups of %lld, ", (long long)form->group);
    else
        fputs("one group a row, ", out);
    fprintf(out, "%s zero points; format %s (%s).\n", form->symmetric ? "symmetric" : "asymmetric",
            exporter->name, exporter->help);
    if (job->recipe)
        fputs("`recipe.yaml` is the job that made it.\n", out);
    if (job->card && *job->card)
        fprintf(out, "\n%s\n", job->card);
}

static qy_status_t write_card(const qy_exporter_t *exporter, const qy_export_t *job,
                              const char *base, const char *dir, qy_error_t *err)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for the model card", dir);
    print_card(out, exporter, job, base);
    qy_status_t status = fclose(out) == 0
                             ? write_text(dir, "README.md", text, err)
                             : qy_fail(err, QY_ERR_MEMORY, "%s: no memory for the model card", dir);
    free(text);
    return status;
}

static qy_status_t write_all(const qy_exporter_t *exporter, const qy_export_t *job, const char *dir,
                             qy_error_t *err)
{
    char base[QY_PATH_MAX];
    QY_TRY(qy_checkpoint_name(base, job->model->dir, err));
    QY_TRY(write_provenance(exporter, job, base, dir, err));
    QY_TRY(write_card(exporter, job, base, dir, err));
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
