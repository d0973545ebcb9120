/* README.md of an exported checkpoint: a model card with YAML front matter. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/export_common.h"

enum { CARD_MAX = 1 << 22 };

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

/* What the original's own card says in its front matter about its licence, line by line: the
 * quantized model is under the same. */
static void print_license(FILE *out, const char *model_dir)
{
    static const char *const keys[] = {"license:", "license_name:", "license_link:"};
    char path[QY_PATH_MAX], *text, *rest = NULL;
    size_t bytes;
    if (qy_path(path, NULL, "%s/README.md", model_dir) != QY_OK || !qy_file_exists(path) ||
        qy_file_read(path, CARD_MAX, &text, &bytes, NULL) != QY_OK)
        return;
    char *line = strtok_r(text, "\r\n", &rest);
    if (line && strcmp(line, "---") == 0)
        while ((line = strtok_r(NULL, "\r\n", &rest)) && strcmp(line, "---") != 0)
            for (int i = 0; i < 3; i++)
                if (strncmp(line, keys[i], strlen(keys[i])) == 0)
                    fprintf(out, "%s\n", line);
    free(text);
}

static void print_card(FILE *out, const qy_exporter_t *exporter, const qy_export_t *job,
                       const char *base)
{
    const qy_quant_form_t *form = &job->form;
    const char *slash = strrchr(base, '/'); /* behind an organization's name */
    fputs("---\n", out);
    print_license(out, job->model->dir);
    fputs("base_model: ", out);
    print_quoted(out, base);
    fprintf(out,
            "\nbase_model_relation: quantized\nlibrary_name: %s\n"
            "pipeline_tag: text-generation\ntags:\n- quarry\n- %s\n- %d-bit\n---\n\n",
            exporter->whole ? exporter->name : "transformers", exporter->name, form->bits);
    fprintf(out, "# %s, %d bits\n\nWeights of the linear layers quantized by Quarry %s: %d bits, ",
            slash ? slash + 1 : base, form->bits, job->version, form->bits);
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

static qy_status_t write_card(const char *dir, const char *text, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_path(path, err, "%s/README.md", dir));
    return qy_file_write(path, text, strlen(text), err);
}

qy_status_t qy_export_write_card(const qy_exporter_t *exporter, const qy_export_t *job,
                                 const char *base, const char *dir, qy_error_t *err)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for the model card", dir);
    print_card(out, exporter, job, base);
    qy_status_t status = fclose(out) == 0
                             ? write_card(dir, text, err)
                             : qy_fail(err, QY_ERR_MEMORY, "%s: no memory for the model card", dir);
    free(text);
    return status;
}
