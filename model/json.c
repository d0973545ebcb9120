#include "model/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

static const char *type_name(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",       [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a real number", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null",
    };
    return names[json_typeof(value)];
}

static qy_status_t wrong_type(const json_t *value, const char *where, const char *key,
                              const char *wanted, qy_error_t *err)
{
    return qy_fail(err, QY_ERR_FORMAT, "%s: \"%s\" is %s, not %s", where, key, type_name(value),
                   wanted);
}

/* NULL where the key is absent or null. */
static const json_t *look_up(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

static qy_status_t parse(json_t **out, const char *text, size_t bytes, size_t flags,
                         const char *where, qy_error_t *err)
{
    json_error_t problem;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | flags, &problem);
    if (!root)
        return qy_fail(err, QY_ERR_FORMAT, "%s: line %d column %d: %s", where, problem.line,
                       problem.column, problem.text);
    if (!json_is_object(root)) {
        qy_fail(err, QY_ERR_FORMAT, "%s: holds %s, not an object", where, type_name(root));
        json_decref(root);
        return QY_ERR_FORMAT;
    }
    *out = root;
    return QY_OK;
}

qy_status_t qy_json_parse(json_t **out, const char *text, size_t bytes, const char *where,
                          qy_error_t *err)
{
    return parse(out, text, bytes, 0, where, err);
}

qy_status_t qy_json_lines(const char *path, const char *text, size_t bytes, qy_json_line_fn take,
                          void *context, qy_error_t *err)
{
    long number = 1;
    for (size_t at = 0, n; at < bytes; at += n + 1, number++) {
        const char *end = memchr(text + at, '\n', bytes - at);
        n = end ? (size_t)(end - text) - at : bytes - at;
        if (strspn(text + at, " \t\r") >= n) /* the text ends in a NUL */
            continue;
        char where[QY_PATH_MAX + 32];
        snprintf(where, sizeof where, "%s: line %ld", path, number);
        QY_TRY(take(context, text + at, n, where, err));
    }
    return QY_OK;
}

static qy_status_t read_file(json_t **out, const char *path, size_t max_bytes, size_t flags,
                             qy_error_t *err)
{
    char *text;
    size_t bytes;
    QY_TRY(qy_file_read(path, max_bytes, &text, &bytes, err));
    qy_status_t status = parse(out, text, bytes, flags, path, err);
    free(text);
    return status;
}

qy_status_t qy_json_read(json_t **out, const char *path, size_t max_bytes, qy_error_t *err)
{
    return read_file(out, path, max_bytes, 0, err);
}

qy_status_t qy_json_read_settings(json_t **out, const char *path, size_t max_bytes, qy_error_t *err)
{
    return read_file(out, path, max_bytes, JSON_DECODE_INT_AS_REAL, err);
}

qy_status_t qy_json_bool(const json_t *object, const char *where, const char *key, bool *out,
                         qy_error_t *err)
{
    const json_t *value = look_up(object, key);
    if (value && !json_is_boolean(value))
        return wrong_type(value, where, key, "true or false", err);
    if (value)
        *out = json_is_true(value);
    return QY_OK;
}

qy_status_t qy_json_i64(const json_t *object, const char *where, const char *key, int64_t *out,
                        qy_error_t *err)
{
    const json_t *value = look_up(object, key);
    if (value && !json_is_integer(value))
        return wrong_type(value, where, key, "a whole number", err);
    if (value)
        *out = json_integer_value(value);
    return QY_OK;
}

qy_status_t qy_json_f64(const json_t *object, const char *where, const char *key, double *out,
                        qy_error_t *err)
{
    const json_t *value = look_up(object, key);
    if (value && !json_is_number(value))
        return wrong_type(value, where, key, "a number", err);
    if (value)
        *out = json_number_value(value);
    return QY_OK;
}

qy_status_t qy_json_string(const json_t *object, const char *where, const char *key,
                           const char **out, qy_error_t *err)
{
    const json_t *value = look_up(object, key);
    if (value && !json_is_string(value))
        return wrong_type(value, where, key, "a string", err);
    if (value)
        *out = json_string_value(value);
    return QY_OK;
}

qy_status_t qy_json_object(const json_t *object, const char *where, const char *key,
                           const json_t **out, qy_error_t *err)
{
    const json_t *value = look_up(object, key);
    if (value && !json_is_object(value))
        return wrong_type(value, where, key, "an object", err);
    if (value)
        *out = value;
    return QY_OK;
}

qy_status_t qy_json_array(const json_t *object, const char *where, const char *key,
                          const json_t **out, qy_error_t *err)
{
    const json_t *value = look_up(object, key);
    if (value && !json_is_array(value))
        return wrong_type(value, where, key, "a list", err);
    if (value)
        *out = value;
    return QY_OK;
}
