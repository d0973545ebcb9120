#include "model/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_model.h"
#include "model/json.h"

enum { COPY_MAX = 1 << 30, CONFIG_MAX = 16 << 20 };

/* --- the configuration --- */

/* A folder that was named where its GGUF file was meant, such as export writes. */
static qy_status_t check_no_gguf(const char *model, qy_error_t *err)
{
    DIR *dir = opendir(model);
    qy_status_t status = QY_OK;
    for (const struct dirent *entry; dir && status == QY_OK && (entry = readdir(dir)) != NULL;)
        if (qy_gguf_is_name(entry->d_name))
            status = qy_fail(err, QY_ERR_ARG, "%s: holds no config.json, but %s: name that file",
                             model, entry->d_name);
    if (dir)
        closedir(dir);
    return status;
}

qy_status_t qy_checkpoint_config(json_t **out, char where[QY_PATH_MAX], const char *model,
                                 qy_error_t *err)
{
    if (!qy_gguf_is_name(model)) {
        QY_TRY(qy_path(where, err, "%s/config.json", model));
        if (!qy_file_exists(where))
            QY_TRY(check_no_gguf(model, err));
        return qy_json_read(out, where, CONFIG_MAX, err);
    }
    qy_gguf_t *gguf;
    QY_TRY(qy_path(where, err, "%s", model));
    QY_TRY(qy_gguf_open(&gguf, model, err));
    qy_status_t status = qy_gguf_config(out, gguf, err);
    qy_gguf_close(&gguf);
    return status;
}

/* --- files beside the tensors --- */

static qy_status_t copy_file(const char *model, const char *dir, const char *name, qy_error_t *err)
{
    char from[QY_PATH_MAX], to[QY_PATH_MAX], *text;
    size_t bytes;
    QY_TRY(qy_path(from, err, "%s/%s", model, name));
    QY_TRY(qy_path(to, err, "%s/%s", dir, name));
    if (!qy_file_exists(from))
        return QY_OK;
    QY_TRY(qy_file_read(from, COPY_MAX, &text, &bytes, err));
    qy_status_t status = qy_file_write(to, text, bytes, err);
    free(text);
    return status;
}

/* What a GGUF file has in place of files. */
static const struct {
    const char *name;
    qy_status_t (*make)(json_t **out, const qy_gguf_t *gguf, qy_error_t *err);
} parts[] = {
    {"tokenizer.json", qy_gguf_tokenizer},
    {"tokenizer_config.json", qy_gguf_tokenizer_config},
    {"special_tokens_map.json", qy_gguf_special_tokens},
    {"generation_config.json", qy_gguf_generation_config},
};
enum { N_PARTS = sizeof parts / sizeof *parts };

static qy_status_t write_parts(const qy_gguf_t *gguf, const char *dir, qy_error_t *err)
{
    for (int i = 0; i < N_PARTS; i++) {
        json_t *object;
        QY_TRY(parts[i].make(&object, gguf, err));
        qy_status_t status = qy_checkpoint_write_json(dir, parts[i].name, object, err);
        json_decref(object);
        QY_TRY(status);
    }
    return QY_OK;
}

static qy_status_t make_part(json_t **out, const char *model, const char *name, qy_error_t *err)
{
    qy_gguf_t *gguf;
    QY_TRY(qy_gguf_open(&gguf, model, err));
    qy_status_t status = QY_OK;
    for (int i = 0; i < N_PARTS && status == QY_OK; i++)
        if (strcmp(parts[i].name, name) == 0)
            status = parts[i].make(out, gguf, err);
    qy_gguf_close(&gguf);
    return status;
}

qy_status_t qy_checkpoint_part(json_t **out, const char *model, const char *name, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    json_t *made = NULL;
    QY_TRY(qy_path(path, err, "%s/%s", model, name));
    if (qy_gguf_is_name(model))
        QY_TRY(make_part(&made, model, name, err));
    else if (qy_file_exists(path))
        QY_TRY(qy_json_read_settings(&made, path, CONFIG_MAX, err));
    *out = made;
    return QY_OK;
}

qy_status_t qy_checkpoint_copy_files(const char *model, const char *dir, qy_error_t *err)
{
    static const char *const names[] = {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "tokenizer.model",
        "chat_template.jinja",
        "generation_config.json",
    };
    if (!qy_gguf_is_name(model)) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            QY_TRY(copy_file(model, dir, names[i], err));
        return QY_OK;
    }
    qy_gguf_t *gguf;
    QY_TRY(qy_gguf_open(&gguf, model, err));
    qy_status_t status = write_parts(gguf, dir, err);
    qy_gguf_close(&gguf);
    return status;
}

/* --- names --- */

/* The model's path without links, but a GGUF file's own name as it is given: in the cache of
 * Hugging Face it is a link to a file that is named by its hash. */
static qy_status_t resolve(char out[QY_PATH_MAX], const char *model, qy_error_t *err)
{
    const char *slash = strrchr(model, '/'), *name = slash ? slash + 1 : model;
    bool is_file = qy_gguf_is_name(model);
    QY_TRY(is_file ? qy_path(out, err, "%.*s.", (int)(name - model), model)
                   : qy_path(out, err, "%s", model));
    char *full = realpath(out, NULL);
    if (!full)
        return qy_fail(err, QY_ERR_IO, "%s: %s", model, strerror(errno));
    qy_status_t status =
        is_file ? qy_path(out, err, "%s/%s", full, name) : qy_path(out, err, "%s", full);
    free(full);
    return status;
}

/* The ORG--NAME in …/models--ORG--NAME/snapshots/HASH, as the cache of Hugging Face has it; its
 * bytes, 0 where the path is none of the kind. */
static size_t find_repository(const char **out, const char *path)
{
    static const char before[] = "/models--", behind[] = "/snapshots/";
    const char *at = strstr(path, before);
    if (!at)
        return 0;
    *out = at + strlen(before);
    size_t n = strcspn(*out, "/");
    return strncmp(*out + n, behind, strlen(behind)) == 0 ? n : 0;
}

/* Where the name begins behind ORG--; 0 where there is no such part. */
static size_t skip_organization(const char *repository, size_t n)
{
    for (size_t i = 1; i + 2 < n; i++)
        if (repository[i] == '-' && repository[i + 1] == '-')
            return i + 2;
    return 0;
}

qy_status_t qy_checkpoint_name(char out[QY_PATH_MAX], const char *model, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    const char *repository;
    QY_TRY(resolve(path, model, err));
    size_t n = qy_gguf_is_name(model) ? 0 : find_repository(&repository, path);
    if (n > 0) {
        size_t organization = skip_organization(repository, n);
        return qy_path(out, err, "%.*s", (int)(n - organization), repository + organization);
    }
    const char *slash = strrchr(path, '/');
    QY_TRY(qy_path(out, err, "%s", slash && slash[1] ? slash + 1 : path));
    char *dot = qy_gguf_is_name(model) ? strrchr(out, '.') : NULL;
    if (dot && dot != out)
        *dot = '\0';
    return QY_OK;
}

qy_status_t qy_checkpoint_origin(char out[QY_PATH_MAX], const char *model, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    const char *repository;
    QY_TRY(resolve(path, model, err));
    size_t n = find_repository(&repository, path);
    if (n == 0)
        return qy_checkpoint_name(out, model, err);
    size_t organization = skip_organization(repository, n);
    if (organization == 0)
        return qy_path(out, err, "%.*s", (int)n, repository);
    return qy_path(out, err, "%.*s/%.*s", (int)(organization - 2), repository,
                   (int)(n - organization), repository + organization);
}

/* --- writing --- */

/* The text with the fewest digits that reads back to the same numbers, so that 1e-05 stays 1e-05.
 */
static char *dump_json(const json_t *object)
{
    static const size_t layout = JSON_INDENT(2) | JSON_PRESERVE_ORDER;
    for (size_t digits = 15; digits < 17; digits++) {
        char *text = json_dumps(object, layout | JSON_REAL_PRECISION(digits));
        json_t *again = text ? json_loads(text, 0, NULL) : NULL;
        bool same = again && json_equal(again, object);
        json_decref(again);
        if (same)
            return text;
        free(text);
    }
    return json_dumps(object, layout | JSON_REAL_PRECISION(17));
}

qy_status_t qy_checkpoint_write_json(const char *dir, const char *name, const json_t *object,
                                     qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_path(path, err, "%s/%s", dir, name));
    char *text = dump_json(object);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its text", path);
    size_t n = strlen(text);
    text[n] = '\n'; /* in place of the NUL: a text file ends its last line */
    qy_status_t status = qy_file_write(path, text, n + 1, err);
    free(text);
    return status;
}
