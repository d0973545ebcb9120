#include "model/tokenizer_normal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/json.h"
#include "model/tokenizer_utf8.h"

enum { STEPS_MAX = 8, NESTING_MAX = 8, STRING_BYTES_MAX = 256 };

typedef struct {
    char *text;
    size_t bytes;
} string_t;

typedef struct step step_t;

/* Rewrites a text that is not empty into *out, which the caller frees; leaves *out NULL where
 * nothing changes. */
typedef qy_status_t (*apply_t)(const step_t *step, char **out, size_t *out_bytes, const char *text,
                               size_t bytes, qy_error_t *err);

struct step {
    apply_t apply;
    string_t pattern, content; /* what is looked for; what is put in */
};

struct qy_normal {
    step_t steps[STEPS_MAX];
    int n;
};

/* --- steps --- */

static qy_status_t apply_nfc(const step_t *step, char **out, size_t *out_bytes, const char *text,
                             size_t bytes, qy_error_t *err)
{
    (void)step;
    if (qy_utf8_is_ascii(text, bytes))
        return QY_OK;
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &composed,
                     (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (n < 0)
        return qy_fail(err, n == UTF8PROC_ERROR_NOMEM ? QY_ERR_MEMORY : QY_ERR_FORMAT,
                       "NFC of %zu bytes: %s", bytes, utf8proc_errmsg(n));
    *out = (char *)composed;
    *out_bytes = (size_t)n;
    return QY_OK;
}

static qy_status_t take(char **out, size_t bytes, qy_error_t *err)
{
    *out = malloc(bytes + 1);
    return *out ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "no memory for %zu bytes of text", bytes);
}

static qy_status_t apply_prepend(const step_t *step, char **out, size_t *out_bytes,
                                 const char *text, size_t bytes, qy_error_t *err)
{
    char *made = NULL;
    QY_TRY(take(&made, step->content.bytes + bytes, err));
    memcpy(made, step->content.text, step->content.bytes);
    memcpy(made + step->content.bytes, text, bytes);
    *out = made;
    *out_bytes = step->content.bytes + bytes;
    return QY_OK;
}

/* The next place of the pattern at or after `at`; bytes where there is none. */
static size_t find(const string_t *pattern, const char *text, size_t bytes, size_t at)
{
    while (bytes - at >= pattern->bytes) {
        const char *c = memchr(text + at, pattern->text[0], bytes - at - pattern->bytes + 1);
        if (!c)
            break;
        at = (size_t)(c - text);
        if (memcmp(c, pattern->text, pattern->bytes) == 0)
            return at;
        at++;
    }
    return bytes;
}

static qy_status_t apply_replace(const step_t *step, char **out, size_t *out_bytes,
                                 const char *text, size_t bytes, qy_error_t *err)
{
    const string_t *pattern = &step->pattern, *content = &step->content;
    size_t n = 0, used = 0, done = 0;
    for (size_t at = 0; (at = find(pattern, text, bytes, at)) < bytes; at += pattern->bytes)
        n++;
    if (n == 0)
        return QY_OK;
    char *made = NULL;
    QY_TRY(take(&made, bytes - n * pattern->bytes + n * content->bytes, err));
    for (; n > 0; n--) {
        size_t at = find(pattern, text, bytes, done);
        memcpy(made + used, text + done, at - done);
        used += at - done;
        memcpy(made + used, content->text, content->bytes);
        used += content->bytes;
        done = at + pattern->bytes;
    }
    memcpy(made + used, text + done, bytes - done);
    *out = made;
    *out_bytes = used + bytes - done;
    return QY_OK;
}

/* --- reading the file --- */

static qy_status_t read_string(string_t *out, const json_t *o, const char *key, const char *where,
                               qy_error_t *err)
{
    const char *text = NULL;
    QY_TRY(qy_json_string(o, where, key, &text, err));
    if (!text || strlen(text) > STRING_BYTES_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: a normalizer %s \"%s\"", where,
                       text ? "with a long" : "without", key);
    out->bytes = strlen(text);
    QY_TRY(take(&out->text, out->bytes, err));
    memcpy(out->text, text, out->bytes);
    return QY_OK;
}

static qy_status_t read_nfc(step_t *step, const json_t *o, const char *where, qy_error_t *err)
{
    (void)o, (void)where, (void)err;
    step->apply = apply_nfc;
    return QY_OK;
}

static qy_status_t read_prepend(step_t *step, const json_t *o, const char *where, qy_error_t *err)
{
    step->apply = apply_prepend;
    return read_string(&step->content, o, "prepend", where, err);
}

static qy_status_t read_replace(step_t *step, const json_t *o, const char *where, qy_error_t *err)
{
    const json_t *pattern = NULL;
    QY_TRY(qy_json_object(o, where, "pattern", &pattern, err));
    if (!json_object_get(pattern, "String"))
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: normalizer Replace of what is no String",
                       where);
    step->apply = apply_replace;
    QY_TRY(read_string(&step->pattern, pattern, "String", where, err));
    if (step->pattern.bytes == 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: normalizer Replace of an empty String", where);
    return read_string(&step->content, o, "content", where, err);
}

static qy_status_t read_any(qy_normal_t *normal, const json_t *value, int nesting,
                            const char *where, qy_error_t *err);

static qy_status_t read_sequence(qy_normal_t *normal, const json_t *o, int nesting,
                                 const char *where, qy_error_t *err)
{
    const json_t *list = NULL;
    QY_TRY(qy_json_array(o, where, "normalizers", &list, err));
    if (nesting == NESTING_MAX)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: normalizer nested %d deep", where, nesting);
    for (size_t i = 0; i < json_array_size(list); i++)
        QY_TRY(read_any(normal, json_array_get(list, i), nesting + 1, where, err));
    return QY_OK;
}

static qy_status_t read_any(qy_normal_t *normal, const json_t *value, int nesting,
                            const char *where, qy_error_t *err)
{
    static const struct {
        const char *type;
        qy_status_t (*read)(step_t *, const json_t *, const char *, qy_error_t *);
    } known[] = {{"NFC", read_nfc}, {"Prepend", read_prepend}, {"Replace", read_replace}};
    const char *type = "";
    if (!json_is_object(value))
        return qy_fail(err, QY_ERR_FORMAT, "%s: a normalizer is not an object", where);
    QY_TRY(qy_json_string(value, where, "type", &type, err));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(normal, value, nesting, where, err);
    if (normal->n == STEPS_MAX)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: more than %d normalizers", where, STEPS_MAX);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(type, known[i].type) == 0)
            return known[i].read(&normal->steps[normal->n++], value, where, err);
    return qy_fail(err, QY_ERR_UNSUPPORTED,
                   "%s: normalizer of type \"%.60s\" (known: Sequence, NFC, Prepend, Replace)",
                   where, type);
}

qy_status_t qy_normal_create(qy_normal_t **out, const json_t *normalizer, const char *where,
                             qy_error_t *err)
{
    qy_normal_t *normal = calloc(1, sizeof *normal);
    if (!normal)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", where);
    qy_status_t status = QY_OK;
    if (normalizer && !json_is_null(normalizer))
        status = read_any(normal, normalizer, 0, where, err);
    if (status != QY_OK) {
        qy_normal_destroy(&normal);
        return status;
    }
    *out = normal;
    return QY_OK;
}

void qy_normal_destroy(qy_normal_t **normal)
{
    if (!normal || !*normal)
        return;
    for (int i = 0; i < (*normal)->n; i++) {
        free((*normal)->steps[i].pattern.text);
        free((*normal)->steps[i].content.text);
    }
    free(*normal);
    *normal = NULL;
}

/* --- running --- */

qy_status_t qy_normal_apply(const qy_normal_t *normal, const char *text, size_t bytes, char **owned,
                            size_t *out_bytes, qy_error_t *err)
{
    char *now = NULL;
    for (int i = 0; i < normal->n && bytes > 0; i++) {
        const step_t *step = &normal->steps[i];
        char *next = NULL;
        size_t next_bytes = 0;
        qy_status_t status = step->apply(step, &next, &next_bytes, now ? now : text, bytes, err);
        if (status != QY_OK) {
            free(now);
            return status;
        }
        if (next) {
            free(now);
            now = next;
            bytes = next_bytes;
        }
    }
    *owned = now;
    *out_bytes = bytes;
    return QY_OK;
}
