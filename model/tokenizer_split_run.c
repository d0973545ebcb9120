#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_split_inner.h"

struct qy_split_run {
    const qy_split_t *split;
    qy_pattern_run_t *patterns;
    struct {
        char *text;
        size_t room;
    } buffers[QY_SPLIT_STAGES_MAX]; /* rewritten text */
    qy_word_fn fn;
    void *context;
};

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
    for (int i = 0; i < QY_SPLIT_STAGES_MAX; i++)
        free((*run)->buffers[i].text);
    free(*run);
    *run = NULL;
}

/* bytes > 0; first: the text begins with it */
static qy_status_t run_stage(qy_split_run_t *run, int stage, const char *text, size_t bytes,
                             bool first, qy_error_t *err);

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
                                    bool first, qy_error_t *err)
{
    if (text[0] == ' ')
        return run_stage(run, stage + 1, text, bytes, first, err);
    char *copy = NULL;
    QY_TRY(make_room(run, stage, bytes + 1, &copy, err));
    copy[0] = ' ';
    memcpy(copy + 1, text, bytes);
    return run_stage(run, stage + 1, copy, bytes + 1, first, err);
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
                             bool first, qy_error_t *err)
{
    char *mapped = NULL;
    size_t used = 0;
    QY_TRY(make_room(run, stage, 2 * bytes, &mapped, err));
    for (size_t i = 0; i < bytes; i++) {
        unsigned c = character_of((unsigned char)text[i]);
        if (c >= 0x80)
            mapped[used++] = (char)(0xc0 | c >> 6);
        mapped[used++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
    }
    return run_stage(run, stage + 1, mapped, used, first, err);
}

static qy_status_t mark_spaces(qy_split_run_t *run, int stage, const char *text, size_t bytes,
                               bool first, qy_error_t *err)
{
    const qy_split_stage_t *s = &run->split->stages[stage];
    size_t mark_bytes = strlen(s->mark), spaces = 0, used = 0;
    for (size_t i = 0; i < bytes; i++)
        spaces += text[i] == ' ';
    bool marked = text[0] == ' ' || (bytes >= mark_bytes && memcmp(text, s->mark, mark_bytes) == 0);
    bool prepend =
        s->prepend == QY_SPLIT_PREPEND_ALWAYS || (s->prepend == QY_SPLIT_PREPEND_FIRST && first);
    char *out = NULL;
    QY_TRY(make_room(run, stage, bytes + (spaces + 1) * mark_bytes, &out, err));
    if (prepend && !marked) {
        memcpy(out, s->mark, mark_bytes);
        used = mark_bytes;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] != ' ') {
            out[used++] = text[i];
            continue;
        }
        memcpy(out + used, s->mark, mark_bytes);
        used += mark_bytes;
    }
    return run_stage(run, stage + 1, out, used, first, err);
}

/* A piece that a later match may still join: text[begin…end). */
typedef struct {
    size_t begin, end;
    bool some, is_match, first; /* first: if begin is 0, the text begins with it */
} pending_t;

/* Whether the next range joins the pending piece, as the behavior has it. */
static bool joins(qy_split_behavior_t behavior, const pending_t *pending, bool is_match)
{
    if (!pending->some)
        return false;
    switch (behavior) {
    case QY_SPLIT_CONTIGUOUS:
        return pending->is_match == is_match;
    case QY_SPLIT_MERGED_WITH_PREVIOUS:
        return is_match && !pending->is_match;
    case QY_SPLIT_MERGED_WITH_NEXT:
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
    return run_stage(run, stage + 1, text + piece->begin, piece->end - piece->begin,
                     piece->first && piece->begin == 0, err);
}

static qy_status_t take_range(qy_split_run_t *run, int stage, const char *text, pending_t *pending,
                              size_t begin, size_t end, bool is_match, qy_error_t *err)
{
    qy_split_behavior_t behavior = run->split->stages[stage].behavior;
    if (joins(behavior, pending, is_match)) {
        pending->end = end;
        pending->is_match = is_match;
        return QY_OK;
    }
    pending_t last = *pending;
    *pending = (pending_t){.begin = begin,
                           .end = end,
                           .some = !(behavior == QY_SPLIT_REMOVED && is_match),
                           .first = last.first,
                           .is_match = is_match};
    return emit(run, stage, text, &last, err);
}

static qy_status_t cut(qy_split_run_t *run, int stage, const char *text, size_t bytes, bool first,
                       qy_error_t *err)
{
    const qy_split_stage_t *s = &run->split->stages[stage];
    pending_t pending = {.first = first};
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
                             bool first, qy_error_t *err)
{
    if (stage == run->split->n)
        return run->fn(run->context, text, bytes, err);
    switch (run->split->stages[stage].kind) {
    case QY_SPLIT_PREFIX_SPACE:
        return add_prefix_space(run, stage, text, bytes, first, err);
    case QY_SPLIT_BYTES:
        return map_bytes(run, stage, text, bytes, first, err);
    case QY_SPLIT_METASPACE:
        return mark_spaces(run, stage, text, bytes, first, err);
    default:
        return cut(run, stage, text, bytes, first, err);
    }
}

qy_status_t qy_split_words(qy_split_run_t *run, const char *text, size_t bytes, bool first,
                           qy_word_fn fn, void *context, qy_error_t *err)
{
    run->fn = fn;
    run->context = context;
    return bytes ? run_stage(run, 0, text, bytes, first, err) : QY_OK;
}
