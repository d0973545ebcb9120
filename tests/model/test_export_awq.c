/* AWQ and AutoRound checkpoints, unpacked here by what their readers do. */
#include <string.h>

#include "base/pack.h"
#include "tests/model/export_fixture.h"

/* --- AWQ --- */

/* AutoAWQ's order of the rows in a word. */
static const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7}; /* of row r % 8: its nibble */

static int nibble(const uint32_t *words, int64_t line, int64_t rows, int64_t row)
{
    return (int)(words[line * (rows / 8) + row / 8] >> (4 * place[row % 8]) & 15u);
}

static void check_awq_layer(const fixture_t *f, const qy_st_set_t *set, const qy_qblock_t *q,
                            int64_t block, qy_linear_id_t id)
{
    const qy_linear_desc_t *d = &f->model->arch.linear[id];
    int64_t n = d->out, k = d->in, cols = qy_quant_group_cols(&f->job.form, k);
    char layer[160];
    qy_model_tensor_name(layer, &f->model->arch, block, d->name, "");
    uint32_t *qweight = read_part(set, layer, ".qweight", "I32", k, n / 8);
    uint32_t *qzeros = read_part(set, layer, ".qzeros", "I32", k / cols, n / 8);
    uint16_t *scales = read_part(set, layer, ".scales", "F16", k / cols, n);
    uint16_t *want = malloc((size_t)(n * k) * sizeof *want);
    OK(qy_qblock_dequantize(q, &f->model->arch, id, want, 1, &err));
    for (int64_t row = 0; row < n; row++)
        for (int64_t i = 0; i < k; i++) {
            int z = nibble(qzeros, i / cols, n, row), c = nibble(qweight, i, n, row);
            float s = qy_f16_to_f32(scales[i / cols * n + row]);
            assert_int_equal(qy_f32_to_f16((float)(c - z) * s), want[row * k + i]);
        }
    free(qweight);
    free(qzeros);
    free(scales);
    free(want);
}

static void check_awq(const char *model, int64_t group, bool symmetric)
{
    fixture_t f;
    qy_qblock_t q;
    open_fixture(&f, model, 4, group, symmetric);
    export_as(&f, "awq", "awq");
    qy_st_set_t *set = open_tensors("awq");
    OK(read_made_up(&f.blocks, 1, &q, &err));
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (f.model->arch.linear[i].present)
            check_awq_layer(&f, set, &q, 1, (qy_linear_id_t)i);
    qy_qblock_free(&q);
    qy_st_close(&set);

    json_t *config = read_json("awq", "config.json");
    json_t *want = json_pack("{s:s, s:i, s:i, s:b, s:s, s:n}", "quant_method", "awq", "bits", 4,
                             "group_size", group ? (int)group : -1, "zero_point", 1, "version",
                             "gemm", "modules_to_not_convert");
    assert_true(json_equal(json_object_get(config, "quantization_config"), want));
    json_decref(config);
    json_decref(want);
    qy_model_close(&f.model);
}

static void test_awq(void **state)
{
    (void)state;
    check_awq(LLAMA, 64, false);
    check_awq(LLAMA, 0, true);
    check_awq(OPT, 32, false);
}

/* Rows 0 to 7 with the codes 0 to 7 are the word 75316420. */
static void count_rows(qy_qblock_t *block)
{
    uint32_t *words = block->codes[QY_LINEAR_Q].data;
    int64_t per_row = block->codes[QY_LINEAR_Q].shape[1];
    for (int64_t i = 0; i < qy_tensor_count(&block->codes[QY_LINEAR_Q]); i++)
        words[i] = (uint32_t)(i / per_row % 8) * 0x11111111u;
}

static void test_awq_known(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, LLAMA, 4, 64, false);
    f.blocks.change = count_rows;
    export_as(&f, "awq", "known");
    qy_st_set_t *set = open_tensors("known");
    uint32_t *words =
        read_part(set, "model.layers.0.self_attn.q_proj", ".qweight", "I32", 256, 256 / 8);
    for (int i = 0; i < 256 * 32; i++)
        assert_int_equal(words[i], 0x75316420);
    free(words);
    qy_st_close(&set);
    qy_model_close(&f.model);
}

/* --- AutoRound --- */

/* The same tensors as GPTQ's of the same model, except for g_idx, which is not there. */
static void same_as_gptq(const fixture_t *f)
{
    qy_st_set_t *gptq = open_tensors("gptq"), *own = open_tensors("autoround");
    int64_t n_linears = 0;
    for (int i = 0; i < QY_N_LINEARS; i++)
        n_linears += f->model->arch.linear[i].present;
    assert_int_equal(qy_st_count(own), qy_st_count(gptq) - n_linears * f->model->arch.n_blocks);
    for (int64_t i = 0; i < qy_st_count(own); i++) {
        const qy_st_entry_t *a = qy_st_at(own, i), *b = qy_st_find(gptq, a->name);
        assert_non_null(b);
        assert_int_equal(a->bytes, b->bytes);
        char *x = malloc(a->bytes), *y = malloc(a->bytes);
        OK(qy_st_read(own, a, x, 0, a->bytes, &err));
        OK(qy_st_read(gptq, b, y, 0, a->bytes, &err));
        assert_memory_equal(x, y, a->bytes);
        free(x);
        free(y);
    }
    qy_st_close(&gptq);
    qy_st_close(&own);
}

static void check_autoround(int bits, int64_t group, bool symmetric, const char *packing)
{
    fixture_t f;
    open_fixture(&f, LLAMA, bits, group, symmetric);
    export_as(&f, "gptq", "gptq");
    export_as(&f, "auto-round", "autoround");
    same_as_gptq(&f);
    json_t *config = read_json("autoround", "config.json");
    json_t *own = read_json("autoround", "quantization_config.json");
    json_t *want =
        json_pack("{s:s, s:i, s:i, s:b, s:s, s:s, s:s, s:s, s:i}", "quant_method", "auto-round",
                  "bits", bits, "group_size", group ? (int)group : -1, "sym", symmetric,
                  "data_type", "int", "packing_format", packing, "autoround_version", "0.16.1",
                  "block_name_to_quantize", "model.layers", "iters", 0);
    assert_true(json_equal(json_object_get(config, "quantization_config"), want));
    assert_true(json_equal(own, want));
    json_decref(config);
    json_decref(own);
    json_decref(want);
    qy_model_close(&f.model);
}

/* LLAMA under names without "model.", as checkpoints of the bare model have them. */
static void write_bare(const char *model)
{
    enum { TENSORS_MAX = 256 };
    static const char root[] = "model.";
    char from[QY_PATH_MAX], to[QY_PATH_MAX], *text;
    size_t bytes;
    qy_st_set_t *set;
    qy_st_writer_t *writer;
    qy_st_spec_t specs[TENSORS_MAX];
    OK(qy_st_open(&set, LLAMA, &err));
    int64_t n = qy_st_count(set);
    assert_true(n <= TENSORS_MAX);
    for (int64_t i = 0; i < n; i++) {
        const qy_st_entry_t *e = qy_st_at(set, i);
        bool whole = strncmp(e->name, root, strlen(root)) != 0;
        specs[i] = (qy_st_spec_t){.name = whole ? e->name : e->name + strlen(root),
                                  .dtype = e->dtype,
                                  .n_dims = e->n_dims};
        memcpy(specs[i].shape, e->shape, sizeof specs->shape);
    }
    OK(qy_make_dirs(model, &err));
    OK(qy_st_writer_create(&writer, model, specs, n, 1 << 30, &err));
    for (int64_t i = 0; i < n; i++) {
        const qy_st_entry_t *e = qy_st_at(set, i);
        void *data = malloc(e->bytes);
        OK(qy_st_read(set, e, data, 0, e->bytes, &err));
        OK(qy_st_writer_put(writer, specs[i].name, data, e->bytes, &err));
        free(data);
    }
    OK(qy_st_writer_finish(&writer, &err));
    qy_st_close(&set);
    OK(qy_path(from, &err, "%s/config.json", LLAMA));
    OK(qy_path(to, &err, "%s/config.json", model));
    OK(qy_file_read(from, 1 << 20, &text, &bytes, &err));
    OK(qy_file_write(to, text, bytes, &err));
    free(text);
}

/* AutoRound looks for the blocks among the modules of the whole model. */
static void test_autoround_of_a_bare_model(void **state)
{
    (void)state;
    fixture_t f;
    char model[QY_PATH_MAX];
    path_of(model, "bare");
    write_bare(model);
    open_fixture(&f, model, 4, 32, true);
    assert_string_equal(f.model->arch.block_prefix, "layers.");
    export_as(&f, "auto-round", "autoround");
    json_t *own = read_json("autoround", "quantization_config.json");
    assert_string_equal(json_string_value(json_object_get(own, "block_name_to_quantize")),
                        "model.layers");
    json_decref(own);
    qy_model_close(&f.model);
}

static void test_autoround(void **state)
{
    (void)state;
    check_autoround(2, 64, false, "auto_round");
    check_autoround(3, 32, false, "auto_round");
    check_autoround(4, 0, true, "auto_round:auto_gptq");
}

/* --- refusals --- */

static void test_refused(void **state)
{
    (void)state;
    const qy_exporter_t *awq = qy_exporter_find("awq"), *own = qy_exporter_find("auto-round");
    qy_model_t *model;
    OK(qy_model_open(&model, LLAMA, &err));
    qy_arch_t arch = model->arch;
    qy_model_close(&model);
    qy_quant_form_t form = {.bits = 3, .group = 64};
    assert_failed(awq->check(&arch, &form, &err), QY_ERR_UNSUPPORTED,
                  "awq holds 4 bits, not 3; gptq and compressed-tensors hold 3");
    OK(own->check(&arch, &form, &err));
    form.bits = 6;
    assert_failed(own->check(&arch, &form, &err), QY_ERR_UNSUPPORTED,
                  "auto-round holds 2, 3, 4 or 8 bits, not 6");
    form = (qy_quant_form_t){.bits = 4, .group = 96};
    assert_failed(awq->check(&arch, &form, &err), QY_ERR_SHAPE, "do not divide");
    arch.linear[QY_LINEAR_Q].out = 264;
    form.group = 64;
    assert_failed(awq->check(&arch, &form, &err), QY_ERR_UNSUPPORTED, "awq wants rows");
}

/* The licence of the original is the quantized model's. */
static void test_license(void **state)
{
    (void)state;
    char path[QY_PATH_MAX], command[3 * QY_PATH_MAX];
    fixture_t f;
    path_of(path, "licensed");
    snprintf(command, sizeof command, "cp -r %s %s", LLAMA, path);
    assert_int_equal(system(command), 0);
    static const char card[] = "---\nlanguage: en\nlicense: apache-2.0\ntags:\n- x\n---\n"
                               "license: not this\n";
    OK(qy_path(path, &err, "%s/licensed/README.md", dir));
    OK(qy_file_write(path, card, strlen(card), &err));
    path_of(path, "licensed");
    open_fixture(&f, path, 4, 64, false);
    export_as(&f, "awq", "carded");
    char *text = read_output("carded", "README.md");
    static const char front[] = "---\nlicense: apache-2.0\nbase_model: \"licensed\"\n";
    assert_int_equal(strncmp(text, front, strlen(front)), 0);
    assert_null(strstr(text, "not this"));
    assert_null(strstr(text, "- x"));
    free(text);
    qy_model_close(&f.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_awq),       cmocka_unit_test(test_awq_known),
        cmocka_unit_test(test_autoround), cmocka_unit_test(test_autoround_of_a_bare_model),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_license),
    };
    return cmocka_run_group_tests_name("export awq", tests, make_dir, remove_dir);
}
