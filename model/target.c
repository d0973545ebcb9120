#include "model/target.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char qy_target_mark[] = "quarry.json";

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
static bool holds_model(const char *target, const char *model)
{
    char *outer = realpath(target, NULL), *inner = realpath(model, NULL);
    size_t n = outer ? strlen(outer) : 0;
    bool holds =
        outer && inner && strncmp(inner, outer, n) == 0 && (inner[n] == '/' || inner[n] == '\0');
    free(outer);
    free(inner);
    return holds;
}

/* The mark, or what a kill left of the first attempt to write it: "quarry.json.tmp.PID". */
static bool is_mark(const char *name)
{
    size_t n = strlen(qy_target_mark);
    return strncmp(name, qy_target_mark, n) == 0 &&
           (name[n] == '\0' || strncmp(name + n, ".tmp.", 5) == 0);
}

static bool has_mark(const char *path)
{
    DIR *dir = opendir(path);
    bool found = false;
    for (const struct dirent *entry; dir && !found && (entry = readdir(dir)) != NULL;)
        found = is_mark(entry->d_name);
    if (dir)
        closedir(dir);
    return found;
}

/* ARG where the folder is neither empty nor marked as ours, or holds the model. */
static qy_status_t check_ours(const char *path, const char *model, qy_error_t *err)
{
    int64_t n = count_entries(path);
    if (n == 0)
        return QY_OK;
    if (n < 0)
        return qy_fail(err, QY_ERR_ARG, "%s: is in the way: not a folder that can be read", path);
    if (holds_model(path, model))
        return qy_fail(err, QY_ERR_ARG, "%s: holds the model that is exported", path);
    if (!has_mark(path))
        return qy_fail(err, QY_ERR_ARG,
                       "%s: is not empty and no export of ours (no %s): remove it by hand", path,
                       qy_target_mark);
    return QY_OK;
}

/* ARG where nothing may be put in the target's place. */
static qy_status_t check_target(const char *target, const char *model, bool overwrite,
                                qy_error_t *err)
{
    if (*target == '\0')
        return qy_fail(err, QY_ERR_ARG, "an export needs a folder, none is given");
    if (!qy_file_exists(target))
        return QY_OK;
    if (count_entries(target) > 0 && !overwrite)
        return qy_fail(err, QY_ERR_ARG, "%s: is not empty; it is replaced only with --overwrite",
                       target);
    return check_ours(target, model, err);
}

/* All but the mark: a folder of which a kill leaves a part is still known as ours. */
static qy_status_t remove_content(const char *path, qy_error_t *err)
{
    DIR *dir = opendir(path);
    qy_status_t status = QY_OK;
    for (const struct dirent *entry; dir && status == QY_OK && (entry = readdir(dir)) != NULL;) {
        char inner[QY_PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            is_mark(entry->d_name))
            continue;
        status = qy_path(inner, err, "%s/%s", path, entry->d_name);
        if (status == QY_OK && remove(inner) != 0 && qy_is_dir(inner))
            status = qy_remove_tree(inner, err);
    }
    if (dir)
        closedir(dir);
    return status;
}

static qy_status_t remove_ours(const char *path, qy_error_t *err)
{
    if (!qy_file_exists(path))
        return QY_OK;
    QY_TRY(remove_content(path, err));
    return qy_remove_tree(path, err);
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
    return status == QY_OK ? remove_ours(old, err) : status;
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

/* What a killed export left beside the target; a folder of the user's may have such a name too. */
static qy_status_t remove_leftover(const char *path, const char *model, qy_error_t *err)
{
    if (!qy_file_exists(path))
        return QY_OK;
    QY_TRY(check_ours(path, model, err));
    return remove_ours(path, err);
}

qy_status_t qy_target_begin(qy_target_t *out, const char *dir, const char *model, bool overwrite,
                            qy_error_t *err)
{
    qy_target_t t;
    QY_TRY(resolve_target(t.path, dir, err));
    QY_TRY(check_target(t.path, model, overwrite, err));
    QY_TRY(qy_path(t.temp, err, "%s.tmp", t.path));
    QY_TRY(qy_path(t.old, err, "%s.tmp.old", t.path));
    QY_TRY(remove_leftover(t.temp, model, err));
    QY_TRY(remove_leftover(t.old, model, err));
    QY_TRY(qy_make_dirs(t.temp, err));
    *out = t;
    return QY_OK;
}

qy_status_t qy_target_end(const qy_target_t *target, qy_status_t status, qy_error_t *err)
{
    if (status == QY_OK)
        status = publish(target->temp, target->old, target->path, err);
    if (status != QY_OK)
        (void)remove_ours(target->temp, NULL);
    return status;
}
