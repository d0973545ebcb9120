#include "model/export.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/export_common.h"

enum { COPY_MAX = 1 << 30 };
static const char provenance_name[] = "quarry.json";

static const qy_exporter_t *const exporters[] = {&qy_exporter_compressed_tensors, &qy_exporter_gptq,
                                                 &qy_exporter_hf};
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
    return "compressed-tensors, gptq, hf";
}

/* --- files beside the tensors --- */

static qy_status_t copy_file(const qy_export_t *job, const char *dir, const char *name,
                             qy_error_t *err)
{
    char from[QY_PATH_MAX], to[QY_PATH_MAX], *text;
    size_t bytes;
    QY_TRY(qy_path(from, err, "%s/%s", job->model->dir, name));
    QY_TRY(qy_path(to, err, "%s/%s", dir, name));
    if (!qy_file_exists(from))
        return QY_OK;
    QY_TRY(qy_file_read(from, COPY_MAX, &text, &bytes, err));
    qy_status_t status = qy_file_write(to, text, bytes, err);
    free(text);
    return status;
}

/* Tokenizer and generation settings, where the model has them; never code or pickles. */
static qy_status_t copy_files(const qy_export_t *job, const char *dir, qy_error_t *err)
{
    static const char *const names[] = {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "generation_config.json",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        QY_TRY(copy_file(job, dir, names[i], err));
    return QY_OK;
}

static qy_status_t write_text(const char *dir, const char *name, const char *text, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_path(path, err, "%s/%s", dir, name));
    return qy_file_write(path, text, strlen(text), err);
}

/* The last part of the model's path, as its owner named it. */
static qy_status_t find_model_name(char out[QY_PATH_MAX], const qy_model_t *model, qy_error_t *err)
{
    char *full = realpath(model->dir, NULL);
    if (!full)
        return qy_fail(err, QY_ERR_IO, "%s: %s", model->dir, strerror(errno));
    const char *slash = strrchr(full, '/');
    qy_status_t status = qy_path(out, err, "%s", slash && slash[1] ? slash + 1 : full);
    free(full);
    return status;
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
        root ? qy_export_write_json(dir, provenance_name, root, err)
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
    QY_TRY(find_model_name(base, job->model, err));
    QY_TRY(write_provenance(exporter, job, base, dir, err));
    QY_TRY(write_card(exporter, job, base, dir, err));
    if (job->recipe)
        QY_TRY(write_text(dir, "recipe.yaml", job->recipe, err));
    QY_TRY(copy_files(job, dir, err));
    return exporter->write(job, dir, err);
}

/* --- the target --- */

/* Entries of a folder; −1 where it is none. */
static int64_t count_entries(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return -1;
    int64_t n = 0;
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return n;
}

/* Is the model in the folder that would be replaced, or that folder itself? */
static bool holds_model(const char *target, const qy_model_t *model)
{
    char *outer = realpath(target, NULL), *inner = realpath(model->dir, NULL);
    size_t n = outer ? strlen(outer) : 0;
    bool holds =
        outer && inner && strncmp(inner, outer, n) == 0 && (inner[n] == '/' || inner[n] == '\0');
    free(outer);
    free(inner);
    return holds;
}

/* ARG where nothing may be put in the target's place. */
static qy_status_t check_target(const char *target, const qy_export_t *job, qy_error_t *err)
{
    if (*target == '\0')
        return qy_fail(err, QY_ERR_ARG, "an export needs a folder, none is given");
    if (!qy_file_exists(target))
        return QY_OK;
    int64_t n = count_entries(target);
    if (n == 0)
        return QY_OK;
    if (n < 0)
        return qy_fail(err, QY_ERR_ARG, "%s: is in the way: not a folder that can be read", target);
    if (!job->overwrite)
        return qy_fail(err, QY_ERR_ARG, "%s: is not empty; it is replaced only with overwrite",
                       target);
    if (holds_model(target, job->model))
        return qy_fail(err, QY_ERR_ARG, "%s: holds the model that is exported", target);
    char mark[QY_PATH_MAX];
    QY_TRY(qy_path(mark, err, "%s/%s", target, provenance_name));
    if (!qy_file_exists(mark))
        return qy_fail(err, QY_ERR_ARG,
                       "%s: is not empty and no export of ours (no %s): remove it by hand", target,
                       provenance_name);
    return QY_OK;
}

static qy_status_t remove_if_there(const char *path, qy_error_t *err)
{
    return qy_file_exists(path) ? qy_remove_tree(path, err) : QY_OK;
}

/* temp takes target's place; what was there is moved aside first, so that it is never half there.
 */
static qy_status_t publish(const char *temp, const char *old, const char *target, qy_error_t *err)
{
    bool replaces = qy_file_exists(target);
    if (replaces && rename(target, old) != 0)
        return qy_fail(err, QY_ERR_IO, "%s: rename to %s: %s", target, old, strerror(errno));
    qy_status_t status = qy_file_commit(temp, target, err);
    if (status != QY_OK && replaces)
        (void)rename(old, target);
    return status == QY_OK ? remove_if_there(old, err) : status;
}

/* The path without slashes at its end and, where something is there already, without links. */
static qy_status_t resolve_target(char out[QY_PATH_MAX], const char *dir, qy_error_t *err)
{
    QY_TRY(qy_path(out, err, "%s", dir));
    for (size_t n = strlen(out); n > 1 && out[n - 1] == '/'; n--)
        out[n - 1] = '\0';
    char *full = realpath(out, NULL);
    qy_status_t status = full ? qy_path(out, err, "%s", full) : QY_OK;
    free(full);
    return status;
}

qy_status_t qy_export_run(const qy_exporter_t *exporter, const qy_export_t *job, const char *dir,
                          qy_error_t *err)
{
    char target[QY_PATH_MAX], temp[QY_PATH_MAX], old[QY_PATH_MAX];
    QY_TRY(exporter->check(&job->model->arch, &job->form, err));
    QY_TRY(resolve_target(target, dir, err));
    QY_TRY(check_target(target, job, err));
    QY_TRY(qy_path(temp, err, "%s.tmp", target));
    QY_TRY(qy_path(old, err, "%s.tmp.old", target));
    QY_TRY(remove_if_there(temp, err));
    QY_TRY(remove_if_there(old, err));
    QY_TRY(qy_make_dirs(temp, err));
    qy_status_t status = write_all(exporter, job, temp, err);
    if (status == QY_OK)
        status = publish(temp, old, target, err);
    if (status != QY_OK)
        (void)remove_if_there(temp, NULL);
    return status;
}
