/*
 * tokenizer.json out of a GGUF's keys. tokenizer.ggml.model "gpt2" is BPE of bytes with the merges
 * in the file and the words that tokenizer.ggml.pre names; "llama" is SentencePiece's BPE of
 * characters, with scores in place of merges.
 *
 * Source: llama.cpp, src/llama-vocab.cpp; Hugging Face tokenizers' conversion of SentencePiece
 * models.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_inner.h"
#include "model/gguf_model.h"
#include "model/gguf_vocab.h"

/* --- BPE of bytes --- */

static json_t *byte_level(bool use_regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", use_regex);
}

static json_t *make_words(const qy_gguf_pre_t *pre)
{
    if (pre->digits)
        return json_pack("{s:s, s:[{s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type",
                         "Digits", "individual_digits", 1, byte_level(true));
    if (!pre->words)
        return byte_level(true);
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers",
                     "type", "Split", "pattern", "Regex", pre->words, "behavior", "Isolated",
                     "invert", 0, byte_level(false));
}

static qy_status_t read_merges(json_t *merges, const qy_gguf_t *g, qy_error_t *err)
{
    const qy_gguf_value_t *v = qy_gguf_find(g, "tokenizer.ggml.merges");
    if (!v || !v->array || v->kind != QY_GGUF_STRING)
        return qy_fail(err, QY_ERR_FORMAT, "%s: no strings tokenizer.ggml.merges", g->path);
    const unsigned char *at = v->data;
    for (uint64_t i = 0; i < v->count; i++) {
        qy_gguf_text_t text = qy_gguf_next_text(&at);
        if (json_array_append_new(merges, json_stringn(text.bytes, text.n)) != 0)
            return qy_fail(err, QY_ERR_FORMAT, "%s: merge %llu is not UTF-8", g->path,
                           (unsigned long long)i);
    }
    return QY_OK;
}

static qy_status_t fill_bytes(json_t *root, json_t *model, const qy_gguf_vocab_t *vocab, bool *bos,
                              qy_error_t *err)
{
    const qy_gguf_pre_t *pre = NULL;
    json_t *merges = json_array();
    json_object_set_new(model, "merges", merges);
    QY_TRY(qy_gguf_pre_find(&pre, vocab->gguf, err));
    json_object_set_new(root, "normalizer",
                        pre->nfc ? json_pack("{s:s}", "type", "NFC") : json_null());
    json_object_set_new(root, "pre_tokenizer", make_words(pre));
    json_object_set_new(root, "decoder", byte_level(true));
    json_object_set_new(model, "ignore_merges", json_boolean(pre->ignore_merges));
    *bos = pre->bos;
    return read_merges(merges, vocab->gguf, err);
}

/* --- SentencePiece's BPE of characters --- */

static json_t *token_string(const qy_gguf_vocab_t *vocab, int64_t id)
{
    return json_stringn(vocab->tokens[id].bytes, vocab->tokens[id].n);
}

static qy_status_t rebuild_merges(json_t *out, const qy_gguf_vocab_t *vocab, qy_error_t *err)
{
    qy_gguf_merges_t merges = {0};
    qy_status_t status = qy_gguf_merges_find(&merges, vocab, err);
    for (int64_t i = 0; i < merges.n && status == QY_OK; i++)
        if (json_array_append_new(out,
                                  json_pack("[o, o]", token_string(vocab, merges.items[i].left),
                                            token_string(vocab, merges.items[i].right))) != 0)
            status = qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its merges", vocab->gguf->path);
    free(merges.items);
    return status;
}

static qy_status_t fill_pieces(json_t *root, json_t *model, const qy_gguf_vocab_t *vocab, bool *bos,
                               qy_error_t *err)
{
    bool space = true;
    json_t *merges = json_array();
    json_object_set_new(model, "merges", merges);
    QY_TRY(qy_gguf_bool(vocab->gguf, "tokenizer.ggml.add_space_prefix", &space, err));
    if (!vocab->scores)
        return qy_fail(err, QY_ERR_FORMAT, "%s: no tokenizer.ggml.scores", vocab->gguf->path);
    json_t *replace = json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ",
                                "content", qy_gguf_space);
    if (space)
        replace = json_pack("{s:s, s:[{s:s, s:s}, o]}", "type", "Sequence", "normalizers", "type",
                            "Prepend", "prepend", qy_gguf_space, replace);
    json_object_set_new(root, "normalizer", replace);
    json_object_set_new(root, "pre_tokenizer", json_null());
    json_t *steps =
        json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type", "Replace", "pattern", "String",
                  qy_gguf_space, "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (space)
        json_array_append_new(steps, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content",
                                               " ", "start", 1, "stop", 0));
    json_object_set_new(root, "decoder",
                        json_pack("{s:s, s:o}", "type", "Sequence", "decoders", steps));
    json_object_set_new(model, "fuse_unk", json_true());
    json_object_set_new(model, "byte_fallback", json_true());
    int64_t unknown = vocab->unknown < 0 ? 0 : vocab->unknown;
    if (unknown < vocab->n)
        json_object_set_new(model, "unk_token", token_string(vocab, unknown));
    *bos = true;
    return rebuild_merges(merges, vocab, err);
}

/* --- the file --- */

static json_t *make_added(const qy_gguf_vocab_t *vocab)
{
    json_t *list = json_array();
    for (int64_t id = 0; id < vocab->n; id++)
        if (qy_gguf_vocab_is_added(vocab, id)) {
            json_t *token = qy_gguf_added_token(vocab, id);
            json_object_set_new(token, "id", json_integer(id));
            json_array_append_new(list, token);
        }
    return list;
}

/* {"SpecialToken": …} of a template, and its entry in the list of them. */
static void add_special(json_t *single, json_t *special, const qy_gguf_vocab_t *vocab, int64_t id)
{
    json_t *name = token_string(vocab, id);
    json_array_append_new(single,
                          json_pack("{s:{s:O, s:i}}", "SpecialToken", "id", name, "type_id", 0));
    json_object_set_new(
        special, json_string_value(name),
        json_pack("{s:O, s:[I], s:[O]}", "id", name, "ids", (json_int_t)id, "tokens", name));
    json_decref(name);
}

static qy_status_t make_template(json_t **out, const qy_gguf_vocab_t *vocab, bool bos,
                                 qy_error_t *err)
{
    bool eos = false;
    QY_TRY(qy_gguf_bool(vocab->gguf, "tokenizer.ggml.add_bos_token", &bos, err));
    QY_TRY(qy_gguf_bool(vocab->gguf, "tokenizer.ggml.add_eos_token", &eos, err));
    bos = bos && vocab->bos >= 0;
    eos = eos && vocab->eos >= 0;
    *out = json_null();
    if (!bos && !eos)
        return QY_OK;
    json_t *single = json_array(), *special = json_object();
    if (bos)
        add_special(single, special, vocab, vocab->bos);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    if (eos)
        add_special(single, special, vocab, vocab->eos);
    json_t *pair = json_deep_copy(single);
    json_array_append_new(pair, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "B", "type_id", 1));
    *out = json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair",
                     pair, "special_tokens", special);
    return QY_OK;
}

static qy_status_t fill(json_t *root, const qy_gguf_vocab_t *vocab, qy_error_t *err)
{
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b}", "type", "BPE", "dropout",
                              "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                              "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0);
    json_t *template = NULL;
    bool bos = false;
    json_object_set_new(root, "version", json_string("1.0"));
    json_object_set_new(root, "truncation", json_null());
    json_object_set_new(root, "padding", json_null());
    json_object_set_new(root, "added_tokens", make_added(vocab));
    json_object_set_new(root, "normalizer", json_null()); /* the usual order of keys */
    json_object_set_new(root, "pre_tokenizer", json_null());
    json_object_set_new(root, "post_processor", json_null());
    json_object_set_new(root, "decoder", json_null());
    json_object_set_new(root, "model", model);
    json_object_set(model, "vocab", vocab->ids);
    QY_TRY(vocab->pieces ? fill_pieces(root, model, vocab, &bos, err)
                         : fill_bytes(root, model, vocab, &bos, err));
    QY_TRY(make_template(&template, vocab, bos, err));
    json_object_set_new(root, "post_processor", template);
    return QY_OK;
}

qy_status_t qy_gguf_tokenizer(json_t **out, const qy_gguf_t *gguf, qy_error_t *err)
{
    return qy_gguf_vocab_object(out, gguf, fill, err);
}
