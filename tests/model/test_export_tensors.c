#include <string.h>

#include "tests/model/export_fixture.h"

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
    OK(qy_qblock_dequantize(q, &f->model->arch, id, want, 1, &err));
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
    static const qy_quant_form_t forms[] = {
        {.bits = 2, .group = 64, .symmetric = false}, {.bits = 3, .group = 32, .symmetric = false},
        {.bits = 4, .group = 0, .symmetric = false},  {.bits = 8, .group = 128, .symmetric = false},
        {.bits = 2, .group = 0, .symmetric = true},   {.bits = 3, .group = 64, .symmetric = true},
        {.bits = 4, .group = 16, .symmetric = true},  {.bits = 8, .group = 64, .symmetric = true}};
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

/* --- checkpoints in other types --- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_words),  cmocka_unit_test(test_forms),
        cmocka_unit_test(test_opt),          cmocka_unit_test(test_hf_of_bf16),
        cmocka_unit_test(test_gptq_of_bf16),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
