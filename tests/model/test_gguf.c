#include <jansson.h>
#include <math.h>
#include <sys/stat.h>

#include "model/checkpoint.h"
#include "model/gguf_model.h"
#include "model/gguf_write.h"
#include "model/import.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "tests/model/scratch.h"

#define GOLDEN(name) TEST_GOLDEN "/gguf/" name

/* --- block formats --- */

static void *read_all(const qy_st_set_t *set, const char *name, const qy_st_entry_t **entry)
{
    *entry = qy_st_find(set, name);
    if (!*entry)
        fail_msg("no tensor %s", name);
    void *data = malloc((*entry)->bytes);
    OK(qy_st_read(set, *entry, data, 0, (*entry)->bytes, &err));
    return data;
}

static void test_blocks_decode_as_in_the_gguf_package(void **state)
{
    (void)state;
    qy_st_set_t *set;
    OK(qy_st_open(&set, GOLDEN("blocks"), &err));
    int n_types = 0;
    for (uint32_t type = 0; type < 64; type++) {
        const qy_gguf_block_t *block = qy_gguf_block_find(type);
        if (!block)
            continue;
        n_types++;
        assert_non_null(strstr(qy_gguf_block_names(), block->name));
        char name[32];
        const qy_st_entry_t *raw_entry, *entry;
        snprintf(name, sizeof name, "%s.raw", block->name);
        unsigned char *raw = read_all(set, name, &raw_entry);
        snprintf(name, sizeof name, "%s.values", block->name);
        float *want = read_all(set, name, &entry), got[2 * 512];
        assert_int_equal(raw_entry->bytes, 1024 / block->elements * block->bytes);
        qy_gguf_decode(block, got, raw, 1024);
        for (int i = 0; i < 1024; i++)
            if (!(got[i] == want[i]))
                fail_msg("%s: element %d is %g, not %g", block->name, i, (double)got[i],
                         (double)want[i]);
        free(raw);
        free(want);
    }
    assert_int_equal(n_types, 13);
    qy_st_close(&set);
}

/* --- models --- */

/* Every tensor as transformers loads it: names, shapes, rows of heads in their order. */
static void check_model(const char *name, int64_t n_tensors)
{
    char path[QY_PATH_MAX], dense[QY_PATH_MAX];
    qy_model_t *model;
    qy_st_set_t *want;
    OK(qy_path(path, &err, "%s/gguf/%s.gguf", TEST_GOLDEN, name));
    OK(qy_path(dense, &err, "%s/gguf/%s", TEST_GOLDEN, name));
    OK(qy_model_open(&model, path, &err));
    OK(qy_st_open(&want, dense, &err));
    assert_int_equal(qy_st_count(model->tensors), n_tensors);
    assert_int_equal(qy_st_count(want), n_tensors);

    qy_outer_weights_t outer;
    qy_block_weights_t block;
    OK(qy_outer_weights_read(&outer, model, &err));
    OK(qy_block_weights_read(&block, model, 0, &err));
    int compared = 0;
    const qy_arch_t *arch = &model->arch;
    struct {
        char name[160];
        const qy_tensor_t *got;
    } list[32];
    snprintf(list[compared].name, 160, "%s", arch->embedding_name);
    list[compared++].got = &outer.embedding;
    snprintf(list[compared].name, 160, "%s.weight", arch->final_norm.name);
    list[compared++].got = &outer.final_norm;
    if (!arch->tied_head) {
        snprintf(list[compared].name, 160, "%s", arch->head_name);
        list[compared++].got = &outer.head;
    }
    for (int i = 0; i < QY_N_LINEARS; i++) {
        qy_model_tensor_name(list[compared].name, arch, 0, arch->linear[i].name, ".weight");
        list[compared++].got = &block.linear[i];
        if (!arch->linear[i].bias)
            continue;
        qy_model_tensor_name(list[compared].name, arch, 0, arch->linear[i].name, ".bias");
        list[compared++].got = &block.bias[i];
    }
    for (int i = 0; i < QY_N_NORMS; i++)
        if (arch->norm[i].present) {
            qy_model_tensor_name(list[compared].name, arch, 0, arch->norm[i].name, ".weight");
            list[compared++].got = &block.norm[i];
        }
    assert_int_equal(compared, n_tensors);
    for (int i = 0; i < compared; i++) {
        const qy_st_entry_t *e;
        float *values = read_all(want, list[i].name, &e);
        assert_int_equal(e->bytes, qy_tensor_bytes(list[i].got));
        if (memcmp(values, list[i].got->data, e->bytes) != 0)
            fail_msg("%s: %s differs", name, list[i].name);
        free(values);
    }
    qy_outer_weights_free(&outer);
    qy_block_weights_free(&block);
    qy_st_close(&want);
    qy_model_close(&model);
}

static void test_models_load_as_in_transformers(void **state)
{
    (void)state;
    check_model("llama", 11);
    check_model("qwen2", 15);
    check_model("qwen3", 13);
}

static void test_configurations(void **state)
{
    (void)state;
    qy_arch_t arch;
    OK(qy_arch_read(&arch, GOLDEN("llama.gguf"), &err));
    assert_int_equal(arch.family, QY_FAMILY_LLAMA);
    assert_int_equal(arch.vocab, 64);
    assert_int_equal(arch.n_kv_heads, 2);
    assert_int_equal(arch.head_dim, 8);
    assert_int_equal(arch.max_positions, 128);
    assert_true(arch.tied_head);
    assert_true(arch.norm_eps == 1e-5f);
    assert_int_equal(arch.rope_kind, QY_ROPE_LLAMA3); /* from the divisors */
    assert_true(arch.rope_factor == 4 && arch.rope_low_freq == 1 && arch.rope_high_freq == 4);
    assert_int_equal(arch.rope_original_positions, 64);
    OK(qy_arch_read(&arch, GOLDEN("qwen2.gguf"), &err));
    assert_int_equal(arch.family, QY_FAMILY_QWEN2);
    assert_true(arch.linear[QY_LINEAR_Q].bias && !arch.linear[QY_LINEAR_O].bias);
    assert_false(arch.tied_head);
    assert_true(arch.rope_theta == 1e6);
    OK(qy_arch_read(&arch, GOLDEN("qwen3.gguf"), &err));
    assert_int_equal(arch.head_dim, 32); /* hidden / heads is 16 */
    assert_true(arch.norm[QY_NORM_Q].present && !arch.linear[QY_LINEAR_Q].bias);
}

/* Any range of bytes of a tensor whose rows are stored in another order. */
static void test_parts_of_a_tensor(void **state)
{
    (void)state;
    qy_model_t *model;
    const qy_st_entry_t *e;
    OK(qy_model_open(&model, GOLDEN("llama.gguf"), &err));
    char *whole = read_all(model->tensors, "model.layers.0.self_attn.q_proj.weight", &e);
    assert_int_equal(e->bytes, 32 * 32 * 4);
    static const uint64_t ranges[][2] = {{0, 1}, {127, 2}, {128 * 9 + 5, 128 * 14}, {4095, 1}};
    for (size_t i = 0; i < 4; i++) {
        char part[4096];
        OK(qy_st_read(model->tensors, e, part, ranges[i][0], ranges[i][1], &err));
        assert_memory_equal(part, whole + ranges[i][0], ranges[i][1]);
    }
    REFUSED(qy_st_read(model->tensors, e, whole, 4096, 1, &err), QY_ERR_ARG, "q_proj.weight");
    free(whole);
    qy_model_close(&model);
}

/* --- rope --- */

static void write_rope(double theta, int64_t d, const float *divisors, const char *scaling)
{
    qy_gguf_writer_t *w;
    OK(qy_gguf_writer_create(&w, scratch_path("rope.gguf"), &err));
    qy_gguf_put_string(w, "general.architecture", "llama");
    qy_gguf_put_f32(w, "llama.rope.freq_base", theta);
    if (scaling) {
        qy_gguf_put_string(w, "llama.rope.scaling.type", scaling);
        qy_gguf_put_f32(w, "llama.rope.scaling.factor", 2.5);
    }
    if (divisors)
        qy_gguf_declare(w, "rope_freqs.weight", d / 2, 0);
    OK(qy_gguf_writer_begin(w, &err));
    if (divisors) {
        OK(qy_gguf_tensor_begin(w, "rope_freqs.weight", QY_GGML_F32, &err));
        OK(qy_gguf_tensor_data(w, divisors, (size_t)d / 2 * sizeof *divisors, &err));
    }
    OK(qy_gguf_writer_finish(&w, &err));
}

static qy_status_t read_rope(json_t **out, double theta, int64_t d)
{
    qy_gguf_t *g;
    OK(qy_gguf_open(&g, scratch_path("rope.gguf"), &err));
    qy_status_t status = qy_gguf_rope(out, g, d, theta, &err);
    qy_gguf_close(&g);
    return status;
}

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

/* The numbers of Llama 3.1 and 3.2 and of odd models come back from their divisors. */
static void test_rope_divisors(void **state)
{
    (void)state;
    static const struct {
        int64_t d;
        double theta, factor, high, length;
    } cases[] = {{128, 500000, 8, 4, 8192},
                 {64, 500000, 32, 4, 8192},
                 {128, 10000, 16, 2.5, 3000},
                 {8, 10000, 4, 4, 64},
                 {8, 10000, 4, 4, 400}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float divisors[64];
        json_t *rope = NULL;
        for (int64_t k = 0; k < cases[i].d / 2; k++) {
            double wave = 2 * M_PI * pow(cases[i].theta, 2 * (double)k / (double)cases[i].d);
            double s = (cases[i].length / wave - 1) / (cases[i].high - 1);
            s = fmin(fmax(s, 0), 1);
            divisors[k] = (float)(1 / ((1 - s) / cases[i].factor + s));
        }
        write_rope(cases[i].theta, cases[i].d, divisors, NULL);
        OK(read_rope(&rope, cases[i].theta, cases[i].d));
        assert_string_equal(json_string_value(json_object_get(rope, "rope_type")), "llama3");
        assert_true(fabs(number(rope, "factor") - cases[i].factor) < 1e-6);
        assert_true(number(rope, "low_freq_factor") == 1);
        assert_true(number(rope, "high_freq_factor") == cases[i].high);
        if (i < 4) /* of the last one no wavelength says more than a range */
            assert_true(number(rope, "original_max_position_embeddings") == cases[i].length);
        json_decref(rope);
    }
}

static void test_other_ropes(void **state)
{
    (void)state;
    float divisors[4] = {1, 1, 1, 1};
    json_t *rope = NULL;
    write_rope(10000, 8, divisors, NULL);
    OK(read_rope(&rope, 10000, 8));
    assert_null(rope);
    write_rope(10000, 8, NULL, NULL);
    OK(read_rope(&rope, 10000, 8));
    assert_null(rope);
    write_rope(10000, 8, NULL, "linear");
    OK(read_rope(&rope, 10000, 8));
    assert_true(number(rope, "factor") == 2.5);
    json_decref(rope);
    rope = NULL;
    write_rope(10000, 8, NULL, "yarn");
    REFUSED(read_rope(&rope, 10000, 8), QY_ERR_UNSUPPORTED, "is \"yarn\" (known: none, linear)");
    divisors[1] = 3;
    write_rope(10000, 8, divisors, NULL);
    REFUSED(read_rope(&rope, 10000, 8), QY_ERR_UNSUPPORTED, "no scaling of Llama 3's kind");
    divisors[1] = 0;
    write_rope(10000, 8, divisors, NULL);
    REFUSED(read_rope(&rope, 10000, 8), QY_ERR_UNSUPPORTED, "divisor 1 is 0");
    write_rope(10000, 16, (float[8]){1, 1, 1, 1, 1, 1, 1, 1}, NULL);
    REFUSED(read_rope(&rope, 10000, 8), QY_ERR_FORMAT, "4 F32 expected");
    assert_null(rope);
}

/* --- tokenizers --- */

static json_t *load_json(const char *path)
{
    json_error_t problem;
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &problem);
    if (!root)
        fail_msg("%s: %s", path, problem.text);
    return root;
}

static void check_tokenizer(const char *name, const char *texts_path, const char *ids_path,
                            int32_t bos)
{
    char path[QY_PATH_MAX];
    qy_tokenizer_t *t;
    OK(qy_path(path, &err, "%s/gguf/%s.gguf", TEST_GOLDEN, name));
    OK(qy_tokenizer_open(&t, path, &err));
    json_t *texts = load_json(texts_path), *golden = load_json(ids_path);
    const json_t *list = json_object_get(texts, "texts"), *all = json_object_get(golden, "ids");
    assert_true(json_array_size(list) >= 5);
    assert_int_equal(json_array_size(list), json_array_size(all));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *text = json_array_get(list, i), *want = json_array_get(all, i);
        int32_t *ids;
        int64_t n;
        OK(qy_tokenizer_encode(t, json_string_value(text), json_string_length(text), &ids, &n,
                               &err));
        bool same = n == (int64_t)json_array_size(want);
        for (int64_t k = 0; same && k < n; k++)
            same = ids[k] == json_integer_value(json_array_get(want, (size_t)k));
        if (!same)
            fail_msg("%s: text %zu has other ids: %.80s", name, i, json_string_value(text));
        free(ids);
    }
    int32_t prefix[2];
    assert_int_equal(qy_tokenizer_prefix(t, prefix, 2), bos >= 0 ? 1 : 0);
    if (bos >= 0)
        assert_int_equal(prefix[0], bos);
    json_decref(texts);
    json_decref(golden);
    qy_tokenizer_close(&t);
}

static void test_tokenizers(void **state)
{
    (void)state;
    const char *texts = TEST_GOLDEN "/tokenizers/texts.json";
    check_tokenizer("byte-level", texts, TEST_GOLDEN "/tokenizers/byte-level/golden.json", -1);
    check_tokenizer("digits", texts, TEST_GOLDEN "/tokenizers/digits/golden.json", -1);
    check_tokenizer("llama3", texts, TEST_GOLDEN "/tokenizers/llama3/golden.json", 463);
    check_tokenizer("qwen", texts, GOLDEN("qwen.json"), -1);
    const char *stories = TEST_GOLDEN "/tokenizers/stories260K.json";
    check_tokenizer("stories260K", stories, stories, 1);
}

/* --- as a directory --- */

static void test_import(void **state)
{
    (void)state;
    const char *out = scratch_path("imported");
    OK(qy_import(GOLDEN("llama.gguf"), out, false, "1.2.3", &err));
    REFUSED(qy_import(GOLDEN("llama.gguf"), out, false, "1.2.3", &err), QY_ERR_ARG, "overwrite");
    OK(qy_import(GOLDEN("llama.gguf"), out, true, "1.2.3", &err));
    REFUSED(qy_import(GOLDEN("llama"), out, true, "1.2.3", &err), QY_ERR_ARG, ".gguf");

    qy_model_t *from, *to;
    OK(qy_model_open(&from, GOLDEN("llama.gguf"), &err));
    OK(qy_model_open(&to, out, &err));
    assert_memory_equal(&from->arch, &to->arch, sizeof from->arch);
    assert_int_equal(qy_st_count(from->tensors), qy_st_count(to->tensors));
    for (int64_t i = 0; i < qy_st_count(from->tensors); i++) {
        const qy_st_entry_t *a = qy_st_at(from->tensors, i), *b;
        void *x = read_all(from->tensors, a->name, &a), *y = read_all(to->tensors, a->name, &b);
        assert_string_equal(a->dtype, b->dtype);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(x, y, a->bytes);
        free(x);
        free(y);
    }
    const qy_st_entry_t *o = qy_st_find(to->tensors, "model.layers.0.self_attn.o_proj.weight");
    assert_string_equal(o->dtype, "F16"); /* as in the file; blocks become F32 */
    qy_model_close(&from);
    qy_model_close(&to);
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "special_tokens_map.json", "generation_config.json",
                                        "quarry.json"};
    for (size_t i = 0; i < 5; i++) {
        char path[QY_PATH_MAX];
        OK(qy_path(path, &err, "%s/%s", out, names[i]));
        assert_true(qy_file_exists(path));
    }
    /* The mark first, by which a killed import's folder is known. */
    struct stat mark, config;
    char path[QY_PATH_MAX];
    OK(qy_path(path, &err, "%s/quarry.json", out));
    assert_int_equal(stat(path, &mark), 0);
    OK(qy_path(path, &err, "%s/config.json", out));
    assert_int_equal(stat(path, &config), 0);
    assert_true(mark.st_mtim.tv_sec < config.st_mtim.tv_sec ||
                (mark.st_mtim.tv_sec == config.st_mtim.tv_sec &&
                 mark.st_mtim.tv_nsec <= config.st_mtim.tv_nsec));
    json_t *settings;
    OK(qy_checkpoint_part(&settings, out, "tokenizer_config.json", &err));
    assert_string_equal(json_string_value(json_object_get(settings, "chat_template")),
                        "{{ messages }} größer");
    assert_string_equal(json_string_value(json_object_get(settings, "bos_token")), "<s>");
    json_decref(settings);
}

/* --- the writer's bytes --- */

static void test_written_bytes(void **state)
{
    (void)state;
    static const unsigned char want[] = "GGUF\x03\0\0\0"
                                        "\x02\0\0\0\0\0\0\0"
                                        "\x03\0\0\0\0\0\0\0"
                                        "\x01\0\0\0\0\0\0\0"
                                        "a"
                                        "\x04\0\0\0"
                                        "\x07\0\0\0"
                                        "\x01\0\0\0\0\0\0\0"
                                        "s"
                                        "\x08\0\0\0"
                                        "\x02\0\0\0\0\0\0\0"
                                        "hi"
                                        "\x01\0\0\0\0\0\0\0"
                                        "v"
                                        "\x09\0\0\0"
                                        "\x05\0\0\0"
                                        "\x02\0\0\0\0\0\0\0"
                                        "\x01\0\0\0"
                                        "\xff\xff\xff\xff"
                                        "\x01\0\0\0\0\0\0\0"
                                        "x"
                                        "\x02\0\0\0"
                                        "\x20\0\0\0\0\0\0\0"
                                        "\x01\0\0\0\0\0\0\0"
                                        "\x02\0\0\0"
                                        "\0\0\0\0\0\0\0\0"
                                        "\x01\0\0\0\0\0\0\0"
                                        "y"
                                        "\x01\0\0\0"
                                        "\x01\0\0\0\0\0\0\0"
                                        "\0\0\0\0"
                                        "\x20\0\0\0\0\0\0\0";
    unsigned char block[18] = {0, 0x3c, 0x88};
    qy_gguf_writer_t *w;
    OK(qy_gguf_writer_create(&w, scratch_path("bytes.gguf"), &err));
    int64_t place = qy_gguf_reserve_u32(w, "a");
    qy_gguf_put_string(w, "s", "hi");
    qy_gguf_put_array(w, "v", QY_GGUF_I32, 2);
    qy_gguf_put_raw(w, (int32_t[]){1, -1}, 8);
    qy_gguf_declare(w, "x", 32, 1);
    qy_gguf_declare(w, "y", 1, 0);
    OK(qy_gguf_writer_begin(w, &err));
    REFUSED(qy_gguf_tensor_begin(w, "y", QY_GGML_F32, &err), QY_ERR_ARG, "next is x");
    OK(qy_gguf_tensor_begin(w, "x", QY_GGML_Q4_0, &err));
    OK(qy_gguf_tensor_data(w, block, 18, &err));
    OK(qy_gguf_tensor_begin(w, "y", QY_GGML_F32, &err));
    OK(qy_gguf_tensor_data(w, &(float){1}, 4, &err));
    qy_gguf_set_u32(w, place, 7);
    OK(qy_gguf_writer_finish(&w, &err));
    char *got;
    size_t bytes, header = sizeof want - 1, data = (header + 31) / 32 * 32;
    OK(qy_file_read(scratch_path("bytes.gguf"), 1 << 20, &got, &bytes, &err));
    assert_memory_equal(got, want, header);
    assert_memory_equal(got + data, block, 18);
    assert_int_equal(bytes, data + 32 + 32);
    assert_memory_equal(got + data + 32, "\0\0\x80\x3f\0\0\0", 7);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_decode_as_in_the_gguf_package),
        cmocka_unit_test(test_models_load_as_in_transformers),
        cmocka_unit_test(test_configurations),
        cmocka_unit_test(test_parts_of_a_tensor),
        cmocka_unit_test(test_rope_divisors),
        cmocka_unit_test(test_other_ropes),
        cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_import),
        cmocka_unit_test(test_written_bytes),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
