#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/json.h"
#include "model/tokenizer_added.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_file.h"
#include "model/tokenizer_normal.h"
#include "model/tokenizer_split.h"
#include "model/tokenizer_utf8.h"

/*
 * A text's way: repaired UTF-8; cut at added tokens that are looked for in the text as it is; each
 * piece normalized; cut at added tokens that are looked for in normalized text; each piece split
 * into words; each word encoded.
 */

enum { PREFIX_MAX = 16, NESTING_MAX = 8, ADDED_BYTES_MAX = 4096, ID_MAX = (1 << 24) - 1 };

struct qy_tokenizer {
    qy_bpe_t *bpe;
    qy_normal_t *normal;
    qy_split_t *split;
    qy_added_t raw, normalized; /* added tokens, by the text that they are looked for in */
    int32_t prefix[PREFIX_MAX];
    int n_prefix;
    int64_t size;
};

/* --- added tokens --- */

static qy_status_t read_added_token(qy_tokenizer_t *t, const json_t *o, const char *where,
                                    qy_error_t *err)
{
    const char *content = NULL;
    int64_t id = -1;
    bool normalized = false;
    qy_added_token_t token = {0};
    QY_TRY(qy_json_string(o, where, "content", &content, err));
    QY_TRY(qy_json_i64(o, where, "id", &id, err));
    QY_TRY(qy_json_bool(o, where, "single_word", &token.single_word, err));
    QY_TRY(qy_json_bool(o, where, "lstrip", &token.lstrip, err));
    QY_TRY(qy_json_bool(o, where, "rstrip", &token.rstrip, err));
    QY_TRY(qy_json_bool(o, where, "normalized", &normalized, err));
    if (!content || id < 0 || id > ID_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: an added token without content or id", where);
    if (*content == '\0')
        return QY_OK; /* as the reference does */
    if (strlen(content) > ADDED_BYTES_MAX)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: added token \"%.60s\" is too long", where,
                       content);
    token.text = (char *)content;
    token.bytes = strlen(content);
    token.id = (int32_t)id;
    int32_t in_vocab = qy_bpe_find(t->bpe, content, token.bytes);
    if (in_vocab >= 0 && in_vocab != token.id)
        return qy_fail(err, QY_ERR_FORMAT, "%s: added token \"%.60s\" has id %d, in the vocab %d",
                       where, content, token.id, in_vocab);
    if (id >= t->size)
        t->size = id + 1;
    if (!normalized)
        return qy_added_add(&t->raw, &token, err);

    char *owned;
    QY_TRY(qy_normal_apply(t->normal, content, token.bytes, &owned, &token.bytes, err));
    if (owned)
        token.text = owned;
    qy_status_t status = token.bytes > 0 ? qy_added_add(&t->normalized, &token, err) : QY_OK;
    free(owned);
    return status;
}

static qy_status_t read_added(qy_tokenizer_t *t, const json_t *root, const char *where,
                              qy_error_t *err)
{
    const json_t *list = NULL;
    QY_TRY(qy_json_array(root, where, "added_tokens", &list, err));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        if (!json_is_object(o))
            return qy_fail(err, QY_ERR_FORMAT, "%s: added token %zu is not an object", where, i);
        QY_TRY(read_added_token(t, o, where, err));
    }
    qy_added_sort(&t->raw);
    qy_added_sort(&t->normalized);
    return QY_OK;
}

/* --- the post-processor's prefix --- */

static qy_status_t add_prefix(qy_tokenizer_t *t, const json_t *special, const char *name,
                              const char *where, qy_error_t *err)
{
    const json_t *entry = NULL, *ids = NULL;
    QY_TRY(qy_json_object(special, where, name, &entry, err));
    QY_TRY(qy_json_array(entry, where, "ids", &ids, err));
    if (!ids)
        return qy_fail(err, QY_ERR_FORMAT, "%s: template token \"%.60s\" has no ids", where, name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= t->size)
            return qy_fail(err, QY_ERR_FORMAT, "%s: template token \"%.60s\": id out of range",
                           where, name);
        if (t->n_prefix == PREFIX_MAX)
            return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: template of more than %d tokens", where,
                           PREFIX_MAX);
        t->prefix[t->n_prefix++] = (int32_t)json_integer_value(id);
    }
    return QY_OK;
}

/* The special tokens that "single" has before its sequence; those behind it end a text, not ours.
 */
static qy_status_t read_template(qy_tokenizer_t *t, const json_t *o, const char *where,
                                 qy_error_t *err)
{
    const json_t *single = NULL, *special = NULL;
    QY_TRY(qy_json_array(o, where, "single", &single, err));
    QY_TRY(qy_json_object(o, where, "special_tokens", &special, err));
    if (t->n_prefix > 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: two templates in the post_processor", where);
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i), *token = NULL;
        const char *name = NULL;
        if (!json_is_object(piece))
            return qy_fail(err, QY_ERR_FORMAT, "%s: template piece %zu is not an object", where, i);
        QY_TRY(qy_json_object(piece, where, "SpecialToken", &token, err));
        QY_TRY(qy_json_string(token, where, "id", &name, err));
        if (!name)
            break;
        QY_TRY(add_prefix(t, special, name, where, err));
    }
    return QY_OK;
}

static qy_status_t read_post(qy_tokenizer_t *t, const json_t *value, int nesting, const char *where,
                             qy_error_t *err)
{
    const char *type = "";
    if (!json_is_object(value))
        return qy_fail(err, QY_ERR_FORMAT, "%s: a post_processor is not an object", where);
    QY_TRY(qy_json_string(value, where, "type", &type, err));
    if (strcmp(type, "ByteLevel") == 0) /* only moves offsets */
        return QY_OK;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(t, value, where, err);
    if (strcmp(type, "Sequence") != 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "%s: post_processor of type \"%.60s\" (known: Sequence, ByteLevel, "
                       "TemplateProcessing)",
                       where, type);
    const json_t *list = NULL;
    QY_TRY(qy_json_array(value, where, "processors", &list, err));
    if (nesting == NESTING_MAX)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: post_processor nested %d deep", where,
                       nesting);
    for (size_t i = 0; i < json_array_size(list); i++)
        QY_TRY(read_post(t, json_array_get(list, i), nesting + 1, where, err));
    return QY_OK;
}

/* --- opening --- */

/* NULL where the part is absent or null. */
static const json_t *part(const json_t *root, const char *key)
{
    const json_t *value = json_object_get(root, key);
    return value && !json_is_null(value) ? value : NULL;
}

/* "truncation" and "padding" are settings of a call, not of the text's tokens: they are not read.
 */
static qy_status_t load(qy_tokenizer_t *t, const json_t *root, const char *where, qy_error_t *err)
{
    const json_t *model = NULL;
    QY_TRY(qy_json_object(root, where, "model", &model, err));
    if (!model)
        return qy_fail(err, QY_ERR_FORMAT, "%s: no model", where);
    QY_TRY(qy_bpe_create(&t->bpe, model, where, err));
    t->size = qy_bpe_size(t->bpe);
    QY_TRY(qy_normal_create(&t->normal, part(root, "normalizer"), where, err));
    QY_TRY(qy_split_create(&t->split, part(root, "pre_tokenizer"), where, err));
    QY_TRY(read_added(t, root, where, err));
    return part(root, "post_processor") ? read_post(t, part(root, "post_processor"), 0, where, err)
                                        : QY_OK;
}

qy_status_t qy_tokenizer_open(qy_tokenizer_t **out, const char *model_dir, qy_error_t *err)
{
    char where[QY_PATH_MAX];
    json_t *root;
    QY_TRY(qy_tokenizer_file(&root, where, model_dir, err));
    qy_status_t status;
    qy_tokenizer_t *t = calloc(1, sizeof *t);
    if (t)
        status = load(t, root, where, err);
    else
        status = qy_fail(err, QY_ERR_MEMORY, "%s: no memory", where);
    json_decref(root);
    if (status != QY_OK) {
        qy_tokenizer_close(&t);
        return status;
    }
    *out = t;
    return QY_OK;
}

void qy_tokenizer_close(qy_tokenizer_t **tokenizer)
{
    if (!tokenizer || !*tokenizer)
        return;
    qy_bpe_destroy(&(*tokenizer)->bpe);
    qy_normal_destroy(&(*tokenizer)->normal);
    qy_split_destroy(&(*tokenizer)->split);
    qy_added_free(&(*tokenizer)->raw);
    qy_added_free(&(*tokenizer)->normalized);
    free(*tokenizer);
    *tokenizer = NULL;
}

/* --- encoding --- */

typedef struct {
    const qy_tokenizer_t *tokenizer;
    qy_bpe_run_t *bpe;
    qy_split_run_t *split;
    const char *text;       /* all of it, */
    const char *normalized; /* and the piece that is at hand, */
    bool first;             /* which begins the text */
    qy_ids_t ids;
} encoding_t;

static qy_status_t take_word(void *context, const char *word, size_t bytes, qy_error_t *err)
{
    encoding_t *e = context;
    return qy_bpe_word(e->bpe, word, bytes, &e->ids, err);
}

static qy_status_t take_normalized(void *context, const char *text, size_t bytes, int32_t id,
                                   qy_error_t *err)
{
    encoding_t *e = context;
    if (id >= 0)
        return qy_ids_add(&e->ids, &id, 1, err);
    bool first = e->first && text == e->normalized;
    return qy_split_words(e->split, text, bytes, first, take_word, e, err);
}

static qy_status_t take_raw(void *context, const char *text, size_t bytes, int32_t id,
                            qy_error_t *err)
{
    encoding_t *e = context;
    if (id >= 0)
        return qy_ids_add(&e->ids, &id, 1, err);
    char *owned;
    size_t n;
    QY_TRY(qy_normal_apply(e->tokenizer->normal, text, bytes, &owned, &n, err));
    e->normalized = owned ? owned : text;
    e->first = text == e->text;
    qy_status_t status =
        qy_added_split(&e->tokenizer->normalized, e->normalized, n, take_normalized, e, err);
    free(owned);
    return status;
}

qy_status_t qy_tokenizer_encode(const qy_tokenizer_t *tokenizer, const char *text, size_t bytes,
                                int32_t **ids, int64_t *n, qy_error_t *err)
{
    encoding_t e = {.tokenizer = tokenizer};
    const char *good;
    size_t good_bytes;
    char *owned = NULL;
    qy_status_t status = QY_OK;
    QY_TRY_GOTO(qy_utf8_repair(text, bytes, &good, &good_bytes, &owned, err), done);
    e.text = good;
    QY_TRY_GOTO(qy_bpe_run_create(&e.bpe, tokenizer->bpe, err), done);
    QY_TRY_GOTO(qy_split_run_create(&e.split, tokenizer->split, err), done);
    QY_TRY_GOTO(qy_added_split(&tokenizer->raw, good, good_bytes, take_raw, &e, err), done);
    *ids = e.ids.ids;
    *n = e.ids.n;
    e.ids.ids = NULL;
done:
    free(e.ids.ids);
    qy_split_run_destroy(&e.split);
    qy_bpe_run_destroy(&e.bpe);
    free(owned);
    return status;
}

int qy_tokenizer_prefix(const qy_tokenizer_t *tokenizer, int32_t *ids, int max)
{
    int n = tokenizer->n_prefix < max ? tokenizer->n_prefix : max;
    for (int i = 0; i < n; i++)
        ids[i] = tokenizer->prefix[i];
    return n;
}

int64_t qy_tokenizer_size(const qy_tokenizer_t *tokenizer)
{
    return tokenizer->size;
}
