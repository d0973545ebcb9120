#include "model/tokenizer_file.h"

#include <stdlib.h>
#include <string.h>

#include "model/gguf_model.h"
#include "model/json.h"

enum { FILE_BYTES_MAX = 256 << 20 };

/* --- the older pair --- */

static qy_status_t append_merge(json_t *merges, const char *line, size_t bytes, int number,
                                const char *path, qy_error_t *err)
{
    const char *space = memchr(line, ' ', bytes);
    json_t *pair = json_array();
    size_t left = space ? (size_t)(space - line) : 0;
    bool good = space && !memchr(space + 1, ' ', bytes - left - 1) &&
                json_array_append_new(pair, json_stringn(line, left)) == 0 &&
                json_array_append_new(pair, json_stringn(space + 1, bytes - left - 1)) == 0;
    if (!good) {
        json_decref(pair);
        return qy_fail(err, QY_ERR_FORMAT, "%s: line %d is not a pair of tokens", path, number);
    }
    return json_array_append_new(merges, pair) == 0
               ? QY_OK
               : qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its merges", path);
}

/* A merge a line; the first line names the version. */
static qy_status_t read_merges(json_t *merges, const char *path, qy_error_t *err)
{
    char *text;
    size_t size;
    QY_TRY(qy_file_read(path, FILE_BYTES_MAX, &text, &size, err));
    qy_status_t status = QY_OK;
    int number = 1;
    for (size_t at = 0, n; at < size && status == QY_OK; at += n + 1, number++) {
        const char *end = memchr(text + at, '\n', size - at);
        n = end ? (size_t)(end - text) - at : size - at;
        size_t bytes = n > 0 && text[at + n - 1] == '\r' ? n - 1 : n;
        if (bytes > 0 && strncmp(text + at, "#version", 8) != 0)
            status = append_merge(merges, text + at, bytes, number, path, err);
    }
    free(text);
    return status;
}

/* "bos_token": "</s>", or {"content": "</s>", …}; NULL where it is not there. */
static const char *token_text(const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

/* An entry of added_tokens for a token that the vocabulary has. */
static void add_special(json_t *added, const json_t *vocab, const char *token)
{
    const json_t *id = token ? json_object_get(vocab, token) : NULL;
    if (json_is_integer(id))
        json_array_append_new(
            added, json_pack("{s:s, s:I}", "content", token, "id", json_integer_value(id)));
}

/* --- pairs that are not GPT-2's --- */

/* A pair does not say how it cuts words: it is read as GPT-2's, which OPT's is as well. */
static qy_status_t refuse_pair(const char *dir, const char *what, const char *token,
                               qy_error_t *err)
{
    return qy_fail(err, QY_ERR_UNSUPPORTED,
                   "%s: no tokenizer.json, and vocab.json with merges.txt is read as GPT-2's, but "
                   "%s \"%.100s\"; transformers writes one: "
                   "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
                   dir, what, token);
}

static qy_status_t check_class(const json_t *config, const char *dir, qy_error_t *err)
{
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    if (!name || strcmp(name, "GPT2Tokenizer") == 0 || strcmp(name, "GPT2TokenizerFast") == 0)
        return QY_OK;
    return refuse_pair(dir, "its tokenizer_class is", name, err);
}

/* Tokens added to the vocabulary stand beside it: {"<|im_end|>": 151645} in added_tokens.json,
 * {"151645": {"content": "<|im_end|>"}} in the settings. */
static qy_status_t check_added(const json_t *config, const json_t *added, const json_t *vocab,
                               const char *dir, qy_error_t *err)
{
    static const char what[] = "the vocabulary lacks the added token";
    const char *key, *text;
    json_t *entry;
    json_object_foreach((json_t *)added, key, entry)
    {
        if (!json_object_get(vocab, key))
            return refuse_pair(dir, what, key, err);
    }
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, entry)
    {
        text = json_string_value(json_object_get(entry, "content"));
        if (text && !json_object_get(vocab, text))
            return refuse_pair(dir, what, text, err);
    }
    return QY_OK;
}

static qy_status_t check_pair(const json_t *config, const json_t *vocab, const char *dir,
                              qy_error_t *err)
{
    char path[QY_PATH_MAX];
    json_t *added = NULL;
    QY_TRY(check_class(config, dir, err));
    QY_TRY(qy_path(path, err, "%s/added_tokens.json", dir));
    if (qy_file_exists(path))
        QY_TRY(qy_json_read(&added, path, FILE_BYTES_MAX, err));
    qy_status_t status = check_added(config, added, vocab, dir, err);
    json_decref(added);
    return status;
}

/* --- reading the pair --- */

/* What the pair leaves to tokenizer_config.json: special tokens, prefix space, BOS. */
static qy_status_t read_settings(json_t *root, const json_t *vocab, const char *dir,
                                 qy_error_t *err)
{
    char path[QY_PATH_MAX];
    json_t *config = NULL;
    bool prefix_space = false, add_bos = false;
    QY_TRY(qy_path(path, err, "%s/tokenizer_config.json", dir));
    if (qy_file_exists(path))
        QY_TRY(qy_json_read_settings(&config, path, FILE_BYTES_MAX, err));
    qy_status_t status = check_pair(config, vocab, dir, err);
    if (status == QY_OK)
        status = qy_json_bool(config, path, "add_prefix_space", &prefix_space, err);
    if (status == QY_OK)
        status = qy_json_bool(config, path, "add_bos_token", &add_bos, err);
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    json_t *added = json_array();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        add_special(added, vocab, token_text(config, keys[i]));
    json_object_set_new(root, "added_tokens", added);
    json_object_set_new(
        root, "pre_tokenizer",
        json_pack("{s:s, s:b}", "type", "ByteLevel", "add_prefix_space", prefix_space));
    const char *bos = token_text(config, "bos_token");
    const json_t *id = bos ? json_object_get(vocab, bos) : NULL;
    if (add_bos && json_is_integer(id))
        json_object_set_new(root, "post_processor",
                            json_pack("{s:s, s:[{s:{s:s}}], s:{s:{s:[I]}}}", "type",
                                      "TemplateProcessing", "single", "SpecialToken", "id", bos,
                                      "special_tokens", bos, "ids", json_integer_value(id)));
    json_decref(config);
    return status;
}

static qy_status_t read_pair(json_t **out, const char *dir, const char *vocab_path,
                             const char *merges_path, qy_error_t *err)
{
    json_t *vocab, *merges = json_array();
    qy_status_t status = qy_json_read(&vocab, vocab_path, FILE_BYTES_MAX, err);
    if (status != QY_OK) {
        json_decref(merges);
        return status;
    }
    json_t *root =
        json_pack("{s:{s:s, s:o, s:o}}", "model", "type", "BPE", "vocab", vocab, "merges", merges);
    if (!root)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", vocab_path);
    status = read_merges(merges, merges_path, err);
    if (status == QY_OK)
        status = read_settings(root, vocab, dir, err);
    if (status != QY_OK) {
        json_decref(root);
        return status;
    }
    *out = root;
    return QY_OK;
}

/* --- which file --- */

static qy_status_t read_gguf(json_t **out, char where[QY_PATH_MAX], const char *path,
                             qy_error_t *err)
{
    qy_gguf_t *gguf;
    QY_TRY(qy_path(where, err, "%s", path));
    QY_TRY(qy_gguf_open(&gguf, path, err));
    qy_status_t status = qy_gguf_tokenizer(out, gguf, err);
    qy_gguf_close(&gguf);
    return status;
}

qy_status_t qy_tokenizer_file(json_t **out, char where[QY_PATH_MAX], const char *model_dir,
                              qy_error_t *err)
{
    char merges[QY_PATH_MAX];
    if (qy_gguf_is_name(model_dir))
        return read_gguf(out, where, model_dir, err);
    QY_TRY(qy_path(where, err, "%s/tokenizer.json", model_dir));
    if (qy_file_exists(where))
        return qy_json_read(out, where, FILE_BYTES_MAX, err);
    QY_TRY(qy_path(where, err, "%s/vocab.json", model_dir));
    QY_TRY(qy_path(merges, err, "%s/merges.txt", model_dir));
    if (qy_file_exists(where) && qy_file_exists(merges))
        return read_pair(out, model_dir, where, merges, err);
    return qy_fail(err, QY_ERR_IO, "%s: no tokenizer.json, and no vocab.json with merges.txt",
                   model_dir);
}
