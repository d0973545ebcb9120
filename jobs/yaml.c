#include "jobs/yaml.h"

#include "base/file.h"

#include <yaml.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, MAX_NODES = 100000, MAX_BYTES = 1 << 20 };

typedef struct {
    yaml_parser_t parser;
    char *file;
    int n_nodes;
    qy_error_t *err;
} reader_t;

static qy_status_t read_node(reader_t *reader, const yaml_event_t *event, int depth,
                             qy_yaml_t **out);

/* --- positions and failures ------------------------------------------------------------------- */

static int line_of(yaml_mark_t mark)
{
    return (int)mark.line + 1;
}

static int column_of(yaml_mark_t mark)
{
    return (int)mark.column + 1;
}

static qy_status_t fail_at(const reader_t *reader, yaml_mark_t mark, const char *what)
{
    return qy_fail(reader->err, QY_ERR_FORMAT, "%s:%d:%d: %s", reader->file, line_of(mark),
                   column_of(mark), what);
}

static qy_status_t fail_parser(const reader_t *reader)
{
    const yaml_parser_t *p = &reader->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return qy_fail(reader->err, QY_ERR_MEMORY, "%s: out of memory", reader->file);
    const char *problem = p->problem ? p->problem : "not YAML";
    /* Bytes that are no UTF-8 are found before there is a mark for them. */
    if (p->error == YAML_READER_ERROR)
        return qy_fail(reader->err, QY_ERR_FORMAT, "%s:%d:1: %s (byte %zu)", reader->file,
                       line_of(p->mark), problem, p->problem_offset);
    return fail_at(reader, p->problem_mark, problem);
}

qy_status_t qy_yaml_fail(const qy_yaml_t *node, qy_error_t *err, const char *format, ...)
{
    char text[508];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return qy_fail(err, QY_ERR_FORMAT, "%s:%d:%d: %s", node->file, node->line, node->column, text);
}

/* --- nodes ------------------------------------------------------------------------------------ */

void qy_yaml_destroy(qy_yaml_t **node)
{
    if (!*node)
        return;
    for (int i = 0; i < (*node)->n; i++) {
        qy_yaml_destroy(&(*node)->items[i]);
        if ((*node)->keys)
            qy_yaml_destroy(&(*node)->keys[i]);
    }
    free((*node)->items);
    free((*node)->keys);
    free((*node)->text);
    free((*node)->owned_file);
    free(*node);
    *node = NULL;
}

/* Room for one more: the arrays double whenever n is a power of two, so they need no capacity. */
static int grow(qy_yaml_t ***array, int n)
{
    if (n & (n - 1))
        return 1;
    qy_yaml_t **larger = realloc(*array, (n ? 2 * (size_t)n : 1) * sizeof **array);
    if (!larger)
        return 0;
    *array = larger;
    return 1;
}

/* Takes key (NULL in a list) and value, also when it fails. */
static qy_status_t append(qy_yaml_t *node, qy_yaml_t *key, qy_yaml_t *value, qy_error_t *err)
{
    if (!grow(&node->items, node->n) || (key && !grow(&node->keys, node->n))) {
        qy_yaml_destroy(&key);
        qy_yaml_destroy(&value);
        return qy_fail(err, QY_ERR_MEMORY, "YAML: out of memory");
    }
    node->items[node->n] = value;
    if (key)
        node->keys[node->n] = key;
    node->n++;
    return QY_OK;
}

const qy_yaml_t *qy_yaml_get(const qy_yaml_t *map, const char *key)
{
    for (int i = 0; map->kind == QY_YAML_MAP && i < map->n; i++)
        if (strcmp(map->keys[i]->text, key) == 0)
            return map->items[i];
    return NULL;
}

/* --- reading ---------------------------------------------------------------------------------- */

static qy_status_t next_event(reader_t *reader, yaml_event_t *event)
{
    return yaml_parser_parse(&reader->parser, event) ? QY_OK : fail_parser(reader);
}

static qy_status_t new_node(reader_t *reader, yaml_mark_t mark, qy_yaml_kind_t kind,
                            qy_yaml_t **out)
{
    if (++reader->n_nodes > MAX_NODES)
        return fail_at(reader, mark, "more than 100000 nodes");
    qy_yaml_t *node = calloc(1, sizeof *node);
    if (!node)
        return qy_fail(reader->err, QY_ERR_MEMORY, "%s: out of memory", reader->file);
    node->kind = kind;
    node->file = reader->file;
    node->line = line_of(mark);
    node->column = column_of(mark);
    *out = node;
    return QY_OK;
}

static qy_status_t read_scalar(reader_t *reader, const yaml_event_t *event, qy_yaml_t **out)
{
    const char *value = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    if (strlen(value) != length)
        return fail_at(reader, event->start_mark, "a NUL character");
    QY_TRY(new_node(reader, event->start_mark, QY_YAML_SCALAR, out));
    (*out)->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    (*out)->text = strdup(value);
    return (*out)->text ? QY_OK
                        : qy_fail(reader->err, QY_ERR_MEMORY, "%s: out of memory", reader->file);
}

/* One list item or one pair of a map; event is the first of it. */
static qy_status_t read_entry(reader_t *reader, const yaml_event_t *event, int depth,
                              qy_yaml_t *parent)
{
    qy_yaml_t *key = NULL, *value = NULL;
    qy_status_t status;
    yaml_event_t next;
    if (parent->kind == QY_YAML_LIST) {
        QY_TRY_GOTO(read_node(reader, event, depth, &value), free_nodes);
        return append(parent, NULL, value, reader->err);
    }
    if (event->type != YAML_SCALAR_EVENT)
        return fail_at(reader, event->start_mark, "a key that is no plain word");
    QY_TRY_GOTO(read_node(reader, event, depth, &key), free_nodes);
    QY_TRY_GOTO(next_event(reader, &next), free_nodes);
    status = read_node(reader, &next, depth, &value);
    yaml_event_delete(&next);
    if (status == QY_OK)
        return append(parent, key, value, reader->err);
free_nodes:
    qy_yaml_destroy(&key);
    qy_yaml_destroy(&value);
    return status;
}

static int compare_keys(const void *a, const void *b)
{
    const qy_yaml_t *x = *(qy_yaml_t *const *)a, *y = *(qy_yaml_t *const *)b;
    int order = strcmp(x->text, y->text);
    if (order == 0)
        order = x->line != y->line ? x->line - y->line : x->column - y->column;
    return order;
}

/* By sorting: a hostile map of many keys must not take quadratic time. */
static qy_status_t refuse_duplicates(const reader_t *reader, const qy_yaml_t *map)
{
    if (map->n < 2)
        return QY_OK;
    qy_yaml_t **sorted = malloc((size_t)map->n * sizeof(qy_yaml_t *));
    if (!sorted)
        return qy_fail(reader->err, QY_ERR_MEMORY, "%s: out of memory", reader->file);
    memcpy(sorted, map->keys, (size_t)map->n * sizeof(qy_yaml_t *));
    qsort(sorted, (size_t)map->n, sizeof(qy_yaml_t *), compare_keys);
    qy_status_t status = QY_OK;
    for (int i = 1; i < map->n && status == QY_OK; i++)
        if (strcmp(sorted[i - 1]->text, sorted[i]->text) == 0)
            status = qy_yaml_fail(sorted[i], reader->err, "duplicate key \"%s\", first in line %d",
                                  sorted[i]->text, sorted[i - 1]->line);
    free(sorted);
    return status;
}

/* The rest of a list or map, up to its end. */
static qy_status_t read_children(reader_t *reader, int depth, qy_yaml_t *node)
{
    yaml_event_type_t end =
        node->kind == QY_YAML_LIST ? YAML_SEQUENCE_END_EVENT : YAML_MAPPING_END_EVENT;
    for (;;) {
        yaml_event_t event;
        QY_TRY(next_event(reader, &event));
        int done = event.type == end;
        qy_status_t status = done ? QY_OK : read_entry(reader, &event, depth + 1, node);
        yaml_event_delete(&event);
        QY_TRY(status);
        if (done)
            return node->kind == QY_YAML_MAP ? refuse_duplicates(reader, node) : QY_OK;
    }
}

static qy_status_t refuse_decorations(const reader_t *reader, const yaml_event_t *event)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (event->type == YAML_ALIAS_EVENT)
        return fail_at(reader, event->start_mark, "aliases are not used here");
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    }
    if (anchor)
        return fail_at(reader, event->start_mark, "anchors are not used here");
    return tag ? fail_at(reader, event->start_mark, "tags are not used here") : QY_OK;
}

static qy_status_t read_node(reader_t *reader, const yaml_event_t *event, int depth,
                             qy_yaml_t **out)
{
    if (depth > MAX_DEPTH)
        return fail_at(reader, event->start_mark, "nested deeper than 64");
    QY_TRY(refuse_decorations(reader, event));
    qy_status_t status;
    if (event->type == YAML_SCALAR_EVENT) {
        status = read_scalar(reader, event, out);
    } else {
        qy_yaml_kind_t kind = event->type == YAML_SEQUENCE_START_EVENT ? QY_YAML_LIST : QY_YAML_MAP;
        QY_TRY(new_node(reader, event->start_mark, kind, out));
        status = read_children(reader, depth, *out);
    }
    if (status != QY_OK)
        qy_yaml_destroy(out);
    return status;
}

/* libyaml lets tabs pass where they do no harm to it; a reader of the file cannot see where that
 * is. */
static qy_status_t refuse_tabs(const char *text, size_t bytes, const char *file, qy_error_t *err)
{
    int line = 1;
    for (size_t at = 0; at < bytes; line++) {
        size_t start = at;
        while (at < bytes && text[at] == ' ')
            at++;
        if (at < bytes && text[at] == '\t')
            return qy_fail(err, QY_ERR_FORMAT, "%s:%d:%zu: a tab in the indentation; use spaces",
                           file, line, at - start + 1);
        while (at < bytes && text[at] != '\n')
            at++;
        at++;
    }
    return QY_OK;
}

/* The document between the stream's start and end; *out is NULL where the file holds none. */
static qy_status_t read_document(reader_t *reader, qy_yaml_t **out)
{
    for (;;) {
        yaml_event_t event;
        QY_TRY(next_event(reader, &event));
        yaml_event_type_t type = event.type;
        qy_status_t status = QY_OK;
        if (type == YAML_DOCUMENT_START_EVENT && *out)
            status = fail_at(reader, event.start_mark, "a second document; one job a file");
        else if (type != YAML_STREAM_START_EVENT && type != YAML_STREAM_END_EVENT &&
                 type != YAML_DOCUMENT_START_EVENT && type != YAML_DOCUMENT_END_EVENT)
            status = read_node(reader, &event, 1, out);
        yaml_event_delete(&event);
        QY_TRY(status);
        if (type == YAML_STREAM_END_EVENT)
            return QY_OK;
    }
}

qy_status_t qy_yaml_parse(qy_yaml_t **out, const char *text, size_t bytes, const char *file,
                          qy_error_t *err)
{
    qy_yaml_t *root = NULL;
    reader_t reader = {.file = strdup(file), .err = err};
    qy_status_t status = QY_OK;
    if (!reader.file || !yaml_parser_initialize(&reader.parser)) {
        free(reader.file);
        return qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", file);
    }
    QY_TRY_GOTO(refuse_tabs(text, bytes, file, err), delete_parser);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, bytes);
    QY_TRY_GOTO(read_document(&reader, &root), delete_parser);
    if (!root)
        status = qy_fail(err, QY_ERR_FORMAT, "%s:1:1: is empty", file);
delete_parser:
    yaml_parser_delete(&reader.parser);
    if (status != QY_OK) {
        qy_yaml_destroy(&root);
        free(reader.file);
        return status;
    }
    root->owned_file = reader.file;
    *out = root;
    return QY_OK;
}

qy_status_t qy_yaml_read(qy_yaml_t **out, const char *path, qy_error_t *err)
{
    char *text = NULL;
    size_t bytes = 0;
    QY_TRY(qy_file_read(path, MAX_BYTES, &text, &bytes, err));
    qy_status_t status = qy_yaml_parse(out, text, bytes, path, err);
    free(text);
    return status;
}

/* --- replacing -------------------------------------------------------------------------------- */

/* An empty map (text NULL) or a key, which stands in no file. */
static qy_yaml_t *make_node(const char *text, size_t length)
{
    qy_yaml_t *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    *node = (qy_yaml_t){
        .kind = text ? QY_YAML_SCALAR : QY_YAML_MAP, .file = "--set", .line = 1, .column = 1};
    if (text && !(node->text = strndup(text, length)))
        qy_yaml_destroy(&node);
    return node;
}

/* Slot of the child that part (length bytes) of path names; a map without it gets one, empty. */
static qy_status_t find_slot(qy_yaml_t *node, const char *path, const char *part, size_t length,
                             qy_yaml_t ***slot, qy_error_t *err)
{
    int until = (int)(part - path + (ptrdiff_t)length);
    if (length == 0)
        return qy_fail(err, QY_ERR_ARG, "--set %s: an empty part in the key", path);
    if (node->kind == QY_YAML_SCALAR)
        return qy_fail(err, QY_ERR_ARG, "--set %s: %.*s stands inside a single value", path, until,
                       path);
    if (node->kind == QY_YAML_LIST) {
        char *end;
        long index = strtol(part, &end, 10);
        if (end != part + length || part[0] < '0' || part[0] > '9' || index >= node->n)
            return qy_fail(err, QY_ERR_ARG, "--set %s: no %.*s: the list has %d items", path, until,
                           path, node->n);
        *slot = &node->items[index];
        return QY_OK;
    }
    for (int i = 0; i < node->n; i++)
        if (strlen(node->keys[i]->text) == length &&
            memcmp(node->keys[i]->text, part, length) == 0) {
            *slot = &node->items[i];
            return QY_OK;
        }
    qy_yaml_t *key = make_node(part, length), *value = make_node(NULL, 0);
    if (!key || !value) {
        qy_yaml_destroy(&key);
        qy_yaml_destroy(&value);
        return qy_fail(err, QY_ERR_MEMORY, "--set %s: out of memory", path);
    }
    QY_TRY(append(node, key, value, err));
    *slot = &node->items[node->n - 1];
    return QY_OK;
}

qy_status_t qy_yaml_replace(qy_yaml_t **root, const char *path, qy_yaml_t *value, qy_error_t *err)
{
    qy_yaml_t **slot = root;
    int depth = 1;
    for (const char *part = path;;) {
        size_t length = strcspn(part, ".");
        qy_status_t status =
            ++depth > MAX_DEPTH
                ? qy_fail(err, QY_ERR_ARG, "--set %.60s…: nested deeper than %d", path, MAX_DEPTH)
                : find_slot(*slot, path, part, length, &slot, err);
        if (status != QY_OK) {
            qy_yaml_destroy(&value);
            return status;
        }
        if (part[length] == '\0')
            break;
        part += length + 1;
    }
    qy_yaml_destroy(slot);
    *slot = value;
    return QY_OK;
}
