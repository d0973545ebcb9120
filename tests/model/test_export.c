#include "model/export.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/json.h"
#include "tests/model/random_block.h"

#define LLAMA TEST_DATA "/models/tiny-llama-kjv"
#define OPT   TEST_DATA "/models/tiny-opt-kjv"

static char dir[] = "/tmp/quarry-export-XXXXXX";
static qy_error_t err;

#define OK(call) assert_ok(call, #call, __LINE__)

static void assert_ok(qy_status_t status, const char *call, int line)
{
    if (status != QY_OK)
        fail_msg("line %d: %s: %s", line, call, err.text);
}

static void assert_failed(qy_status_t status, qy_status_t wanted, const char *text)
{
    assert_int_equal(status, wanted);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" is not in \"%s\"", text, err.text);
}

/* --- a run's blocks, made up --- */

typedef struct {
    const qy_arch_t *arch;
    qy_quant_form_t form;
    int64_t fails_at;                   /* block that cannot be read; −1: none */
    void (*change)(qy_qblock_t *block); /* what the blocks have instead; may be NULL */
} made_up_t;

static qy_status_t read_made_up(void *context, int64_t block, qy_qblock_t *out, qy_error_t *e)
{
    made_up_t *m = context;
    if (block == m->fails_at)
        return qy_fail(e, QY_ERR_IO, "block %lld is lost", (long long)block);
    QY_TRY(random_block(out, m->arch, &m->form, (uint64_t)block, e));
    if (m->change)
        m->change(out);
    return QY_OK;
}

typedef struct {
    qy_model_t *model;
    made_up_t blocks;
    qy_export_t job;
} fixture_t;

static void open_fixture(fixture_t *f, const char *model, int bits, int64_t group, bool symmetric)
{
    *f = (fixture_t){0};
    OK(qy_model_open(&f->model, model, &err));
    f->blocks = (made_up_t){&f->model->arch, {bits, group, symmetric}, -1, NULL};
    f->job = (qy_export_t){.model = f->model,
                           .form = f->blocks.form,
                           .source = {&f->blocks, read_made_up},
                           .version = "1.2.3"};
}

static void path_of(char out[QY_PATH_MAX], const char *name)
{
    OK(qy_path(out, &err, "%s/%s", dir, name));
}

static void export_as(fixture_t *f, const char *format, const char *name)
{
    char path[QY_PATH_MAX];
    path_of(path, name);
    f->job.overwrite = true;
    OK(qy_export_run(qy_exporter_find(format), &f->job, path, &err));
}

static qy_st_set_t *open_tensors(const char *name)
{
    char path[QY_PATH_MAX];
    qy_st_set_t *set;
    path_of(path, name);
    OK(qy_st_open(&set, path, &err));
    return set;
}

/* The data of one tensor, checked for type and shape (0: no second dimension); the caller frees. */
static void *read_tensor(const qy_st_set_t *set, const char *name, const char *dtype, int64_t rows,
                         int64_t cols)
{
    const qy_st_entry_t *e = qy_st_find(set, name);
    if (!e)
        fail_msg("no tensor %s", name);
    assert_string_equal(e->dtype, dtype);
    assert_int_equal(e->n_dims, cols ? 2 : 1);
    assert_int_equal(e->shape[0], rows);
    if (cols)
        assert_int_equal(e->shape[1], cols);
    void *data = malloc(e->bytes);
    OK(qy_st_read(set, e, data, 0, e->bytes, &err));
    return data;
}

static void *read_part(const qy_st_set_t *set, const char *layer, const char *suffix,
                       const char *dtype, int64_t rows, int64_t cols)
{
    char name[200];
    snprintf(name, sizeof name, "%s%s", layer, suffix);
    return read_tensor(set, name, dtype, rows, cols);
}

/* --- GPTQ, unpacked bit by bit --- */

/* Code i of the stream whose word j is words[j stride]. */
static int code_at(const uint32_t *words, int64_t stride, int64_t i, int bits)
{
    unsigned code = 0;
    for (int k = 0; k < bits; k++) {
        int64_t bit = i * bits + k;
        code |= (words[bit / 32 * stride] >> (bit % 32) & 1u) << k;
    }
    return (int)code;
}

/* Weights (N, K) of a layer from a GPTQ checkpoint. v1 holds z − 1 modulo 2^bits. */
static uint16_t *unpack_layer(const qy_st_set_t *set, const char *layer, int64_t n, int64_t k,
                              const qy_quant_form_t *form)
{
    int b = form->bits;
    int64_t groups = form->group ? k / form->group : 1;
    uint32_t *qweight = read_part(set, layer, ".qweight", "I32", k * b / 32, n);
    uint32_t *qzeros = read_part(set, layer, ".qzeros", "I32", groups, n * b / 32);
    uint16_t *scales = read_part(set, layer, ".scales", "F16", groups, n);
    int32_t *g_idx = read_part(set, layer, ".g_idx", "I32", k, 0);
    uint16_t *weight = malloc((size_t)(n * k) * sizeof *weight);
    for (int64_t row = 0; row < n; row++) {
        for (int64_t i = 0; i < k; i++) {
            int64_t g = g_idx[i];
            assert_int_equal(g, form->group ? i / form->group : 0);
            int z = code_at(qzeros + g * (n * b / 32), 1, row, b);
            if (form->symmetric)
                z = (z + 1) & ((1 << b) - 1);
            int c = code_at(qweight + row, n, i, b);
            weight[row * k + i] =
                qy_f32_to_f16((float)(c - z) * qy_f16_to_f32(scales[g * n + row]));
        }
    }
    free(qweight);
    free(qzeros);
    free(scales);
    free(g_idx);
    return weight;
}

static void compare_layer(const fixture_t *f, const qy_st_set_t *gptq, const qy_st_set_t *hf,
                          const qy_qblock_t *q, int64_t block, qy_linear_id_t id)
{
    const qy_linear_desc_t *d = &f->model->arch.linear[id];
    size_t bytes = (size_t)(d->out * d->in) * sizeof(uint16_t);
    char layer[160];
    qy_model_tensor_name(layer, &f->model->arch, block, d->name, "");
    uint16_t *want = malloc(bytes);
    OK(qy_qblock_dequantize(q, &f->model->arch, id, want, &err));
    uint16_t *dense = read_part(hf, layer, ".weight", "F16", d->out, d->in);
    assert_memory_equal(dense, want, bytes);
    uint16_t *unpacked = unpack_layer(gptq, layer, d->out, d->in, &f->job.form);
    assert_memory_equal(unpacked, want, bytes);
    free(want);
    free(dense);
    free(unpacked);
    if (!d->bias)
        return;
    uint16_t *a = read_part(hf, layer, ".bias", "F16", d->out, 0);
    uint16_t *b = read_part(gptq, layer, ".bias", "F16", d->out, 0);
    for (int64_t i = 0; i < d->out; i++) {
        assert_true(qy_f16_to_f32(a[i]) == ((float *)q->bias[id].data)[i]);
        assert_int_equal(a[i], b[i]);
    }
    free(a);
    free(b);
}

static void compare_norm(const fixture_t *f, const qy_st_set_t *set, int64_t block,
                         const char *norm, const char *suffix, const qy_tensor_t *want)
{
    char name[160];
    if (!want->data)
        return;
    qy_model_tensor_name(name, &f->model->arch, block, norm, suffix);
    uint16_t *got = read_tensor(set, name, "F16", want->shape[0], 0);
    for (int64_t i = 0; i < want->shape[0]; i++)
        assert_true(qy_f16_to_f32(got[i]) == ((float *)want->data)[i]);
    free(got);
}

/* A tensor outside the blocks is the original's to the byte. */
static void compare_outer(const fixture_t *f, const qy_st_set_t *set, const char *name)
{
    const qy_st_entry_t *e = qy_st_find(f->model->tensors, name);
    assert_non_null(e);
    void *want = malloc(e->bytes), *got;
    OK(qy_st_read(f->model->tensors, e, want, 0, e->bytes, &err));
    got = read_tensor(set, name, e->dtype, e->shape[0], e->n_dims > 1 ? e->shape[1] : 0);
    assert_memory_equal(got, want, e->bytes);
    free(want);
    free(got);
}

/* Both exports of one form hold what qy_qblock_dequantize says, and nothing beside. */
static void check_form(const char *model, int bits, int64_t group, bool symmetric)
{
    fixture_t f;
    open_fixture(&f, model, bits, group, symmetric);
    const qy_arch_t *arch = &f.model->arch;
    export_as(&f, "gptq", "gptq");
    export_as(&f, "hf", "hf");
    qy_st_set_t *gptq = open_tensors("gptq"), *hf = open_tensors("hf");
    int64_t n_linears = 0;
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        qy_qblock_t q;
        OK(read_made_up(&f.blocks, b, &q, &err));
        for (int i = 0; i < QY_N_LINEARS; i++) {
            if (!arch->linear[i].present)
                continue;
            compare_layer(&f, gptq, hf, &q, b, (qy_linear_id_t)i);
            n_linears++;
        }
        for (int i = 0; i < QY_N_NORMS; i++) {
            for (int k = 0; k < 2; k++) {
                const qy_st_set_t *set = k ? hf : gptq;
                compare_norm(&f, set, b, arch->norm[i].name, ".weight", &q.norm[i]);
                compare_norm(&f, set, b, arch->norm[i].name, ".bias", &q.norm_bias[i]);
            }
        }
        qy_qblock_free(&q);
    }
    int64_t n = qy_st_count(f.model->tensors);
    assert_int_equal(qy_st_count(hf), n);
    assert_int_equal(qy_st_count(gptq), n + 3 * n_linears);
    compare_outer(&f, gptq, arch->embedding_name);
    compare_outer(&f, hf, arch->embedding_name);
    char final_norm[QY_NAME_MAX + 8];
    snprintf(final_norm, sizeof final_norm, "%s.weight", arch->final_norm.name);
    compare_outer(&f, gptq, final_norm);
    qy_st_close(&gptq);
    qy_st_close(&hf);
    qy_model_close(&f.model);
}

static void test_forms(void **state)
{
    (void)state;
    static const qy_quant_form_t forms[] = {{2, 64, false},  {3, 32, false}, {4, 0, false},
                                            {8, 128, false}, {2, 0, true},   {3, 64, true},
                                            {4, 16, true},   {8, 64, true}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        check_form(LLAMA, forms[i].bits, forms[i].group, forms[i].symmetric);
}

static void test_opt(void **state)
{
    (void)state;
    check_form(OPT, 3, 64, false);
}

/* --- published bit patterns: formats of GPTQ, 2, 3, 4 and 8 bits --- */

/* Row codes are i modulo 2^b (3 bits: modulo 8). */
static void count_up(qy_qblock_t *block)
{
    int bits = block->form.bits;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!block->codes[i].data)
            continue;
        int64_t rows = block->codes[i].shape[0], words = block->codes[i].shape[1];
        int64_t n = words * 32 / bits;
        uint8_t *codes = malloc((size_t)n);
        for (int64_t k = 0; k < n; k++)
            codes[k] = (uint8_t)(k % (1 << bits));
        for (int64_t r = 0; r < rows; r++)
            qy_pack((uint32_t *)block->codes[i].data + r * words, codes, n, bits);
        free(codes);
    }
}

static void check_words(int bits, int n_words, const uint32_t *weight, const uint32_t *zero)
{
    static const char layer[] = "model.layers.5.mlp.down_proj";
    enum { N = 256, K = 512 };
    fixture_t f;
    open_fixture(&f, LLAMA, bits, 64, true);
    f.blocks.change = count_up;
    export_as(&f, "gptq", "words");
    qy_st_set_t *set = open_tensors("words");
    uint32_t *qweight = read_part(set, layer, ".qweight", "I32", K * bits / 32, N);
    uint32_t *qzeros = read_part(set, layer, ".qzeros", "I32", K / 64, N * bits / 32);
    for (int w = 0; w < n_words; w++)
        for (int n = 0; n < N; n++)
            assert_int_equal(qweight[w * N + n], weight[w]);
    for (int i = 0; i < K / 64 * (N * bits / 32); i++)
        assert_int_equal(qzeros[i], zero[i % n_words]);
    free(qweight);
    free(qzeros);
    qy_st_close(&set);
    qy_model_close(&f.model);
}

static void test_known_words(void **state)
{
    (void)state;
    check_words(2, 1, (uint32_t[]){0xe4e4e4e4}, (uint32_t[]){0x55555555});
    check_words(4, 1, (uint32_t[]){0x76543210}, (uint32_t[]){0x77777777});
    check_words(8, 1, (uint32_t[]){0x03020100}, (uint32_t[]){0x7f7f7f7f});
    /* 3 bits: 32 codes in 3 words, of which the 11th and the 22nd lie in two; z − 1 = 3 throughout
     */
    check_words(3, 3, (uint32_t[]){0x88fac688, 0xc688fac6, 0xfac688fa},
                (uint32_t[]){0xdb6db6db, 0xb6db6db6, 0x6db6db6d});
}

/* --- configuration and the files beside --- */

static json_t *read_json(const char *folder, const char *name)
{
    char path[QY_PATH_MAX];
    json_t *root;
    OK(qy_path(path, &err, "%s/%s/%s", dir, folder, name));
    OK(qy_json_read(&root, path, 1 << 20, &err));
    return root;
}

static char *read_text(const char *folder, const char *name)
{
    char path[QY_PATH_MAX], *text;
    size_t bytes;
    OK(qy_path(path, &err, "%s/%s", folder, name));
    OK(qy_file_read(path, 1 << 24, &text, &bytes, &err));
    assert_int_equal(strlen(text), bytes);
    return text;
}

/* A file of an export; the caller frees. */
static char *read_output(const char *folder, const char *name)
{
    char path[QY_PATH_MAX];
    path_of(path, folder);
    return read_text(path, name);
}

static void check_gptq_config(int bits, int64_t group, bool symmetric, const char *format)
{
    fixture_t f;
    open_fixture(&f, LLAMA, bits, group, symmetric);
    export_as(&f, "gptq", "config");
    json_t *config = read_json("config", "config.json"), *own;
    json_t *quantization = json_object_get(config, "quantization_config");
    json_t *want =
        json_pack("{s:i, s:i, s:b, s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:f, s:s, s:{s:[s]}}", "bits",
                  bits, "group_size", group ? (int)group : -1, "desc_act", 0, "sym", symmetric,
                  "quant_method", "gptq", "checkpoint_format", format, "format", format, "lm_head",
                  0, "true_sequential", 1, "static_groups", 0, "damp_percent", 0.01, "pack_dtype",
                  "int32", "meta", "quantizer", "quarry:1.2.3");
    own = read_json("config", "quantize_config.json");
    assert_true(json_equal(quantization, want));
    assert_true(json_equal(own, want));

    /* Without that key it is the user's file. */
    char *original = read_text(LLAMA, "config.json");
    json_t *before = json_loads(original, 0, NULL);
    json_object_del(config, "quantization_config");
    assert_true(json_equal(config, before));
    free(original);
    json_decref(before);
    json_decref(config);
    json_decref(own);
    json_decref(want);
    qy_model_close(&f.model);
}

static void test_gptq_config(void **state)
{
    (void)state;
    check_gptq_config(2, 64, false, "gptq_v2");
    check_gptq_config(4, 0, true, "gptq");
}

static void test_files(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, LLAMA, 2, 64, false);
    f.job.recipe = "seed: 2\n";
    f.job.card = "Perplexity 24.1.";
    f.job.plan_hash = "abc123";
    export_as(&f, "hf", "files");
    static const char *const copied[] = {"tokenizer.json", "tokenizer_config.json",
                                         "generation_config.json"};
    for (int i = 0; i < 3; i++) {
        char *a = read_output("files", copied[i]), *b = read_text(LLAMA, copied[i]);
        assert_string_equal(a, b);
        free(a);
        free(b);
    }
    /* This config says float16 already: nothing changes. */
    char *original = read_text(LLAMA, "config.json");
    json_t *config = read_json("files", "config.json"), *same = json_loads(original, 0, NULL);
    assert_true(json_equal(config, same));
    free(original);
    json_decref(config);
    json_decref(same);

    char *recipe = read_output("files", "recipe.yaml"), *card = read_output("files", "README.md");
    assert_string_equal(recipe, "seed: 2\n");
    static const char front[] =
        "---\nbase_model: \"tiny-llama-kjv\"\n"
        "base_model_relation: quantized\nlibrary_name: transformers\n"
        "pipeline_tag: text-generation\ntags:\n- quarry\n- hf\n- 2-bit\n---\n";
    assert_int_equal(strncmp(card, front, strlen(front)), 0);
    assert_non_null(strstr(card, "\nPerplexity 24.1.\n"));
    free(recipe);
    free(card);

    json_t *provenance = read_json("files", "quarry.json");
    json_t *want = json_pack("{s:s, s:s, s:s, s:i, s:i, s:b, s:s}", "quarry_version", "1.2.3",
                             "format", "hf", "base_model", "tiny-llama-kjv", "bits", 2,
                             "group_size", 64, "symmetric", 0, "plan_hash", "abc123");
    assert_true(json_equal(provenance, want));
    json_decref(provenance);
    json_decref(want);
    qy_model_close(&f.model);
}

/* --- checkpoints in other types --- */

typedef struct {
    char name[64];
    qy_st_spec_t spec;
} brain_tensor_t;

enum { BRAIN_TENSORS = 13 };

/* A Llama of one block of 32 × 32 in bf16, its final norm in f32, with an old checkpoint's buffer.
 */
static int list_brain(brain_tensor_t *t)
{
    static const char *const linears[] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    int n = 0;
    for (int i = 0; i < 7; i++, n++) {
        snprintf(t[n].name, sizeof t[n].name, "model.layers.0.%s.weight", linears[i]);
        t[n].spec = (qy_st_spec_t){t[n].name, "BF16", 2, {32, 32}};
    }
    static const struct {
        const char *name, *dtype;
        int n_dims;
    } others[] = {{"model.layers.0.input_layernorm.weight", "BF16", 1},
                  {"model.layers.0.post_attention_layernorm.weight", "F32", 1},
                  {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1},
                  {"model.embed_tokens.weight", "BF16", 2},
                  {"lm_head.weight", "BF16", 2},
                  {"model.norm.weight", "F32", 1}};
    for (int i = 0; i < 6; i++, n++) {
        snprintf(t[n].name, sizeof t[n].name, "%s", others[i].name);
        t[n].spec = (qy_st_spec_t){t[n].name, others[i].dtype, others[i].n_dims, {32, 32}};
    }
    return n;
}

/* Writes it to dir/brain: all numbers are `value`. */
static void write_brain(float value)
{
    static const char config[] =
        "{\"vocab_size\": 32, \"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"],"
        " \"torch_dtype\": \"bfloat16\", \"rms_norm_eps\": 1e-05, \"hidden_size\": 32,"
        " \"intermediate_size\": 32, \"num_attention_heads\": 2, \"num_hidden_layers\": 1,"
        " \"hidden_act\": \"silu\", \"max_position_embeddings\": 64, \"tie_word_embeddings\": "
        "false,"
        " \"rope_theta\": 10000.1, \"note\": \"größer\"}";
    char path[QY_PATH_MAX], file[QY_PATH_MAX];
    path_of(path, "brain");
    OK(qy_make_dirs(path, &err));
    OK(qy_path(file, &err, "%s/config.json", path));
    OK(qy_file_write(file, config, strlen(config), &err));
    brain_tensor_t t[BRAIN_TENSORS];
    qy_st_spec_t specs[BRAIN_TENSORS];
    int n = list_brain(t);
    for (int i = 0; i < n; i++)
        specs[i] = t[i].spec;
    qy_st_writer_t *writer;
    OK(qy_st_writer_create(&writer, path, specs, n, UINT64_MAX, &err));
    for (int i = 0; i < n; i++) {
        bool wide = strcmp(t[i].spec.dtype, "F32") == 0;
        int64_t count = t[i].spec.n_dims == 2 ? 32 * 32 : 32;
        float full[32 * 32];
        uint16_t half[32 * 32];
        for (int64_t k = 0; k < count; k++) {
            full[k] = value;
            half[k] = qy_f32_to_bf16(value);
        }
        OK(qy_st_writer_put(writer, t[i].name, wide ? (void *)full : (void *)half,
                            (uint64_t)count * (wide ? 4 : 2), &err));
    }
    OK(qy_st_writer_finish(&writer, &err));
}

static void test_hf_of_bf16(void **state)
{
    (void)state;
    char path[QY_PATH_MAX];
    fixture_t f;
    write_brain(1.5f);
    path_of(path, "brain");
    open_fixture(&f, path, 5, 8, false);
    export_as(&f, "hf", "dense");
    qy_st_set_t *set = open_tensors("dense");
    static const char *const narrowed[] = {"model.embed_tokens.weight", "lm_head.weight"};
    for (int i = 0; i < 2; i++) {
        uint16_t *data = read_tensor(set, narrowed[i], "F16", 32, 32);
        for (int k = 0; k < 32 * 32; k++)
            assert_int_equal(data[k], 0x3e00); /* 1.5 */
        free(data);
    }
    uint16_t *norm = read_tensor(set, "model.norm.weight", "F16", 32, 0);
    assert_int_equal(norm[31], 0x3e00);
    free(norm);
    free(read_tensor(set, "model.layers.0.input_layernorm.weight", "F16", 32, 0));
    free(read_tensor(set, "model.layers.0.post_attention_layernorm.weight", "F16", 32, 0));
    float *buffer = read_tensor(set, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 32, 0);
    assert_true(buffer[0] == 1.5f);
    free(buffer);
    qy_st_close(&set);

    /* Keys in their order, numbers without digits that they did not have, one value changed. */
    char *text = read_output("dense", "config.json");
    assert_non_null(strstr(text, "{\n  \"vocab_size\": 32,\n  \"model_type\": \"llama\""));
    assert_non_null(strstr(text, "\"torch_dtype\": \"float16\",\n  \"rms_norm_eps\": 1e-5,"));
    assert_non_null(strstr(text, "\"rope_theta\": 10000.1,\n  \"note\": \"größer\"\n}\n"));
    assert_null(strstr(text, "\"dtype\""));
    free(text);
    qy_model_close(&f.model);

    write_brain(1e6f);
    open_fixture(&f, path, 5, 8, false);
    path_of(path, "overflow");
    assert_failed(qy_export_run(qy_exporter_find("hf"), &f.job, path, &err), QY_ERR_NUMERIC,
                  "which f16 does not");
    assert_false(qy_file_exists(path));
    qy_model_close(&f.model);
}

static void test_gptq_of_bf16(void **state)
{
    (void)state;
    char path[QY_PATH_MAX];
    fixture_t f;
    write_brain(1e6f);
    path_of(path, "brain");
    open_fixture(&f, path, 4, 8, false);
    export_as(&f, "gptq", "kept");
    qy_st_set_t *set = open_tensors("kept");
    compare_outer(&f, set, "model.embed_tokens.weight");
    compare_outer(&f, set, "lm_head.weight");
    compare_outer(&f, set, "model.norm.weight");
    compare_outer(&f, set, "model.layers.0.self_attn.rotary_emb.inv_freq");
    qy_qblock_t q;
    OK(read_made_up(&f.blocks, 0, &q, &err));
    uint16_t *a = read_tensor(set, "model.layers.0.input_layernorm.weight", "BF16", 32, 0);
    float *b = read_tensor(set, "model.layers.0.post_attention_layernorm.weight", "F32", 32, 0);
    const float *want_a = q.norm[QY_NORM_ATTENTION].data, *want_b = q.norm[QY_NORM_MLP].data;
    for (int i = 0; i < 32; i++) {
        assert_int_equal(a[i], qy_f32_to_bf16(want_a[i]));
        assert_true(b[i] == want_b[i]);
    }
    free(a);
    free(b);
    qy_qblock_free(&q);
    qy_st_close(&set);
    qy_model_close(&f.model);
}

/* --- refusals --- */

static void test_table(void **state)
{
    (void)state;
    char names[64];
    assert_int_equal(strlen(qy_exporter_names()),
                     snprintf(names, sizeof names, "%s", qy_exporter_names()));
    int n = 0;
    for (char *rest = names, *name; (name = strtok_r(rest, ", ", &rest)); n++) {
        assert_non_null(qy_exporter_find(name));
        assert_string_equal(qy_exporter_find(name)->name, name);
    }
    assert_int_equal(n, 2);
    assert_null(qy_exporter_find("gguf"));
}

static void test_unsupported_forms(void **state)
{
    (void)state;
    const qy_exporter_t *gptq = qy_exporter_find("gptq"), *hf = qy_exporter_find("hf");
    qy_model_t *model;
    OK(qy_model_open(&model, LLAMA, &err));
    qy_arch_t arch = model->arch;
    qy_model_close(&model);
    qy_quant_form_t form = {6, 64, false}, wide = {4, 96, false}, good = {4, 64, false};
    assert_failed(gptq->check(&arch, &form, &err), QY_ERR_UNSUPPORTED,
                  "gptq holds 2, 3, 4 or 8 bits, not 6");
    OK(hf->check(&arch, &form, &err));
    assert_failed(gptq->check(&arch, &wide, &err), QY_ERR_SHAPE,
                  "self_attn.q_proj: groups of 96 do not divide 256 columns");
    assert_failed(hf->check(&arch, &wide, &err), QY_ERR_SHAPE, "groups of 96");
    OK(gptq->check(&arch, &good, &err));
    arch.linear[QY_LINEAR_UP].out = 500;
    assert_failed(gptq->check(&arch, &good, &err), QY_ERR_UNSUPPORTED,
                  "multiples of 32: mlp.up_proj is 500 × 256");

    /* And a run does not begin. */
    fixture_t f;
    char path[QY_PATH_MAX];
    open_fixture(&f, LLAMA, 6, 64, false);
    path_of(path, "six");
    assert_failed(qy_export_run(gptq, &f.job, path, &err), QY_ERR_UNSUPPORTED, "not 6");
    assert_false(qy_file_exists(path));
    qy_model_close(&f.model);
}

static void put_file(const char *folder, const char *name)
{
    char path[QY_PATH_MAX];
    path_of(path, folder);
    OK(qy_make_dirs(path, &err));
    OK(qy_path(path, &err, "%s/%s/%s", dir, folder, name));
    OK(qy_file_write(path, "x", 1, &err));
}

static int has_file(const char *folder, const char *name)
{
    char path[QY_PATH_MAX];
    OK(qy_path(path, &err, "%s/%s/%s", dir, folder, name));
    return qy_file_exists(path);
}

static qy_status_t run_into(fixture_t *f, const char *name, bool overwrite)
{
    char path[QY_PATH_MAX];
    path_of(path, name);
    f->job.overwrite = overwrite;
    return qy_export_run(qy_exporter_find("gptq"), &f->job, path, &err);
}

static void test_targets(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, LLAMA, 4, 64, false);

    put_file("notes", "thesis.txt");
    assert_failed(run_into(&f, "notes", false), QY_ERR_ARG, "notes: is not empty");
    assert_failed(run_into(&f, "notes", true), QY_ERR_ARG, "no quarry.json");
    assert_failed(run_into(&f, "notes/thesis.txt", true), QY_ERR_ARG, "in the way");
    assert_true(has_file("notes", "thesis.txt"));
    assert_false(has_file(".", "notes.tmp"));
    assert_failed(qy_export_run(qy_exporter_find("gptq"), &f.job, "", &err), QY_ERR_ARG, "folder");

    /* Into a new folder below new ones, then an existing empty one, then over an export. */
    OK(run_into(&f, "deep/below/", false));
    assert_true(has_file("deep/below", "quantize_config.json"));
    char path[QY_PATH_MAX];
    path_of(path, "empty");
    OK(qy_make_dirs(path, &err));
    OK(run_into(&f, "empty", false));
    assert_failed(run_into(&f, "empty", false), QY_ERR_ARG, "is not empty");
    put_file("empty", "stale.txt");
    put_file("empty.tmp", "torn.safetensors"); /* what killed runs leave */
    put_file("empty.tmp.old", "older.safetensors");
    OK(run_into(&f, "empty", true));
    assert_true(has_file("empty", "model.safetensors"));
    assert_false(has_file("empty", "stale.txt"));
    assert_false(has_file("empty", "torn.safetensors"));
    assert_false(has_file(".", "empty.tmp"));
    assert_false(has_file(".", "empty.tmp.old"));

    /* By way of a link, which stays one. */
    char link_path[QY_PATH_MAX];
    path_of(link_path, "link");
    assert_int_equal(symlink("empty", link_path), 0);
    OK(run_into(&f, "link", true));
    assert_int_equal(readlink(link_path, path, sizeof path), 5);
    qy_model_close(&f.model);
}

/* An export of ours is a model of its own, and must not be written over itself. */
static void test_model_in_target(void **state)
{
    (void)state;
    fixture_t f;
    char path[QY_PATH_MAX];
    open_fixture(&f, LLAMA, 4, 64, false);
    export_as(&f, "hf", "self");
    qy_model_close(&f.model);
    path_of(path, "self");
    open_fixture(&f, path, 4, 64, false);
    assert_failed(run_into(&f, "self", true), QY_ERR_ARG, "holds the model");
    assert_true(has_file("self", "model.safetensors"));
    OK(run_into(&f, "selfish", true));
    qy_model_close(&f.model);
}

static void shift_zero(qy_qblock_t *block)
{
    ((uint8_t *)block->zeros[QY_LINEAR_UP].data)[9] = 7;
}

static void change_form(qy_qblock_t *block)
{
    block->form.symmetric = false;
}

static void test_failures_leave_nothing(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, LLAMA, 4, 64, true);
    f.blocks.fails_at = 3;
    assert_failed(run_into(&f, "lost", false), QY_ERR_IO, "block 3 is lost");
    f.blocks.fails_at = -1;
    f.blocks.change = shift_zero;
    assert_failed(run_into(&f, "lost", false), QY_ERR_FORMAT,
                  "block 0: model.layers.0.mlp.up_proj: zero point 7 in row 2");
    f.blocks.change = change_form;
    assert_failed(run_into(&f, "lost", false), QY_ERR_FORMAT, "symmetric 0");
    assert_false(has_file(".", "lost"));
    assert_false(has_file(".", "lost.tmp"));

    /* What was there before stays. */
    f.blocks.change = NULL;
    OK(run_into(&f, "before", false));
    f.blocks.fails_at = 0;
    assert_failed(run_into(&f, "before", true), QY_ERR_IO, "lost");
    assert_true(has_file("before", "model.safetensors"));
    qy_model_close(&f.model);
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    return qy_remove_tree(dir, &err) == QY_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_unsupported_forms),
        cmocka_unit_test(test_known_words),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_opt),
        cmocka_unit_test(test_gptq_config),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_hf_of_bf16),
        cmocka_unit_test(test_gptq_of_bf16),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_model_in_target),
        cmocka_unit_test(test_failures_leave_nothing),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
