#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/arch_family.h"
#include "model/checkpoint.h"
#include "model/json.h"

/* Limits that keep every product of sizes far inside 63 bits. */
enum {
    BLOCKS_MAX = 4096,
    HEADS_MAX = 4096,
    WIDTH_MAX = 1 << 20,
    VOCAB_MAX = 1 << 24,
    POSITIONS_MAX = 1 << 27
};

/* The file being read: what every look-up needs. */
typedef struct {
    const json_t *root;
    const char *path;
} config_t;

static void copy_name(char out[QY_NAME_MAX], const char *name)
{
    snprintf(out, QY_NAME_MAX, "%s", name ? name : "");
}

/* A size of 1 to max. absent is taken where the key is absent or null; 0: it must be there. */
static qy_status_t read_size(const config_t *c, const char *key, int64_t max, int64_t absent,
                             int64_t *out, qy_error_t *err)
{
    int64_t value = absent;
    QY_TRY(qy_json_i64(c->root, c->path, key, &value, err));
    if (absent == 0 && value == 0 && !json_object_get(c->root, key))
        return qy_fail(err, QY_ERR_FORMAT, "%s: no \"%s\"", c->path, key);
    if (value < 1 || value > max)
        return qy_fail(err, QY_ERR_FORMAT, "%s: \"%s\" is %lld, 1 to %lld expected", c->path, key,
                       (long long)value, (long long)max);
    *out = value;
    return QY_OK;
}

/* A size whose key the family may lack, with what absent (0: as null) and null stand for. */
static qy_status_t read_own_size(const config_t *c, const char *key, int64_t max, int64_t absent,
                                 int64_t null, int64_t *out, qy_error_t *err)
{
    const json_t *given = key ? json_object_get(c->root, key) : NULL;
    if (given && !json_is_null(given))
        return read_size(c, key, max, 0, out, err);
    *out = given || !absent ? null : absent;
    return QY_OK;
}

/* --- the family --- */

static qy_status_t fail_unknown(const config_t *c, const char *name, qy_error_t *err)
{
    char known[256] = "";
    for (int i = 0; i < QY_N_FAMILIES; i++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 qy_families[i].architecture);
    return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: architecture \"%.100s\" is not known (known: %s)",
                   c->path, name, known);
}

/* By architectures[0]; by model_type where that is absent. Both, where both are there. */
static qy_status_t find_family(const config_t *c, const qy_family_row_t **out, qy_error_t *err)
{
    const json_t *list = NULL;
    const char *model_type = NULL, *name = NULL;
    QY_TRY(qy_json_array(c->root, c->path, "architectures", &list, err));
    QY_TRY(qy_json_string(c->root, c->path, "model_type", &model_type, err));
    if (list && json_array_size(list) > 0) {
        name = json_string_value(json_array_get(list, 0));
        if (!name)
            return qy_fail(err, QY_ERR_FORMAT, "%s: \"architectures\" holds no name", c->path);
    }
    if (!name && !model_type)
        return qy_fail(err, QY_ERR_FORMAT, "%s: neither \"architectures\" nor \"model_type\"",
                       c->path);
    for (int i = 0; i < QY_N_FAMILIES; i++) {
        const qy_family_row_t *row = &qy_families[i];
        if (strcmp(name ? name : model_type, name ? row->architecture : row->model_type) != 0)
            continue;
        if (model_type && strcmp(model_type, row->model_type) != 0)
            return qy_fail(err, QY_ERR_FORMAT, "%s: %s with \"model_type\" \"%.60s\", not \"%s\"",
                           c->path, row->architecture, model_type, row->model_type);
        *out = row;
        return QY_OK;
    }
    return fail_unknown(c, name ? name : model_type, err);
}

/* What no family here computes; a key that is absent, null or neutral asks for nothing. */
static qy_status_t refuse_strangers(const config_t *c, const qy_family_row_t *row, qy_error_t *err)
{
    static const char *const experts[] = {"num_local_experts", "num_experts", "n_routed_experts",
                                          "num_experts_per_tok", "moe_intermediate_size"};
    for (size_t i = 0; i < sizeof experts / sizeof *experts; i++) {
        const json_t *value = json_object_get(c->root, experts[i]);
        if (value && !json_is_null(value))
            return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: \"%s\": mixtures of experts", c->path,
                           experts[i]);
    }
    for (int i = 0; i < QY_MAX_DEMANDS && row->demand[i].key; i++) {
        const qy_family_demand_t *d = &row->demand[i];
        bool value = d->value;
        QY_TRY(qy_json_bool(c->root, c->path, d->key, &value, err));
        if (value != d->value)
            return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: \"%s\" is %s: %s", c->path, d->key,
                           value ? "true" : "false", d->reason);
    }
    const char *act = row->act_name;
    QY_TRY(qy_json_string(c->root, c->path, row->act_key, &act, err));
    if (strcmp(act, row->act_name) != 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: \"%s\" is \"%.60s\" (known: %s)", c->path,
                       row->act_key, act, row->act_name);
    return QY_OK;
}

/* --- sizes --- */

static qy_status_t read_heads(const config_t *c, const qy_family_row_t *row, qy_arch_t *arch,
                              qy_error_t *err)
{
    QY_TRY(read_size(c, "num_attention_heads", HEADS_MAX, 0, &arch->n_heads, err));
    QY_TRY(read_own_size(c, row->kv_heads_key, HEADS_MAX, row->kv_heads, arch->n_heads,
                         &arch->n_kv_heads, err));
    if (arch->n_heads % arch->n_kv_heads != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: \"%s\" %lld does not divide %lld heads", c->path,
                       row->kv_heads_key, (long long)arch->n_kv_heads, (long long)arch->n_heads);

    int64_t shared = arch->hidden % arch->n_heads ? 0 : arch->hidden / arch->n_heads;
    QY_TRY(read_own_size(c, row->head_dim_key, QY_HEAD_DIM_MAX, row->head_dim, shared,
                         &arch->head_dim, err));
    if (arch->head_dim < 1 || arch->head_dim > QY_HEAD_DIM_MAX)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %lld heads do not divide \"hidden_size\" %lld",
                       c->path, (long long)arch->n_heads, (long long)arch->hidden);
    if (row->rope && arch->head_dim % 2 != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: heads of %lld numbers cannot be rotated in pairs",
                       c->path, (long long)arch->head_dim);
    return QY_OK;
}

static qy_status_t read_sizes(const config_t *c, const qy_family_row_t *row, qy_arch_t *arch,
                              qy_error_t *err)
{
    QY_TRY(read_size(c, "hidden_size", WIDTH_MAX, 0, &arch->hidden, err));
    QY_TRY(read_size(c, "num_hidden_layers", BLOCKS_MAX, 0, &arch->n_blocks, err));
    QY_TRY(read_size(c, row->intermediate_key, WIDTH_MAX, 0, &arch->intermediate, err));
    QY_TRY(read_size(c, "vocab_size", VOCAB_MAX, 0, &arch->vocab, err));
    QY_TRY(read_size(c, "max_position_embeddings", POSITIONS_MAX, 0, &arch->max_positions, err));
    QY_TRY(read_heads(c, row, arch, err));
    if (row->same_as_hidden_key) {
        int64_t other = arch->hidden;
        QY_TRY(read_size(c, row->same_as_hidden_key, WIDTH_MAX, arch->hidden, &other, err));
        if (other != arch->hidden)
            return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: \"%s\" %lld differs from hidden_size %lld",
                           c->path, row->same_as_hidden_key, (long long)other,
                           (long long)arch->hidden);
    }
    return QY_OK;
}

/* --- sliding windows --- */

/* Whether block i has the window, as the keys of the family say, or layer_types. */
static qy_status_t block_slides(const config_t *c, const json_t *types, int64_t i, int64_t first,
                                bool *out, qy_error_t *err)
{
    *out = i >= first;
    if (!types)
        return QY_OK;
    const char *type = json_string_value(json_array_get(types, (size_t)i));
    if (!type || (strcmp(type, "full_attention") != 0 && strcmp(type, "sliding_attention") != 0))
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "%s: \"layer_types\": block %lld is \"%.60s\" (known: full_attention, "
                       "sliding_attention)",
                       c->path, (long long)i, type ? type : "(no name)");
    *out = *type == 's';
    return QY_OK;
}

/* All blocks alike: *slides. A program is built once for all of them. */
static qy_status_t all_slide(const config_t *c, const qy_family_window_t *w, const json_t *types,
                             int64_t n_blocks, int64_t first, bool *slides, qy_error_t *err)
{
    if (types && json_array_size(types) != (size_t)n_blocks)
        return qy_fail(err, QY_ERR_FORMAT, "%s: \"layer_types\" of %zu layers, %lld expected",
                       c->path, json_array_size(types), (long long)n_blocks);
    for (int64_t i = 0; i < n_blocks; i++) {
        bool one = false;
        QY_TRY(block_slides(c, types, i, first, &one, err));
        if (i > 0 && one != *slides)
            return qy_fail(err, QY_ERR_UNSUPPORTED,
                           "%s: \"%s\": a sliding window in some blocks only (block %lld differs)",
                           c->path, types ? "layer_types" : w->first_key, (long long)i);
        *slides = one;
    }
    return QY_OK;
}

static qy_status_t read_window(const config_t *c, const qy_family_row_t *row, qy_arch_t *arch,
                               qy_error_t *err)
{
    const qy_family_window_t *w = &row->window;
    const json_t *types = NULL;
    bool on = w->key && !w->switch_key, slides = false;
    int64_t length = 0, first = w->first;
    QY_TRY(qy_json_array(c->root, c->path, "layer_types", &types, err));
    if (w->switch_key)
        QY_TRY(qy_json_bool(c->root, c->path, w->switch_key, &on, err));
    if (on)
        QY_TRY(read_own_size(c, w->key, POSITIONS_MAX, w->length, 0, &length, err));
    if (length > 0 && w->first_key)
        QY_TRY(qy_json_i64(c->root, c->path, w->first_key, &first, err));
    QY_TRY(all_slide(c, w, types, arch->n_blocks, length > 0 ? first : INT64_MAX, &slides, err));
    if (types && slides != (length > 0) && (slides || !w->by_layer_types))
        return qy_fail(err, QY_ERR_FORMAT, "%s: \"layer_types\" %s \"%s\"", c->path,
                       slides ? "asks for sliding attention without a" : "contradicts",
                       w->key ? w->key : "sliding_window");
    arch->window = slides ? length : 0;
    return QY_OK;
}

static qy_status_t read_positive(const config_t *c, const json_t *object, const char *key,
                                 double absent, double *out, qy_error_t *err)
{
    double value = absent;
    QY_TRY(qy_json_f64(object, c->path, key, &value, err));
    if (!(value > 0) || !isfinite(value))
        return qy_fail(err, QY_ERR_FORMAT, "%s: \"%s\" is %s", c->path, key,
                       json_object_get(object, key) ? "not a positive number" : "missing");
    *out = value;
    return QY_OK;
}

/* --- rope --- */

static qy_status_t read_llama3(const config_t *c, const json_t *rope, qy_arch_t *arch,
                               qy_error_t *err)
{
    QY_TRY(read_positive(c, rope, "low_freq_factor", 0, &arch->rope_low_freq, err));
    QY_TRY(read_positive(c, rope, "high_freq_factor", 0, &arch->rope_high_freq, err));
    if (arch->rope_high_freq <= arch->rope_low_freq)
        return qy_fail(err, QY_ERR_FORMAT,
                       "%s: high_freq_factor %g is not above low_freq_factor %g", c->path,
                       arch->rope_high_freq, arch->rope_low_freq);
    static const char key[] = "original_max_position_embeddings";
    const config_t inside = {.root = rope, .path = c->path};
    int64_t *original = &arch->rope_original_positions;
    QY_TRY(read_size(&inside, key, POSITIONS_MAX, arch->max_positions, original, err));
    return read_size(c, key, POSITIONS_MAX, *original, original, err); /* beside rope, it wins */
}

/* rope may be NULL: no object at all. */
static qy_status_t check_rope_object(const config_t *c, const json_t *rope, qy_error_t *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)rope, key, value)
    {
        if (json_is_object(value))
            return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: a rope of its own for \"%.60s\"", c->path,
                           key);
    }
    double partial = 1, partial_outside = 1;
    QY_TRY(qy_json_f64(rope, c->path, "partial_rotary_factor", &partial, err));
    QY_TRY(qy_json_f64(c->root, c->path, "partial_rotary_factor", &partial_outside, err));
    if (partial != 1 || partial_outside != 1)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: \"partial_rotary_factor\" is not 1", c->path);
    return QY_OK;
}

/* The 4.x pair rope_scaling + rope_theta, or rope_parameters of 5.x; rope_scaling wins unless it is
 * empty. */
static qy_status_t read_rope(const config_t *c, qy_arch_t *arch, qy_error_t *err)
{
    const json_t *rope = NULL, *scaling = NULL;
    QY_TRY(qy_json_object(c->root, c->path, "rope_parameters", &rope, err));
    QY_TRY(qy_json_object(c->root, c->path, "rope_scaling", &scaling, err));
    if (json_object_size(scaling) > 0)
        rope = scaling;
    double theta = 10000;
    QY_TRY(read_positive(c, c->root, "rope_theta", theta, &theta, err));
    arch->rope_kind = QY_ROPE_DEFAULT;
    arch->rope_theta = theta;
    QY_TRY(check_rope_object(c, rope, err));
    if (!rope)
        return QY_OK;
    QY_TRY(read_positive(c, rope, "rope_theta", theta, &arch->rope_theta, err));

    const char *type = "default";
    QY_TRY(qy_json_string(rope, c->path, "type", &type, err));
    QY_TRY(qy_json_string(rope, c->path, "rope_type", &type, err));
    if (strcmp(type, "default") == 0)
        return QY_OK;
    bool linear = strcmp(type, "linear") == 0;
    if (!linear && strcmp(type, "llama3") != 0)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "%s: rope of type \"%.60s\" (known: default, linear, llama3)", c->path,
                       type);
    arch->rope_kind = linear ? QY_ROPE_LINEAR : QY_ROPE_LLAMA3;
    QY_TRY(read_positive(c, rope, "factor", 0, &arch->rope_factor, err));
    return linear ? QY_OK : read_llama3(c, rope, arch, err);
}

/* --- linears and norms --- */

static void describe_linear(qy_arch_t *arch, const qy_family_row_t *row, qy_linear_id_t id,
                            int64_t out, int64_t in, bool bias)
{
    qy_linear_desc_t *d = &arch->linear[id];
    if (!row->linear[id])
        return;
    *d = (qy_linear_desc_t){.present = true, .bias = bias, .out = out, .in = in};
    copy_name(d->name, row->linear[id]);
}

static qy_status_t describe_linears(const config_t *c, const qy_family_row_t *row, qy_arch_t *arch,
                                    qy_error_t *err)
{
    const qy_family_switch_t switches[] = {row->qkv_bias, row->o_bias, row->mlp_bias};
    bool bias[3];
    for (int i = 0; i < 3; i++) {
        bias[i] = switches[i].value;
        if (switches[i].key)
            QY_TRY(qy_json_bool(c->root, c->path, switches[i].key, &bias[i], err));
    }
    int64_t h = arch->hidden, m = arch->intermediate;
    int64_t q = arch->n_heads * arch->head_dim, kv = arch->n_kv_heads * arch->head_dim;
    describe_linear(arch, row, QY_LINEAR_Q, q, h, bias[0]);
    describe_linear(arch, row, QY_LINEAR_K, kv, h, bias[0]);
    describe_linear(arch, row, QY_LINEAR_V, kv, h, bias[0]);
    describe_linear(arch, row, QY_LINEAR_O, h, q, bias[1]);
    describe_linear(arch, row, QY_LINEAR_GATE, m, h, bias[2]);
    describe_linear(arch, row, QY_LINEAR_UP, m, h, bias[2]);
    describe_linear(arch, row, QY_LINEAR_DOWN, h, m, bias[2]);
    return QY_OK;
}

static qy_status_t describe_norms(const config_t *c, const qy_family_row_t *row, qy_arch_t *arch,
                                  qy_error_t *err)
{
    double eps = row->eps;
    if (row->eps_key)
        QY_TRY(read_positive(c, c->root, row->eps_key, row->eps, &eps, err));
    arch->norm_kind = row->norm_kind;
    arch->norm_eps = (float)eps;
    bool bias = row->norm_kind == QY_NORM_LAYER;
    for (int i = 0; i < QY_N_NORMS; i++) {
        if (!row->norm[i])
            continue;
        int64_t size = i == QY_NORM_Q || i == QY_NORM_K ? arch->head_dim : arch->hidden;
        arch->norm[i] = (qy_norm_desc_t){.present = true, .bias = bias, .size = size};
        copy_name(arch->norm[i].name, row->norm[i]);
    }
    arch->final_norm = (qy_norm_desc_t){.present = true, .bias = bias, .size = arch->hidden};
    copy_name(arch->final_norm.name, row->final_norm);
    return QY_OK;
}

static qy_status_t fill(const config_t *c, qy_arch_t *arch, qy_error_t *err)
{
    const qy_family_row_t *row = NULL;
    QY_TRY(find_family(c, &row, err));
    QY_TRY(refuse_strangers(c, row, err));
    arch->family = row->family;
    arch->act_kind = row->act_kind;
    arch->tied_head = row->tied;
    QY_TRY(qy_json_bool(c->root, c->path, "tie_word_embeddings", &arch->tied_head, err));
    QY_TRY(read_sizes(c, row, arch, err));
    QY_TRY(read_window(c, row, arch, err));
    if (row->rope)
        QY_TRY(read_rope(c, arch, err));
    arch->learned_positions = !row->rope;
    arch->position_offset = row->position_offset;
    QY_TRY(describe_linears(c, row, arch, err));
    QY_TRY(describe_norms(c, row, arch, err));
    copy_name(arch->model_type, row->model_type);
    copy_name(arch->block_prefix, row->block_prefix);
    copy_name(arch->embedding_name, row->embedding);
    copy_name(arch->position_name, row->position);
    copy_name(arch->head_name, row->head);
    return QY_OK;
}

qy_status_t qy_arch_read(qy_arch_t *arch, const char *model_dir, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    json_t *root;
    QY_TRY(qy_checkpoint_config(&root, path, model_dir, err));
    qy_arch_t made = {0};
    const config_t config = {.root = root, .path = path};
    qy_status_t status = fill(&config, &made, err);
    json_decref(root);
    if (status == QY_OK)
        *arch = made;
    return status;
}
