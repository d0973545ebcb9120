#include "jobs/spec_value.h"

#include "jobs/spec_path.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static qy_status_t expected(const qy_key_t *key, const qy_yaml_t *node, const char *what,
                            qy_error_t *err)
{
    const char *quote = node->quoted || !*node->text ? "\"" : "";
    return qy_yaml_fail(node, err, "%s: %s%.80s%s; expected %s", key->path, quote, node->text,
                        quote, what);
}

/* What the domain allows, or that it is known and not there yet. */
static qy_status_t outside(const qy_key_t *key, const qy_yaml_t *node, qy_error_t *err)
{
    char text[160];
    qy_domain_text(key->domain, text, sizeof text);
    if (qy_domain_known_later(key->domain, node->text))
        return qy_yaml_fail(node, err, "%s: %s is not built yet; known: %s", key->path, node->text,
                            text);
    return expected(key, node, text, err);
}

/* --- numbers ---------------------------------------------------------------------------------- */

static bool parse_whole(const char *text, int64_t *out)
{
    const char *digits = text + (*text == '-' || *text == '+');
    if (!*digits || digits[strspn(digits, "0123456789")])
        return false;
    errno = 0;
    *out = strtoll(text, NULL, 10);
    return errno == 0;
}

/* Decimal numbers only: strtod would also take hexadecimal ones, "inf" and "nan". */
static bool parse_real(const char *text, double *out)
{
    if (!*text || text[strspn(text, "+-.0123456789eE")])
        return false;
    char *end;
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out);
}

/* "123", "64GiB", "1.5 TB". */
static bool parse_bytes(const char *text, int64_t *out)
{
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"", 1.0},
                 {"B", 1.0},
                 {"KB", 1e3},
                 {"MB", 1e6},
                 {"GB", 1e9},
                 {"TB", 1e12},
                 {"KiB", 1024.0},
                 {"MiB", 1048576.0},
                 {"GiB", 1073741824.0},
                 {"TiB", 1099511627776.0}};
    char number[32];
    size_t digits = strspn(text, ".0123456789");
    const char *unit = text + digits + strspn(text + digits, " ");
    if (digits == 0 || digits >= sizeof number)
        return false;
    memcpy(number, text, digits);
    number[digits] = '\0';
    double value;
    if (!parse_real(number, &value))
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcasecmp(unit, units[i].unit) == 0) {
            double bytes = floor(value * units[i].bytes);
            *out = bytes < 9e18 ? (int64_t)bytes : INT64_MAX;
            return true;
        }
    return false;
}

/* Is value one of the domain's numbers or inside one of its ranges? Lower bounds are whole numbers.
 */
static bool in_domain(const char *domain, double value)
{
    qy_domain_t at = qy_domain_start(domain);
    while (qy_domain_next(&at) && at.built) {
        char *end;
        double low = (double)strtoll(at.word, &end, 10), high = low;
        if (end == at.word)
            continue;
        if (end[0] == '.' && end[1] == '.')
            high = strtod(end + 2, NULL);
        if (value >= low && value <= high)
            return true;
    }
    return false;
}

static qy_status_t read_whole(int64_t *out, const qy_key_t *key, const qy_yaml_t *node,
                              qy_error_t *err)
{
    bool bytes = key->kind == QY_KIND_BYTES;
    int64_t value = 0;
    if (node->quoted || !(bytes ? parse_bytes : parse_whole)(node->text, &value))
        return expected(key, node, bytes ? "a size such as 123, 64GiB or 64GB" : "a whole number",
                        err);
    if (!in_domain(key->domain, (double)value))
        return outside(key, node, err);
    *out = value;
    return QY_OK;
}

static qy_status_t read_real(double *out, const qy_key_t *key, const qy_yaml_t *node,
                             qy_error_t *err)
{
    double value = 0.0;
    if (node->quoted || !parse_real(node->text, &value))
        return expected(key, node, "a number", err);
    if (!in_domain(key->domain, value))
        return outside(key, node, err);
    *out = value + 0.0; /* −0 is 0: equal specs are equal bytes */
    return QY_OK;
}

/* --- words ------------------------------------------------------------------------------------ */

static qy_status_t read_name(char *out, const qy_key_t *key, const qy_yaml_t *node, qy_error_t *err)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strlen(node->text);
    if (length == 0 || length >= key->size || strspn(node->text, safe) != length ||
        node->text[0] == '.' || node->text[0] == '-')
        return qy_yaml_fail(node, err,
                            "%s: \"%.80s\"; expected 1 to %zu letters, digits, '.', '_', '-', not "
                            "starting with '.' or '-'",
                            key->path, node->text, key->size - 1);
    memcpy(out, node->text, length + 1);
    return QY_OK;
}

static qy_status_t read_path(char *out, const qy_key_t *key, const qy_yaml_t *node,
                             const qy_spec_places_t *places, qy_error_t *err)
{
    qy_error_t why = {0};
    const char *base =
        node->file == places->document ? places->document_base : places->current_base;
    qy_status_t status = qy_spec_path(out, node->text, base, &why);
    if (status != QY_OK)
        return qy_yaml_fail(node, err, "%s: %s", key->path, why.text);
    if (!out[0] && !key->fallback)
        return qy_yaml_fail(node, err, "%s: a path is expected", key->path);
    /* The tail goes into equal bytes too. */
    memset(out + strlen(out), 0, key->size - strlen(out));
    return QY_OK;
}

static bool is_auto(const qy_key_t *key, const qy_yaml_t *node)
{
    return !node->quoted && strcmp(node->text, "auto") == 0 &&
           qy_domain_place(key->domain, "auto") >= 0;
}

qy_status_t qy_spec_value(qy_spec_t *out, const qy_key_t *key, int item, const qy_yaml_t *node,
                          const qy_spec_places_t *places, qy_error_t *err)
{
    void *field = qy_key_field(out, key, item);
    int place = qy_domain_place(key->domain, node->text);
    switch (key->kind) {
    case QY_KIND_PATH:
        return read_path(field, key, node, places, err);
    case QY_KIND_NAME:
        return read_name(field, key, node, err);
    case QY_KIND_CHOICE:
        if (place < 0)
            return outside(key, node, err);
        *(int *)field = place;
        return QY_OK;
    case QY_KIND_WORD:
        if (place < 0)
            return outside(key, node, err);
        memcpy(field, node->text, strlen(node->text) + 1);
        return QY_OK;
    case QY_KIND_BOOL:
        if (place < 0 || node->quoted)
            return expected(key, node, "true or false", err);
        *(bool *)field = place == 0;
        return QY_OK;
    case QY_KIND_WHOLE:
    case QY_KIND_BYTES:
        if (!is_auto(key, node))
            return read_whole(field, key, node, err);
        *(int64_t *)field = 0;
        return QY_OK;
    case QY_KIND_REAL:
        if (!is_auto(key, node))
            return read_real(field, key, node, err);
        *(double *)field = (double)NAN;
        return QY_OK;
    }
    return qy_fail(err, QY_ERR_ARG, "%s: a row of no kind", key->path);
}
