#include "jobs/spec.h"

#include "jobs/spec_path.h"
#include "jobs/spec_table.h"
#include "jobs/spec_value.h"
#include "jobs/yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is read where: the document and the folders that relative paths start at. */
typedef struct {
    qy_yaml_t *root;
    qy_spec_places_t places;
    qy_error_t *err;
} reader_t;

enum { MAX_KEY = 128 };

/* --- unknown keys ----------------------------------------------------------------------------- */

/* Levenshtein distance, both words cut at MAX_KEY. */
static size_t distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t row[MAX_KEY + 1];
    a_length = a_length < MAX_KEY ? a_length : MAX_KEY;
    b_length = b_length < MAX_KEY ? b_length : MAX_KEY;
    for (size_t j = 0; j <= b_length; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = best < row[j] + 1 ? best : row[j] + 1;
            row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
        }
    }
    return row[b_length];
}

/*
 * The valid key nearest to prefix + word: the same last part elsewhere first ("bits" outside of
 * "weights"), then the least distance among the keys of this map.
 */
static void suggest(const char *prefix, const char *word, char out[MAX_KEY])
{
    size_t best = (size_t)-1, prefix_length = strlen(prefix), word_length = strlen(word);
    out[0] = '\0';
    for (int i = 0; i < qy_key_count(); i++) {
        const char *path = qy_key_at(i)->path, *dot = strrchr(path, '.');
        const char *last = dot ? dot + 1 : path;
        if (strcmp(last, word) == 0) {
            snprintf(out, MAX_KEY, "%s", path);
            return;
        }
        if (strncmp(path, prefix, prefix_length) != 0)
            continue;
        size_t length = strcspn(path + prefix_length, ".[");
        size_t d = distance(word, word_length, path + prefix_length, length);
        if (d < best) {
            best = d;
            snprintf(out, MAX_KEY, "%.*s", (int)(prefix_length + length), path);
        }
    }
}

static qy_status_t check_map(const reader_t *reader, const qy_yaml_t *map, const char *prefix);

/* Is some row's path longer than this and starts with it, the next character being next? */
static bool starts_rows(const char *path, char next)
{
    size_t length = strlen(path);
    for (int i = 0; i < qy_key_count(); i++)
        if (strncmp(qy_key_at(i)->path, path, length) == 0 && qy_key_at(i)->path[length] == next)
            return true;
    return false;
}

static qy_status_t check_list(const reader_t *reader, const qy_yaml_t *node, const char *path)
{
    char prefix[MAX_KEY];
    if (node->kind != QY_YAML_LIST)
        return qy_yaml_fail(node, reader->err, "%s: a list is expected: [ … ]", path);
    snprintf(prefix, sizeof prefix, "%s[]", path);
    const qy_key_list_t *list = qy_key_list(prefix);
    if (node->n > list->max)
        return qy_yaml_fail(node->items[list->max], reader->err, "%s: at most %d items", path,
                            list->max);
    bool words = qy_key_find(prefix, strlen(prefix)) != NULL;
    snprintf(prefix, sizeof prefix, "%s[].", path);
    for (int i = 0; i < node->n; i++) {
        const qy_yaml_t *item = node->items[i];
        if (item->kind != (words ? QY_YAML_SCALAR : QY_YAML_MAP))
            return qy_yaml_fail(item, reader->err, "%s: %s are expected as items", path,
                                words ? "words" : "keys");
        if (!words)
            QY_TRY(check_map(reader, item, prefix));
    }
    return QY_OK;
}

/* Every key of the map is a row, a section or a list of the table. */
static qy_status_t check_map(const reader_t *reader, const qy_yaml_t *map, const char *prefix)
{
    for (int i = 0; i < map->n; i++) {
        const qy_yaml_t *key = map->keys[i], *value = map->items[i];
        char path[MAX_KEY], nearest[MAX_KEY], below[MAX_KEY + 1];
        int n = snprintf(path, sizeof path, "%s%s", prefix, key->text);
        bool fits = n > 0 && n < MAX_KEY && !strpbrk(key->text, ".[");
        if (fits && qy_key_find(path, strlen(path))) {
            if (value->kind != QY_YAML_SCALAR)
                return qy_yaml_fail(value, reader->err, "%s: a single value is expected, not a %s",
                                    path, value->kind == QY_YAML_LIST ? "list" : "map");
        } else if (fits && starts_rows(path, '[')) {
            QY_TRY(check_list(reader, value, path));
        } else if (fits && starts_rows(path, '.')) {
            if (value->kind != QY_YAML_MAP)
                return qy_yaml_fail(value, reader->err,
                                    value->kind == QY_YAML_SCALAR && !*value->text
                                        ? "%s: is empty; {} takes the defaults"
                                        : "%s: keys are expected: {key: value}",
                                    path);
            snprintf(below, sizeof below, "%s.", path);
            QY_TRY(check_map(reader, value, below));
        } else {
            suggest(prefix, key->text, nearest);
            return qy_yaml_fail(key, reader->err, "unknown key \"%s%.60s\"; the nearest is \"%s\"",
                                prefix, key->text, nearest);
        }
    }
    return QY_OK;
}

/* --- values ----------------------------------------------------------------------------------- */

/* The node at a dotted path from node on, or NULL; *deepest is the last one on the way. */
static const qy_yaml_t *look_up(const qy_yaml_t *node, const char *path, const qy_yaml_t **deepest)
{
    for (*deepest = node; node;) {
        char part[MAX_KEY];
        size_t length = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)length, path);
        *deepest = node;
        node = qy_yaml_get(node, part);
        if (path[length] == '\0')
            return node;
        path += length + 1;
    }
    return NULL;
}

/* Row key of item `item`, from its node under map, or its default. */
static qy_status_t read_row(const reader_t *reader, qy_spec_t *out, const qy_key_t *key, int item,
                            const qy_yaml_t *map, const char *path)
{
    const qy_yaml_t *deepest, *node = look_up(map, path, &deepest);
    qy_yaml_t fallback = {.kind = QY_YAML_SCALAR, .file = deepest->file};
    if (!node && !key->fallback)
        return qy_yaml_fail(deepest, reader->err, "%s is missing: %s", key->path, key->help);
    if (!node) {
        char *text = strdup(key->fallback);
        if (!text)
            return qy_fail(reader->err, QY_ERR_MEMORY, "job: out of memory");
        fallback.text = text;
        fallback.line = deepest->line;
        fallback.column = deepest->column;
        qy_status_t status = qy_spec_value(out, key, item, &fallback, &reader->places, reader->err);
        free(text);
        return status;
    }
    return qy_spec_value(out, key, item, node, &reader->places, reader->err);
}

static qy_status_t read_list(const reader_t *reader, qy_spec_t *out, const qy_key_t *key,
                             const qy_key_list_t *list)
{
    char name[MAX_KEY];
    size_t length = strlen(list->path);
    snprintf(name, sizeof name, "%.*s", (int)length - 2, list->path);
    const qy_yaml_t *node = qy_yaml_get(reader->root, name);
    int n = node ? node->n : 0;
    *qy_key_list_count(out, list) = n;
    for (int i = 0; i < n; i++) {
        if (key->path[length] == '\0')
            QY_TRY(qy_spec_value(out, key, i, node->items[i], &reader->places, reader->err));
        else
            QY_TRY(read_row(reader, out, key, i, node->items[i], key->path + length + 1));
    }
    return QY_OK;
}

static qy_status_t read_rows(const reader_t *reader, qy_spec_t *out)
{
    for (int i = 0; i < qy_key_count(); i++) {
        const qy_key_t *key = qy_key_at(i);
        const qy_key_list_t *list = qy_key_list(key->path);
        if (list)
            QY_TRY(read_list(reader, out, key, list));
        else
            QY_TRY(read_row(reader, out, key, 0, reader->root, key->path));
    }
    return QY_OK;
}

/* Lengths that follow the calibration's. */
static void settle_lengths(qy_spec_t *out)
{
    for (int i = 0; i < out->n_evaluate; i++)
        if (out->evaluate[i].sequence_length == 0 && !out->evaluate[i].task[0])
            out->evaluate[i].sequence_length = out->calibration.sequence_length;
}

/* The section is what switches the phase on. One that is off reads as if it were not there, so that
 * equal jobs are equal specs. */
static qy_status_t settle_e2e(const reader_t *reader, qy_spec_t *out)
{
    out->e2e_qp.present = qy_yaml_get(reader->root, "e2e_qp") != NULL && out->e2e_qp.epochs > 0;
    const qy_yaml_t nothing = {.kind = QY_YAML_MAP, .file = reader->root->file};
    for (int i = 0; i < qy_key_count() && !out->e2e_qp.present; i++)
        if (strncmp(qy_key_at(i)->path, "e2e_qp.", 7) == 0)
            QY_TRY(read_row(reader, out, qy_key_at(i), 0, &nothing, "absent"));
    return QY_OK;
}

/* --- keys that must agree --------------------------------------------------------------------- */

static const qy_yaml_t *place(const reader_t *reader, const char *path)
{
    const qy_yaml_t *deepest, *node = look_up(reader->root, path, &deepest);
    return node ? node : deepest;
}

/* A text or a task, not both; windows are a text's. */
static qy_status_t check_judge(const reader_t *reader, const qy_yaml_t *node, int i,
                               const qy_evaluate_spec_t *e)
{
    if (e->text[0] && e->task[0])
        return qy_yaml_fail(qy_yaml_get(node, "task"), reader->err,
                            "evaluate.%d: has a text and a task; make two entries of it", i);
    if (!e->text[0] && !e->task[0])
        return qy_yaml_fail(node, reader->err,
                            "evaluate.%d.text is missing: a text or a task is measured", i);
    if (e->task[0] && e->sequence_length)
        return qy_yaml_fail(qy_yaml_get(node, "sequence_length"), reader->err,
                            "evaluate.%d.sequence_length: a task has no windows", i);
    return QY_OK;
}

static qy_status_t check_evaluate(const reader_t *reader, const qy_spec_t *spec)
{
    const qy_yaml_t *list = qy_yaml_get(reader->root, "evaluate");
    for (int i = 0; i < spec->n_evaluate; i++) {
        const qy_yaml_t *node = qy_yaml_get(list->items[i], "name");
        const char *name = spec->evaluate[i].name;
        /* The run keeps token files of all texts in one folder. */
        if (strcmp(name, "calibration") == 0 || strcmp(name, "e2e") == 0)
            return qy_yaml_fail(node, reader->err,
                                "evaluate.%d.name: \"%s\" is the run's own; choose another", i,
                                name);
        for (int j = 0; j < i; j++)
            if (strcmp(spec->evaluate[j].name, name) == 0)
                return qy_yaml_fail(node, reader->err,
                                    "evaluate.%d.name: \"%s\" is also the name of evaluate.%d", i,
                                    name, j);
        QY_TRY(check_judge(reader, list->items[i], i, &spec->evaluate[i]));
    }
    return QY_OK;
}

/* A scheme stands for the bits of weights, activations and KV cache; a job that names one of them
 * as well says two things. */
static qy_status_t settle_scheme(const reader_t *reader, qy_spec_t *out)
{
    static const int bits[QY_N_SCHEMES][3] = {
        [QY_SCHEME_W4A16] = {4, 16, 16}, [QY_SCHEME_W4A8] = {4, 8, 8},
        [QY_SCHEME_W4A4] = {4, 4, 4},    [QY_SCHEME_W4A4KV] = {4, 16, 4},
        [QY_SCHEME_W4A3KV] = {4, 16, 3}, [QY_SCHEME_W3A3KV] = {3, 16, 3}};
    static const char *const keys[] = {"quantize.weights.bits", "quantize.activations.bits",
                                       "quantize.kv_cache.bits"};
    const int *wanted = bits[out->rptq.scheme];
    int64_t *const fields[] = {&out->quantize.weights.bits, &out->quantize.activation_bits,
                               &out->quantize.kv_bits};
    if (out->quantize.method != QY_METHOD_RPTQ || out->rptq.scheme == QY_SCHEME_NONE)
        return QY_OK;
    for (int i = 0; i < 3; i++) {
        const qy_yaml_t *deepest, *node = look_up(reader->root, keys[i], &deepest);
        if (node && *fields[i] != wanted[i])
            return qy_yaml_fail(node, reader->err, "%s: %lld, but rptq.scheme sets it to %d",
                                keys[i], (long long)*fields[i], wanted[i]);
        *fields[i] = wanted[i];
    }
    return QY_OK;
}

static qy_status_t check_together(const reader_t *reader, const qy_spec_t *spec)
{
    qy_error_t *err = reader->err;
    bool lent = spec->e2e_qp.present && !spec->e2e_qp.text[0];
    if (!spec->calibration.text[0] && (qy_spec_calibrates(spec) || lent))
        return qy_yaml_fail(place(reader, "calibration.text"), err,
                            "calibration.text is missing: %s needs a text",
                            qy_spec_calibrates(spec) ? "this method" : "e2e_qp");
    if (spec->quantize.method == QY_METHOD_GPTQ && spec->gptq.act_order &&
        !spec->gptq.static_groups)
        return qy_yaml_fail(place(reader, "gptq.act_order"), err,
                            "gptq.act_order: needs static_groups: true, as groups are of columns "
                            "that stand side by side");
    if (spec->e2e_qp.present && spec->e2e_qp.batch_size % spec->e2e_qp.micro_batch_size != 0)
        return qy_yaml_fail(place(reader, "e2e_qp.micro_batch_size"), err,
                            "e2e_qp.micro_batch_size: %lld does not divide batch_size %lld",
                            (long long)spec->e2e_qp.micro_batch_size,
                            (long long)spec->e2e_qp.batch_size);
    return check_evaluate(reader, spec);
}

/* --- the door --------------------------------------------------------------------------------- */

static qy_status_t apply_override(qy_yaml_t **root, const char *text, qy_error_t *err)
{
    char path[MAX_KEY];
    const char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return qy_fail(err, QY_ERR_ARG, "--set %s: key.path=value is expected", text);
    if ((size_t)(equals - text) >= sizeof path)
        return qy_fail(err, QY_ERR_ARG, "--set %s: no key is that long", text);
    snprintf(path, sizeof path, "%.*s", (int)(equals - text), text);
    const char *value = equals[1] ? equals + 1 : "\"\"";
    qy_yaml_t *node = NULL;
    QY_TRY(qy_yaml_parse(&node, value, strlen(value), "--set", err));
    return qy_yaml_replace(root, path, node, err);
}

qy_status_t qy_spec_read(qy_spec_t *out, const char *path, const char *const *overrides,
                         int n_overrides, qy_error_t *err)
{
    reader_t reader = {.err = err};
    qy_spec_t *spec = calloc(1, sizeof *spec);
    if (!spec)
        return qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", path);
    qy_status_t status = qy_yaml_read(&reader.root, path, err);
    if (status != QY_OK)
        goto free_spec;
    if (reader.root->kind != QY_YAML_MAP) {
        status = qy_yaml_fail(reader.root, err, "keys are expected: a job");
        goto destroy_root;
    }
    reader.places.document = reader.root->file;
    QY_TRY_GOTO(qy_spec_base(reader.places.document_base, path, err), destroy_root);
    QY_TRY_GOTO(qy_spec_base(reader.places.current_base, NULL, err), destroy_root);
    for (int i = 0; i < n_overrides; i++)
        QY_TRY_GOTO(apply_override(&reader.root, overrides[i], err), destroy_root);
    QY_TRY_GOTO(check_map(&reader, reader.root, ""), destroy_root);
    QY_TRY_GOTO(read_rows(&reader, spec), destroy_root);
    QY_TRY_GOTO(settle_e2e(&reader, spec), destroy_root);
    QY_TRY_GOTO(settle_scheme(&reader, spec), destroy_root);
    settle_lengths(spec);
    QY_TRY_GOTO(check_together(&reader, spec), destroy_root);
    memcpy(out, spec, sizeof *out);
destroy_root:
    qy_yaml_destroy(&reader.root);
free_spec:
    free(spec);
    return status;
}
