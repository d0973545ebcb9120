#include <string.h>

#include "tests/model/export_fixture.h"

/* --- pack-quantized, unpacked bit by bit --- */

/* Signed code i of the stream whose word j is words[j stride]. */
static int code_at(const uint32_t *words, int64_t stride, int64_t i, int bits)
{
    int code = 0;
    for (int k = 0; k < bits; k++) {
        int64_t bit = i * bits + k;
        code += (int)(words[bit / 32 * stride] >> (bit % 32) & 1u) << k;
    }
    return code - (1 << (bits - 1));
}

static int64_t words_for(int64_t codes, int bits)
{
    return codes * bits / 32 + (codes * bits % 32 != 0);
}

/* Weights (N, K) of a layer; a tensor that its form has no use for is not there. */
static uint16_t *unpack_layer(const qy_st_set_t *set, const char *layer, int64_t n, int64_t k,
                              const qy_quant_form_t *form)
{
    int b = form->bits;
    int64_t columns = form->group ? form->group : k, groups = k / columns, words = words_for(k, b);
    uint32_t *packed = read_part(set, layer, ".weight_packed", "I32", n, words), *zeros = NULL;
    uint16_t *scales = read_part(set, layer, ".weight_scale", "F16", n, groups);
    int64_t *shape = read_part(set, layer, ".weight_shape", "I64", 2, 0);
    char name[200];
    snprintf(name, sizeof name, "%s.weight_zero_point", layer);
    if (form->symmetric)
        assert_null(qy_st_find(set, name));
    else
        zeros = read_tensor(set, name, "I32", words_for(n, b), groups);
    assert_int_equal(shape[0], n);
    assert_int_equal(shape[1], k);
    uint16_t *weight = malloc((size_t)(n * k) * sizeof *weight);
    for (int64_t row = 0; row < n; row++) {
        for (int64_t i = 0; i < k; i++) {
            int64_t g = i / columns;
            int z = zeros ? code_at(zeros + g, groups, row, b) : 0;
            float step = qy_f16_to_f32(scales[row * groups + g]);
            int c = code_at(packed + row * words, 1, i, b);
            weight[row * k + i] = qy_f32_to_f16((float)(c - z) * step);
        }
    }
    free(packed);
    free(scales);
    free(shape);
    free(zeros);
    return weight;
}

static void check_layer(const fixture_t *f, const qy_st_set_t *set, const qy_qblock_t *q,
                        int64_t block, qy_linear_id_t id)
{
    const qy_linear_desc_t *d = &f->model->arch.linear[id];
    size_t bytes = (size_t)(d->out * d->in) * sizeof(uint16_t);
    char layer[160];
    qy_model_tensor_name(layer, &f->model->arch, block, d->name, "");
    uint16_t *want = malloc(bytes);
    OK(qy_qblock_dequantize(q, &f->model->arch, id, want, 1, &err));
    uint16_t *unpacked = unpack_layer(set, layer, d->out, d->in, &f->job.form);
    assert_memory_equal(unpacked, want, bytes);
    free(want);
    free(unpacked);
}

/* The export holds what qy_qblock_dequantize says, and each linear's tensors in place of its one.
 */
static void check_form(const char *model, qy_quant_form_t form)
{
    fixture_t f;
    open_fixture(&f, model, form.bits, form.group, form.symmetric);
    const qy_arch_t *arch = &f.model->arch;
    export_as(&f, "compressed-tensors", "packed");
    qy_st_set_t *set = open_tensors("packed");
    int64_t n_linears = 0;
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        qy_qblock_t q;
        OK(read_made_up(&f.blocks, b, &q, &err));
        for (int i = 0; i < QY_N_LINEARS; i++) {
            if (!arch->linear[i].present)
                continue;
            check_layer(&f, set, &q, b, (qy_linear_id_t)i);
            n_linears++;
        }
        qy_qblock_free(&q);
    }
    int64_t more = form.symmetric ? 2 : 3;
    assert_int_equal(qy_st_count(set), qy_st_count(f.model->tensors) + more * n_linears);
    qy_st_close(&set);
    qy_model_close(&f.model);
}

static void test_forms(void **state)
{
    (void)state;
    static const qy_quant_form_t forms[] = {
        {.bits = 2, .group = 64, .symmetric = false}, {.bits = 3, .group = 0, .symmetric = false},
        {.bits = 4, .group = 64, .symmetric = false}, {.bits = 6, .group = 32, .symmetric = false},
        {.bits = 8, .group = 0, .symmetric = false},  {.bits = 2, .group = 0, .symmetric = true},
        {.bits = 3, .group = 64, .symmetric = true},  {.bits = 4, .group = 128, .symmetric = true},
        {.bits = 6, .group = 0, .symmetric = true},   {.bits = 8, .group = 128, .symmetric = true},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        check_form(LLAMA, forms[i]);
}

static void test_opt(void **state)
{
    (void)state;
    check_form(OPT, (qy_quant_form_t){.bits = 3, .group = 64, .symmetric = false});
}

/* --- streams along the rows --- */

/* Row r has the zero point (r + g) modulo 2^bits. */
static void count_zeros(qy_qblock_t *block)
{
    const qy_tensor_t *zeros = &block->zeros[QY_LINEAR_DOWN];
    int64_t groups = zeros->shape[1];
    for (int64_t i = 0; i < qy_tensor_count(zeros); i++)
        ((uint8_t *)zeros->data)[i] =
            (uint8_t)((i / groups + i % groups) % (1 << block->form.bits));
}

/* words[w] of the columns 0 and 1, again and again down the stream. */
static void check_zero_words(int bits, int n_words, const uint32_t words[][2])
{
    enum { N = 256, K = 512, GROUP = 64, G = K / GROUP };
    fixture_t f;
    open_fixture(&f, LLAMA, bits, GROUP, false);
    f.blocks.change = count_zeros;
    export_as(&f, "compressed-tensors", "zeros");
    qy_st_set_t *set = open_tensors("zeros");
    uint32_t *zeros = read_part(set, "model.layers.5.mlp.down_proj", ".weight_zero_point", "I32",
                                N * bits / 32, G);
    for (int w = 0; w < N * bits / 32; w++) {
        assert_int_equal(zeros[w * G], words[w % n_words][0]);
        assert_int_equal(zeros[w * G + 1], words[w % n_words][1]);
    }
    free(zeros);
    qy_st_close(&set);
    qy_model_close(&f.model);
}

static void test_zero_words(void **state)
{
    (void)state;
    check_zero_words(2, 1, (const uint32_t[][2]){{0xe4e4e4e4, 0x39393939}});
    check_zero_words(4, 2,
                     (const uint32_t[][2]){{0x76543210, 0x87654321}, {0xfedcba98, 0x0fedcba9}});
    /* 3 bits: 32 codes in 3 words, of which the 11th and the 22nd lie in two */
    check_zero_words(3, 3,
                     (const uint32_t[][2]){{0x88fac688, 0xd11f58d1},
                                           {0xc688fac6, 0x58d11f58},
                                           {0xfac688fa, 0x1f58d11f}});
}

/* --- a checkpoint in bf16 whose rows and columns fill no words --- */

enum { HIDDEN = 20, INNER = 12, VOCAB = 32 };

static void write_odd(void)
{
    static const char config[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 32,"
        " \"hidden_size\": 20, \"intermediate_size\": 12, \"num_attention_heads\": 2,"
        " \"num_hidden_layers\": 1, \"attention_bias\": true, \"hidden_act\": \"silu\","
        " \"max_position_embeddings\": 64, \"tie_word_embeddings\": false,"
        " \"torch_dtype\": \"bfloat16\"}";
    static const qy_st_spec_t specs[] = {
        {"model.layers.0.self_attn.q_proj.weight", "BF16", 2, {HIDDEN, HIDDEN}},
        {"model.layers.0.self_attn.k_proj.weight", "BF16", 2, {HIDDEN, HIDDEN}},
        {"model.layers.0.self_attn.v_proj.weight", "BF16", 2, {HIDDEN, HIDDEN}},
        {"model.layers.0.self_attn.o_proj.weight", "BF16", 2, {HIDDEN, HIDDEN}},
        {"model.layers.0.self_attn.q_proj.bias", "BF16", 1, {HIDDEN}},
        {"model.layers.0.self_attn.k_proj.bias", "F32", 1, {HIDDEN}},
        {"model.layers.0.self_attn.v_proj.bias", "F16", 1, {HIDDEN}},
        {"model.layers.0.self_attn.o_proj.bias", "BF16", 1, {HIDDEN}},
        {"model.layers.0.mlp.gate_proj.weight", "BF16", 2, {INNER, HIDDEN}},
        {"model.layers.0.mlp.up_proj.weight", "BF16", 2, {INNER, HIDDEN}},
        {"model.layers.0.mlp.down_proj.weight", "BF16", 2, {HIDDEN, INNER}},
        {"model.layers.0.input_layernorm.weight", "BF16", 1, {HIDDEN}},
        {"model.layers.0.post_attention_layernorm.weight", "BF16", 1, {HIDDEN}},
        {"model.embed_tokens.weight", "BF16", 2, {VOCAB, HIDDEN}},
        {"model.norm.weight", "BF16", 1, {HIDDEN}},
        {"lm_head.weight", "BF16", 2, {VOCAB, HIDDEN}},
    };
    enum { N = sizeof specs / sizeof *specs };
    static const uint32_t nothing[VOCAB * HIDDEN];
    char path[QY_PATH_MAX], file[QY_PATH_MAX];
    path_of(path, "odd");
    OK(qy_make_dirs(path, &err));
    OK(qy_path(file, &err, "%s/config.json", path));
    OK(qy_file_write(file, config, strlen(config), &err));
    qy_st_writer_t *writer;
    OK(qy_st_writer_create(&writer, path, specs, N, UINT64_MAX, &err));
    for (int i = 0; i < N; i++) {
        int64_t n = specs[i].shape[0] * (specs[i].n_dims == 2 ? specs[i].shape[1] : 1);
        int64_t size = strcmp(specs[i].dtype, "F32") == 0 ? 4 : 2;
        OK(qy_st_writer_put(writer, specs[i].name, nothing, (uint64_t)(n * size), &err));
    }
    OK(qy_st_writer_finish(&writer, &err));
}

static void test_odd_sizes(void **state)
{
    (void)state;
    static const int bits[] = {2, 3, 4, 6, 8};
    char path[QY_PATH_MAX];
    write_odd();
    path_of(path, "odd");
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 4; k++)
            check_form(path, (qy_quant_form_t){
                                 .bits = bits[i], .group = k & 1 ? 4 : 0, .symmetric = k >= 2});
}

/* Each in the type that it has in the checkpoint. */
static void test_biases(void **state)
{
    (void)state;
    char path[QY_PATH_MAX];
    fixture_t f;
    write_odd();
    path_of(path, "odd");
    open_fixture(&f, path, 4, 4, true);
    export_as(&f, "compressed-tensors", "biases");
    qy_st_set_t *set = open_tensors("biases");
    qy_qblock_t q;
    OK(read_made_up(&f.blocks, 0, &q, &err));
    const float *want_q = q.bias[QY_LINEAR_Q].data, *want_k = q.bias[QY_LINEAR_K].data,
                *want_v = q.bias[QY_LINEAR_V].data;
    uint16_t *brain = read_part(set, "model.layers.0.self_attn.q_proj", ".bias", "BF16", HIDDEN, 0);
    float *full = read_part(set, "model.layers.0.self_attn.k_proj", ".bias", "F32", HIDDEN, 0);
    uint16_t *half = read_part(set, "model.layers.0.self_attn.v_proj", ".bias", "F16", HIDDEN, 0);
    for (int i = 0; i < HIDDEN; i++) {
        assert_int_equal(brain[i], qy_f32_to_bf16(want_q[i]));
        assert_true(full[i] == want_k[i]);
        assert_true(qy_f16_to_f32(half[i]) == want_v[i]);
    }
    free(brain);
    free(full);
    free(half);
    qy_qblock_free(&q);
    qy_st_close(&set);
    qy_model_close(&f.model);
}

/* --- configuration --- */

static void check_config(qy_quant_form_t form, const char *weights)
{
    fixture_t f;
    open_fixture(&f, LLAMA, form.bits, form.group, form.symmetric);
    export_as(&f, "compressed-tensors", "config");
    json_t *want = json_pack(
        "{s:s, s:s, s:s, s:s, s:[s], s:n, s:n, s:{s:{s:[s], s:o, s:n, s:n, s:s}}}", "quant_method",
        "compressed-tensors", "format", "pack-quantized", "quantization_status", "compressed",
        "version", "0.18.0", "ignore", "lm_head", "kv_cache_scheme", "global_compression_ratio",
        "config_groups", "group_0", "targets", "Linear", "weights", json_loads(weights, 0, NULL),
        "input_activations", "output_activations", "format", "pack-quantized");
    assert_non_null(want);
    json_t *config = read_json("config", "config.json");
    assert_true(json_equal(json_object_get(config, "quantization_config"), want));

    /* Without that key it is the user's file. */
    char *original = read_text(LLAMA, "config.json");
    json_t *before = json_loads(original, 0, NULL);
    json_object_del(config, "quantization_config");
    assert_true(json_equal(config, before));
    assert_false(has_file("config", "quantize_config.json"));
    free(original);
    json_decref(before);
    json_decref(config);
    json_decref(want);
    qy_model_close(&f.model);
}

static void test_config(void **state)
{
    (void)state;
    check_config((qy_quant_form_t){.bits = 4, .group = 128, .symmetric = true},
                 "{\"num_bits\": 4, \"type\": \"int\", \"symmetric\": true, \"strategy\": "
                 "\"group\", \"group_size\": 128, \"dynamic\": false, \"block_structure\": null, "
                 "\"actorder\": null, \"observer\": \"minmax\", \"observer_kwargs\": {}}");
    check_config((qy_quant_form_t){.bits = 6, .group = 0, .symmetric = false},
                 "{\"num_bits\": 6, \"type\": \"int\", \"symmetric\": false, \"strategy\": "
                 "\"channel\", \"group_size\": null, \"dynamic\": false, \"block_structure\": "
                 "null, \"actorder\": null, \"observer\": \"minmax\", \"observer_kwargs\": {}}");
}

/* --- refusals --- */

static void shift_zero(qy_qblock_t *block)
{
    ((uint8_t *)block->zeros[QY_LINEAR_UP].data)[9] = 7;
}

static void test_refusals(void **state)
{
    (void)state;
    const qy_exporter_t *exporter = qy_exporter_find("compressed-tensors");
    char path[QY_PATH_MAX];
    fixture_t f;
    open_fixture(&f, LLAMA, 4, 64, true);
    const qy_arch_t *arch = &f.model->arch;
    static const int unheld[] = {1, 5, 7};
    for (int i = 0; i < 3; i++) {
        char text[64];
        snprintf(text, sizeof text, "2, 3, 4, 6 or 8 bits, not %d; hf holds", unheld[i]);
        qy_quant_form_t form = {.bits = unheld[i], .group = 64, .symmetric = true};
        assert_failed(exporter->check(arch, &form, &err), QY_ERR_UNSUPPORTED, text);
    }
    qy_quant_form_t wide = {.bits = 4, .group = 96, .symmetric = false};
    assert_failed(exporter->check(arch, &wide, &err), QY_ERR_SHAPE,
                  "self_attn.q_proj: groups of 96 do not divide 256 columns");

    f.blocks.change = shift_zero;
    path_of(path, "shifted");
    assert_failed(qy_export_run(exporter, &f.job, path, &err), QY_ERR_FORMAT,
                  "block 0: model.layers.0.mlp.up_proj: zero point 7 in row 2");
    assert_false(qy_file_exists(path));
    qy_model_close(&f.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero_words), cmocka_unit_test(test_forms),
        cmocka_unit_test(test_opt),        cmocka_unit_test(test_odd_sizes),
        cmocka_unit_test(test_biases),     cmocka_unit_test(test_config),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
