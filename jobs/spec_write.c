/* Specs going out: as YAML, as the canonical JSON that is hashed, as differences, as a table of
 * keys. */
#include "jobs/spec_table.h"

#include <jansson.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_KEY = 128 };

/* --- YAML ------------------------------------------------------------------------------------- */

static void indent(FILE *file, int depth)
{
    for (int i = 0; i < depth; i++)
        fputs("  ", file);
}

/* Headings of the sections in which path lies and `before`, the row before it, does not; returns
 * the last part of path, *depth its depth. */
static const char *write_sections(FILE *file, const char *path, const char *before, int *depth)
{
    const char *part = path;
    *depth = 0;
    for (const char *dot; (dot = strchr(part, '.')) != NULL; part = dot + 1, ++*depth) {
        size_t until = (size_t)(dot - path) + 1;
        if (strncmp(before, path, until) == 0)
            continue;
        indent(file, *depth);
        fprintf(file, "%.*s:\n", (int)(dot - part), part);
    }
    return part;
}

static qy_status_t write_value(FILE *file, const qy_spec_t *spec, const qy_key_t *key, int item,
                               qy_error_t *err)
{
    char *text = NULL;
    QY_TRY(qy_key_text(spec, key, item, &text, err));
    fprintf(file, "%s\n", text);
    free(text);
    return QY_OK;
}

/* All rows of a list, item by item, from row `first` on. */
static qy_status_t write_list(FILE *file, const qy_spec_t *spec, const qy_key_list_t *list,
                              int first, qy_error_t *err)
{
    size_t length = strlen(list->path);
    int n = *(const int *)(const void *)((const char *)spec + list->n_offset);
    fprintf(file, "%.*s:%s\n", (int)length - 2, list->path, n ? "" : " []");
    for (int item = 0; item < n; item++)
        for (int i = first; i < qy_key_count() && qy_key_list(qy_key_at(i)->path) == list; i++) {
            const char *path = qy_key_at(i)->path;
            fputs(i == first ? "  - " : "    ", file);
            if (path[length])
                fprintf(file, "%s: ", path + length + 1);
            QY_TRY(write_value(file, spec, qy_key_at(i), item, err));
        }
    return QY_OK;
}

static qy_status_t write_rows(FILE *file, const qy_spec_t *spec, qy_error_t *err)
{
    const char *before = "";
    const qy_key_list_t *last_list = NULL;
    for (int i = 0; i < qy_key_count(); i++) {
        const qy_key_t *key = qy_key_at(i);
        const qy_key_list_t *list = qy_key_list(key->path);
        if (strncmp(key->path, "e2e_qp.", 7) == 0 && !spec->e2e_qp.present)
            continue;
        if (list && list != last_list)
            QY_TRY(write_list(file, spec, list, i, err));
        last_list = list;
        if (list)
            continue;
        int depth;
        const char *part = write_sections(file, key->path, before, &depth);
        indent(file, depth);
        fprintf(file, "%s: ", part);
        QY_TRY(write_value(file, spec, key, 0, err));
        before = key->path;
    }
    return QY_OK;
}

qy_status_t qy_spec_write(const qy_spec_t *spec, char **yaml, qy_error_t *err)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);
    if (!file)
        return qy_fail(err, QY_ERR_MEMORY, "job: out of memory");
    fputs(QY_SPEC_HEADER, file);
    qy_status_t status = write_rows(file, spec, err);
    if (fclose(file) != 0 && status == QY_OK)
        status = qy_fail(err, QY_ERR_MEMORY, "job: out of memory");
    if (status == QY_OK)
        *yaml = text;
    else
        free(text);
    return status;
}

/* --- canonical JSON --------------------------------------------------------------------------- */

static qy_status_t digest_value(const qy_key_t *key, const char *path, qy_digest_fn digest_of,
                                void *context, json_t **out, qy_error_t *err)
{
    char hex[65] = "";
    if (path[0])
        QY_TRY(digest_of(context, key->path, path, hex, err));
    *out = json_string(hex);
    return QY_OK;
}

static qy_status_t json_value(const qy_spec_t *spec, const qy_key_t *key, qy_digest_fn digest_of,
                              void *context, json_t **out, qy_error_t *err)
{
    const void *field = qy_key_field_of(spec, key, 0);
    char *text = NULL;
    if (key->kind == QY_KIND_PATH)
        return digest_value(key, field, digest_of, context, out, err);
    QY_TRY(qy_key_text(spec, key, 0, &text, err));
    bool automatic = strcmp(text, "auto") == 0;
    if (key->kind == QY_KIND_BOOL)
        *out = json_boolean(*(const bool *)field);
    else if (key->kind == QY_KIND_WHOLE && !automatic)
        *out = json_integer(*(const int64_t *)field);
    else if (key->kind == QY_KIND_REAL && !automatic)
        *out = json_real(*(const double *)field);
    else
        *out = json_string(text);
    free(text);
    return QY_OK;
}

/* Takes value; makes the objects that path runs through. */
static int set_path(json_t *root, const char *path, json_t *value)
{
    json_t *object = root;
    for (const char *dot; (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        char part[MAX_KEY];
        snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
        json_t *next = json_object_get(object, part);
        if (!next) {
            next = json_object();
            if (json_object_set_new(object, part, next) != 0) {
                json_decref(value);
                return -1;
            }
        }
        object = next;
    }
    return json_object_set_new(object, path, value);
}

qy_status_t qy_spec_canonical(const qy_spec_t *spec, qy_digest_fn digest_of, void *context,
                              char **json, qy_error_t *err)
{
    json_t *root = json_object();
    qy_status_t status = QY_OK;
    for (int i = 0; i < qy_key_count() && status == QY_OK; i++) {
        const qy_key_t *key = qy_key_at(i);
        json_t *value = NULL;
        if (!qy_key_active(key, spec))
            continue;
        status = json_value(spec, key, digest_of, context, &value, err);
        if (status == QY_OK && set_path(root, key->path, value) != 0)
            status = qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", key->path);
    }
    char *text = status == QY_OK ? json_dumps(root, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    json_decref(root);
    if (status == QY_OK && !text)
        status = qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    if (status == QY_OK)
        *json = text;
    return status;
}

/* --- difference ------------------------------------------------------------------------------- */

/* A value for people: digests of files say nothing, only that they differ. */
static void describe(const json_t *value, FILE *file)
{
    const char *text = json_string_value(value);
    if (!value)
        fputs("none", file);
    else if (text && strlen(text) == 64)
        fprintf(file, "content %.8s", text);
    else if (text)
        fputs(text[0] ? text : "none", file);
    else if (json_is_real(value))
        fprintf(file, "%.6g", json_real_value(value));
    else {
        char *dump = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        fputs(dump ? dump : "?", file);
        free(dump);
    }
}

static bool is_section(const json_t *value)
{
    return !value || json_is_object(value);
}

/* A section that one side lacks counts as empty there, so that each of its keys is named. */
static void differ(json_t *old, json_t *new, const char *path, FILE *file)
{
    if (json_equal(old, new))
        return;
    if (!is_section(old) || !is_section(new) || !(old || new)) {
        fprintf(file, "%s%s: ", ftell(file) ? "; " : "", path);
        describe(new, file);
        fputs(", was ", file);
        describe(old, file);
        return;
    }
    json_t *sides[] = {old, new};
    for (int side = 0; side < 2; side++) {
        const char *key;
        json_t *value;
        json_object_foreach(sides[side], key, value)
        {
            char below[MAX_KEY];
            if (side == 1 && json_object_get(old, key))
                continue;
            snprintf(below, sizeof below, "%s%s%s", path, *path ? "." : "", key);
            differ(json_object_get(old, key), json_object_get(new, key), below, file);
        }
    }
}

qy_status_t qy_spec_difference(const char *old_json, const char *new_json, char *out, size_t size,
                               qy_error_t *err)
{
    json_t *old = json_loads(old_json, JSON_REJECT_DUPLICATES, NULL);
    json_t *new = json_loads(new_json, JSON_REJECT_DUPLICATES, NULL);
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);
    qy_status_t status = QY_OK;
    if (!file)
        status = qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    else if (!json_is_object(old) || !json_is_object(new))
        status = qy_fail(err, QY_ERR_FORMAT, "plan: a canonical form that is no JSON object");
    else
        differ(old, new, "", file);
    if (file && fclose(file) == 0 && status == QY_OK)
        snprintf(out, size, "%s", text);
    free(text);
    json_decref(old);
    json_decref(new);
    return status;
}

/* --- the table of keys ------------------------------------------------------------------------ */

static void describe_domain(const qy_key_t *key, char *out, size_t size)
{
    static const char *const kinds[] = {
        [QY_KIND_PATH] = "path",  [QY_KIND_NAME] = "name",   [QY_KIND_CHOICE] = "",
        [QY_KIND_WORD] = "",      [QY_KIND_WHOLE] = "whole", [QY_KIND_REAL] = "number",
        [QY_KIND_BYTES] = "size", [QY_KIND_BOOL] = ""};
    char domain[128];
    qy_domain_text(key->domain, domain, sizeof domain);
    const char *kind = kinds[key->kind];
    snprintf(out, size, "%s%s%s", kind, *kind && *domain ? ": " : "", domain);
}

void qy_spec_print_keys(FILE *file)
{
    const char *const format = "%-33s %-49s %-15s %-13s %-6s %s\n";
    fprintf(file, format, "key", "values", "default", "unit", "result", "meaning");
    for (int i = 0; i < qy_key_count(); i++) {
        const qy_key_t *key = qy_key_at(i);
        char domain[160];
        describe_domain(key, domain, sizeof domain);
        const char *fallback = !key->fallback   ? "required"
                               : *key->fallback ? key->fallback
                                                : "none";
        fprintf(file, format, key->path, domain, fallback, key->unit, key->result ? "yes" : "no",
                key->help);
    }
}
