#include <dirent.h>
#include <math.h>

#include "base/pack.h"
#include "model/export_gguf.h"
#include "model/gguf_encode.h"
#include "model/gguf_model.h"
#include "model/tokenizer.h"
#include "tests/model/export_fixture.h"

/* --- blocks --- */

static const qy_gguf_encoder_t *encoder_of(qy_ggml_type_t type)
{
    for (int i = 0; qy_gguf_encoder(i); i++)
        if (qy_gguf_encoder(i)->type == type)
            return qy_gguf_encoder(i);
    fail_msg("no encoder");
    return NULL;
}

/* Bytes by hand. 0x3c00 is 1 in f16, 0xbc00 is −1. */
static void test_bytes(void **state)
{
    (void)state;
    uint8_t codes[256];
    unsigned char got[256];
    for (int j = 0; j < 256; j++)
        codes[j] = (uint8_t)(j % 4);
    qy_gguf_source_t src = {.codes = codes, .zero = 1, .step = 0x3c00};
    static const unsigned char up[4] = {0x00, 0x3c, 0xe4, 0xe4};
    assert_true(encoder_of(QY_GGML_Q2_0)->encode(got, &src));
    assert_memory_equal(got, up, 4);
    src.zero = 2; /* the other way round: 3 − c, −s */
    static const unsigned char down[4] = {0x00, 0xbc, 0x1b, 0x1b};
    assert_true(encoder_of(QY_GGML_Q2_0)->encode(got, &src));
    assert_memory_equal(got, down, 4);
    src.zero = 3;
    assert_false(encoder_of(QY_GGML_Q2_0)->encode(got, &src));

    /* −3 −2 −1 0: codes 5 6 7 8 in both halves of a byte */
    static const unsigned char q4[6] = {0x00, 0x3c, 0x55, 0x66, 0x77, 0x88};
    assert_true(encoder_of(QY_GGML_Q4_0)->encode(got, &src));
    assert_memory_equal(got, q4, 6);
    /* codes 13 14 15 16: one fifth bit of four */
    static const unsigned char q5[10] = {0x00, 0x3c, 0x88, 0x88, 0x88,
                                         0x88, 0xdd, 0xee, 0xff, 0x00};
    assert_true(encoder_of(QY_GGML_Q5_0)->encode(got, &src));
    assert_memory_equal(got, q5, 10);
    static const unsigned char q8[6] = {0x00, 0x3c, 0xfd, 0xfe, 0xff, 0x00};
    assert_true(encoder_of(QY_GGML_Q8_0)->encode(got, &src));
    assert_memory_equal(got, q8, 6);
    /* step 1, least value 3 of every part; element 32 k + j of a half at bits 2 k of byte j */
    assert_true(encoder_of(QY_GGML_Q2_K)->encode(got, &src));
    for (int j = 0; j < 16; j++)
        assert_int_equal(got[j], 0x31);
    static const unsigned char q2[4] = {0x00, 0x55, 0xaa, 0xff}, ends[4] = {0x00, 0x3c, 0x00, 0x3c};
    assert_memory_equal(got + 16, q2, 4);
    assert_memory_equal(got + 80, ends, 4);
}

/* Every difference that a format is said to hold, with both signs, and one more. */
static void test_ranges(void **state)
{
    (void)state;
    for (int i = 0; qy_gguf_encoder(i); i++) {
        const qy_gguf_encoder_t *e = qy_gguf_encoder(i);
        const qy_gguf_block_t *format = qy_gguf_block_find((uint32_t)e->type);
        int n = format->elements < 256 ? format->elements : 256;
        int levels = e->code_bits ? 1 << e->code_bits : e->high - e->low + 1;
        for (int flip = 0; flip < (e->code_bits ? 1 : 2); flip++) {
            uint8_t codes[256];
            unsigned char block[256];
            float got[256], step = qy_f16_to_f32(0x2d55);
            int zero = e->code_bits ? levels - 1 : flip ? e->high : -e->low;
            for (int j = 0; j < n; j++)
                codes[j] = (uint8_t)(j == 0       ? 0
                                     : j == n - 1 ? levels - 1
                                                  : (7 * j + j / 11) % levels);
            qy_gguf_source_t src = {.codes = codes, .zero = zero, .step = 0x2d55};
            assert_true(e->encode(block, &src));
            format->decode(got, block);
            for (int j = 0; j < n; j++)
                if (!(got[j] == (float)(codes[j] - zero) * step))
                    fail_msg("%s: element %d is %g, not %d steps", format->name, j, (double)got[j],
                             codes[j] - zero);
            if (levels == 256)
                continue;
            codes[n / 2] = (uint8_t)levels;
            assert_false(e->encode(block, &src));
        }
        if (i > 0) { /* from the smallest on */
            const qy_gguf_block_t *last =
                qy_gguf_block_find((uint32_t)qy_gguf_encoder(i - 1)->type);
            assert_true(last->bytes * format->elements <= format->bytes * last->elements);
        }
    }
}

static void test_numbers_as_q8_0(void **state)
{
    (void)state;
    float numbers[64];
    unsigned char block[68];
    for (int j = 0; j < 64; j++)
        numbers[j] = (float)(j < 32 ? j * 4 - 127 : 0) * qy_f16_to_f32(0x1234);
    assert_true(qy_gguf_encode_q8_0(block, numbers, 64));
    assert_int_equal(block[0] | block[1] << 8, 0x1234);
    float got[64];
    qy_gguf_decode(qy_gguf_block_find(QY_GGML_Q8_0), got, block, 64);
    assert_memory_equal(got, numbers, sizeof got);
    numbers[7] = nextafterf(numbers[7], 1);
    assert_false(qy_gguf_encode_q8_0(block, numbers, 64));
    numbers[7] = NAN;
    assert_false(qy_gguf_encode_q8_0(block, numbers, 64));
}

/* --- files --- */

/* The one .gguf file of an export. */
static void find_file(char out[QY_PATH_MAX], const char *folder)
{
    char path[QY_PATH_MAX];
    int n = 0;
    path_of(path, folder);
    DIR *list = opendir(path);
    assert_non_null(list);
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;)
        if (strstr(entry->d_name, ".gguf")) {
            OK(qy_path(out, &err, "%s/%s", path, entry->d_name));
            n++;
        }
    closedir(list);
    assert_int_equal(n, 1);
}

/* (c − z) s, unrounded: an f32 holds it. */
static void check_linear(const qy_qblock_t *q, const qy_linear_desc_t *d, int linear,
                         const float *got)
{
    const uint8_t *zeros = q->zeros[linear].data;
    const uint16_t *steps = q->scales[linear].data;
    const uint32_t *words = q->codes[linear].data;
    int64_t groups = qy_quant_n_groups(&q->form, d->in), cols = d->in / groups;
    uint8_t *codes = malloc((size_t)d->in);
    for (int64_t r = 0; r < d->out; r++) {
        qy_unpack(codes, words + r * qy_pack_words(d->in, q->form.bits), d->in, q->form.bits);
        for (int64_t k = 0; k < d->in; k++) {
            int64_t g = r * groups + k / cols;
            float want = (float)(codes[k] - zeros[g]) * qy_f16_to_f32(steps[g]);
            if (!(got[r * d->in + k] == want))
                fail_msg("%s: row %lld column %lld is %g, not %g", d->name, (long long)r,
                         (long long)k, (double)got[r * d->in + k], (double)want);
        }
    }
    free(codes);
}

static void check_tensors(const fixture_t *f, const qy_model_t *got)
{
    const qy_arch_t *arch = &f->model->arch;
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        qy_block_weights_t w;
        qy_qblock_t q;
        OK(qy_block_weights_read(&w, got, b, &err));
        OK(read_made_up((void *)&f->blocks, b, &q, &err));
        for (int i = 0; i < QY_N_LINEARS; i++) {
            check_linear(&q, &arch->linear[i], i, w.linear[i].data);
            if (arch->linear[i].bias)
                assert_memory_equal(q.bias[i].data, w.bias[i].data, qy_tensor_bytes(&w.bias[i]));
        }
        for (int i = 0; i < QY_N_NORMS; i++)
            if (arch->norm[i].present)
                assert_memory_equal(q.norm[i].data, w.norm[i].data, qy_tensor_bytes(&w.norm[i]));
        qy_qblock_free(&q);
        qy_block_weights_free(&w);
    }
    qy_outer_weights_t a, b;
    OK(qy_outer_weights_read(&a, f->model, &err));
    OK(qy_outer_weights_read(&b, got, &err));
    assert_memory_equal(a.embedding.data, b.embedding.data, qy_tensor_bytes(&a.embedding));
    assert_memory_equal(a.head.data, b.head.data, qy_tensor_bytes(&a.head));
    assert_memory_equal(a.final_norm.data, b.final_norm.data, qy_tensor_bytes(&a.final_norm));
    qy_outer_weights_free(&a);
    qy_outer_weights_free(&b);
}

static void check_type(const char *path, const char *tensor, const char *type)
{
    qy_gguf_t *g;
    OK(qy_gguf_open(&g, path, &err));
    assert_string_equal(qy_gguf_tensor(g, tensor)->block->name, type);
    qy_gguf_close(&g);
}

static void zeros_one_or_two(qy_qblock_t *block)
{
    for (int i = 0; i < QY_N_LINEARS; i++)
        for (int64_t k = 0; k < qy_tensor_count(&block->zeros[i]); k++)
            ((uint8_t *)block->zeros[i].data)[k] = (uint8_t)(1 + k % 2);
}

static void zeros_eight(qy_qblock_t *block)
{
    for (int i = 0; i < QY_N_LINEARS; i++)
        memset(block->zeros[i].data, 8, (size_t)qy_tensor_count(&block->zeros[i]));
}

/* Each form comes in the smallest format that holds it, and reads back as the same numbers. */
static void test_every_form(void **state)
{
    (void)state;
    static const struct {
        int bits;
        int64_t group;
        bool symmetric;
        void (*change)(qy_qblock_t *);
        const char *type;
    } cases[] = {
        {2, 64, true, NULL, "Q2_0"},  {2, 64, false, zeros_one_or_two, "Q2_0"},
        {2, 64, false, NULL, "Q4_0"}, {2, 32, true, NULL, "Q4_0"},
        {2, 0, false, NULL, "Q2_K"},  {3, 256, true, NULL, "Q3_K"},
        {3, 128, true, NULL, "Q4_0"}, {3, 0, false, NULL, "Q4_0"},
        {4, 64, true, NULL, "Q4_0"},  {4, 64, false, zeros_eight, "Q4_0"},
        {4, 0, false, NULL, "Q4_K"},  {4, 64, false, NULL, "Q5_0"},
        {5, 64, true, NULL, "Q5_0"},  {5, 256, false, NULL, "Q6_K"},
        {6, 0, true, NULL, "Q6_K"},   {6, 64, true, NULL, "Q8_0"},
        {7, 64, false, NULL, "Q8_0"}, {8, 32, true, NULL, "Q8_0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture_t f;
        char path[QY_PATH_MAX], name[64];
        qy_model_t *got;
        open_fixture(&f, LLAMA, cases[i].bits, cases[i].group, cases[i].symmetric);
        f.model->arch.n_blocks = 1; /* is enough, and faster */
        f.blocks.change = cases[i].change;
        export_as(&f, "gguf", "forms");
        find_file(path, "forms");
        snprintf(name, sizeof name, "tiny-llama-kjv-%s.gguf", cases[i].type);
        assert_string_equal(strrchr(path, '/') + 1, name);
        check_type(path, "blk.0.ffn_down.weight", cases[i].type);
        check_type(path, "token_embd.weight", "F16");
        OK(qy_model_open(&got, path, &err));
        check_tensors(&f, got);
        qy_model_close(&got);
        qy_model_close(&f.model);
    }
    assert_false(has_file("forms", "tokenizer.json")); /* the file has it */
    assert_true(has_file("forms", "README.md"));
}

/* All blocks, and the tokenizer. */
static void test_whole_model(void **state)
{
    (void)state;
    fixture_t f;
    char path[QY_PATH_MAX], *text;
    size_t bytes;
    qy_model_t *got;
    open_fixture(&f, LLAMA, 2, 64, true);
    export_as(&f, "gguf", "whole");
    find_file(path, "whole");
    OK(qy_model_open(&got, path, &err));
    assert_memory_equal(&got->arch, &f.model->arch, sizeof got->arch);
    check_tensors(&f, got);
    qy_model_close(&got);
    qy_tokenizer_t *a, *b;
    OK(qy_tokenizer_open(&a, LLAMA, &err));
    OK(qy_tokenizer_open(&b, path, &err));
    OK(qy_file_read(TEST_DATA "/text/kjv/test.txt", 1 << 24, &text, &bytes, &err));
    int32_t *x, *y;
    int64_t n, m;
    OK(qy_tokenizer_encode(a, text, 100000, &x, &n, &err));
    OK(qy_tokenizer_encode(b, text, 100000, &y, &m, &err));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, (size_t)n * sizeof *x);
    free(x);
    free(y);
    free(text);
    qy_tokenizer_close(&a);
    qy_tokenizer_close(&b);
    qy_model_close(&f.model);
}

/* --- other models --- */

static const char small_tokenizer[] =
    "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"added_tokens\": "
    "["
    "{\"id\": 4, \"content\": \"<end>\", \"special\": true}], \"model\": {\"type\": \"BPE\", "
    "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 3}, \"merges\": [[\"a\", \"b\"]]}}";

static void write_file(const char *folder, const char *name, const char *text)
{
    char path[QY_PATH_MAX];
    path_of(path, folder);
    OK(qy_make_dirs(path, &err));
    OK(qy_path(path, &err, "%s/%s/%s", dir, folder, name));
    OK(qy_file_write(path, text, strlen(text), &err));
}

/* Biases, norms of heads, scaled rope, bf16 that f16 does not hold; from files of the other
 * direction. */
static void test_families(void **state)
{
    (void)state;
    static const struct {
        const char *model, *embedding;
    } cases[] = {{"llama", "F32"}, {"qwen2", "F16"}, {"qwen3", "F16"}};
    for (size_t i = 0; i < 3; i++) {
        fixture_t f;
        qy_model_t *got;
        char path[QY_PATH_MAX], name[64];
        OK(qy_path(path, &err, "%s/gguf/%s.gguf", TEST_GOLDEN, cases[i].model));
        open_fixture(&f, path, 4, 32, false);
        export_as(&f, "gguf", "family");
        find_file(path, "family");
        snprintf(name, sizeof name, "%s-Q5_0.gguf", cases[i].model);
        assert_string_equal(strrchr(path, '/') + 1, name);
        check_type(path, "token_embd.weight", cases[i].embedding);
        OK(qy_model_open(&got, path, &err));
        assert_memory_equal(&got->arch, &f.model->arch, sizeof got->arch);
        check_tensors(&f, got);
        qy_model_close(&got);
        qy_model_close(&f.model);
    }
}

/* What neither f16 nor Q8_0 holds stays bf16. */
static void test_large_numbers(void **state)
{
    (void)state;
    fixture_t f;
    char path[QY_PATH_MAX];
    write_brain(1e30f);
    write_file("brain", "tokenizer.json", small_tokenizer);
    path_of(path, "brain");
    open_fixture(&f, path, 4, 32, true);
    export_as(&f, "gguf", "large");
    find_file(path, "large");
    check_type(path, "token_embd.weight", "BF16");
    check_type(path, "output.weight", "BF16");
    qy_model_close(&f.model);
}

/* --- tokenizers --- */

static void check_same_array(const qy_gguf_t *a, const qy_gguf_t *b, const char *key)
{
    const qy_gguf_value_t *x = qy_gguf_find(a, key), *y = qy_gguf_find(b, key);
    assert_non_null(x);
    assert_non_null(y);
    assert_int_equal(x->kind, y->kind);
    assert_int_equal(x->count, y->count);
    const unsigned char *p = x->data, *q = y->data;
    for (uint64_t i = 0; x->kind == QY_GGUF_STRING && i < x->count; i++) {
        qy_gguf_text_t s = qy_gguf_next_text(&p), t = qy_gguf_next_text(&q);
        assert_int_equal(s.n, t.n);
        assert_memory_equal(s.bytes, t.bytes, s.n);
    }
    if (x->kind != QY_GGUF_STRING)
        assert_memory_equal(x->data, y->data, 4 * x->count);
}

/* The keys of a file become tokenizer.json and keys again: the same. */
static void test_keys_of_tokenizers(void **state)
{
    (void)state;
    static const char *const names[] = {"byte-level", "digits", "qwen", "llama3", "stories260K"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char from[QY_PATH_MAX], to[QY_PATH_MAX];
        qy_gguf_t *a, *b;
        qy_gguf_writer_t *w;
        qy_model_t model = {0};
        OK(qy_path(from, &err, "%s/gguf/%s.gguf", TEST_GOLDEN, names[i]));
        path_of(to, "keys.gguf");
        OK(qy_gguf_open(&a, from, &err));
        OK(qy_path(model.dir, &err, "%s", from));
        model.arch.vocab = (int64_t)qy_gguf_find(a, "tokenizer.ggml.tokens")->count;
        OK(qy_gguf_writer_create(&w, to, &err));
        OK(qy_gguf_put_tokenizer(w, &model, &err));
        OK(qy_gguf_writer_begin(w, &err));
        OK(qy_gguf_writer_finish(&w, &err));
        OK(qy_gguf_open(&b, to, &err));
        check_same_array(a, b, "tokenizer.ggml.tokens");
        check_same_array(a, b, "tokenizer.ggml.token_type");
        if (i < 4)
            check_same_array(a, b, "tokenizer.ggml.merges");
        json_t *x, *y;
        OK(qy_gguf_tokenizer(&x, a, &err));
        OK(qy_gguf_tokenizer(&y, b, &err));
        assert_true(json_equal(x, y));
        json_decref(x);
        json_decref(y);
        qy_gguf_close(&a);
        qy_gguf_close(&b);
    }
}

static void check_tokenizer_refused(const char *text, int64_t vocab, const char *reason)
{
    qy_model_t model = {0};
    write_file("tokens", "tokenizer.json", text);
    write_file("tokens", "config.json", "{}");
    path_of(model.dir, "tokens");
    model.arch.vocab = vocab;
    assert_failed(qy_gguf_put_tokenizer(NULL, &model, &err), QY_ERR_UNSUPPORTED, reason);
}

#define PIECES(more, merges)                                                                       \
    "{" more "\"model\": {\"type\": \"BPE\", \"byte_fallback\": true, \"vocab\": {\"a\": 0, "      \
    "\"b\": 1, \"ab\": 2, \"ba\": 3, \"aba\": 4}, \"merges\": [" merges "]}}"
#define MARK                                                                                       \
    "\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "      \
    "\"\xe2\x96\x81\"}, "

static void test_tokenizers_without_keys(void **state)
{
    (void)state;
    check_tokenizer_refused(small_tokenizer, 4, "token 4 is beyond the embedding's 4 rows");
    check_tokenizer_refused(
        "{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": "
        "\"x\"}, \"content\": \"y\"}, \"model\": {\"vocab\": {\"a\": 0}, \"merges\": "
        "[]}}",
        4, "the normalizer");
    check_tokenizer_refused("{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"model\": {\"vocab\": "
                            "{\"a\": 0}, \"merges\": []}}",
                            4, "the pre_tokenizer");
    check_tokenizer_refused(
        "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
        "\"pattern\": {\"Regex\": \"a+\"}, \"behavior\": \"Isolated\", \"invert\": false}, "
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}, "
        "\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
        4, "the pattern of words");
    check_tokenizer_refused(PIECES("", "\"a b\", \"b a\", \"a ba\", \"ab a\""), 5,
                            "the normalizer or pre_tokenizer");
    check_tokenizer_refused(PIECES(MARK, "\"a b\", \"b a\", \"a ba\""), 5, "leaves out pairs");
    check_tokenizer_refused(PIECES(MARK, "\"a b\", \"a ba\", \"b a\", \"ab a\""), 5,
                            "an order of merges");
    qy_model_t model = {.arch = {.vocab = 5}};
    write_file("tokens", "tokenizer.json", PIECES(MARK, "\"a b\", \"b a\", \"a ba\", \"ab a\""));
    path_of(model.dir, "tokens");
    OK(qy_gguf_put_tokenizer(NULL, &model, &err));
}

/* --- refusals --- */

static void test_refusals(void **state)
{
    (void)state;
    const qy_exporter_t *gguf = qy_exporter_find("gguf");
    fixture_t f;
    open_fixture(&f, LLAMA, 4, 64, false);
    qy_arch_t arch = f.model->arch;
    qy_quant_form_t form = {.bits = 8, .group = 64};
    assert_failed(gguf->check(&arch, &form, &err), QY_ERR_UNSUPPORTED,
                  "up to 255 steps from their zero point, and Q8_0, the widest of ggml's blocks, "
                  "holds -128 to 127; symmetric weights or 6 bits can be held");
    form = (qy_quant_form_t){.bits = 4, .group = 16, .symmetric = true};
    assert_failed(
        gguf->check(&arch, &form, &err), QY_ERR_UNSUPPORTED,
        "self_attn.q_proj has groups of 16 columns, and ggml's blocks hold 32, 64 or 256");
    form.group = 96;
    assert_failed(gguf->check(&arch, &form, &err), QY_ERR_SHAPE, "groups of 96");
    form.group = 64;
    OK(gguf->check(&arch, &form, &err));
    form.activation_bits = 8;
    assert_failed(gguf->check(&arch, &form, &err), QY_ERR_UNSUPPORTED, "activations");
    form.activation_bits = 0;
    arch.window = 100;
    assert_failed(gguf->check(&arch, &form, &err), QY_ERR_UNSUPPORTED, "no sliding window (100)");
    arch.window = 0;
    arch.rope_kind = QY_ROPE_LLAMA3;
    arch.linear[QY_LINEAR_O].bias = true;
    OK(gguf->check(&arch, &form, &err));
    arch.family = QY_FAMILY_QWEN3;
    assert_failed(gguf->check(&arch, &form, &err), QY_ERR_UNSUPPORTED,
                  "no rope of type llama3 in qwen3 models");
    arch.rope_kind = QY_ROPE_LINEAR;
    assert_failed(gguf->check(&arch, &form, &err), QY_ERR_UNSUPPORTED,
                  "no bias of self_attn.o_proj in qwen3 models");
    qy_model_close(&f.model);
    open_fixture(&f, OPT, 4, 64, true);
    assert_failed(gguf->check(&f.model->arch, &form, &err), QY_ERR_UNSUPPORTED,
                  "llama.cpp has no opt architecture");
    qy_model_close(&f.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_numbers_as_q8_0),
        cmocka_unit_test(test_every_form),
        cmocka_unit_test(test_whole_model),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_large_numbers),
        cmocka_unit_test(test_keys_of_tokenizers),
        cmocka_unit_test(test_tokenizers_without_keys),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
