#include "coordinator/ledger_line.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum { CRC_DIGITS = 8, REAL_DIGITS = 17 };

static const char *const kind_names[QY_N_LEDGER] = {
    [QY_LEDGER_START] = "start", [QY_LEDGER_ASSIGN] = "assign", [QY_LEDGER_BLOCK] = "block",
    [QY_LEDGER_DONE] = "done",   [QY_LEDGER_FAILED] = "failed", [QY_LEDGER_PHASE] = "phase",
    [QY_LEDGER_STOP] = "stop"};

typedef enum { FIELD_TEXT, FIELD_I32, FIELD_I64, FIELD_F64, FIELD_STATUS, FIELD_VALUES } type_t;

#define IN(kind)    (1u << QY_LEDGER_##kind)
#define TASK_EVENTS (IN(ASSIGN) | IN(BLOCK) | IN(DONE) | IN(FAILED))
#define FIELD(type, name, kinds)                                                                   \
    {                                                                                              \
        type, #name, offsetof(qy_entry_t, name), sizeof((qy_entry_t *)0)->name, kinds              \
    }

/* Which fields an event of which kind carries; the order is that of the line. */
static const struct {
    type_t type;
    const char *name;
    size_t offset, size;
    unsigned kinds;
} fields[] = {
    FIELD(FIELD_TEXT, time, (1u << QY_N_LEDGER) - 1),
    FIELD(FIELD_TEXT, phase, TASK_EVENTS | IN(PHASE)),
    FIELD(FIELD_TEXT, task, TASK_EVENTS),
    FIELD(FIELD_I32, task_id, TASK_EVENTS),
    FIELD(FIELD_I32, attempt, IN(ASSIGN) | IN(DONE) | IN(FAILED)),
    FIELD(FIELD_I32, rank, TASK_EVENTS),
    FIELD(FIELD_TEXT, host, IN(START) | IN(ASSIGN) | IN(FAILED)),
    FIELD(FIELD_I64, pid, IN(START)),
    FIELD(FIELD_I64, workers, IN(START)),
    FIELD(FIELD_I64, block, IN(BLOCK)),
    FIELD(FIELD_F64, seconds, IN(BLOCK) | IN(DONE) | IN(PHASE)),
    FIELD(FIELD_F64, stall_s, IN(BLOCK)),
    FIELD(FIELD_F64, loss_before, IN(BLOCK)),
    FIELD(FIELD_F64, loss_after, IN(BLOCK)),
    FIELD(FIELD_F64, validation_before, IN(BLOCK)),
    FIELD(FIELD_F64, validation_after, IN(BLOCK)),
    FIELD(FIELD_STATUS, status, IN(FAILED) | IN(STOP)),
    FIELD(FIELD_TEXT, text, IN(DONE) | IN(FAILED) | IN(STOP)),
    FIELD(FIELD_VALUES, values, IN(DONE) | IN(STOP)),
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

/* Error texts may hold any bytes of a path, or end inside a character: those that are not UTF-8 are
 * shown as question marks. */
static json_t *text_value(const char *text)
{
    json_t *value = json_string(text);
    if (value)
        return value;
    char plain[sizeof((qy_entry_t *)0)->text];
    snprintf(plain, sizeof plain, "%s", text);
    for (char *c = plain; *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    return json_string(plain);
}

static json_t *real_value(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *values_value(const qy_entry_t *entry)
{
    json_t *array = json_array();
    for (int64_t i = 0; array && i < entry->n_values; i++)
        if (json_array_append_new(array, real_value(entry->values[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *field_value(const qy_entry_t *entry, int field)
{
    const char *at = (const char *)entry + fields[field].offset;
    int32_t i32;
    int64_t i64;
    double f64;
    switch (fields[field].type) {
    case FIELD_TEXT:
        return text_value(at);
    case FIELD_I32:
        memcpy(&i32, at, sizeof i32);
        return json_integer(i32);
    case FIELD_I64:
        memcpy(&i64, at, sizeof i64);
        return json_integer(i64);
    case FIELD_F64:
        memcpy(&f64, at, sizeof f64);
        return real_value(f64);
    case FIELD_STATUS:
        return json_string(qy_status_name(entry->status));
    case FIELD_VALUES:
        return values_value(entry);
    }
    return NULL;
}

static char *to_json(const qy_entry_t *entry)
{
    json_t *object = json_object();
    int failed =
        !object || json_object_set_new(object, "event", json_string(kind_names[entry->kind])) != 0;
    for (int i = 0; !failed && i < N_FIELDS; i++)
        if (fields[i].kinds & 1u << entry->kind)
            failed = json_object_set_new(object, fields[i].name, field_value(entry, i)) != 0;
    char *text =
        failed ? NULL : json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(REAL_DIGITS));
    json_decref(object);
    return text;
}

qy_status_t qy_ledger_encode(const qy_entry_t *entry, char **line, size_t *n, qy_error_t *err)
{
    char *json = to_json(entry);
    size_t length = json ? strlen(json) : 0, size = length + CRC_DIGITS + sizeof "\t\n";
    char *out = json ? malloc(size) : NULL;
    if (!out) {
        free(json);
        return qy_fail(err, QY_ERR_MEMORY, "no memory for a ledger line");
    }
    snprintf(out, size, "%s\t%08x\n", json, (unsigned)qy_crc32(json, length));
    free(json);
    *n = size - 1;
    *line = out;
    return QY_OK;
}

static bool read_whole(json_t *value, int64_t low, int64_t high, int64_t *out)
{
    *out = json_integer_value(value);
    return json_is_integer(value) && *out >= low && *out <= high;
}

static bool read_real(json_t *value, double *out)
{
    *out = json_is_null(value) ? NAN : json_number_value(value);
    return json_is_null(value) || json_is_number(value);
}

static bool read_status(json_t *value, qy_status_t *out)
{
    for (int i = 0; i < QY_N_STATUS; i++)
        if (json_is_string(value) &&
            strcmp(json_string_value(value), qy_status_name((qy_status_t)i)) == 0) {
            *out = (qy_status_t)i;
            return true;
        }
    return false;
}

static bool read_values(json_t *array, qy_entry_t *out)
{
    size_t n = json_array_size(array);
    if (!json_is_array(array) || n == 0)
        return json_is_array(array);
    out->values = malloc(n * sizeof *out->values);
    for (size_t i = 0; out->values && i < n; i++)
        if (!read_real(json_array_get(array, i), &out->values[i]))
            return false;
    out->n_values = (int64_t)n;
    return out->values != NULL;
}

static bool read_field(qy_entry_t *out, int field, json_t *value)
{
    char *at = (char *)out + fields[field].offset;
    int64_t whole;
    int32_t i32;
    double real;
    switch (fields[field].type) {
    case FIELD_TEXT:
        if (!json_is_string(value) || json_string_length(value) >= fields[field].size)
            return false;
        memcpy(at, json_string_value(value), json_string_length(value) + 1);
        return true;
    case FIELD_I32:
        if (!read_whole(value, INT32_MIN, INT32_MAX, &whole))
            return false;
        i32 = (int32_t)whole;
        memcpy(at, &i32, sizeof i32);
        return true;
    case FIELD_I64:
        if (!read_whole(value, INT64_MIN, INT64_MAX, &whole))
            return false;
        memcpy(at, &whole, sizeof whole);
        return true;
    case FIELD_F64:
        if (!read_real(value, &real))
            return false;
        memcpy(at, &real, sizeof real);
        return true;
    case FIELD_STATUS:
        return read_status(value, &out->status);
    case FIELD_VALUES:
        return read_values(value, out);
    }
    return false;
}

static bool read_kind(json_t *value, qy_ledger_kind_t *out)
{
    for (int i = 0; i < QY_N_LEDGER; i++)
        if (json_is_string(value) && strcmp(json_string_value(value), kind_names[i]) == 0) {
            *out = (qy_ledger_kind_t)i;
            return true;
        }
    return false;
}

static qy_status_t read_object(qy_entry_t *out, json_t *object, qy_error_t *err)
{
    if (!json_is_object(object) || !read_kind(json_object_get(object, "event"), &out->kind))
        return qy_fail(err, QY_ERR_FORMAT, "no event that this version knows");
    for (int i = 0; i < N_FIELDS; i++)
        if ((fields[i].kinds & 1u << out->kind) &&
            !read_field(out, i, json_object_get(object, fields[i].name)))
            return qy_fail(err, QY_ERR_FORMAT, "event \"%s\": \"%s\" is missing or wrong",
                           kind_names[out->kind], fields[i].name);
    return QY_OK;
}

qy_status_t qy_ledger_decode(qy_entry_t *out, const char *line, size_t n, bool *torn,
                             qy_error_t *err)
{
    char digits[CRC_DIGITS + 1];
    *torn = true;
    if (n < CRC_DIGITS + 1 || line[n - CRC_DIGITS - 1] != '\t')
        return qy_fail(err, QY_ERR_FORMAT, "no checksum at the end");
    size_t length = n - CRC_DIGITS - 1;
    snprintf(digits, sizeof digits, "%08x", (unsigned)qy_crc32(line, length));
    if (memcmp(digits, line + length + 1, CRC_DIGITS) != 0)
        return qy_fail(err, QY_ERR_FORMAT, "checksum %.8s, computed %s", line + length + 1, digits);
    *torn = false;
    memset(out, 0, sizeof *out);
    json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
    qy_status_t status = read_object(out, object, err);
    json_decref(object);
    if (status != QY_OK) {
        free(out->values);
        memset(out, 0, sizeof *out);
    }
    return status;
}
