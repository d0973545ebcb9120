#include "model/weights.h"

#include <math.h>

#include "tests/model/scratch.h"

#define GOLDEN(name) (TEST_GOLDEN "/models/" name)

/* The number that sign, exponent and mantissa bits mean, by their definition. */
static double decode(uint32_t bits, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    int e = (int)(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    double m = (double)(bits & ((1u << mantissa_bits) - 1)) / (double)(1u << mantissa_bits);
    double x = e == 0 ? ldexp(m, 1 - bias) : ldexp(1 + m, e - bias);
    return bits >> (exponent_bits + mantissa_bits) ? -x : x;
}

/* t holds exactly what the file says of the tensor. */
static void check_tensor(const qy_model_t *m, const qy_tensor_t *t, const char *name)
{
    const qy_st_entry_t *e = qy_st_find(m->tensors, name);
    assert_non_null(e);
    assert_non_null(t->data);
    assert_int_equal(t->dtype, QY_F32);
    assert_int_equal(t->n_dims, e->n_dims);
    for (int i = 0; i < e->n_dims; i++)
        assert_int_equal(t->shape[i], e->shape[i]);
    assert_int_equal((uintptr_t)t->data % 64, 0);
    unsigned char *raw = malloc(e->bytes);
    OK(qy_st_read(m->tensors, e, raw, 0, e->bytes, &err));
    int64_t n = qy_tensor_count(t);
    size_t size = e->bytes / (size_t)n;
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = 0;
        memcpy(&bits, raw + (size_t)i * size, size);
        double want = size == 4
                          ? decode(bits, 8, 23)
                          : decode(bits, e->dtype[0] == 'B' ? 8 : 5, e->dtype[0] == 'B' ? 7 : 10);
        double got = ((const float *)t->data)[i];
        if (!(fabs(got - want) <= 0))
            fail_msg("%s[%lld] is %g, not %g", name, (long long)i, got, want);
        largest = fmax(largest, fabs(got));
    }
    assert_true(largest > 0);
    free(raw);
}

/* Every tensor of a block, against the file; what the arch has not is NULL. */
static void check_block(const qy_model_t *m, int64_t block)
{
    qy_block_weights_t w;
    OK(qy_block_weights_read(&w, m, block, &err));
    for (int i = 0; i < QY_N_LINEARS + QY_N_NORMS; i++) {
        bool linear = i < QY_N_LINEARS;
        int k = linear ? i : i - QY_N_LINEARS;
        bool present = linear ? m->arch.linear[k].present : m->arch.norm[k].present;
        bool bias = linear ? m->arch.linear[k].bias : m->arch.norm[k].bias;
        const char *inside = linear ? m->arch.linear[k].name : m->arch.norm[k].name;
        const qy_tensor_t *t = linear ? &w.linear[k] : &w.norm[k];
        const qy_tensor_t *b = linear ? &w.bias[k] : &w.norm_bias[k];
        char name[160];
        qy_model_tensor_name(name, &m->arch, block, inside, ".weight");
        if (present)
            check_tensor(m, t, name);
        else
            assert_null(t->data);
        qy_model_tensor_name(name, &m->arch, block, inside, ".bias");
        if (present && bias)
            check_tensor(m, b, name);
        else
            assert_null(b->data);
    }
    qy_block_weights_free(&w);
    assert_null(w.linear[0].data);
    qy_block_weights_free(&w);
}

static void check_outer(const qy_model_t *m)
{
    qy_outer_weights_t w;
    char name[160];
    OK(qy_outer_weights_read(&w, m, &err));
    check_tensor(m, &w.embedding, m->arch.embedding_name);
    if (m->arch.tied_head)
        assert_ptr_equal(w.head.data, w.embedding.data);
    else
        check_tensor(m, &w.head, "lm_head.weight");
    if (m->arch.learned_positions)
        check_tensor(m, &w.positions, m->arch.position_name);
    else
        assert_null(w.positions.data);
    snprintf(name, sizeof name, "%s.weight", m->arch.final_norm.name);
    check_tensor(m, &w.final_norm, name);
    snprintf(name, sizeof name, "%s.bias", m->arch.final_norm.name);
    if (m->arch.final_norm.bias)
        check_tensor(m, &w.final_norm_bias, name);
    else
        assert_null(w.final_norm_bias.data);
    qy_outer_weights_free(&w);
    assert_null(w.embedding.data);
}

static void test_reads_every_family_and_type(void **state)
{
    (void)state;
    static const char *const dirs[] = {
        GOLDEN("llama-gqa"), GOLDEN("llama-biases"), GOLDEN("llama-linear"), GOLDEN("opt"),
        GOLDEN("opt-bare"),  GOLDEN("mistral"),      GOLDEN("qwen2"),        GOLDEN("qwen3")};
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        qy_model_t *m;
        qy_block_weights_t w;
        OK(qy_model_open(&m, dirs[i], &err));
        check_outer(m);
        for (int64_t b = 0; b < m->arch.n_blocks; b++)
            check_block(m, b);
        REFUSED(qy_block_weights_read(&w, m, m->arch.n_blocks, &err), QY_ERR_ARG, "block 2 of 2");
        REFUSED(qy_block_weights_read(&w, m, -1, &err), QY_ERR_ARG, "block -1 of 2");
        qy_model_close(&m);
        assert_null(m);
    }
}

/* opt-bare's tensors have no "model." before their names. */
static void test_adjusts_bare_names(void **state)
{
    (void)state;
    qy_model_t *m;
    OK(qy_model_open(&m, GOLDEN("opt-bare"), &err));
    assert_string_equal(m->arch.block_prefix, "decoder.layers.");
    assert_string_equal(m->arch.embedding_name, "decoder.embed_tokens.weight");
    assert_string_equal(m->arch.final_norm.name, "decoder.final_layer_norm");
    qy_model_close(&m);
}

/* --- other checkpoints made of a golden one --- */

enum { TENSORS_MAX = 64 };

/* What to change: the tensor `name` is left out, or is written otherwise; or, unknown, is added. */
typedef struct {
    const char *name, *dtype;
    int n_dims;
    int64_t shape[2];
} change_t;

static int64_t count(const int64_t *shape, int n_dims)
{
    int64_t n = 1;
    for (int i = 0; i < n_dims; i++)
        n *= shape[i];
    return n;
}

/* scratch/m: the golden model with one change; what is added has the bytes of like, NULL: zeros. */
static void write_changed_like(const char *golden, const change_t *change, const char *like)
{
    char config[QY_PATH_MAX];
    qy_st_set_t *set;
    qy_st_writer_t *writer;
    qy_st_spec_t specs[TENSORS_MAX];
    int n = 0;
    scratch_dir("m");
    OK(qy_path(config, &err, "%s/config.json", golden));
    scratch_copy(config, "m/config.json");
    OK(qy_st_open(&set, golden, &err));
    for (int64_t i = 0; i < qy_st_count(set); i++) {
        const qy_st_entry_t *e = qy_st_at(set, i);
        if (strcmp(e->name, change->name) == 0)
            continue;
        specs[n] = (qy_st_spec_t){.name = e->name, .dtype = e->dtype, .n_dims = e->n_dims};
        memcpy(specs[n++].shape, e->shape, sizeof specs->shape);
    }
    if (change->dtype) {
        specs[n] = (qy_st_spec_t){.name = change->name,
                                  .dtype = change->dtype,
                                  .n_dims = change->n_dims,
                                  .shape = {change->shape[0], change->shape[1]}};
        n++;
    }
    OK(qy_st_writer_create(&writer, scratch_path("m"), specs, n, 1 << 30, &err));
    for (int i = 0; i < n; i++) {
        size_t bytes =
            (size_t)(count(specs[i].shape, specs[i].n_dims) * qy_st_dtype_bits(specs[i].dtype) / 8);
        char *data = calloc(1, bytes);
        bool copied = like && strcmp(specs[i].name, change->name) == 0;
        const qy_st_entry_t *e = qy_st_find(set, copied ? like : specs[i].name);
        if (e && e->bytes == bytes)
            OK(qy_st_read(set, e, data, 0, bytes, &err));
        OK(qy_st_writer_put(writer, specs[i].name, data, bytes, &err));
        free(data);
    }
    OK(qy_st_writer_finish(&writer, &err));
    qy_st_close(&set);
}

static void write_changed(const char *golden, const change_t *change)
{
    write_changed_like(golden, change, NULL);
}

#define Q1 "model.layers.1.self_attn.q_proj"

static void test_refuses_what_the_config_does_not_describe(void **state)
{
    (void)state;
    static const struct {
        change_t change;
        qy_status_t status;
        const char *text;
    } cases[] = {
        {{.name = Q1 ".weight"}, QY_ERR_FORMAT, "no tensor " Q1 ".weight, which config.json asks"},
        {{.name = "lm_head.weight"}, QY_ERR_FORMAT, "no tensor lm_head.weight"},
        {{.name = "model.norm.weight"}, QY_ERR_FORMAT, "no tensor model.norm.weight"},
        {{Q1 ".weight", "F16", 2, {32, 31}},
         QY_ERR_SHAPE,
         "is 32 × 31, config.json asks for 32 × 32"},
        {{Q1 ".weight", "F16", 1, {1024}}, QY_ERR_SHAPE, "is 1024, config.json asks for 32 × 32"},
        {{"model.norm.weight", "F16", 0, {0}}, QY_ERR_SHAPE, "is a single number"},
        {{Q1 ".weight", "I16", 2, {32, 32}}, QY_ERR_UNSUPPORTED, "has type I16 (known: F16, BF16"},
        {{Q1 ".weight", "F64", 2, {32, 32}}, QY_ERR_UNSUPPORTED, "has type F64"},
        {{Q1 ".bias", "F16", 1, {32}},
         QY_ERR_UNSUPPORTED,
         Q1 ".bias has no place in a llama block"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_model_t *m = NULL;
        write_changed(GOLDEN("llama-gqa"), &cases[i].change);
        REFUSED(qy_model_open(&m, scratch_path("m"), &err), cases[i].status, cases[i].text);
        assert_null(m);
    }
}

static void test_takes_what_does_no_harm(void **state)
{
    (void)state;
    static const change_t changes[] = {
        {Q1 ".weight", "F32", 2, {32, 32}}, /* types may be mixed */
        {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1, {4}},
        {"model.layers.7.self_attn.q_proj.bias", "F16", 1, {32}}, /* of a block that is cut off */
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        qy_model_t *m;
        write_changed(GOLDEN("llama-gqa"), &changes[i]);
        OK(qy_model_open(&m, scratch_path("m"), &err));
        qy_model_close(&m);
    }
}

/* The config says whether the head is tied; where it is stored all the same, it is the embedding.
 */
static void test_tied_is_what_the_config_says(void **state)
{
    (void)state;
    qy_model_t *m = NULL;
    qy_outer_weights_t w;
    write_changed_like(GOLDEN("llama-biases"), &(change_t){"lm_head.weight", "BF16", 2, {80, 32}},
                       "model.embed_tokens.weight");
    OK(qy_model_open(&m, scratch_path("m"), &err));
    OK(qy_outer_weights_read(&w, m, &err));
    assert_ptr_equal(w.head.data, w.embedding.data);
    qy_outer_weights_free(&w);
    qy_model_close(&m);
    write_changed(GOLDEN("llama-biases"), &(change_t){"lm_head.weight", "BF16", 2, {80, 32}});
    REFUSED(qy_model_open(&m, scratch_path("m"), &err), QY_ERR_UNSUPPORTED,
            "\"tie_word_embeddings\" is true, but lm_head.weight is not model.embed_tokens.weight");
    write_changed(GOLDEN("llama-biases"), &(change_t){"lm_head.weight", "BF16", 2, {79, 32}});
    REFUSED(qy_model_open(&m, scratch_path("m"), &err), QY_ERR_SHAPE, "lm_head.weight is 79 × 32");
    assert_null(m);
}

static void test_refuses_other_directories(void **state)
{
    (void)state;
    qy_model_t *m = NULL;
    REFUSED(qy_model_open(&m, scratch_path("absent"), &err), QY_ERR_IO, "config.json");
    write_changed(GOLDEN("opt"), &(change_t){.name = ""});
    OK(qy_model_open(&m, scratch_path("m"), &err));
    qy_model_close(&m);
    scratch_remove("m/model.safetensors");
    scratch_text("m/pytorch_model.bin", "pickle");
    REFUSED(qy_model_open(&m, scratch_path("m"), &err), QY_ERR_UNSUPPORTED, "convert it first");
    char *config;
    size_t bytes;
    OK(qy_file_read(scratch_path("m/config.json"), 1 << 20, &config, &bytes, &err));
    char *quantized = malloc(bytes + 64);
    *strrchr(config, '}') = '\0';
    snprintf(quantized, bytes + 64, "%s,\"quantization_config\":{\"bits\":4}}", config);
    scratch_text("m/config.json", quantized);
    free(quantized);
    free(config);
    REFUSED(qy_model_open(&m, scratch_path("m"), &err), QY_ERR_UNSUPPORTED, "quantized already");
}

static void test_opens_the_trained_models(void **state)
{
    (void)state;
    static const char *const dirs[] = {TEST_DATA "/models/tiny-llama-kjv",
                                       TEST_DATA "/models/tiny-opt-kjv"};
    for (int i = 0; i < 2; i++) {
        qy_model_t *m;
        OK(qy_model_open(&m, dirs[i], &err));
        check_outer(m);
        m->threads = 3; /* the embedding is of several pieces */
        check_outer(m);
        check_block(m, 5);
        qy_model_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_every_family_and_type),
        cmocka_unit_test(test_adjusts_bare_names),
        cmocka_unit_test(test_refuses_what_the_config_does_not_describe),
        cmocka_unit_test(test_takes_what_does_no_harm),
        cmocka_unit_test(test_tied_is_what_the_config_says),
        cmocka_unit_test(test_refuses_other_directories),
        cmocka_unit_test(test_opens_the_trained_models),
    };
    return cmocka_run_group_tests_name("weights", tests, scratch_setup, scratch_teardown);
}
