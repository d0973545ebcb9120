#include "model/gguf_vocab.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_model.h"

#define CHAT "tokenizer.chat_template"

enum { TOKENS_MAX = 1 << 24, CHATS_MAX = 64, CHAT_KEY_MAX = 96 };

/* --- look-ups --- */

/* json's keys end with a NUL. */
static const char *as_key(char out[QY_TOKEN_BYTES_MAX + 1], qy_gguf_text_t text)
{
    memcpy(out, text.bytes, text.n);
    out[text.n] = '\0';
    return out;
}

int64_t qy_gguf_vocab_find(const qy_gguf_vocab_t *vocab, qy_gguf_text_t text)
{
    char key[QY_TOKEN_BYTES_MAX + 1];
    if (text.n > QY_TOKEN_BYTES_MAX)
        return -1;
    const json_t *id = json_object_get(vocab->ids, as_key(key, text));
    return id ? json_integer_value(id) : -1;
}

int qy_gguf_vocab_type(const qy_gguf_vocab_t *vocab, int64_t id)
{
    int32_t type = QY_TOKEN_NORMAL;
    if (vocab->types)
        memcpy(&type, vocab->types + 4 * id, sizeof type);
    return type;
}

float qy_gguf_vocab_score(const qy_gguf_vocab_t *vocab, int64_t id)
{
    float score = 0;
    if (vocab->scores)
        memcpy(&score, vocab->scores + 4 * id, sizeof score);
    return score;
}

bool qy_gguf_vocab_is_added(const qy_gguf_vocab_t *vocab, int64_t id)
{
    int type = qy_gguf_vocab_type(vocab, id);
    return type == QY_TOKEN_CONTROL || type == QY_TOKEN_USER ||
           (vocab->pieces && type == QY_TOKEN_UNKNOWN);
}

json_t *qy_gguf_added_token(const qy_gguf_vocab_t *vocab, int64_t id)
{
    return json_pack("{s:o, s:b, s:b, s:b, s:b, s:b}", "content",
                     json_stringn(vocab->tokens[id].bytes, vocab->tokens[id].n), "single_word", 0,
                     "lstrip", 0, "rstrip", 0, "normalized", 0, "special",
                     qy_gguf_vocab_type(vocab, id) != QY_TOKEN_USER);
}

/* --- reading --- */

/* A list of one number for each token; NULL where it is absent. */
static qy_status_t find_list(const unsigned char **out, const qy_gguf_vocab_t *v, const char *key,
                             qy_gguf_kind_t kind, qy_error_t *err)
{
    const qy_gguf_value_t *value = qy_gguf_find(v->gguf, key);
    if (!value)
        return QY_OK;
    if (!value->array || value->kind != kind || value->count != (uint64_t)v->n)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s is no list of %lld numbers", v->gguf->path, key,
                       (long long)v->n);
    *out = value->data;
    return QY_OK;
}

/* "[PAD7]" of token 7 only fills up the embedding's rows: no text ever gives it. */
static bool is_padding(const qy_gguf_vocab_t *v, int64_t id)
{
    char name[32];
    int n = snprintf(name, sizeof name, "[PAD%lld]", (long long)id);
    return qy_gguf_vocab_type(v, id) == QY_TOKEN_UNUSED && v->tokens[id].n == (size_t)n &&
           memcmp(v->tokens[id].bytes, name, (size_t)n) == 0;
}

static qy_status_t add_token(qy_gguf_vocab_t *v, int64_t id, qy_error_t *err)
{
    qy_gguf_text_t text = v->tokens[id];
    char key[QY_TOKEN_BYTES_MAX + 1];
    if (text.n > QY_TOKEN_BYTES_MAX || memchr(text.bytes, '\0', text.n))
        return qy_fail(err, QY_ERR_FORMAT, "%s: token %lld is of %zu bytes (at most %d, no NUL)",
                       v->gguf->path, (long long)id, text.n, QY_TOKEN_BYTES_MAX);
    if (is_padding(v, id))
        return QY_OK;
    if (json_object_get(v->ids, as_key(key, text)))
        return qy_fail(err, QY_ERR_FORMAT, "%s: token %lld is there twice", v->gguf->path,
                       (long long)id);
    if (json_object_set_new(v->ids, key, json_integer(id)) != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: token %lld is not UTF-8", v->gguf->path,
                       (long long)id);
    return QY_OK;
}

static qy_status_t read_tokens(qy_gguf_vocab_t *v, qy_error_t *err)
{
    static const char key[] = "tokenizer.ggml.tokens";
    const qy_gguf_value_t *list = qy_gguf_find(v->gguf, key);
    if (!list || !list->array || list->kind != QY_GGUF_STRING || list->count < 1 ||
        list->count > TOKENS_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s is no list of 1 to %d strings", v->gguf->path,
                       key, TOKENS_MAX);
    v->n = (int64_t)list->count;
    v->tokens = malloc((size_t)v->n * sizeof *v->tokens);
    v->ids = json_object();
    if (!v->tokens || !v->ids)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %lld tokens", v->gguf->path,
                       (long long)v->n);
    const unsigned char *at = list->data;
    for (int64_t id = 0; id < v->n; id++)
        v->tokens[id] = qy_gguf_next_text(&at);
    QY_TRY(find_list(&v->types, v, "tokenizer.ggml.token_type", QY_GGUF_I32, err));
    QY_TRY(find_list(&v->scores, v, "tokenizer.ggml.scores", QY_GGUF_F32, err));
    for (int64_t id = 0; id < v->n; id++) {
        QY_TRY(add_token(v, id, err));
        if (!isfinite(qy_gguf_vocab_score(v, id)))
            return qy_fail(err, QY_ERR_FORMAT, "%s: the score of token %lld is no number",
                           v->gguf->path, (long long)id);
    }
    return QY_OK;
}

static qy_status_t read_named(const qy_gguf_vocab_t *v, const char *key, int64_t *out,
                              qy_error_t *err)
{
    *out = -1;
    QY_TRY(qy_gguf_i64(v->gguf, key, out, err));
    if (*out >= v->n)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s is %lld of %lld tokens", v->gguf->path, key,
                       (long long)*out, (long long)v->n);
    return QY_OK;
}

static qy_status_t read_all(qy_gguf_vocab_t *v, qy_error_t *err)
{
    qy_gguf_text_t model = {0};
    QY_TRY(qy_gguf_text(v->gguf, "tokenizer.ggml.model", &model, err));
    bool bytes = model.n == 4 && memcmp(model.bytes, "gpt2", 4) == 0;
    v->pieces = model.n == 5 && memcmp(model.bytes, "llama", 5) == 0;
    if (!bytes && !v->pieces)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "%s: tokenizer.ggml.model is \"%.*s\" (known: gpt2, llama)", v->gguf->path,
                       (int)(model.n < 60 ? model.n : 60), model.n ? model.bytes : "");
    QY_TRY(read_tokens(v, err));
    QY_TRY(read_named(v, "tokenizer.ggml.bos_token_id", &v->bos, err));
    QY_TRY(read_named(v, "tokenizer.ggml.eos_token_id", &v->eos, err));
    QY_TRY(read_named(v, "tokenizer.ggml.unknown_token_id", &v->unknown, err));
    return read_named(v, "tokenizer.ggml.padding_token_id", &v->pad, err);
}

qy_status_t qy_gguf_vocab_read(qy_gguf_vocab_t *out, const qy_gguf_t *gguf, qy_error_t *err)
{
    qy_gguf_vocab_t made = {.gguf = gguf};
    qy_status_t status = read_all(&made, err);
    if (status != QY_OK) {
        qy_gguf_vocab_free(&made);
        return status;
    }
    *out = made;
    return QY_OK;
}

void qy_gguf_vocab_free(qy_gguf_vocab_t *vocab)
{
    json_decref(vocab->ids);
    free(vocab->tokens);
    *vocab = (qy_gguf_vocab_t){0};
}

/* --- what a tokenizer is used with --- */

static void set_token(json_t *root, const char *key, const qy_gguf_vocab_t *v, int64_t id)
{
    if (id >= 0)
        json_object_set_new(root, key, json_stringn(v->tokens[id].bytes, v->tokens[id].n));
}

static void set_tokens(json_t *root, const qy_gguf_vocab_t *v)
{
    set_token(root, "bos_token", v, v->bos);
    set_token(root, "eos_token", v, v->eos);
    set_token(root, "unk_token", v, v->unknown);
    set_token(root, "pad_token", v, v->pad);
}

/* Adds the chat template of this name, unless its key is not there. */
static qy_status_t add_chat(json_t *chats, const qy_gguf_t *gguf, qy_gguf_text_t name,
                            const char *key, qy_error_t *err)
{
    qy_gguf_text_t chat = {0};
    QY_TRY(qy_gguf_text(gguf, key, &chat, err));
    if (chat.n && json_array_append_new(
                      chats, json_pack("{s:o, s:o}", "name", json_stringn(name.bytes, name.n),
                                       "template", json_stringn(chat.bytes, chat.n))) != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s is not UTF-8", gguf->path, key);
    return QY_OK;
}

/* The key of a template that has a name; false where that is longer than keys are. */
static bool chat_key(char out[CHAT_KEY_MAX], qy_gguf_text_t name)
{
    int most = name.n < CHAT_KEY_MAX ? (int)name.n : CHAT_KEY_MAX;
    return snprintf(out, CHAT_KEY_MAX, CHAT ".%.*s", most, name.bytes) < CHAT_KEY_MAX;
}

/* One template; or where the file lists names all of them, the one without as "default". */
static qy_status_t set_chats(json_t *root, const qy_gguf_t *gguf, qy_error_t *err)
{
    static const qy_gguf_text_t first = {"default", 7};
    const qy_gguf_value_t *names = qy_gguf_find(gguf, CHAT "s");
    json_t *chats = json_array();
    qy_status_t status = add_chat(chats, gguf, first, CHAT, err);
    bool named = names && names->array && names->kind == QY_GGUF_STRING;
    const unsigned char *at = named ? names->data : NULL;
    for (uint64_t i = 0; named && i < names->count && i < CHATS_MAX && status == QY_OK; i++) {
        char key[CHAT_KEY_MAX];
        qy_gguf_text_t name = qy_gguf_next_text(&at);
        if (chat_key(key, name))
            status = add_chat(chats, gguf, name, key, err);
    }
    if (status == QY_OK && json_array_size(chats) > 0)
        json_object_set(root, "chat_template",
                        named ? chats : json_object_get(json_array_get(chats, 0), "template"));
    json_decref(chats);
    return status;
}

static qy_status_t fill_config(json_t *root, const qy_gguf_vocab_t *v, qy_error_t *err)
{
    const qy_family_row_t *row;
    json_t *added = json_object();
    char key[96];
    int64_t length = 0;
    json_object_set_new(root, "added_tokens_decoder", added);
    for (int64_t id = 0; id < v->n; id++) {
        snprintf(key, sizeof key, "%lld", (long long)id);
        if (qy_gguf_vocab_is_added(v, id))
            json_object_set_new(added, key, qy_gguf_added_token(v, id));
    }
    set_tokens(root, v);
    QY_TRY(set_chats(root, v->gguf, err));
    QY_TRY(qy_gguf_family(v->gguf, &row, err));
    snprintf(key, sizeof key, "%s.context_length", row->model_type);
    QY_TRY(qy_gguf_i64(v->gguf, key, &length, err));
    if (length > 0)
        json_object_set_new(root, "model_max_length", json_integer(length));
    json_object_set_new(root, "clean_up_tokenization_spaces", json_false());
    /* The class that takes tokenizer.json as it is. */
    json_object_set_new(root, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    return QY_OK;
}

static qy_status_t fill_special(json_t *root, const qy_gguf_vocab_t *v, qy_error_t *err)
{
    (void)err;
    set_tokens(root, v);
    return QY_OK;
}

qy_status_t qy_gguf_vocab_object(json_t **out, const qy_gguf_t *gguf, qy_gguf_fill_fn fill,
                                 qy_error_t *err)
{
    qy_gguf_vocab_t vocab;
    QY_TRY(qy_gguf_vocab_read(&vocab, gguf, err));
    json_t *root = json_object();
    qy_status_t status =
        root ? fill(root, &vocab, err) : qy_fail(err, QY_ERR_MEMORY, "%s: no memory", gguf->path);
    qy_gguf_vocab_free(&vocab);
    if (status != QY_OK) {
        json_decref(root);
        return status;
    }
    *out = root;
    return QY_OK;
}

qy_status_t qy_gguf_tokenizer_config(json_t **out, const qy_gguf_t *gguf, qy_error_t *err)
{
    return qy_gguf_vocab_object(out, gguf, fill_config, err);
}

qy_status_t qy_gguf_special_tokens(json_t **out, const qy_gguf_t *gguf, qy_error_t *err)
{
    return qy_gguf_vocab_object(out, gguf, fill_special, err);
}
