/* config.json and generation_config.json out of a GGUF's keys. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/gguf_inner.h"
#include "model/gguf_model.h"

enum { KEY_BYTES = 128 };

bool qy_gguf_is_name(const char *path)
{
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".gguf") == 0 && !qy_is_dir(path);
}

json_t *qy_gguf_real(float x)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x)
            break;
    }
    return json_real(strtod(text, NULL));
}

/* --- keys of the architecture --- */

qy_status_t qy_gguf_family(const qy_gguf_t *gguf, const qy_family_row_t **out, qy_error_t *err)
{
    static const qy_family_t known[] = {QY_FAMILY_LLAMA, QY_FAMILY_QWEN2, QY_FAMILY_QWEN3};
    qy_gguf_text_t name = {0};
    QY_TRY(qy_gguf_text(gguf, "general.architecture", &name, err));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        for (int k = 0; k < QY_N_FAMILIES; k++) {
            const qy_family_row_t *row = &qy_families[k];
            if (row->family == known[i] && strlen(row->model_type) == name.n &&
                memcmp(row->model_type, name.bytes, name.n) == 0) {
                *out = row;
                return QY_OK;
            }
        }
    return qy_fail(err, QY_ERR_UNSUPPORTED,
                   "%s: general.architecture is \"%.*s\" (known: llama, qwen2, qwen3)", gguf->path,
                   (int)(name.n < 100 ? name.n : 100), name.n ? name.bytes : "");
}

qy_status_t qy_gguf_arch_i64(const qy_gguf_t *gguf, const qy_family_row_t *row, const char *key,
                             int64_t *out, qy_error_t *err)
{
    char full[KEY_BYTES];
    snprintf(full, sizeof full, "%s.%s", row->model_type, key);
    return qy_gguf_i64(gguf, full, out, err);
}

qy_status_t qy_gguf_arch_f32(const qy_gguf_t *gguf, const qy_family_row_t *row, const char *key,
                             float *out, qy_error_t *err)
{
    char full[KEY_BYTES];
    snprintf(full, sizeof full, "%s.%s", row->model_type, key);
    return qy_gguf_f32(gguf, full, out, err);
}

/* A whole number above 0 that must be there. */
static qy_status_t need(const qy_gguf_t *g, const qy_family_row_t *row, const char *key,
                        int64_t *out, qy_error_t *err)
{
    *out = 0;
    QY_TRY(qy_gguf_arch_i64(g, row, key, out, err));
    if (*out < 1 || *out > INT32_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s.%s is %lld, or not there", g->path,
                       row->model_type, key, (long long)*out);
    return QY_OK;
}

qy_status_t qy_gguf_head_dim(const qy_gguf_t *gguf, const qy_family_row_t *row, int64_t *out,
                             qy_error_t *err)
{
    int64_t hidden, heads;
    QY_TRY(need(gguf, row, "embedding_length", &hidden, err));
    QY_TRY(need(gguf, row, "attention.head_count", &heads, err));
    int64_t d = hidden / heads;
    QY_TRY(qy_gguf_arch_i64(gguf, row, "attention.key_length", &d, err));
    int64_t values = d, turned = d;
    QY_TRY(qy_gguf_arch_i64(gguf, row, "attention.value_length", &values, err));
    QY_TRY(qy_gguf_arch_i64(gguf, row, "rope.dimension_count", &turned, err));
    if (d < 2 || d > QY_HEAD_DIM_MAX || d % 2 != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: heads of %lld numbers", gguf->path, (long long)d);
    if (values != d || turned != d)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "%s: heads of %lld numbers with values of %lld, of which %lld are turned",
                       gguf->path, (long long)d, (long long)values, (long long)turned);
    *out = d;
    return QY_OK;
}

/* --- config.json --- */

/* What the layout cannot say, or no family here computes. */
static qy_status_t refuse_strangers(const qy_gguf_t *g, const qy_family_row_t *row, int64_t context,
                                    qy_error_t *err)
{
    int64_t experts = 0;
    QY_TRY(qy_gguf_arch_i64(g, row, "expert_count", &experts, err));
    if (experts != 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: %s.expert_count is %lld: mixtures of experts",
                       g->path, row->model_type, (long long)experts);
    int64_t window = 0;
    QY_TRY(qy_gguf_arch_i64(g, row, "attention.sliding_window", &window, err));
    if (window > 0 && window < context)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: %s.attention.sliding_window is %lld", g->path,
                       row->model_type, (long long)window);
    return QY_OK;
}

static bool has_tensor(const qy_gguf_t *g, const char *name)
{
    return qy_gguf_tensor(g, name) != NULL;
}

static qy_status_t vocab_of(const qy_gguf_t *g, int64_t *out, qy_error_t *err)
{
    const qy_gguf_tensor_t *t = qy_gguf_tensor(g, "token_embd.weight");
    if (!t || t->n_dims != 2)
        return qy_fail(err, QY_ERR_FORMAT, "%s: no matrix token_embd.weight", g->path);
    *out = t->dims[1];
    return QY_OK;
}

static qy_status_t add_sizes(json_t *root, const qy_gguf_t *g, const qy_family_row_t *row,
                             qy_error_t *err)
{
    static const struct {
        const char *key, *name;
    } sizes[] = {{"embedding_length", "hidden_size"},
                 {"feed_forward_length", "intermediate_size"},
                 {"block_count", "num_hidden_layers"},
                 {"attention.head_count", "num_attention_heads"},
                 {"context_length", "max_position_embeddings"}};
    int64_t value = 0, vocab = 0, head_dim = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        QY_TRY(need(g, row, sizes[i].key, &value, err));
        json_object_set_new(root, sizes[i].name, json_integer(value));
    }
    QY_TRY(refuse_strangers(g, row, value, err));
    QY_TRY(need(g, row, "attention.head_count", &value, err));
    QY_TRY(qy_gguf_arch_i64(g, row, "attention.head_count_kv", &value, err));
    json_object_set_new(root, "num_key_value_heads", json_integer(value));
    QY_TRY(qy_gguf_head_dim(g, row, &head_dim, err));
    json_object_set_new(root, "head_dim", json_integer(head_dim));
    QY_TRY(vocab_of(g, &vocab, err));
    json_object_set_new(root, "vocab_size", json_integer(vocab));
    return QY_OK;
}

static qy_status_t add_numbers(json_t *root, const qy_gguf_t *g, const qy_family_row_t *row,
                               qy_error_t *err)
{
    float eps = 0, theta = 10000;
    int64_t head_dim = 0;
    json_t *rope = NULL;
    QY_TRY(qy_gguf_arch_f32(g, row, "attention.layer_norm_rms_epsilon", &eps, err));
    QY_TRY(qy_gguf_arch_f32(g, row, "rope.freq_base", &theta, err));
    if (!(eps > 0) || !(theta > 0) || !isfinite(eps) || !isfinite(theta))
        return qy_fail(err, QY_ERR_FORMAT,
                       "%s: attention.layer_norm_rms_epsilon %g, rope.freq_base %g", g->path,
                       (double)eps, (double)theta);
    QY_TRY(qy_gguf_head_dim(g, row, &head_dim, err));
    QY_TRY(qy_gguf_rope(&rope, g, head_dim, (double)theta, err));
    json_object_set_new(root, "rms_norm_eps", qy_gguf_real(eps));
    json_object_set_new(root, "rope_theta", qy_gguf_real(theta));
    json_object_set_new(root, "rope_scaling", rope ? rope : json_null());
    return QY_OK;
}

static void add_switches(json_t *root, const qy_gguf_t *g, const qy_family_row_t *row)
{
    if (row->qkv_bias.key)
        json_object_set_new(root, "attention_bias",
                            json_boolean(has_tensor(g, "blk.0.attn_q.bias")));
    if (row->mlp_bias.key)
        json_object_set_new(root, "mlp_bias", json_boolean(has_tensor(g, "blk.0.ffn_up.bias")));
    if (row->window.switch_key)
        json_object_set_new(root, row->window.switch_key, json_false());
    json_object_set_new(root, "tie_word_embeddings", json_boolean(!has_tensor(g, "output.weight")));
}

/* f32: what blocks decode to needs up to 24 bits. */
static const char *stored_type(const qy_gguf_t *g)
{
    const char *type = NULL;
    for (int64_t i = 0; i < g->header.n_tensors; i++) {
        const qy_gguf_tensor_t *t = &g->header.tensors[i];
        if (t->n_dims != 2)
            continue;
        const char *own = t->block->type == QY_GGML_F16    ? "float16"
                          : t->block->type == QY_GGML_BF16 ? "bfloat16"
                                                           : "float32";
        if (type && strcmp(type, own) != 0)
            return "float32";
        type = own;
    }
    return type ? type : "float32";
}

static qy_status_t add_tokens(json_t *root, const qy_gguf_t *g, qy_error_t *err)
{
    static const struct {
        const char *key, *name;
    } tokens[] = {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                  {"tokenizer.ggml.eos_token_id", "eos_token_id"},
                  {"tokenizer.ggml.padding_token_id", "pad_token_id"}};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        int64_t id = -1;
        QY_TRY(qy_gguf_i64(g, tokens[i].key, &id, err));
        if (id >= 0)
            json_object_set_new(root, tokens[i].name, json_integer(id));
    }
    return QY_OK;
}

static qy_status_t fill_config(json_t *root, const qy_gguf_t *g, qy_error_t *err)
{
    const qy_family_row_t *row;
    QY_TRY(qy_gguf_family(g, &row, err));
    json_object_set_new(root, "architectures", json_pack("[s]", row->architecture));
    json_object_set_new(root, "model_type", json_string(row->model_type));
    QY_TRY(add_sizes(root, g, row, err));
    json_object_set_new(root, row->act_key, json_string(row->act_name));
    QY_TRY(add_numbers(root, g, row, err));
    add_switches(root, g, row);
    QY_TRY(add_tokens(root, g, err));
    json_object_set_new(root, "torch_dtype", json_string(stored_type(g)));
    return QY_OK;
}

typedef qy_status_t (*filler_t)(json_t *root, const qy_gguf_t *g, qy_error_t *err);

static qy_status_t make_object(json_t **out, const qy_gguf_t *gguf, filler_t fill, qy_error_t *err)
{
    json_t *root = json_object();
    if (!root)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", gguf->path);
    qy_status_t status = fill(root, gguf, err);
    if (status != QY_OK) {
        json_decref(root);
        return status;
    }
    *out = root;
    return QY_OK;
}

qy_status_t qy_gguf_config(json_t **out, const qy_gguf_t *gguf, qy_error_t *err)
{
    return make_object(out, gguf, fill_config, err);
}

/* --- generation_config.json --- */

/* A chat's turn may end by another token than a text: generation stops at both. */
static qy_status_t fill_generation(json_t *root, const qy_gguf_t *g, qy_error_t *err)
{
    json_object_set_new(root, "_from_model_config", json_true());
    QY_TRY(add_tokens(root, g, err));
    int64_t turn = -1, end = -1;
    QY_TRY(qy_gguf_i64(g, "tokenizer.ggml.eot_token_id", &turn, err));
    QY_TRY(qy_gguf_i64(g, "tokenizer.ggml.eos_token_id", &end, err));
    if (turn >= 0 && end >= 0 && turn != end)
        json_object_set_new(root, "eos_token_id",
                            json_pack("[I, I]", (json_int_t)end, (json_int_t)turn));
    return QY_OK;
}

qy_status_t qy_gguf_generation_config(json_t **out, const qy_gguf_t *gguf, qy_error_t *err)
{
    return make_object(out, gguf, fill_generation, err);
}
