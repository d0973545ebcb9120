/* Tokenizers against the ids of the originals, and on texts that would take ages or find nothing.
 */
#include <jansson.h>
#include <time.h>
#include <unistd.h>

#include "model/tokenizer_split.h"
#include "tests/model/tokenizer_fixture.h"

static json_t *read_json(const char *dir, const char *file)
{
    char path[QY_PATH_MAX];
    json_error_t problem;
    OK(qy_path(path, &err, "%s/%s", dir, file));
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &problem);
    if (!root)
        fail_msg("%s: %s", path, problem.text);
    return root;
}

/* The ids of a text are those of the list. */
static void check_ids(const qy_tokenizer_t *t, const char *text, size_t bytes, const json_t *want,
                      const char *where, size_t i)
{
    int32_t *ids;
    int64_t n;
    OK(qy_tokenizer_encode(t, text, bytes, &ids, &n, &err));
    bool same = n == (int64_t)json_array_size(want);
    for (int64_t k = 0; same && k < n; k++)
        same = ids[k] == json_integer_value(json_array_get(want, (size_t)k));
    if (!same)
        fail_msg("%s: text %zu has other ids: %.80s", where, i, text);
    free(ids);
}

static size_t from_hex(char *out, const char *hex)
{
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)byte;
    }
    return n;
}

static void check_golden(const char *name)
{
    char dir[QY_PATH_MAX];
    qy_tokenizer_t *t;
    OK(qy_path(dir, &err, "%s/tokenizers/%s", TEST_GOLDEN, name));
    OK(qy_tokenizer_open(&t, dir, &err));
    json_t *texts = read_json(TEST_GOLDEN "/tokenizers", "texts.json");
    json_t *golden = read_json(dir, "golden.json");

    const json_t *list = json_object_get(texts, "texts"), *ids = json_object_get(golden, "ids");
    assert_true(json_array_size(list) > 200);
    assert_int_equal(json_array_size(list), json_array_size(ids));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *text = json_array_get(list, i);
        check_ids(t, json_string_value(text), json_string_length(text), json_array_get(ids, i),
                  name, i);
    }
    list = json_object_get(texts, "invalid");
    ids = json_object_get(golden, "invalid");
    assert_true(json_array_size(list) > 10);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char text[64];
        size_t n = from_hex(text, json_string_value(json_array_get(list, i)));
        check_ids(t, text, n, json_array_get(ids, i), name, i);
    }
    assert_int_equal(qy_tokenizer_size(t), json_integer_value(json_object_get(golden, "size")));
    const json_t *prefix = json_object_get(golden, "prefix");
    int32_t got[4];
    assert_int_equal(qy_tokenizer_prefix(t, got, 4), json_array_size(prefix));
    for (size_t i = 0; i < json_array_size(prefix); i++)
        assert_int_equal(got[i], json_integer_value(json_array_get(prefix, i)));
    assert_int_equal(qy_tokenizer_prefix(t, got, 0), 0);
    json_decref(texts);
    json_decref(golden);
    qy_tokenizer_close(&t);
    assert_null(t);
    qy_tokenizer_close(&t);
}

#define GOLDEN_TEST(test, name)                                                                    \
    static void test_##test(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        check_golden(name);                                                                        \
    }
GOLDEN_TEST(byte_level, "byte-level")
GOLDEN_TEST(prefix_space_and_added_tokens, "prefix-space")
GOLDEN_TEST(llama3_and_ignore_merges, "llama3")
GOLDEN_TEST(qwen_and_nfc, "qwen")
GOLDEN_TEST(digits, "digits")
GOLDEN_TEST(split_behaviors, "stages")
GOLDEN_TEST(split_removed_and_inverted, "removed")
GOLDEN_TEST(byte_fallback, "byte-fallback")
GOLDEN_TEST(fused_unknown, "fused-unknown")
GOLDEN_TEST(one_word_and_some_bytes, "one-word")
GOLDEN_TEST(no_merges, "no-merges")
GOLDEN_TEST(merges_as_strings, "merge-strings")
GOLDEN_TEST(vocab_and_merges_files, "vocab-and-merges")
GOLDEN_TEST(llama2, "llama2")
GOLDEN_TEST(metaspace_first, "metaspace-first")
GOLDEN_TEST(metaspace_always, "metaspace-always")
GOLDEN_TEST(metaspace_behind_a_split, "metaspace-late")
GOLDEN_TEST(single_words, "single-word")

/* A tokenizer that was not made for these tests. */
static void test_stories(void **state)
{
    (void)state;
    const char *dir = TEST_SHARED "/models/stories260K";
    qy_tokenizer_t *t;
    if (access(dir, R_OK) != 0)
        skip();
    OK(qy_tokenizer_open(&t, dir, &err));
    json_t *golden = read_json(TEST_GOLDEN "/tokenizers", "stories260K.json");
    const json_t *texts = json_object_get(golden, "texts"), *ids = json_object_get(golden, "ids");
    assert_true(json_array_size(texts) > 3);
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const char *text = json_string_value(json_array_get(texts, i));
        check_ids(t, text, strlen(text), json_array_get(ids, i), dir, i);
    }
    json_decref(golden);
    qy_tokenizer_close(&t);
}

/* --- splitting alone: pieces that no small vocabulary would tell apart --- */

typedef struct {
    const char *name;
    const json_t *pieces;
    size_t next;
} expected_t;

static qy_status_t take_piece(void *context, const char *word, size_t bytes, qy_error_t *error)
{
    (void)error;
    expected_t *e = context;
    const json_t *want = json_array_get(e->pieces, e->next++);
    if (!want || json_string_length(want) != bytes ||
        memcmp(json_string_value(want), word, bytes) != 0)
        fail_msg("%s: piece %zu is \"%.*s\", not \"%s\"", e->name, e->next - 1, (int)bytes, word,
                 want ? json_string_value(want) : "(none)");
    return QY_OK;
}

static void test_splits(void **state)
{
    (void)state;
    json_t *root = read_json(TEST_GOLDEN "/tokenizers", "splits.json");
    const json_t *texts = json_object_get(root, "texts"), *cases = json_object_get(root, "cases");
    assert_true(json_array_size(texts) > 5 && json_array_size(cases) > 20);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *one = json_array_get(cases, c);
        char *name = json_dumps(json_object_get(one, "pre_tokenizer"), 0);
        qy_split_t *split;
        qy_split_run_t *run;
        OK(qy_split_create(&split, json_object_get(one, "pre_tokenizer"), name, &err));
        OK(qy_split_run_create(&run, split, &err));
        for (size_t i = 0; i < json_array_size(texts); i++) {
            const json_t *text = json_array_get(texts, i);
            expected_t e = {.name = name,
                            .pieces = json_array_get(json_object_get(one, "pieces"), i)};
            OK(qy_split_words(run, json_string_value(text), json_string_length(text), true,
                              take_piece, &e, &err));
            if (e.next != json_array_size(e.pieces))
                fail_msg("%s: text %zu: %zu pieces, not %zu", name, i, e.next,
                         json_array_size(e.pieces));
        }
        qy_split_run_destroy(&run);
        qy_split_destroy(&split);
        free(name);
    }
    json_decref(root);
}

/* A pattern that would run for ages on this text ends in an error. */
static void test_bounds_the_match(void **state)
{
    (void)state;
    qy_tokenizer_t *t;
    char text[64];
    int32_t *ids = NULL;
    int64_t n;
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '!';
    OK(open_text(&t, REGEX("(a+)+$|(a|aa)+b")));
    REFUSED(qy_tokenizer_encode(t, text, sizeof text, &ids, &n, &err), QY_ERR_FORMAT,
            "match limit exceeded");
    assert_null(ids);
    qy_tokenizer_close(&t);
}

static void test_unknown_token_that_is_missing(void **state)
{
    (void)state;
    qy_tokenizer_t *t;
    int32_t *ids = NULL;
    int64_t n;
    OK(open_text(&t, "{\"model\":{" VOCAB ",\"merges\":[],\"unk_token\":\"<unk>\"}}"));
    OK(qy_tokenizer_encode(t, "abab", 4, &ids, &n, &err));
    assert_int_equal(n, 4);
    free(ids);
    ids = NULL;
    REFUSED(qy_tokenizer_encode(t, "abc", 3, &ids, &n, &err), QY_ERR_FORMAT, "\"c\" has no token");
    assert_null(ids);
    qy_tokenizer_close(&t);
}

/* Of equal merges the leftmost comes first. */
static void test_ties(void **state)
{
    (void)state;
    qy_tokenizer_t *t;
    OK(open_text(&t, "{\"model\":{\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\"]}}"));
    for (int length = 1; length < 60; length++) {
        int32_t *ids;
        int64_t n;
        char text[64];
        memset(text, 'a', sizeof text);
        OK(qy_tokenizer_encode(t, text, (size_t)length, &ids, &n, &err));
        assert_int_equal(n, (length + 1) / 2);
        for (int i = 0; i < length / 2; i++)
            assert_int_equal(ids[i], 1);
        if (length % 2)
            assert_int_equal(ids[n - 1], 0);
        free(ids);
    }
    qy_tokenizer_close(&t);
}

/* One word of a million characters, as a text is without a pre-tokenizer: quadratic merging would
 * take hours. */
static void check_long_word(const char *dir, const char *text, size_t bytes, int64_t n_ids)
{
    qy_tokenizer_t *t;
    int32_t *ids;
    int64_t n;
    OK(qy_tokenizer_open(&t, dir, &err));
    clock_t start = clock();
    OK(qy_tokenizer_encode(t, text, bytes, &ids, &n, &err));
    assert_true(clock() - start < 20 * CLOCKS_PER_SEC);
    assert_int_equal(n, n_ids);
    free(ids);
    qy_tokenizer_close(&t);
}

static void test_long_words(void **state)
{
    (void)state;
    enum { BYTES = 1000000 };
    char *text = malloc(BYTES);
    for (int i = 0; i < BYTES; i++)
        text[i] = i % 3 ? 'b' : 'a';
    scratch_text("tokenizer.json", "{" MODEL "}");
    check_long_word(scratch, text, BYTES, 2 * (BYTES / 3) + 1); /* "ab", "b"; at the end "a" */
    memset(text, ' ', BYTES);
    check_long_word(TEST_GOLDEN "/tokenizers/llama2", text, BYTES,
                    BYTES / 8 + 1); /* one prepended */
    free(text);
}

/* Spaces that an added token takes in may begin the next one: both are there. */
static void test_added_tokens_share_spaces(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t n;
        int32_t ids[4];
    } cases[] = {{"a<r> b", 3, {0, 7, 8}},
                 {"<r>   a", 3, {7, 9, 0}},
                 {"<r>  <l>b", 4, {7, 9, 6, 1}},
                 {"a<r> <l> b", 4, {0, 7, 6, 8}}};
    qy_tokenizer_t *t;
    OK(open_text(&t, "{" MODEL ",\"added_tokens\":[{\"id\":6,\"content\":\"<l>\",\"lstrip\":true},"
                     "{\"id\":7,\"content\":\"<r>\",\"rstrip\":true},"
                     "{\"id\":8,\"content\":\" b\"},{\"id\":9,\"content\":\"  \"}]}"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t *ids;
        int64_t n;
        OK(qy_tokenizer_encode(t, cases[i].text, strlen(cases[i].text), &ids, &n, &err));
        assert_int_equal(n, cases[i].n);
        assert_memory_equal(ids, cases[i].ids, (size_t)n * sizeof *ids);
        free(ids);
    }
    qy_tokenizer_close(&t);
}

/* White space is Oniguruma's: U+180E joins what U+3000 and U+0085 part. A character without a token
 * is left out. */
static void test_white_space_of_patterns(void **state)
{
    (void)state;
    static const char *const patterns[] = {"\\\\s",    "[\\\\s]",    "[\\\\s-]", "[]\\\\s]",
                                           "[^\\\\S]", "(?!\\\\S).", "[^\\\\S-]"};
    static const struct {
        const char *text;
        int64_t n;
    } cases[] = {{"a\xe1\xa0\x8e"
                  "b",
                  1},
                 {"a\xe3\x80\x80"
                  "b",
                  2},
                 {"a\xc2\x85"
                  "b",
                  2},
                 {"a\xe2\x80\x8a"
                  "b",
                  2},
                 {"a\xe2\x80\x8b"
                  "b",
                  1},
                 {"a\x1c"
                  "b",
                  1},
                 {"a\tb", 2}};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        qy_tokenizer_t *t;
        char file[512];
        snprintf(file, sizeof file, REGEX("%s"), patterns[i]);
        OK(open_text(&t, file));
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            int32_t *ids;
            int64_t n;
            OK(qy_tokenizer_encode(t, cases[k].text, strlen(cases[k].text), &ids, &n, &err));
            if (n != cases[k].n)
                fail_msg("%s: %lld tokens of text %zu", patterns[i], (long long)n, k);
            free(ids);
        }
        qy_tokenizer_close(&t);
    }
}

/* An added token that the normalizer leaves nothing of is found nowhere. */
static void test_added_token_that_vanishes(void **state)
{
    (void)state;
    qy_tokenizer_t *t;
    int32_t *ids;
    int64_t n;
    OK(open_text(&t,
                 "{" MODEL ",\"added_tokens\":[{\"id\":7,\"content\":\"  \",\"normalized\":true}],"
                 "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
                 "\"content\":\"\"}}"));
    OK(qy_tokenizer_encode(t, " a  b   ", 8, &ids, &n, &err));
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 2);
    free(ids);
    OK(qy_tokenizer_encode(t, "   ", 3, &ids, &n, &err));
    assert_int_equal(n, 0);
    free(ids);
    qy_tokenizer_close(&t);
}

/* The training text: 4 MB, known to the token. */
static void test_a_whole_text(void **state)
{
    (void)state;
    qy_tokenizer_t *t;
    char *text;
    size_t bytes;
    int32_t *ids;
    int64_t n;
    OK(qy_tokenizer_open(&t, TEST_DATA "/models/tiny-llama-kjv", &err));
    OK(qy_file_read(TEST_DATA "/text/kjv/train.txt", 1 << 24, &text, &bytes, &err));
    OK(qy_tokenizer_encode(t, text, bytes, &ids, &n, &err));
    assert_int_equal(n, 1067268);
    assert_int_equal(qy_tokenizer_size(t), 2048);
    free(ids);
    free(text);
    qy_tokenizer_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_level),
        cmocka_unit_test(test_prefix_space_and_added_tokens),
        cmocka_unit_test(test_llama3_and_ignore_merges),
        cmocka_unit_test(test_qwen_and_nfc),
        cmocka_unit_test(test_digits),
        cmocka_unit_test(test_split_behaviors),
        cmocka_unit_test(test_split_removed_and_inverted),
        cmocka_unit_test(test_byte_fallback),
        cmocka_unit_test(test_fused_unknown),
        cmocka_unit_test(test_one_word_and_some_bytes),
        cmocka_unit_test(test_no_merges),
        cmocka_unit_test(test_merges_as_strings),
        cmocka_unit_test(test_vocab_and_merges_files),
        cmocka_unit_test(test_llama2),
        cmocka_unit_test(test_metaspace_first),
        cmocka_unit_test(test_metaspace_always),
        cmocka_unit_test(test_metaspace_behind_a_split),
        cmocka_unit_test(test_single_words),
        cmocka_unit_test(test_stories),
        cmocka_unit_test(test_bounds_the_match),
        cmocka_unit_test(test_unknown_token_that_is_missing),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_added_tokens_share_spaces),
        cmocka_unit_test(test_white_space_of_patterns),
        cmocka_unit_test(test_added_token_that_vanishes),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_a_whole_text),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, scratch_setup, scratch_teardown);
}
