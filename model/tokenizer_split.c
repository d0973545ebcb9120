#include <stdlib.h>
#include <string.h>

#include "model/json.h"
#include "model/tokenizer_split_inner.h"
#include "model/tokenizer_utf8.h"

static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
                                   "| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { NESTING_MAX = 8 };

/* --- reading the file --- */

static qy_status_t add_stage(qy_split_t *split, const qy_split_stage_t *stage, const char *where,
                             qy_error_t *err)
{
    if (split->n == QY_SPLIT_STAGES_MAX)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: pre_tokenizer of more than %d stages", where,
                       QY_SPLIT_STAGES_MAX);
    split->stages[split->n++] = *stage;
    return QY_OK;
}

static qy_status_t add_cut(qy_split_t *split, const char *pattern, bool literal,
                           qy_split_behavior_t behavior, bool invert, const char *where,
                           qy_error_t *err)
{
    qy_split_stage_t stage = {.kind = QY_SPLIT_CUT, .behavior = behavior, .invert = invert};
    QY_TRY(qy_pattern_create(&stage.pattern, pattern, literal, where, err));
    qy_status_t status = add_stage(split, &stage, where, err);
    if (status != QY_OK)
        qy_pattern_destroy(&stage.pattern);
    return status;
}

static qy_status_t read_byte_level(qy_split_t *split, const json_t *o, const char *where,
                                   qy_error_t *err)
{
    bool prefix_space = true, use_regex = true;
    QY_TRY(qy_json_bool(o, where, "add_prefix_space", &prefix_space, err));
    QY_TRY(qy_json_bool(o, where, "use_regex", &use_regex, err));
    if (prefix_space)
        QY_TRY(add_stage(split, &(qy_split_stage_t){.kind = QY_SPLIT_PREFIX_SPACE}, where, err));
    if (use_regex)
        QY_TRY(add_cut(split, gpt2_pattern, false, QY_SPLIT_ISOLATED, false, where, err));
    return add_stage(split, &(qy_split_stage_t){.kind = QY_SPLIT_BYTES}, where, err);
}

static qy_status_t read_prepend(qy_split_prepend_t *out, const json_t *o, const char *where,
                                qy_error_t *err)
{
    static const char *const names[] = {[QY_SPLIT_PREPEND_ALWAYS] = "always",
                                        [QY_SPLIT_PREPEND_FIRST] = "first",
                                        [QY_SPLIT_PREPEND_NEVER] = "never"};
    const char *name = names[QY_SPLIT_PREPEND_ALWAYS];
    bool space = true; /* an older key; where it says no, both must */
    QY_TRY(qy_json_string(o, where, "prepend_scheme", &name, err));
    QY_TRY(qy_json_bool(o, where, "add_prefix_space", &space, err));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0 && (space || i == QY_SPLIT_PREPEND_NEVER)) {
            *out = (qy_split_prepend_t)i;
            return QY_OK;
        }
    return qy_fail(err, QY_ERR_FORMAT, "%s: Metaspace with the prepend_scheme \"%.60s\"%s", where,
                   name, space ? "" : " and without add_prefix_space");
}

static qy_status_t read_metaspace(qy_split_t *split, const json_t *o, const char *where,
                                  qy_error_t *err)
{
    qy_split_stage_t stage = {.kind = QY_SPLIT_METASPACE};
    const char *mark = "";
    bool cuts = true;
    QY_TRY(qy_json_string(o, where, "replacement", &mark, err));
    QY_TRY(qy_json_bool(o, where, "split", &cuts, err));
    QY_TRY(read_prepend(&stage.prepend, o, where, err));
    if (*mark == '\0' || qy_utf8_length(mark) != strlen(mark))
        return qy_fail(err, QY_ERR_FORMAT, "%s: Metaspace's replacement is not a character", where);
    memcpy(stage.mark, mark, strlen(mark));
    QY_TRY(add_stage(split, &stage, where, err));
    return cuts ? add_cut(split, mark, true, QY_SPLIT_MERGED_WITH_NEXT, false, where, err) : QY_OK;
}

static qy_status_t read_digits(qy_split_t *split, const json_t *o, const char *where,
                               qy_error_t *err)
{
    bool each = false;
    QY_TRY(qy_json_bool(o, where, "individual_digits", &each, err));
    return add_cut(split, "\\p{N}", false, each ? QY_SPLIT_ISOLATED : QY_SPLIT_CONTIGUOUS, false,
                   where, err);
}

static qy_status_t read_behavior(qy_split_behavior_t *out, const json_t *o, const char *where,
                                 qy_error_t *err)
{
    static const char *const names[] = {
        [QY_SPLIT_ISOLATED] = "Isolated",
        [QY_SPLIT_REMOVED] = "Removed",
        [QY_SPLIT_CONTIGUOUS] = "Contiguous",
        [QY_SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [QY_SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
    };
    const char *name = "";
    QY_TRY(qy_json_string(o, where, "behavior", &name, err));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (qy_split_behavior_t)i;
            return QY_OK;
        }
    return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: Split with the behavior \"%.60s\"", where, name);
}

static qy_status_t read_split(qy_split_t *split, const json_t *o, const char *where,
                              qy_error_t *err)
{
    qy_split_behavior_t behavior = QY_SPLIT_ISOLATED;
    bool invert = false;
    const json_t *pattern = NULL;
    const char *regex = NULL, *literal = NULL;
    QY_TRY(read_behavior(&behavior, o, where, err));
    QY_TRY(qy_json_bool(o, where, "invert", &invert, err));
    QY_TRY(qy_json_object(o, where, "pattern", &pattern, err));
    QY_TRY(qy_json_string(pattern, where, "Regex", &regex, err));
    QY_TRY(qy_json_string(pattern, where, "String", &literal, err));
    if (!regex == !literal)
        return qy_fail(err, QY_ERR_FORMAT, "%s: Split without a Regex or a String", where);
    return add_cut(split, regex ? regex : literal, literal, behavior, invert, where, err);
}

static qy_status_t read_any(qy_split_t *split, const json_t *value, int nesting, const char *where,
                            qy_error_t *err);

static qy_status_t read_sequence(qy_split_t *split, const json_t *o, int nesting, const char *where,
                                 qy_error_t *err)
{
    const json_t *list = NULL;
    QY_TRY(qy_json_array(o, where, "pretokenizers", &list, err));
    if (nesting == NESTING_MAX)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: pre_tokenizer nested %d deep", where, nesting);
    for (size_t i = 0; i < json_array_size(list); i++)
        QY_TRY(read_any(split, json_array_get(list, i), nesting + 1, where, err));
    return QY_OK;
}

static qy_status_t read_any(qy_split_t *split, const json_t *value, int nesting, const char *where,
                            qy_error_t *err)
{
    static const struct {
        const char *type;
        qy_status_t (*read)(qy_split_t *, const json_t *, const char *, qy_error_t *);
    } known[] = {{"ByteLevel", read_byte_level},
                 {"Digits", read_digits},
                 {"Split", read_split},
                 {"Metaspace", read_metaspace}};
    const char *type = "";
    if (!json_is_object(value))
        return qy_fail(err, QY_ERR_FORMAT, "%s: a pre_tokenizer is not an object", where);
    QY_TRY(qy_json_string(value, where, "type", &type, err));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(split, value, nesting, where, err);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(type, known[i].type) == 0)
            return known[i].read(split, value, where, err);
    return qy_fail(
        err, QY_ERR_UNSUPPORTED,
        "%s: pre_tokenizer of type \"%.60s\" (known: Sequence, ByteLevel, Digits, Split, "
        "Metaspace)",
        where, type);
}

qy_status_t qy_split_create(qy_split_t **out, const json_t *pre_tokenizer, const char *where,
                            qy_error_t *err)
{
    qy_split_t *split = calloc(1, sizeof *split);
    if (!split)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", where);
    qy_status_t status = QY_OK;
    if (pre_tokenizer && !json_is_null(pre_tokenizer))
        status = read_any(split, pre_tokenizer, 0, where, err);
    if (status != QY_OK) {
        qy_split_destroy(&split);
        return status;
    }
    *out = split;
    return QY_OK;
}

void qy_split_destroy(qy_split_t **split)
{
    if (!split || !*split)
        return;
    for (int i = 0; i < (*split)->n; i++)
        qy_pattern_destroy(&(*split)->stages[i].pattern);
    free(*split);
    *split = NULL;
}
