#include "jobs/spec_path.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *text;
    size_t used;
} buffer_t;

static qy_status_t put(buffer_t *to, const char *text, size_t n, qy_error_t *err)
{
    if (to->used + n >= QY_PATH_MAX)
        return qy_fail(err, QY_ERR_ARG, "a path longer than %d bytes", QY_PATH_MAX - 1);
    memcpy(to->text + to->used, text, n);
    to->used += n;
    to->text[to->used] = '\0';
    return QY_OK;
}

static size_t name_length(const char *at)
{
    size_t n = 0;
    while (isalpha((unsigned char)at[n]) || at[n] == '_' ||
           (n > 0 && isdigit((unsigned char)at[n])))
        n++;
    return n;
}

static qy_status_t put_variable(buffer_t *to, const char *name, size_t length, const char *word,
                                size_t word_length, qy_error_t *err)
{
    char copy[256];
    if (length >= sizeof copy)
        return qy_fail(err, QY_ERR_ARG, "a variable's name of %zu characters", length);
    memcpy(copy, name, length);
    copy[length] = '\0';
    const char *value = getenv(copy);
    if (value && (*value || !word))
        return put(to, value, strlen(value), err);
    if (!word)
        return qy_fail(err, QY_ERR_ARG,
                       "the environment has no variable %s ($$ writes a dollar sign)", copy);
    return put(to, word, word_length, err);
}

/* What stands at a dollar sign; *at is moved behind it. */
static qy_status_t put_dollar(buffer_t *to, const char **at, qy_error_t *err)
{
    const char *name = *at + 1;
    size_t length = name_length(name);
    if (*name == '$') {
        *at += 2;
        return put(to, "$", 1, err);
    }
    if (length > 0) {
        *at = name + length;
        return put_variable(to, name, length, NULL, 0, err);
    }
    const char *end = *name == '{' ? strchr(name, '}') : NULL;
    length = end ? name_length(++name) : 0;
    const char *word = length ? name + length : NULL;
    bool has_word = word && word + 1 < end && word[0] == ':' && word[1] == '-';
    if (!word || (word != end && !has_word))
        return qy_fail(err, QY_ERR_ARG,
                       "\"%s\": after $ comes NAME, {NAME}, {NAME:-word}, or $ for a dollar sign",
                       *at);
    *at = end + 1;
    return put_variable(to, name, length, has_word ? word + 2 : NULL,
                        has_word ? (size_t)(end - word - 2) : 0, err);
}

static qy_status_t expand(char out[QY_PATH_MAX], const char *text, qy_error_t *err)
{
    buffer_t to = {.text = out};
    out[0] = '\0';
    if (text[0] == '~') {
        if (text[1] != '/' && text[1] != '\0')
            return qy_fail(err, QY_ERR_ARG, "\"%s\": only ~/ is known, not another user's home",
                           text);
        QY_TRY(put_variable(&to, "HOME", 4, NULL, 0, err));
        text++;
    }
    while (*text) {
        size_t plain = strcspn(text, "$");
        QY_TRY(put(&to, text, plain, err));
        text += plain;
        if (*text)
            QY_TRY(put_dollar(&to, &text, err));
    }
    return QY_OK;
}

/* base is a real path, so leading "../" may be taken off it without asking the file system. */
static qy_status_t join(char out[QY_PATH_MAX], const char *base, const char *relative,
                        qy_error_t *err)
{
    size_t length = strlen(base);
    for (;;) {
        if (strncmp(relative, "./", 2) == 0 || strcmp(relative, ".") == 0) {
            relative += 1;
        } else if (strncmp(relative, "../", 3) == 0 || strcmp(relative, "..") == 0) {
            relative += 2;
            while (length > 0 && base[--length] != '/')
                ;
        } else {
            break;
        }
        relative += strspn(relative, "/");
    }
    while (length > 0 && base[length - 1] == '/')
        length--;
    if (*relative || length == 0)
        return qy_path(out, err, "%.*s/%s", (int)length, base, relative);
    return qy_path(out, err, "%.*s", (int)length, base);
}

qy_status_t qy_spec_path(char out[QY_PATH_MAX], const char *text, const char *base, qy_error_t *err)
{
    char expanded[QY_PATH_MAX];
    QY_TRY(expand(expanded, text, err));
    if (expanded[0] == '/' || expanded[0] == '\0')
        return qy_path(out, err, "%s", expanded);
    return join(out, base, expanded, err);
}

qy_status_t qy_spec_base(char out[QY_PATH_MAX], const char *file, qy_error_t *err)
{
    char folder[QY_PATH_MAX];
    const char *slash = file ? strrchr(file, '/') : NULL;
    size_t length = slash ? (size_t)(slash - file) + (slash == file) : 1;
    QY_TRY(qy_path(folder, err, "%.*s", (int)length, slash ? file : "."));
    char *real = realpath(folder, NULL);
    if (!real)
        return qy_fail(err, QY_ERR_IO, "%s: %s", folder, strerror(errno));
    qy_status_t status = qy_path(out, err, "%s", real);
    free(real);
    return status;
}
