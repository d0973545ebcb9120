#include "model/tokenizer_split.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/json.h"
#include "model/tokenizer_pattern.h"

static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
                                   "| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { STAGES_MAX = 16, NESTING_MAX = 8 };

/* What becomes of the matches of a pattern, and of what lies between them. */
typedef enum {
    BEHAVIOR_ISOLATED, /* each a piece of its own */
    BEHAVIOR_REMOVED,
    BEHAVIOR_CONTIGUOUS,           /* adjacent matches are one piece */
    BEHAVIOR_MERGED_WITH_PREVIOUS, /* a match ends the piece before it */
    BEHAVIOR_MERGED_WITH_NEXT
} behavior_t;

typedef enum {
    STAGE_CUT,          /* at the matches of a pattern */
    STAGE_PREFIX_SPACE, /* a space before what has none */
    STAGE_BYTES         /* GPT-2's alphabet: each byte becomes a printable character */
} stage_kind_t;

typedef struct {
    stage_kind_t kind;
    qy_pattern_t *pattern;
    behavior_t behavior;
    bool invert; /* what lies between the matches is the match */
} stage_t;

struct qy_split {
    stage_t stages[STAGES_MAX];
    int n;
};

struct qy_split_run {
    const qy_split_t *split;
    qy_pattern_run_t *patterns;
    struct {
        char *text;
        size_t room;
    } buffers[STAGES_MAX]; /* rewritten text */
    qy_word_fn fn;
    void *context;
};

/* --- reading the file --- */

static qy_status_t add_stage(qy_split_t *split, const stage_t *stage, const char *where,
                             qy_error_t *err)
{
    if (split->n == STAGES_MAX)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: pre_tokenizer of more than %d stages", where,
                       STAGES_MAX);
    split->stages[split->n++] = *stage;
    return QY_OK;
}

static qy_status_t add_cut(qy_split_t *split, const char *pattern, bool literal,
                           behavior_t behavior, bool invert, const char *where, qy_error_t *err)
{
    stage_t stage = {.kind = STAGE_CUT, .behavior = behavior, .invert = invert};
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
        QY_TRY(add_stage(split, &(stage_t){.kind = STAGE_PREFIX_SPACE}, where, err));
    if (use_regex)
        QY_TRY(add_cut(split, gpt2_pattern, false, BEHAVIOR_ISOLATED, false, where, err));
    return add_stage(split, &(stage_t){.kind = STAGE_BYTES}, where, err);
}

static qy_status_t read_digits(qy_split_t *split, const json_t *o, const char *where,
                               qy_error_t *err)
{
    bool each = false;
    QY_TRY(qy_json_bool(o, where, "individual_digits", &each, err));
    return add_cut(split, "\\p{N}", false, each ? BEHAVIOR_ISOLATED : BEHAVIOR_CONTIGUOUS, false,
                   where, err);
}

static qy_status_t read_behavior(behavior_t *out, const json_t *o, const char *where,
                                 qy_error_t *err)
{
    static const char *const names[] = {
        [BEHAVIOR_ISOLATED] = "Isolated",
        [BEHAVIOR_REMOVED] = "Removed",
        [BEHAVIOR_CONTIGUOUS] = "Contiguous",
        [BEHAVIOR_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [BEHAVIOR_MERGED_WITH_NEXT] = "MergedWithNext",
    };
    const char *name = "";
    QY_TRY(qy_json_string(o, where, "behavior", &name, err));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (behavior_t)i;
            return QY_OK;
        }
    return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: Split with the behavior \"%.60s\"", where, name);
}

static qy_status_t read_split(qy_split_t *split, const json_t *o, const char *where,
                              qy_error_t *err)
{
    behavior_t behavior = BEHAVIOR_ISOLATED;
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
    } known[] = {{"ByteLevel", read_byte_level}, {"Digits", read_digits}, {"Split", read_split}};
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
        "%s: pre_tokenizer of type \"%.60s\" (known: Sequence, ByteLevel, Digits, Split)", where,
        type);
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

/* --- running --- */

qy_status_t qy_split_run_create(qy_split_run_t **out, const qy_split_t *split, qy_error_t *err)
{
    qy_split_run_t *run = calloc(1, sizeof *run);
    if (!run)
        return qy_fail(err, QY_ERR_MEMORY, "no memory to split a text");
    run->split = split;
    qy_status_t status = qy_pattern_run_create(&run->patterns, err);
    if (status != QY_OK) {
        free(run);
        return status;
    }
    *out = run;
    return QY_OK;
}

void qy_split_run_destroy(qy_split_run_t **run)
{
    if (!run || !*run)
        return;
    qy_pattern_run_destroy(&(*run)->patterns);
    for (int i = 0; i < STAGES_MAX; i++)
        free((*run)->buffers[i].text);
    free(*run);
    *run = NULL;
}

/* bytes > 0 */
static qy_status_t run_stage(qy_split_run_t *run, int stage, const char *text, size_t bytes,
                             qy_error_t *err);

/* Room for bytes in the buffer of a stage. */
static qy_status_t make_room(qy_split_run_t *run, int stage, size_t bytes, char **out,
                             qy_error_t *err)
{
    if (run->buffers[stage].room < bytes) {
        size_t room = bytes < 256 ? 256 : 2 * bytes;
        char *text = realloc(run->buffers[stage].text, room);
        if (!text)
            return qy_fail(err, QY_ERR_MEMORY, "no memory for %zu bytes of text", room);
        run->buffers[stage].text = text;
        run->buffers[stage].room = room;
    }
    *out = run->buffers[stage].text;
    return QY_OK;
}

static qy_status_t add_prefix_space(qy_split_run_t *run, int stage, const char *text, size_t bytes,
                                    qy_error_t *err)
{
    if (text[0] == ' ')
        return run_stage(run, stage + 1, text, bytes, err);
    char *copy;
    QY_TRY(make_room(run, stage, bytes + 1, &copy, err));
    copy[0] = ' ';
    memcpy(copy + 1, text, bytes);
    return run_stage(run, stage + 1, copy, bytes + 1, err);
}

/* Bytes 33-126, 161-172 and 174-255 are characters as they stand; the others, counted up, U+0100
 * on. */
static unsigned character_of(unsigned byte)
{
    if (byte <= 32)
        return 0x100 + byte;
    if (byte >= 127 && byte <= 160)
        return 0x100 + 33 + byte - 127;
    return byte == 173 ? 0x100 + 33 + 34 : byte;
}

static qy_status_t map_bytes(qy_split_run_t *run, int stage, const char *text, size_t bytes,
                             qy_error_t *err)
{
    char *mapped;
    size_t used = 0;
    QY_TRY(make_room(run, stage, 2 * bytes, &mapped, err));
    for (size_t i = 0; i < bytes; i++) {
        unsigned c = character_of((unsigned char)text[i]);
        if (c >= 0x80)
            mapped[used++] = (char)(0xc0 | c >> 6);
        mapped[used++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
    }
    return run_stage(run, stage + 1, mapped, used, err);
}

/* A piece that a later match may still join: text[begin…end). */
typedef struct {
    size_t begin, end;
    bool some, is_match;
} pending_t;

/* Whether the next range joins the pending piece, as the behavior has it. */
static bool joins(behavior_t behavior, const pending_t *pending, bool is_match)
{
    if (!pending->some)
        return false;
    switch (behavior) {
    case BEHAVIOR_CONTIGUOUS:
        return pending->is_match == is_match;
    case BEHAVIOR_MERGED_WITH_PREVIOUS:
        return is_match && !pending->is_match;
    case BEHAVIOR_MERGED_WITH_NEXT:
        return pending->is_match && !is_match;
    default:
        return false;
    }
}

/* A piece goes on to the next stage, unless a match without length is all that it is. */
static qy_status_t emit(qy_split_run_t *run, int stage, const char *text, const pending_t *piece,
                        qy_error_t *err)
{
    if (!piece->some || piece->begin == piece->end)
        return QY_OK;
    return run_stage(run, stage + 1, text + piece->begin, piece->end - piece->begin, err);
}

static qy_status_t take_range(qy_split_run_t *run, int stage, const char *text, pending_t *pending,
                              size_t begin, size_t end, bool is_match, qy_error_t *err)
{
    behavior_t behavior = run->split->stages[stage].behavior;
    if (joins(behavior, pending, is_match)) {
        pending->end = end;
        pending->is_match = is_match;
        return QY_OK;
    }
    pending_t last = *pending;
    *pending = (pending_t){.begin = begin,
                           .end = end,
                           .some = !(behavior == BEHAVIOR_REMOVED && is_match),
                           .is_match = is_match};
    return emit(run, stage, text, &last, err);
}

static qy_status_t cut(qy_split_run_t *run, int stage, const char *text, size_t bytes,
                       qy_error_t *err)
{
    const stage_t *s = &run->split->stages[stage];
    pending_t pending = {0};
    size_t last = 0;
    for (bool found = true; found;) {
        size_t begin = bytes, end = bytes;
        QY_TRY(qy_pattern_next(s->pattern, run->patterns, text, bytes, last, &found, &begin, &end,
                               err));
        if (begin > last)
            QY_TRY(take_range(run, stage, text, &pending, last, begin, s->invert, err));
        if (found)
            QY_TRY(take_range(run, stage, text, &pending, begin, end, !s->invert, err));
        last = end;
    }
    return emit(run, stage, text, &pending, err);
}

static qy_status_t run_stage(qy_split_run_t *run, int stage, const char *text, size_t bytes,
                             qy_error_t *err)
{
    if (stage == run->split->n)
        return run->fn(run->context, text, bytes, err);
    switch (run->split->stages[stage].kind) {
    case STAGE_PREFIX_SPACE:
        return add_prefix_space(run, stage, text, bytes, err);
    case STAGE_BYTES:
        return map_bytes(run, stage, text, bytes, err);
    default:
        return cut(run, stage, text, bytes, err);
    }
}

qy_status_t qy_split_words(qy_split_run_t *run, const char *text, size_t bytes, qy_word_fn fn,
                           void *context, qy_error_t *err)
{
    run->fn = fn;
    run->context = context;
    return bytes ? run_stage(run, 0, text, bytes, err) : QY_OK;
}
