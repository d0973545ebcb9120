#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "model/json.h"
#include "model/tokenizer_bpe_inner.h"

enum { ID_MAX = (1 << 24) - 1, TOKENS_MAX = 1 << 24, TEXT_BYTES_MAX = 1 << 30 };

/* --- tables --- */

/* A power of two that n entries fill at most by half. */
static uint64_t table_size(size_t n)
{
    uint64_t size = 16;
    while (size < 2 * (uint64_t)n)
        size *= 2;
    return size;
}

/* The slot of a token, or the free one where it would go. */
static uint32_t *find_slot(const qy_bpe_t *bpe, const char *token, size_t bytes)
{
    for (uint64_t i = qy_xxh3(token, bytes);; i++) {
        uint32_t *slot = &bpe->slots[i & bpe->slot_mask];
        if (*slot == 0)
            return slot;
        const qy_bpe_token_t *t = &bpe->tokens[*slot - 1];
        if (t->bytes == bytes && memcmp(bpe->text + t->offset, token, bytes) == 0)
            return slot;
    }
}

int32_t qy_bpe_find(const qy_bpe_t *bpe, const char *token, size_t bytes)
{
    uint32_t slot = *find_slot(bpe, token, bytes);
    return slot ? bpe->tokens[slot - 1].id : -1;
}

/* The slot of a pair, or the free one where it would go. */
static qy_bpe_merge_t *find_merge(const qy_bpe_t *bpe, int32_t left, int32_t right)
{
    const int32_t pair[2] = {left, right};
    for (uint64_t i = qy_xxh3(pair, sizeof pair);; i++) {
        qy_bpe_merge_t *m = &bpe->merges[i & bpe->merge_mask];
        if (m->left < 0 || (m->left == left && m->right == right))
            return m;
    }
}

const qy_bpe_merge_t *qy_bpe_merge(const qy_bpe_t *bpe, int32_t left, int32_t right)
{
    const qy_bpe_merge_t *m = find_merge(bpe, left, right);
    return m->left < 0 ? NULL : m;
}

int64_t qy_bpe_size(const qy_bpe_t *bpe)
{
    return bpe->size;
}

/* --- vocabulary --- */

static qy_status_t add_token(qy_bpe_t *bpe, uint32_t index, uint32_t *used, const char *token,
                             const json_t *id, const char *where, qy_error_t *err)
{
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > ID_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: vocab: the id of \"%.60s\" is not one of 0 to %d",
                       where, token, ID_MAX);
    size_t bytes = strlen(token);
    memcpy(bpe->text + *used, token, bytes);
    bpe->tokens[index] = (qy_bpe_token_t){
        .offset = *used, .bytes = (uint32_t)bytes, .id = (int32_t)json_integer_value(id)};
    *used += (uint32_t)bytes;
    *find_slot(bpe, token, bytes) = index + 1;
    if (bpe->tokens[index].id >= bpe->size)
        bpe->size = bpe->tokens[index].id + 1;
    return QY_OK;
}

static qy_status_t load_vocab(qy_bpe_t *bpe, const json_t *vocab, const char *where,
                              qy_error_t *err)
{
    size_t n = json_object_size(vocab), text_bytes = 0;
    const char *token;
    json_t *id;
    json_object_foreach((json_t *)vocab, token, id) text_bytes += strlen(token);
    if (n == 0 || n > TOKENS_MAX || text_bytes > TEXT_BYTES_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: vocab: %zu tokens of %zu bytes", where, n,
                       text_bytes);
    uint64_t slots = table_size(n);
    bpe->slot_mask = slots - 1;
    bpe->text = malloc(text_bytes + 1);
    bpe->tokens = malloc(n * sizeof *bpe->tokens);
    bpe->slots = calloc(slots, sizeof *bpe->slots);
    if (!bpe->text || !bpe->tokens || !bpe->slots)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %zu tokens", where, n);
    uint32_t index = 0, used = 0;
    json_object_foreach((json_t *)vocab, token, id)
    {
        QY_TRY(add_token(bpe, index, &used, token, id, where, err));
        index++;
    }
    return QY_OK;
}

/* --- merges --- */

/* Both forms of a merge: "left right", which has one space, and ["left", "right"]. */
static qy_status_t split_merge(const json_t *value, size_t i, const char **left, size_t *left_bytes,
                               const char **right, const char *where, qy_error_t *err)
{
    if (json_is_array(value) && json_array_size(value) == 2 &&
        json_is_string(json_array_get(value, 0)) && json_is_string(json_array_get(value, 1))) {
        *left = json_string_value(json_array_get(value, 0));
        *left_bytes = strlen(*left);
        *right = json_string_value(json_array_get(value, 1));
        return QY_OK;
    }
    const char *line = json_string_value(value), *space = line ? strchr(line, ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return qy_fail(err, QY_ERR_FORMAT, "%s: merge %zu is not a pair of tokens", where, i);
    *left = line;
    *left_bytes = (size_t)(space - line);
    *right = space + 1;
    return QY_OK;
}

static qy_status_t add_merge(qy_bpe_t *bpe, const json_t *value, uint32_t rank, char **joined,
                             size_t *room, const char *where, qy_error_t *err)
{
    const char *left = NULL, *right = NULL;
    size_t left_bytes = 0;
    QY_TRY(split_merge(value, rank, &left, &left_bytes, &right, where, err));
    size_t right_bytes = strlen(right), bytes = left_bytes + right_bytes;
    if (bytes > *room) {
        char *grown = realloc(*joined, 2 * bytes);
        if (!grown)
            return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for merge %u", where, rank);
        *joined = grown;
        *room = 2 * bytes;
    }
    if (left_bytes == 0 || right_bytes == 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: merge %u has an empty side", where, rank);
    memcpy(*joined, left, left_bytes);
    memcpy(*joined + left_bytes, right, right_bytes);
    const qy_bpe_merge_t merge = {.left = qy_bpe_find(bpe, left, left_bytes),
                                  .right = qy_bpe_find(bpe, right, right_bytes),
                                  .rank = rank,
                                  .id = qy_bpe_find(bpe, *joined, bytes)};
    if (merge.left < 0 || merge.right < 0 || merge.id < 0)
        return qy_fail(err, QY_ERR_FORMAT,
                       "%s: merge %u: \"%.*s\" is not in the vocabulary (\"%.*s\" + \"%.60s\")",
                       where, rank,
                       merge.left < 0    ? (int)left_bytes
                       : merge.right < 0 ? (int)right_bytes
                                         : (int)bytes,
                       merge.left < 0    ? left
                       : merge.right < 0 ? right
                                         : *joined,
                       (int)left_bytes, left, right);
    *find_merge(bpe, merge.left, merge.right) = merge; /* of a pair listed twice the last counts */
    return QY_OK;
}

static qy_status_t load_merges(qy_bpe_t *bpe, const json_t *merges, const char *where,
                               qy_error_t *err)
{
    size_t n = json_array_size(merges);
    if (n > TOKENS_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %zu merges", where, n);
    uint64_t slots = table_size(n);
    bpe->merge_mask = slots - 1;
    bpe->merges = malloc(slots * sizeof *bpe->merges);
    if (!bpe->merges)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %zu merges", where, n);
    for (uint64_t i = 0; i < slots; i++)
        bpe->merges[i].left = -1;
    char *joined = NULL;
    size_t room = 0;
    uint32_t rank = 0;
    qy_status_t status = QY_OK;
    for (size_t i = 0; i < n && status == QY_OK; i++) {
        const json_t *value = json_array_get(merges, i);
        const char *line = json_string_value(value);
        if (line && strncmp(line, "#version", 8) == 0)
            continue; /* the first line of an old merges.txt, copied along */
        status = add_merge(bpe, value, rank++, &joined, &room, where, err);
    }
    free(joined);
    return status;
}

/* --- the model --- */

/* Parts of the format that no tokenizer of a decoder-only model uses. */
static qy_status_t refuse_strangers(const json_t *model, const char *where, qy_error_t *err)
{
    const char *type = "BPE", *prefix = "", *suffix = "";
    double dropout = 0;
    QY_TRY(qy_json_string(model, where, "type", &type, err));
    QY_TRY(qy_json_string(model, where, "continuing_subword_prefix", &prefix, err));
    QY_TRY(qy_json_string(model, where, "end_of_word_suffix", &suffix, err));
    QY_TRY(qy_json_f64(model, where, "dropout", &dropout, err));
    if (strcmp(type, "BPE") != 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: model of type \"%.60s\" (known: BPE)", where,
                       type);
    if (*prefix || *suffix)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: model with a %s", where,
                       *prefix ? "continuing_subword_prefix" : "end_of_word_suffix");
    if (dropout != 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: model with dropout", where);
    return QY_OK;
}

static void find_bytes(qy_bpe_t *bpe)
{
    for (unsigned b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        bpe->byte_ids[b] = qy_bpe_find(bpe, name, strlen(name));
    }
}

static qy_status_t load(qy_bpe_t *bpe, const json_t *model, const char *where, qy_error_t *err)
{
    const json_t *vocab = NULL, *merges = NULL;
    const char *unknown = NULL;
    QY_TRY(refuse_strangers(model, where, err));
    QY_TRY(qy_json_object(model, where, "vocab", &vocab, err));
    QY_TRY(qy_json_array(model, where, "merges", &merges, err));
    QY_TRY(qy_json_string(model, where, "unk_token", &unknown, err));
    QY_TRY(qy_json_bool(model, where, "fuse_unk", &bpe->fuse_unknown, err));
    QY_TRY(qy_json_bool(model, where, "byte_fallback", &bpe->byte_fallback, err));
    QY_TRY(qy_json_bool(model, where, "ignore_merges", &bpe->ignore_merges, err));
    if (!vocab || !merges)
        return qy_fail(err, QY_ERR_FORMAT, "%s: model without %s", where,
                       vocab ? "merges" : "vocab");
    QY_TRY(load_vocab(bpe, vocab, where, err));
    QY_TRY(load_merges(bpe, merges, where, err));
    find_bytes(bpe);
    bpe->unknown_id = unknown ? qy_bpe_find(bpe, unknown, strlen(unknown)) : -1;
    bpe->unknown_is_missing = unknown && bpe->unknown_id < 0;
    return QY_OK;
}

qy_status_t qy_bpe_create(qy_bpe_t **out, const json_t *model, const char *where, qy_error_t *err)
{
    qy_bpe_t *bpe = calloc(1, sizeof *bpe);
    if (!bpe)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", where);
    qy_status_t status = load(bpe, model, where, err);
    if (status != QY_OK) {
        qy_bpe_destroy(&bpe);
        return status;
    }
    *out = bpe;
    return QY_OK;
}

void qy_bpe_destroy(qy_bpe_t **bpe)
{
    if (!bpe || !*bpe)
        return;
    free((*bpe)->text);
    free((*bpe)->tokens);
    free((*bpe)->slots);
    free((*bpe)->merges);
    free(*bpe);
    *bpe = NULL;
}
