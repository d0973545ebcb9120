/* GGUF files that are not as they should be: refused, or read without going wrong. */
#include <jansson.h>

#include "base/random.h"
#include "model/gguf_model.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "tests/model/scratch.h"

typedef struct {
    unsigned char *bytes;
    size_t n;
    qy_gguf_header_t header;
} file_t;

static void load(file_t *f, const char *name)
{
    char path[QY_PATH_MAX];
    OK(qy_path(path, &err, "%s/gguf/%s", TEST_GOLDEN, name));
    OK(qy_file_read(path, 1 << 24, (char **)&f->bytes, &f->n, &err));
    OK(qy_gguf_parse(&f->header, f->bytes, f->n, f->n, name, &err));
}

static void drop(file_t *f)
{
    qy_gguf_header_free(&f->header);
    free(f->bytes);
}

/* --- one thing wrong --- */

/* The file with n bytes at `at` replaced must be refused. */
static void check_refused(const file_t *f, size_t at, const void *with, size_t n,
                          qy_status_t status, const char *text)
{
    qy_gguf_header_t header;
    unsigned char *copy = malloc(f->n);
    memcpy(copy, f->bytes, f->n);
    memcpy(copy + at, with, n);
    REFUSED(qy_gguf_parse(&header, copy, f->n, f->n, "x.gguf", &err), status, text);
    assert_false(header.cut); /* all of it was there */
    qy_gguf_header_free(&header);
    free(copy);
}

/* Where these bytes are in the header. */
static size_t place_of(const file_t *f, const char *text)
{
    size_t n = strlen(text);
    for (size_t at = 0; at + n <= f->n; at++)
        if (memcmp(f->bytes + at, text, n) == 0)
            return at;
    fail_msg("no %s", text);
    return 0;
}

static void test_one_thing_wrong(void **state)
{
    (void)state;
    file_t f;
    load(&f, "llama.gguf");
    const uint64_t huge = UINT64_MAX / 2, many = 1 << 15, odd = 8;
    size_t key = place_of(&f, "llama.block_count"), name = place_of(&f, "blk.0.attn_q.weight");
    size_t tokens = place_of(&f, "tokenizer.ggml.tokens") + strlen("tokenizer.ggml.tokens");
    size_t info = name + strlen("blk.0.attn_q.weight"); /* dims count, dims, type, offset */
    check_refused(&f, 0, "GGML", 4, QY_ERR_FORMAT, "is no GGUF file");
    check_refused(&f, 4, "\x01\0\0\0", 4, QY_ERR_UNSUPPORTED, "GGUF version 1");
    check_refused(&f, 4, "\0\0\0\x03", 4, QY_ERR_UNSUPPORTED, "big-endian");
    check_refused(&f, 8, &huge, 8, QY_ERR_FORMAT, "tensors in a file of");
    check_refused(&f, 16, &many, 8, QY_ERR_FORMAT, "32768 keys in a file of");
    check_refused(&f, key - 8, &huge, 8, QY_ERR_FORMAT, "bytes at");
    check_refused(&f, key + strlen("llama.block_count"), "\x0d\0\0\0", 4, QY_ERR_FORMAT,
                  "key llama.block_count has a value of type 13");
    check_refused(&f, place_of(&f, "llama.rope.freq_base"), "general.architecture", 20,
                  QY_ERR_FORMAT, "key general.architecture is there twice");
    check_refused(&f, tokens + 4, "\x09\0\0\0", 4, QY_ERR_UNSUPPORTED, "an array of arrays");
    check_refused(&f, tokens + 8, &huge, 8, QY_ERR_FORMAT, "elements of an array");
    check_refused(&f, name, "blk.0.attn_k.weight", 19, QY_ERR_FORMAT,
                  "tensor blk.0.attn_k.weight is there twice");
    check_refused(&f, name + 3, "\0", 1, QY_ERR_FORMAT, "no NUL");
    check_refused(&f, info, "\0\0\0\0", 4, QY_ERR_FORMAT, "0 dimensions");
    check_refused(&f, info, "\x05\0\0\0", 4, QY_ERR_FORMAT, "5 dimensions");
    check_refused(&f, info + 4, "\0\0\0\0\0\0\0\0", 8, QY_ERR_FORMAT, "dimension 0 is 0");
    check_refused(&f, info + 4, &huge, 8, QY_ERR_FORMAT, "attn_q.weight: dimension 0 is");
    check_refused(&f, info + 12, &huge, 8, QY_ERR_FORMAT, "attn_q.weight: dimension 1 is");
    check_refused(&f, info + 4, &odd, 8, QY_ERR_FORMAT, "rows of 8 are no whole blocks of Q4_1");
    check_refused(&f, info + 12, &many, 8, QY_ERR_FORMAT, "bytes of data");
    check_refused(&f, info + 20, "\x14\0\0\0", 4, QY_ERR_UNSUPPORTED, "is of ggml type 20");
    check_refused(&f, info + 24, &odd, 8, QY_ERR_FORMAT, "aligned to 32");
    check_refused(&f, info + 24, &huge, 8, QY_ERR_FORMAT, "bytes of data");
    drop(&f);
}

/* A file that ends early is refused wherever it ends; a header of which more is there is cut. */
static void test_every_truncation(void **state)
{
    (void)state;
    file_t f;
    load(&f, "qwen3.gguf");
    for (size_t n = 0; n < f.n; n++) {
        qy_gguf_header_t header;
        assert_int_not_equal(qy_gguf_parse(&header, f.bytes, n, n, "x.gguf", &err), QY_OK);
        qy_gguf_header_free(&header);
        if (n < 32 || n >= f.header.data_begin - 32)
            continue;
        assert_int_not_equal(qy_gguf_parse(&header, f.bytes, n, f.n, "x.gguf", &err), QY_OK);
        assert_true(header.cut);
        qy_gguf_header_free(&header);
    }
    drop(&f);
}

/* Version 2 differs from 3 only in what it says of the byte order. */
static void test_version_2(void **state)
{
    (void)state;
    file_t f;
    qy_gguf_header_t header;
    load(&f, "qwen2.gguf");
    assert_int_equal(f.header.version, 3);
    f.bytes[4] = 2;
    OK(qy_gguf_parse(&header, f.bytes, f.n, f.n, "x.gguf", &err));
    assert_int_equal(header.version, 2);
    assert_int_equal(header.n_tensors, f.header.n_tensors);
    qy_gguf_header_free(&header);
    drop(&f);
}

static void test_files(void **state)
{
    (void)state;
    qy_gguf_t *g = NULL;
    scratch_dir("folder.gguf");
    scratch_text("empty.gguf", "");
    REFUSED(qy_gguf_open(&g, scratch_path("absent.gguf"), &err), QY_ERR_IO, "absent.gguf: open");
    REFUSED(qy_gguf_open(&g, scratch_path("folder.gguf"), &err), QY_ERR_IO, "regular file");
    REFUSED(qy_gguf_open(&g, scratch_path("empty.gguf"), &err), QY_ERR_FORMAT, "no GGUF file");
    assert_null(g);
    assert_false(qy_gguf_is_name(scratch_path("folder.gguf")));
    assert_true(qy_gguf_is_name("a.gguf"));
    assert_false(qy_gguf_is_name(".gguf"));
}

/* --- many things wrong --- */

/* Reads all that a program would: nothing may go wrong but by an error. */
static void use_file(const char *path)
{
    qy_model_t *model = NULL;
    qy_tokenizer_t *tokenizer = NULL;
    qy_outer_weights_t outer;
    qy_block_weights_t block;
    if (qy_model_open(&model, path, &err) == QY_OK) {
        if (qy_outer_weights_read(&outer, model, &err) == QY_OK)
            qy_outer_weights_free(&outer);
        if (qy_block_weights_read(&block, model, 0, &err) == QY_OK)
            qy_block_weights_free(&block);
    }
    if (qy_tokenizer_open(&tokenizer, path, &err) == QY_OK) {
        int32_t *ids;
        int64_t n;
        if (qy_tokenizer_encode(tokenizer, "Some text, 12.", 14, &ids, &n, &err) == QY_OK)
            free(ids);
    }
    qy_tokenizer_close(&tokenizer);
    qy_model_close(&model);
}

static uint64_t draw(uint64_t *n, uint64_t below)
{
    return qy_random_below(7, QY_PHASE_CALIBRATION, (*n)++, 0, below);
}

/* Changes up to four places: a bit, a byte, or a number that matters to sizes. */
static void damage(unsigned char *bytes, size_t n, uint64_t *random)
{
    static const uint64_t numbers[] = {
        0, 1, 2, 31, 32, 63, 255, 65535, INT32_MAX, UINT32_MAX, 1ull << 40, INT64_MAX, UINT64_MAX};
    int places = 1 + (int)draw(random, 4);
    for (int i = 0; i < places; i++) {
        size_t at = (size_t)draw(random, n - 8);
        uint64_t number = numbers[draw(random, sizeof numbers / sizeof *numbers)];
        switch (draw(random, 4)) {
        case 0:
            bytes[at] ^= (unsigned char)(1u << draw(random, 8));
            break;
        case 1:
            bytes[at] = (unsigned char)draw(random, 256);
            break;
        case 2:
            memcpy(bytes + at, &number, 4);
            break;
        default:
            memcpy(bytes + at, &number, 8);
        }
    }
}

static void test_random_damage(void **state)
{
    (void)state;
    static const char *const names[] = {"llama.gguf", "qwen2.gguf", "qwen3.gguf",
                                        "stories260K.gguf", "llama3.gguf"};
    enum { PARSES = 4000, USES = 400 };
    uint64_t random = 0;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        file_t f;
        load(&f, names[k]);
        unsigned char *copy = malloc(f.n);
        size_t header = (size_t)(f.header.data_begin < f.n ? f.header.data_begin : f.n);
        int refused = 0;
        for (int i = 0; i < PARSES; i++) {
            qy_gguf_header_t parsed;
            memcpy(copy, f.bytes, f.n);
            damage(copy, header, &random);
            size_t n = draw(&random, 4) ? f.n : (size_t)draw(&random, f.n);
            unsigned char *exact = malloc(n + 1); /* so that a byte too many is noticed */
            memcpy(exact, copy, n);
            refused += qy_gguf_parse(&parsed, exact, n, n, "x.gguf", &err) != QY_OK;
            qy_gguf_header_free(&parsed);
            free(exact);
            if (i >= USES)
                continue;
            scratch_write("damaged.gguf", copy, n);
            use_file(scratch_path("damaged.gguf"));
        }
        assert_true(refused > PARSES / 4 && refused < PARSES);
        free(copy);
        drop(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_thing_wrong),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_random_damage),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
