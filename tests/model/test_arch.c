#include "model/arch.h"

#include <math.h>
#include <sys/stat.h>

#include "tests/model/scratch.h"

#define REST                                                                                       \
    "\"intermediate_size\":96,\"num_hidden_layers\":3,\"num_attention_heads\":4,"                  \
    "\"vocab_size\":100,\"max_position_embeddings\":128"
#define SIZES "\"hidden_size\":64," REST
#define LLAMA "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," SIZES
#define OPT                                                                                        \
    "{\"architectures\":[\"OPTForCausalLM\"],\"model_type\":\"opt\",\"hidden_size\":64,"           \
    "\"ffn_dim\":96,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"vocab_size\":100,"         \
    "\"max_position_embeddings\":128"

#define MISTRAL "{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\"," SIZES
#define QWEN2   "{\"model_type\":\"qwen2\"," SIZES ",\"num_key_value_heads\":2"
#define QWEN3   "{\"model_type\":\"qwen3\"," SIZES ",\"num_key_value_heads\":2"

static qy_status_t read_text(qy_arch_t *arch, const char *config)
{
    scratch_text("config.json", config);
    return qy_arch_read(arch, scratch, &err);
}

static void check_linear(const qy_linear_desc_t *d, const char *name, int64_t out, int64_t in,
                         bool bias)
{
    assert_true(d->present);
    assert_string_equal(d->name, name);
    assert_int_equal(d->out, out);
    assert_int_equal(d->in, in);
    assert_int_equal(d->bias, bias);
}

static void test_llama_and_its_defaults(void **state)
{
    (void)state;
    qy_arch_t a;
    OK(read_text(&a, LLAMA "}"));
    assert_int_equal(a.family, QY_FAMILY_LLAMA);
    assert_string_equal(a.model_type, "llama");
    assert_int_equal(a.n_blocks, 3);
    assert_int_equal(a.n_kv_heads, 4);
    assert_int_equal(a.head_dim, 16);
    assert_int_equal(a.norm_kind, QY_NORM_RMS);
    assert_true(a.norm_eps == 1e-6f);
    assert_int_equal(a.act_kind, QY_ACT_SILU_GATE);
    assert_false(a.tied_head);
    assert_false(a.learned_positions);
    assert_int_equal(a.window, 0);
    assert_int_equal(a.rope_kind, QY_ROPE_DEFAULT);
    assert_true(a.rope_theta == 10000);
    check_linear(&a.linear[QY_LINEAR_K], "self_attn.k_proj", 64, 64, false);
    check_linear(&a.linear[QY_LINEAR_O], "self_attn.o_proj", 64, 64, false);
    check_linear(&a.linear[QY_LINEAR_GATE], "mlp.gate_proj", 96, 64, false);
    check_linear(&a.linear[QY_LINEAR_DOWN], "mlp.down_proj", 64, 96, false);
    assert_true(a.norm[QY_NORM_MLP].present && !a.norm[QY_NORM_MLP].bias);
    assert_false(a.norm[QY_NORM_Q].present);
    assert_string_equal(a.final_norm.name, "model.norm");
    assert_string_equal(a.block_prefix, "model.layers.");
    assert_int_equal(qy_arch_block_weights(&a), 4 * 64 * 64 + 3 * 64 * 96);
    assert_int_equal(qy_arch_parameters(&a),
                     3 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 2 * 100 * 64 + 64);
}

static void test_llama_with_everything(void **state)
{
    (void)state;
    qy_arch_t a;
    OK(read_text(&a, LLAMA ",\"num_key_value_heads\":2,\"head_dim\":24,\"attention_bias\":true,"
                           "\"mlp_bias\":true,\"tie_word_embeddings\":true,\"rms_norm_eps\":1e-5,"
                           "\"rope_theta\":500000,\"hidden_act\":\"silu\"}"));
    assert_int_equal(a.head_dim, 24);
    assert_true(a.norm_eps == 1e-5f);
    assert_true(a.tied_head);
    assert_true(a.rope_theta == 500000);
    check_linear(&a.linear[QY_LINEAR_Q], "self_attn.q_proj", 96, 64, true);
    check_linear(&a.linear[QY_LINEAR_V], "self_attn.v_proj", 48, 64, true);
    check_linear(&a.linear[QY_LINEAR_O], "self_attn.o_proj", 64, 96, true);
    check_linear(&a.linear[QY_LINEAR_UP], "mlp.up_proj", 96, 64, true);
    int64_t weights = 2 * 64 * 96 + 2 * 64 * 48 + 3 * 64 * 96;
    int64_t biases = 96 + 48 + 48 + 64 + 96 + 96 + 64;
    assert_int_equal(qy_arch_block_weights(&a), weights);
    assert_int_equal(qy_arch_parameters(&a), 3 * (weights + biases + 2 * 64) + 100 * 64 + 64);
    /* null counts as absent; a model without architectures is known by its type */
    OK(read_text(&a, "{\"model_type\":\"llama\"," SIZES ",\"num_key_value_heads\":null,"
                     "\"head_dim\":null,\"rope_scaling\":null}"));
    assert_int_equal(a.n_kv_heads, 4);
    assert_int_equal(a.head_dim, 16);
}

static void test_descendants_of_llama(void **state)
{
    (void)state;
    qy_arch_t a;
    OK(read_text(&a, MISTRAL ",\"num_key_value_heads\":null,\"head_dim\":null}"));
    assert_int_equal(a.family, QY_FAMILY_MISTRAL);
    assert_string_equal(a.model_type, "mistral");
    assert_int_equal(a.n_kv_heads, 4);
    assert_int_equal(a.head_dim, 16);
    assert_int_equal(a.window, 4096);
    check_linear(&a.linear[QY_LINEAR_V], "self_attn.v_proj", 64, 64, false);

    OK(read_text(&a, QWEN2 ",\"attention_bias\":false}")); /* a key that Qwen2 does not have */
    assert_int_equal(a.family, QY_FAMILY_QWEN2);
    assert_int_equal(a.head_dim, 16);
    assert_int_equal(a.window, 0);
    assert_true(a.norm_eps == 1e-6f);
    check_linear(&a.linear[QY_LINEAR_Q], "self_attn.q_proj", 64, 64, true);
    check_linear(&a.linear[QY_LINEAR_K], "self_attn.k_proj", 32, 64, true);
    check_linear(&a.linear[QY_LINEAR_V], "self_attn.v_proj", 32, 64, true);
    check_linear(&a.linear[QY_LINEAR_O], "self_attn.o_proj", 64, 64, false);
    check_linear(&a.linear[QY_LINEAR_UP], "mlp.up_proj", 96, 64, false);
    assert_false(a.norm[QY_NORM_Q].present || a.norm[QY_NORM_K].present);

    OK(read_text(&a, QWEN3 "}"));
    assert_int_equal(a.family, QY_FAMILY_QWEN3);
    assert_int_equal(a.head_dim, 128);
    check_linear(&a.linear[QY_LINEAR_Q], "self_attn.q_proj", 512, 64, false);
    check_linear(&a.linear[QY_LINEAR_O], "self_attn.o_proj", 64, 512, false);
    assert_string_equal(a.norm[QY_NORM_Q].name, "self_attn.q_norm");
    assert_string_equal(a.norm[QY_NORM_K].name, "self_attn.k_norm");
    assert_int_equal(a.norm[QY_NORM_K].size, 128);
    assert_false(a.norm[QY_NORM_K].bias);
    int64_t weights = 2 * 64 * 512 + 2 * 64 * 256 + 3 * 64 * 96;
    assert_int_equal(qy_arch_parameters(&a), 3 * (weights + 2 * 64 + 2 * 128) + 2 * 100 * 64 + 64);
    OK(read_text(&a, QWEN3 ",\"head_dim\":32,\"attention_bias\":true}"));
    assert_int_equal(a.head_dim, 32);
    assert_true(a.linear[QY_LINEAR_Q].bias && a.linear[QY_LINEAR_O].bias);
    assert_false(a.linear[QY_LINEAR_DOWN].bias);
}

#define FULL    "\"full_attention\""
#define SLIDING "\"sliding_attention\""

/* The window that a config's keys mean, of three blocks. */
static void test_windows(void **state)
{
    (void)state;
    static const struct {
        const char *keys;
        int64_t window;
    } cases[] = {
        {MISTRAL ",\"num_key_value_heads\":2,\"sliding_window\":null}", 0},
        {MISTRAL ",\"num_key_value_heads\":2,\"sliding_window\":5}", 5},
        {MISTRAL ",\"num_key_value_heads\":2,\"sliding_window\":5,\"layer_types\":[" SLIDING
                 "," SLIDING "," SLIDING "]}",
         5},
        {LLAMA ",\"sliding_window\":5}", 0}, /* which Llama does not have */
        {LLAMA ",\"layer_types\":[" FULL "," FULL "," FULL "]}", 0},
        {QWEN2 ",\"sliding_window\":5}", 0},
        {QWEN2 ",\"sliding_window\":5,\"use_sliding_window\":false,\"max_window_layers\":0}", 0},
        {QWEN2 ",\"sliding_window\":5,\"use_sliding_window\":true}", 0}, /* from block 28 on */
        {QWEN2 ",\"sliding_window\":5,\"use_sliding_window\":true,\"max_window_layers\":3}", 0},
        {QWEN2 ",\"sliding_window\":5,\"use_sliding_window\":true,\"max_window_layers\":0}", 5},
        {QWEN3 ",\"use_sliding_window\":true,\"max_window_layers\":0}", 4096},
        {QWEN3 ",\"sliding_window\":null,\"use_sliding_window\":true,\"max_window_layers\":0}", 0},
        {QWEN3 ",\"sliding_window\":5,\"use_sliding_window\":true,\"max_window_layers\":0,"
               "\"layer_types\":[" FULL "," FULL "," FULL "]}",
         0},
        {QWEN3 ",\"sliding_window\":5,\"use_sliding_window\":true,\"layer_types\":[" SLIDING
               "," SLIDING "," SLIDING "]}",
         5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_arch_t a;
        OK(read_text(&a, cases[i].keys));
        assert_int_equal(a.window, cases[i].window);
    }
}

static void test_opt_and_its_defaults(void **state)
{
    (void)state;
    qy_arch_t a;
    OK(read_text(&a, OPT "}"));
    assert_int_equal(a.family, QY_FAMILY_OPT);
    assert_int_equal(a.norm_kind, QY_NORM_LAYER);
    assert_true(a.norm_eps == 1e-5f);
    assert_int_equal(a.act_kind, QY_ACT_RELU);
    assert_int_equal(a.rope_kind, QY_ROPE_NONE);
    assert_true(a.tied_head);
    assert_true(a.learned_positions);
    assert_int_equal(a.position_offset, 2);
    assert_string_equal(a.position_name, "model.decoder.embed_positions.weight");
    check_linear(&a.linear[QY_LINEAR_O], "self_attn.out_proj", 64, 64, true);
    check_linear(&a.linear[QY_LINEAR_UP], "fc1", 96, 64, true);
    check_linear(&a.linear[QY_LINEAR_DOWN], "fc2", 64, 96, true);
    assert_false(a.linear[QY_LINEAR_GATE].present);
    assert_true(a.norm[QY_NORM_ATTENTION].bias && a.final_norm.bias);
    assert_string_equal(a.norm[QY_NORM_MLP].name, "final_layer_norm");
    int64_t weights = 4 * 64 * 64 + 2 * 64 * 96, biases = 5 * 64 + 96;
    assert_int_equal(qy_arch_parameters(&a),
                     3 * (weights + biases + 4 * 64) + (100 + 130) * 64 + 2 * 64);
    OK(read_text(&a, OPT ",\"enable_bias\":false,\"tie_word_embeddings\":false}"));
    assert_false(a.linear[QY_LINEAR_Q].bias || a.linear[QY_LINEAR_UP].bias);
    assert_true(a.norm[QY_NORM_MLP].bias);
    assert_false(a.tied_head);
}

static void test_reads_the_golden_models(void **state)
{
    (void)state;
    qy_arch_t a;
    OK(qy_arch_read(&a, TEST_GOLDEN "/models/llama-gqa", &err));
    assert_int_equal(a.n_kv_heads, 2);
    OK(qy_arch_read(&a, TEST_GOLDEN "/models/llama-biases", &err)); /* 4.x layout */
    assert_int_equal(a.rope_kind, QY_ROPE_LLAMA3);
    assert_int_equal(a.rope_original_positions, 64);
    assert_true(a.tied_head && a.linear[QY_LINEAR_DOWN].bias);
    OK(qy_arch_read(&a, TEST_GOLDEN "/models/llama-linear", &err)); /* 5.x layout */
    assert_int_equal(a.rope_kind, QY_ROPE_LINEAR);
    assert_true(a.rope_theta == 5000 && a.rope_factor == 2.5);
    assert_int_equal(a.head_dim, 16);
    OK(qy_arch_read(&a, TEST_GOLDEN "/models/mistral", &err)); /* 4.x layout */
    assert_int_equal(a.window, 5);
    assert_int_equal(a.head_dim, 12);
    OK(qy_arch_read(&a, TEST_GOLDEN "/models/qwen2", &err));
    assert_int_equal(a.window, 7);
    assert_true(a.tied_head && a.rope_theta == 1e6);
    OK(qy_arch_read(&a, TEST_GOLDEN "/models/qwen3", &err));
    assert_int_equal(a.window, 0);
    assert_int_equal(a.norm[QY_NORM_Q].size, 16);
    OK(qy_arch_read(&a, TEST_GOLDEN "/models/opt", &err));
    OK(qy_arch_read(&a, TEST_DATA "/models/tiny-llama-kjv", &err));
    OK(qy_arch_read(&a, TEST_DATA "/models/tiny-opt-kjv", &err));
}

/* Theta, kind and factor that a config's rope keys mean. */
typedef struct {
    const char *keys;
    double theta, factor;
    qy_rope_kind_t kind;
} rope_case_t;

static void test_rope_precedence(void **state)
{
    (void)state;
    static const rope_case_t cases[] = {
        {"\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"default\"}", 5e5, 0,
         QY_ROPE_DEFAULT},
        {"\"rope_theta\":7e4,\"rope_parameters\":{\"rope_type\":\"default\"}", 7e4, 0,
         QY_ROPE_DEFAULT},
        {"\"rope_theta\":7e4,\"rope_parameters\":{\"rope_theta\":5e5}", 5e5, 0, QY_ROPE_DEFAULT},
        {"\"rope_theta\":7e4,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}", 7e4, 2,
         QY_ROPE_LINEAR},
        {"\"rope_scaling\":{\"type\":\"default\",\"rope_type\":\"linear\",\"factor\":3.5}", 1e4,
         3.5, QY_ROPE_LINEAR},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
         "\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"default\"}",
         1e4, 2, QY_ROPE_LINEAR},
        {"\"rope_scaling\":null,\"rope_parameters\":{\"rope_theta\":5e5}", 5e5, 0, QY_ROPE_DEFAULT},
        {"\"rope_scaling\":{},\"rope_parameters\":{\"rope_theta\":5e5,\"type\":\"linear\","
         "\"factor\":2}",
         5e5, 2, QY_ROPE_LINEAR},
        {"\"partial_rotary_factor\":1.0,\"rope_scaling\":{\"partial_rotary_factor\":1}", 1e4, 0,
         QY_ROPE_DEFAULT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char config[1024];
        qy_arch_t a;
        snprintf(config, sizeof config, "%s,%s}", LLAMA, cases[i].keys);
        OK(read_text(&a, config));
        assert_int_equal(a.rope_kind, cases[i].kind);
        assert_true(a.rope_theta == cases[i].theta);
        assert_true(a.rope_factor == cases[i].factor);
    }
}

#define LLAMA3                                                                                     \
    "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"               \
    "\"high_freq_factor\":4"

static void test_llama3_frequencies(void **state)
{
    (void)state;
    qy_arch_t a;
    double f[8], plain;
    OK(read_text(&a, LLAMA "," LLAMA3 ",\"original_max_position_embeddings\":64}}"));
    assert_int_equal(a.rope_original_positions, 64);
    qy_arch_rope_frequencies(&a, f);
    /* wavelengths 2 pi 10000^(i/8): below 16 as they are, above 64 divided, between mixed */
    assert_true(f[0] == 1);
    plain = pow(10000, -1.0 / 8);
    double smooth = (64 * plain / (2 * acos(-1)) - 1) / 3;
    assert_true(fabs(f[1] - ((1 - smooth) * plain / 8 + smooth * plain)) <= 1e-15);
    for (int i = 3; i < 8; i++)
        assert_true(fabs(f[i] * 8 / pow(10000, -i / 8.0) - 1) <= 1e-14);
    OK(read_text(&a, LLAMA "," LLAMA3 "}}"));
    assert_int_equal(a.rope_original_positions, 128); /* the model's own */
    OK(read_text(&a, LLAMA ",\"original_max_position_embeddings\":32," LLAMA3
                           ",\"original_max_position_embeddings\":64}}"));
    assert_int_equal(a.rope_original_positions, 32); /* beside the object, it wins */
}

static void test_rope_tables(void **state)
{
    (void)state;
    qy_arch_t a;
    float cosine[3 * 8], sine[3 * 8];
    OK(read_text(&a, LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}"));
    qy_arch_rope_tables(&a, 3, cosine, sine);
    for (int p = 0; p < 3; p++)
        for (int i = 0; i < 8; i++) {
            double angle = p * pow(10000, -i / 8.0) / 4;
            assert_true(fabs(cosine[p * 8 + i] - cos(angle)) <= 6e-8);
            assert_true(fabs(sine[p * 8 + i] - sin(angle)) <= 6e-8);
        }
    OK(read_text(&a, OPT "}"));
    cosine[0] = sine[0] = 7;
    qy_arch_rope_tables(&a, 3, cosine, sine);
    assert_true(cosine[0] == 7 && sine[0] == 7);
}

typedef struct {
    qy_status_t status;
    const char *config, *text;
} refused_t;

static void test_refuses(void **state)
{
    (void)state;
    static const refused_t cases[] = {
        {QY_ERR_FORMAT, "", "config.json"},
        {QY_ERR_FORMAT, "[]", "holds a list"},
        {QY_ERR_FORMAT, "{}", "neither \"architectures\" nor"},
        {QY_ERR_FORMAT, LLAMA ",\"hidden_size\":64}", "duplicate object key"},
        {QY_ERR_FORMAT, "{\"architectures\":[7]}", "holds no name"},
        {QY_ERR_FORMAT, "{\"architectures\":\"LlamaForCausalLM\"}", "not a list"},
        {QY_ERR_UNSUPPORTED, "{\"architectures\":[\"GemmaForCausalLM\"]}",
         "\"GemmaForCausalLM\" is not known (known: LlamaForCausalLM, MistralForCausalLM, "
         "Qwen2ForCausalLM, Qwen3ForCausalLM, OPTForCausalLM)"},
        {QY_ERR_UNSUPPORTED, "{\"architectures\":[\"a\\nb\"]}", "\"a?b\" is not known"},
        {QY_ERR_UNSUPPORTED, "{\"model_type\":\"gemma\"}", "\"gemma\" is not known"},
        {QY_ERR_FORMAT,
         "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"opt\"," SIZES "}",
         "LlamaForCausalLM with \"model_type\" \"opt\""},
        {QY_ERR_FORMAT, "{\"model_type\":\"llama\"}", "no \"hidden_size\""},
        {QY_ERR_FORMAT, "{\"model_type\":\"llama\",\"hidden_size\":\"64\"}", "not a whole number"},
        {QY_ERR_FORMAT, "{\"model_type\":\"llama\",\"hidden_size\":64.5}", "not a whole number"},
        {QY_ERR_FORMAT, "{\"model_type\":\"llama\",\"hidden_size\":0}", "is 0, 1 to"},
        {QY_ERR_FORMAT, "{\"model_type\":\"llama\",\"hidden_size\":-64}", "is -64, 1 to"},
        {QY_ERR_FORMAT, "{\"model_type\":\"llama\",\"hidden_size\":4611686018427387904}",
         "is 4611686018427387904, 1 to"},
        {QY_ERR_FORMAT, LLAMA ",\"num_key_value_heads\":3}", "3 does not divide 4 heads"},
        {QY_ERR_FORMAT, LLAMA ",\"num_key_value_heads\":8}", "8 does not divide 4 heads"},
        {QY_ERR_FORMAT, LLAMA ",\"head_dim\":7}", "rotated in pairs"},
        {QY_ERR_FORMAT, LLAMA ",\"head_dim\":0}", "\"head_dim\" is 0"},
        {QY_ERR_FORMAT, LLAMA ",\"attention_bias\":1}", "\"attention_bias\" is a number"},
        {QY_ERR_FORMAT, LLAMA ",\"tie_word_embeddings\":\"yes\"}", "not true or false"},
        {QY_ERR_FORMAT, LLAMA ",\"rms_norm_eps\":0}", "\"rms_norm_eps\" is not a positive"},
        {QY_ERR_FORMAT, LLAMA ",\"rms_norm_eps\":\"1e-5\"}", "not a number"},
        {QY_ERR_UNSUPPORTED, LLAMA ",\"hidden_act\":\"gelu\"}", "\"gelu\" (known: silu)"},
        {QY_ERR_UNSUPPORTED, LLAMA ",\"num_local_experts\":8}", "mixtures of experts"},
        {QY_ERR_FORMAT, LLAMA ",\"rope_theta\":-1}", "\"rope_theta\" is not a positive"},
        {QY_ERR_FORMAT, LLAMA ",\"rope_scaling\":[]}", "\"rope_scaling\" is a list"},
        {QY_ERR_UNSUPPORTED, LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}",
         "\"yarn\" (known: default, linear, llama3)"},
        {QY_ERR_UNSUPPORTED, LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}",
         "\"dynamic\""},
        {QY_ERR_UNSUPPORTED, LLAMA ",\"rope_scaling\":{\"rope_type\":\"longrope\"}}", "longrope"},
        {QY_ERR_UNSUPPORTED,
         LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e4}}}",
         "a rope of its own for \"full_attention\""},
        {QY_ERR_UNSUPPORTED, LLAMA ",\"partial_rotary_factor\":0.5}", "partial_rotary_factor"},
        {QY_ERR_UNSUPPORTED, LLAMA ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}",
         "partial_rotary_factor"},
        {QY_ERR_FORMAT, LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", "\"factor\" is missing"},
        {QY_ERR_FORMAT, LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}",
         "not a positive number"},
        {QY_ERR_FORMAT, LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}",
         "\"low_freq_factor\" is missing"},
        {QY_ERR_FORMAT,
         LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
               "\"high_freq_factor\":4}}",
         "is not above low_freq_factor"},
        {QY_ERR_FORMAT, LLAMA "," LLAMA3 ",\"original_max_position_embeddings\":0}}", "is 0"},
        {QY_ERR_UNSUPPORTED, "{\"architectures\":[\"MixtralForCausalLM\"]}",
         "\"MixtralForCausalLM\""},
        {QY_ERR_UNSUPPORTED, "{\"architectures\":[\"Qwen2MoeForCausalLM\"]}",
         "\"Qwen2MoeForCausalLM\" is not known"},
        {QY_ERR_UNSUPPORTED, "{\"model_type\":\"qwen3_moe\"}", "\"qwen3_moe\" is not known"},
        {QY_ERR_UNSUPPORTED, QWEN3 ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}}",
         "\"yarn\" (known"},
        {QY_ERR_FORMAT, MISTRAL "}", "\"num_key_value_heads\" 8 does not divide 4 heads"},
        {QY_ERR_FORMAT, "{\"model_type\":\"qwen2\"," SIZES "}", "32 does not divide 4 heads"},
        {QY_ERR_FORMAT, MISTRAL ",\"num_key_value_heads\":4,\"sliding_window\":0}",
         "\"sliding_window\" is 0"},
        {QY_ERR_FORMAT,
         MISTRAL ",\"num_key_value_heads\":4,\"layer_types\":[" FULL "," FULL "," FULL "]}",
         "\"layer_types\" contradicts \"sliding_window\""},
        {QY_ERR_FORMAT, LLAMA ",\"layer_types\":[" SLIDING "," SLIDING "," SLIDING "]}",
         "asks for sliding attention without a"},
        {QY_ERR_FORMAT, QWEN3 ",\"layer_types\":[" SLIDING "," SLIDING "," SLIDING "]}",
         "asks for sliding attention without a"},
        {QY_ERR_UNSUPPORTED,
         QWEN3 ",\"use_sliding_window\":true,\"layer_types\":[" FULL "," FULL "," SLIDING "]}",
         "\"layer_types\": a sliding window in some blocks only (block 2 differs)"},
        {QY_ERR_UNSUPPORTED, QWEN2 ",\"use_sliding_window\":true,\"max_window_layers\":1}",
         "\"max_window_layers\": a sliding window in some blocks only (block 1 differs)"},
        {QY_ERR_FORMAT, QWEN3 ",\"layer_types\":[" FULL "]}", "of 1 layers, 3 expected"},
        {QY_ERR_UNSUPPORTED, QWEN3 ",\"layer_types\":[" FULL ",\"linear_attention\"," FULL "]}",
         "block 1 is \"linear_attention\""},
        {QY_ERR_UNSUPPORTED, QWEN3 ",\"layer_types\":[" FULL ",7," FULL "]}", "(no name)"},
        {QY_ERR_FORMAT, "{\"model_type\":\"llama\",\"hidden_size\":66," REST "}",
         "4 heads do not divide \"hidden_size\" 66"},
        {QY_ERR_UNSUPPORTED, OPT ",\"do_layer_norm_before\":false}", "do_layer_norm_before"},
        {QY_ERR_UNSUPPORTED, OPT ",\"_remove_final_layer_norm\":true}", "without its last norm"},
        {QY_ERR_UNSUPPORTED, OPT ",\"layer_norm_elementwise_affine\":false}", "without weights"},
        {QY_ERR_UNSUPPORTED, OPT ",\"word_embed_proj_dim\":32}", "32 differs from hidden_size 64"},
        {QY_ERR_UNSUPPORTED, OPT ",\"activation_function\":\"gelu\"}", "\"gelu\" (known: relu)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_arch_t arch = {.hidden = -7};
        REFUSED(read_text(&arch, cases[i].config), cases[i].status, cases[i].text);
        assert_int_equal(arch.hidden, -7);
    }
    qy_arch_t arch;
    REFUSED(qy_arch_read(&arch, scratch_path("absent"), &err), QY_ERR_IO, "config.json");
    scratch_remove("config.json");
    assert_int_equal(mkfifo(scratch_path("config.json"), 0600), 0);
    REFUSED(qy_arch_read(&arch, scratch, &err), QY_ERR_IO, "is not a regular file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_and_its_defaults),
        cmocka_unit_test(test_llama_with_everything),
        cmocka_unit_test(test_descendants_of_llama),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_opt_and_its_defaults),
        cmocka_unit_test(test_reads_the_golden_models),
        cmocka_unit_test(test_rope_precedence),
        cmocka_unit_test(test_llama3_frequencies),
        cmocka_unit_test(test_rope_tables),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests_name("arch", tests, scratch_setup, scratch_teardown);
}
