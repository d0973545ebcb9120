#include "jobs/spec_table.h"

#include <jansson.h>

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPEC_SIZE(field) sizeof(((const qy_spec_t *)0)->field)
#define REQUIRED         NULL
#define RESULT           true
#define OTHER            false

static const qy_key_t keys[] = {
#define QY_KEY(path, kind, field, domain, fallback, unit, effect, help)                            \
    {path,                                                                                         \
     QY_KIND_##kind,                                                                               \
     offsetof(qy_spec_t, field),                                                                   \
     SPEC_SIZE(field),                                                                             \
     domain,                                                                                       \
     fallback,                                                                                     \
     unit,                                                                                         \
     effect,                                                                                       \
     help},
#include "jobs/spec_keys.def"
#undef QY_KEY
};

static const qy_key_list_t lists[] = {
    {"evaluate[]", offsetof(qy_spec_t, n_evaluate), QY_MAX_EVALUATE, sizeof(qy_evaluate_spec_t)},
    {"export[]", offsetof(qy_spec_t, n_export), QY_MAX_EXPORT, QY_FORMAT_NAME_MAX},
};

int qy_key_count(void)
{
    return (int)(sizeof keys / sizeof *keys);
}

const qy_key_t *qy_key_at(int i)
{
    return &keys[i];
}

const qy_key_t *qy_key_find(const char *path, size_t length)
{
    for (int i = 0; i < qy_key_count(); i++)
        if (strlen(keys[i].path) == length && memcmp(keys[i].path, path, length) == 0)
            return &keys[i];
    return NULL;
}

const qy_key_list_t *qy_key_list(const char *path)
{
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (strncmp(path, lists[i].path, strlen(lists[i].path)) == 0)
            return &lists[i];
    return NULL;
}

int *qy_key_list_count(qy_spec_t *spec, const qy_key_list_t *list)
{
    return (int *)(void *)((char *)spec + list->n_offset);
}

const void *qy_key_field_of(const qy_spec_t *spec, const qy_key_t *key, int item)
{
    const qy_key_list_t *list = qy_key_list(key->path);
    return (const char *)spec + key->offset + (list ? (size_t)item * list->stride : 0);
}

void *qy_key_field(qy_spec_t *spec, const qy_key_t *key, int item)
{
    return (char *)spec + ((const char *)qy_key_field_of(spec, key, item) - (const char *)spec);
}

/* --- domains ---------------------------------------------------------------------------------- */

qy_domain_t qy_domain_start(const char *domain)
{
    return (qy_domain_t){.rest = domain, .rest_built = true};
}

bool qy_domain_next(qy_domain_t *domain)
{
    if (!domain->rest || !*domain->rest)
        return false;
    domain->word = domain->rest;
    domain->length = strcspn(domain->rest, "|;");
    domain->built = domain->rest_built;
    const char *end = domain->rest + domain->length;
    if (*end == ';')
        domain->rest_built = false;
    domain->rest = *end ? end + 1 : NULL;
    return true;
}

static int place_of(const char *domain, const char *text, bool built)
{
    qy_domain_t at = qy_domain_start(domain);
    for (int i = 0; qy_domain_next(&at); i++)
        if (at.built == built && strlen(text) == at.length && memcmp(text, at.word, at.length) == 0)
            return i;
    return -1;
}

int qy_domain_place(const char *domain, const char *word)
{
    return place_of(domain, word, true);
}

bool qy_domain_known_later(const char *domain, const char *word)
{
    return place_of(domain, word, false) >= 0;
}

void qy_domain_text(const char *domain, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (qy_domain_t at = qy_domain_start(domain); qy_domain_next(&at) && at.built;) {
        const char *dots = strstr(at.word, "..");
        bool range = dots && dots < at.word + at.length;
        size_t low = range ? (size_t)(dots - at.word) : at.length;
        int n = snprintf(out + used, size - used, "%s%.*s", used ? ", " : "", (int)low, at.word);
        if (n > 0 && range)
            n += snprintf(out + used + n, size - used - (size_t)n, " to %.*s",
                          (int)(at.length - low - 2), dots + 2);
        used += (size_t)n;
    }
}

/* --- values ----------------------------------------------------------------------------------- */

/* JSON's strings are YAML's double-quoted ones. A path's dollar signs are doubled, as reading
 * halves them. */
static char *quoted(const char *text, bool is_path)
{
    char *escaped = malloc(2 * strlen(text) + 1);
    if (!escaped)
        return NULL;
    char *to = escaped;
    for (const char *at = text; *at; at++) {
        if (is_path && *at == '$')
            *to++ = '$';
        *to++ = *at;
    }
    *to = '\0';
    json_t *string = json_string(escaped);
    char *out = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    json_decref(string);
    free(escaped);
    return out;
}

static bool is_auto(const qy_key_t *key, const void *field)
{
    if (qy_domain_place(key->domain, "auto") < 0)
        return false;
    return key->kind == QY_KIND_REAL ? isnan(*(const double *)field) : *(const int64_t *)field == 0;
}

static char *choice_word(const char *domain, int place)
{
    qy_domain_t at = qy_domain_start(domain);
    for (int i = 0; qy_domain_next(&at); i++)
        if (i == place)
            return strndup(at.word, at.length);
    return NULL;
}

/* The shortest decimal that reads back as x. */
static void write_real(char *out, size_t size, double x)
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, size, "%.*g", digits, x);
        if (strtod(out, NULL) == x)
            return;
    }
}

qy_status_t qy_key_text(const qy_spec_t *spec, const qy_key_t *key, int item, char **out,
                        qy_error_t *err)
{
    const void *field = qy_key_field_of(spec, key, item);
    char number[40] = "";
    switch (key->kind) {
    case QY_KIND_PATH:
    case QY_KIND_NAME:
    case QY_KIND_WORD:
        *out = quoted(field, key->kind == QY_KIND_PATH);
        if (!*out)
            return qy_fail(err, QY_ERR_FORMAT, "%s: \"%s\" is not UTF-8", key->path,
                           (const char *)field);
        return QY_OK;
    case QY_KIND_CHOICE:
        *out = choice_word(key->domain, *(const int *)field);
        break;
    case QY_KIND_BOOL:
        *out = strdup(*(const bool *)field ? "true" : "false");
        break;
    case QY_KIND_REAL:
        write_real(number, sizeof number, *(const double *)field);
        *out = strdup(is_auto(key, field) ? "auto" : number);
        break;
    case QY_KIND_WHOLE:
    case QY_KIND_BYTES:
        snprintf(number, sizeof number, "%lld", (long long)*(const int64_t *)field);
        *out = strdup(is_auto(key, field) ? "auto" : number);
        break;
    }
    return *out ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", key->path);
}

/* --- which rows count ------------------------------------------------------------------------- */

bool qy_spec_calibrates(const qy_spec_t *spec)
{
    return spec->quantize.method != QY_METHOD_RTN;
}

/* RPTQ's published steps are of whole ranges; from 4 bits on they are the default too:
 * docs/rptq.md.
 */
static int rptq_init(const qy_spec_t *spec)
{
    bool published = spec->rptq.compat || spec->quantize.weights.bits >= 4;
    return published ? QY_INIT_MIN_MAX : QY_INIT_LEAST_SQUARES;
}

qy_init_t qy_spec_init(const qy_spec_t *spec)
{
    const int init[QY_N_METHODS] = {[QY_METHOD_BLOCK_AP] = spec->block_ap.init,
                                    [QY_METHOD_RTN] = spec->rtn.init,
                                    [QY_METHOD_GPTQ] = spec->gptq.init,
                                    [QY_METHOD_RPTQ] = rptq_init(spec),
                                    [QY_METHOD_QLLM] =
                                        spec->qllm.compat ? QY_INIT_MIN_MAX : spec->qllm.init};
    return (qy_init_t)init[spec->quantize.method];
}

bool qy_spec_has_gptq(const qy_spec_t *spec)
{
    return spec->quantize.method == QY_METHOD_GPTQ ||
           (spec->quantize.method == QY_METHOD_RPTQ && spec->rptq.weights == QY_RPTQ_GPTQ);
}

bool qy_key_active(const qy_key_t *key, const qy_spec_t *spec)
{
    if (!key->result)
        return false;
    if (strncmp(key->path, "block_ap.", 9) == 0)
        return spec->quantize.method == QY_METHOD_BLOCK_AP;
    if (strncmp(key->path, "qllm.", 5) == 0)
        return spec->quantize.method == QY_METHOD_QLLM;
    if (strncmp(key->path, "rtn.", 4) == 0)
        return spec->quantize.method == QY_METHOD_RTN;
    if (strncmp(key->path, "gptq.", 5) == 0)
        return qy_spec_has_gptq(spec) &&
               (spec->quantize.method == QY_METHOD_GPTQ || strcmp(key->path, "gptq.damping") == 0 ||
                strcmp(key->path, "gptq.block_size") == 0);
    if (strncmp(key->path, "rptq.", 5) == 0)
        return spec->quantize.method == QY_METHOD_RPTQ;
    if (strncmp(key->path, "e2e_qp.", 7) == 0)
        return spec->e2e_qp.present;
    if (strncmp(key->path, "calibration.", 12) == 0)
        return qy_spec_calibrates(spec) || spec->e2e_qp.present;
    return true;
}
