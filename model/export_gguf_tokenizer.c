/*
 * A tokenizer as the keys of a GGUF file; the other way round as model/gguf_tokenizer.c, and with
 * the same table of names. Texts that llama.cpp would cut otherwise than tokenizer.json says are
 * refused with the part that has no name there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/checkpoint.h"
#include "model/export_gguf.h"
#include "model/gguf_model.h"
#include "model/gguf_vocab.h"
#include "model/tokenizer.h"
#include "model/tokenizer_file.h"

typedef struct {
    const qy_model_t *model;
    char where[QY_PATH_MAX];
    json_t *root;         /* tokenizer.json */
    json_t *config;       /* tokenizer_config.json, or NULL */
    json_t *model_config; /* config.json, or NULL */
    const char **texts;   /* by id; NULL: no token */
    int32_t *types;
    float *scores; /* of SentencePiece's kind */
    int64_t n;     /* rows of the embedding */
    bool pieces, space, bos;
    const qy_gguf_pre_t *pre;
    int32_t bos_id; /* −1: none */
} source_t;

static const json_t *inside(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static bool text_is(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static bool type_is(const json_t *object, const char *type)
{
    return text_is(json_object_get(object, "type"), type);
}

static bool is_true(const json_t *object, const char *key, bool absent)
{
    const json_t *value = inside(object, key);
    return value ? json_is_true(value) : absent;
}

static qy_status_t refuse(const source_t *s, const char *what, qy_error_t *err)
{
    return qy_fail(err, QY_ERR_UNSUPPORTED, "gguf: %s: %s has no name among GGUF's keys", s->where,
                   what);
}

/* --- tokens --- */

static qy_status_t set_text(source_t *s, int64_t id, const char *text, int type, qy_error_t *err)
{
    if (id < 0 || id >= s->n)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "gguf: %s: token %lld is beyond the embedding's %lld rows, which GGUF wants "
                       "to be the vocabulary",
                       s->where, (long long)id, (long long)s->n);
    s->texts[id] = text;
    s->types[id] = type;
    return QY_OK;
}

static int type_of(const source_t *s, const char *text)
{
    unsigned byte;
    char end;
    bool is_byte =
        s->pieces && strlen(text) == 6 && sscanf(text, "<0x%2X%c", &byte, &end) == 2 && end == '>';
    return is_byte ? QY_TOKEN_BYTE : QY_TOKEN_NORMAL;
}

static qy_status_t read_tokens(source_t *s, const json_t *model, qy_error_t *err)
{
    const char *text;
    json_t *id;
    json_object_foreach(json_object_get(model, "vocab"), text, id)
    {
        QY_TRY(set_text(s, json_integer_value(id), text, type_of(s, text), err));
        if (text_is(json_object_get(model, "unk_token"), text))
            s->types[json_integer_value(id)] = QY_TOKEN_UNKNOWN;
    }
    size_t i;
    json_t *token;
    json_array_foreach(json_object_get(s->root, "added_tokens"), i, token)
    {
        bool unknown = text_is(json_object_get(model, "unk_token"),
                               json_string_value(json_object_get(token, "content")));
        int type = !is_true(token, "special", true) ? QY_TOKEN_USER
                   : unknown && s->pieces           ? QY_TOKEN_UNKNOWN
                                                    : QY_TOKEN_CONTROL;
        if (is_true(token, "lstrip", false) || is_true(token, "rstrip", false) ||
            is_true(token, "single_word", false))
            return refuse(s, "an added token that takes in spaces, or only whole words", err);
        QY_TRY(set_text(s, json_integer_value(json_object_get(token, "id")),
                        json_string_value(json_object_get(token, "content")), type, err));
    }
    return QY_OK;
}

/* --- words --- */

/* Stages of a pre_tokenizer of bytes. */
typedef struct {
    const char *words;
    bool digits, gpt2, bytes;
} words_t;

static bool read_stage(words_t *out, const json_t *stage)
{
    const json_t *list = json_object_get(stage, "pretokenizers");
    if (type_is(stage, "Sequence")) {
        size_t i;
        json_t *one;
        json_array_foreach(list, i,
                           one) if (type_is(one, "Sequence") || !read_stage(out, one)) return false;
        return true;
    }
    if (out->bytes)
        return false;
    if (type_is(stage, "Digits")) {
        bool good = is_true(stage, "individual_digits", false) && !out->digits && !out->words;
        out->digits = true;
        return good;
    }
    if (type_is(stage, "Split")) {
        bool good = !out->words && text_is(json_object_get(stage, "behavior"), "Isolated") &&
                    !is_true(stage, "invert", false);
        out->words = json_string_value(json_object_get(json_object_get(stage, "pattern"), "Regex"));
        return good && out->words;
    }
    out->bytes = true;
    out->gpt2 = is_true(stage, "use_regex", true);
    return type_is(stage, "ByteLevel") && !is_true(stage, "add_prefix_space", true);
}

static qy_status_t find_pre(source_t *s, const json_t *model, qy_error_t *err)
{
    words_t words = {0};
    const json_t *normalizer = inside(s->root, "normalizer");
    bool nfc = type_is(normalizer, "NFC");
    if (normalizer && !nfc)
        return refuse(s, "the normalizer", err);
    if (!read_stage(&words, json_object_get(s->root, "pre_tokenizer")) || !words.bytes)
        return refuse(s, "the pre_tokenizer", err);
    for (int i = 0; qy_gguf_pre(i); i++) {
        const qy_gguf_pre_t *p = qy_gguf_pre(i);
        bool same = p->words ? words.words && strcmp(p->words, words.words) == 0 && !words.gpt2
                             : !words.words && words.gpt2;
        if (same && p->digits == words.digits && p->nfc == nfc &&
            p->ignore_merges == is_true(model, "ignore_merges", false)) {
            s->pre = p;
            return QY_OK;
        }
    }
    return refuse(s, "the pattern of words", err);
}

/* --- SentencePiece's kind --- */

static bool is_space_mark(const json_t *replace)
{
    return type_is(replace, "Replace") &&
           text_is(json_object_get(replace, "content"), qy_gguf_space) &&
           text_is(json_object_get(json_object_get(replace, "pattern"), "String"), " ");
}

static qy_status_t find_space(source_t *s, qy_error_t *err)
{
    const json_t *normalizer = inside(s->root, "normalizer");
    const json_t *words = inside(s->root, "pre_tokenizer");
    const json_t *steps = json_object_get(normalizer, "normalizers");
    if (!normalizer && type_is(words, "Metaspace")) {
        s->space = is_true(words, "add_prefix_space", true) &&
                   !text_is(json_object_get(words, "prepend_scheme"), "never");
        return QY_OK;
    }
    s->space = json_array_size(steps) == 2 && type_is(json_array_get(steps, 0), "Prepend") &&
               text_is(json_object_get(json_array_get(steps, 0), "prepend"), qy_gguf_space) &&
               is_space_mark(json_array_get(steps, 1));
    bool alone = is_space_mark(normalizer) ||
                 (json_array_size(steps) == 1 && is_space_mark(json_array_get(steps, 0)));
    return words || (!s->space && !alone) ? refuse(s, "the normalizer or pre_tokenizer", err)
                                          : QY_OK;
}

/* --- reading it all --- */

/* Names in the settings, ids in the configuration. */
static int64_t special_id(const source_t *s, const char *key, const char *id_key)
{
    const json_t *named = inside(s->config, key);
    const char *text =
        json_string_value(json_is_object(named) ? json_object_get(named, "content") : named);
    for (int64_t id = 0; text && id < s->n; id++)
        if (s->texts[id] && strcmp(s->texts[id], text) == 0)
            return id;
    const json_t *id = inside(s->model_config, id_key);
    id = json_is_array(id) ? json_array_get(id, 0) : id;
    return json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < s->n
               ? json_integer_value(id)
               : -1;
}

static qy_status_t read_prefix(source_t *s, qy_error_t *err)
{
    qy_tokenizer_t *t;
    int32_t prefix[2];
    QY_TRY(qy_tokenizer_open(&t, s->model->dir, err));
    int n = qy_tokenizer_prefix(t, prefix, 2);
    qy_tokenizer_close(&t);
    if (n > 1)
        return refuse(s, "more than one token before a text", err);
    s->bos = n == 1;
    s->bos_id = n == 1 ? prefix[0] : -1;
    return QY_OK;
}

static qy_status_t read_source(source_t *s, qy_error_t *err)
{
    char unused[QY_PATH_MAX];
    QY_TRY(qy_tokenizer_file(&s->root, s->where, s->model->dir, err));
    QY_TRY(qy_checkpoint_part(&s->config, s->model->dir, "tokenizer_config.json", err));
    if (!qy_gguf_is_name(s->model->dir)) /* whose settings name all of them */
        QY_TRY(qy_checkpoint_config(&s->model_config, unused, s->model->dir, err));
    s->n = s->model->arch.vocab;
    s->texts = calloc((size_t)s->n, sizeof *s->texts);
    s->types = calloc((size_t)s->n, sizeof *s->types);
    s->scores = calloc((size_t)s->n, sizeof *s->scores);
    if (!s->texts || !s->types || !s->scores)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its tokens", s->where);
    const json_t *model = json_object_get(s->root, "model");
    s->pieces = is_true(model, "byte_fallback", false);
    QY_TRY(read_prefix(s, err)); /* which also checks the file */
    QY_TRY(read_tokens(s, model, err));
    if (!s->bos)
        s->bos_id = (int32_t)special_id(s, "bos_token", "bos_token_id");
    if (!s->pieces)
        return find_pre(s, model, err);
    QY_TRY(find_space(s, err));
    return qy_gguf_scores(s->scores, s->texts, s->n, model, s->where, err);
}

static void free_source(source_t *s)
{
    json_decref(s->root);
    json_decref(s->config);
    json_decref(s->model_config);
    free(s->texts);
    free(s->types);
    free(s->scores);
}

/* --- writing --- */

static void put_tokens(qy_gguf_writer_t *w, const source_t *s)
{
    qy_gguf_put_array(w, "tokenizer.ggml.tokens", QY_GGUF_STRING, s->n);
    for (int64_t id = 0; id < s->n; id++) {
        char padding[32];
        snprintf(padding, sizeof padding, "[PAD%lld]", (long long)id);
        const char *text = s->texts[id] ? s->texts[id] : padding;
        s->types[id] = s->texts[id] ? s->types[id] : QY_TOKEN_UNUSED;
        qy_gguf_put_text(w, text, strlen(text));
    }
    if (s->pieces) {
        qy_gguf_put_array(w, "tokenizer.ggml.scores", QY_GGUF_F32, s->n);
        qy_gguf_put_raw(w, s->scores, (size_t)s->n * sizeof *s->scores);
    }
    qy_gguf_put_array(w, "tokenizer.ggml.token_type", QY_GGUF_I32, s->n);
    qy_gguf_put_raw(w, s->types, (size_t)s->n * sizeof *s->types);
}

static void put_merges(qy_gguf_writer_t *w, const source_t *s)
{
    const json_t *list = json_object_get(json_object_get(s->root, "model"), "merges");
    size_t n = json_array_size(list), first = 0;
    const char *head = json_string_value(json_array_get(list, 0));
    if (head && strncmp(head, "#version", 8) == 0)
        first = 1; /* of an old merges.txt, copied along */
    qy_gguf_put_array(w, "tokenizer.ggml.merges", QY_GGUF_STRING, (int64_t)(n - first));
    for (size_t i = first; i < n; i++) {
        const json_t *merge = json_array_get(list, i);
        const char *line = json_string_value(merge);
        char pair[4096];
        if (!line) {
            snprintf(pair, sizeof pair, "%s %s", json_string_value(json_array_get(merge, 0)),
                     json_string_value(json_array_get(merge, 1)));
            line = pair;
        }
        qy_gguf_put_text(w, line, strlen(line));
    }
}

static void put_special(qy_gguf_writer_t *w, const char *key, int64_t id)
{
    if (id >= 0)
        qy_gguf_put_u32(w, key, id);
}

static qy_status_t put(qy_gguf_writer_t *w, const source_t *s, qy_error_t *err)
{
    qy_gguf_put_string(w, "tokenizer.ggml.model", s->pieces ? "llama" : "gpt2");
    qy_gguf_put_string(w, "tokenizer.ggml.pre", s->pieces ? "default" : s->pre->name);
    put_tokens(w, s);
    if (!s->pieces)
        put_merges(w, s);
    put_special(w, "tokenizer.ggml.bos_token_id", s->bos_id);
    put_special(w, "tokenizer.ggml.eos_token_id", special_id(s, "eos_token", "eos_token_id"));
    put_special(w, "tokenizer.ggml.unknown_token_id", special_id(s, "unk_token", "unk_token_id"));
    put_special(w, "tokenizer.ggml.padding_token_id", special_id(s, "pad_token", "pad_token_id"));
    qy_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", s->bos);
    qy_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
    qy_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", s->space);
    return qy_gguf_put_chat(w, s->config, s->model->dir, err);
}

qy_status_t qy_gguf_put_tokenizer(qy_gguf_writer_t *w, const qy_model_t *model, qy_error_t *err)
{
    source_t s = {.model = model};
    qy_status_t status = read_source(&s, err);
    if (status == QY_OK && w)
        status = put(w, &s, err);
    free_source(&s);
    return status;
}
