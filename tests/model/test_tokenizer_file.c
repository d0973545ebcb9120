/* Files of tokenizers that are refused, and damaged ones. */
#include "tests/model/tokenizer_fixture.h"

typedef struct {
    qy_status_t status;
    const char *file, *text;
} refused_t;

static void check_refused(const refused_t *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        qy_tokenizer_t *t = NULL;
        REFUSED(open_text(&t, cases[i].file), cases[i].status, cases[i].text);
        assert_null(t);
    }
}

static void test_refuses_models(void **state)
{
    (void)state;
    static const refused_t cases[] = {
        {QY_ERR_FORMAT, "", "tokenizer.json"},
        {QY_ERR_FORMAT, "[]", "holds a list"},
        {QY_ERR_FORMAT, "{}", "no model"},
        {QY_ERR_FORMAT, "{\"model\":7}", "not an object"},
        {QY_ERR_UNSUPPORTED, "{\"model\":{\"type\":\"Unigram\"}}", "\"Unigram\" (known: BPE)"},
        {QY_ERR_FORMAT, "{\"model\":{\"merges\":[]}}", "model without vocab"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB "}}", "model without merges"},
        {QY_ERR_FORMAT, "{\"model\":{\"vocab\":{},\"merges\":[]}}", "0 tokens"},
        {QY_ERR_FORMAT, "{\"model\":{\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", "id of \"a\""},
        {QY_ERR_FORMAT, "{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "id of \"a\""},
        {QY_ERR_FORMAT, "{\"model\":{\"vocab\":{\"a\":4294967296},\"merges\":[]}}", "id of \"a\""},
        {QY_ERR_FORMAT, "{\"model\":{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", "duplicate"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":[\"a c\"]}}", "merge 0: \"c\" is not in"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":[\"c a\"]}}", "merge 0: \"c\" is not in"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":[\"b a\"]}}", "\"ba\" is not in the"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":[\"ab\"]}}", "merge 0 is not a pair"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":[\"a b c\"]}}", "merge 0 is not a pair"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":[[\"a\"]]}}", "merge 0 is not a pair"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":[[\"a\",1]]}}", "merge 0 is not a pair"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":[[\"\",\"a\"]]}}", "an empty side"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":[[\"a\",\"\"]]}}", "an empty side"},
        {QY_ERR_FORMAT, "{\"model\":{" VOCAB ",\"merges\":{}}}", "\"merges\" is an object"},
        {QY_ERR_UNSUPPORTED, "{\"model\":{" VOCAB ",\"merges\":[],\"dropout\":0.1}}", "dropout"},
        {QY_ERR_UNSUPPORTED,
         "{\"model\":{" VOCAB ",\"merges\":[],\"continuing_subword_prefix\":\"##\"}}",
         "continuing_subword_prefix"},
        {QY_ERR_UNSUPPORTED,
         "{\"model\":{" VOCAB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
         "end_of_word_suffix"},
    };
    check_refused(cases, sizeof cases / sizeof *cases);
}

static void test_refuses_pipelines(void **state)
{
    (void)state;
    static const refused_t cases[] = {
        {QY_ERR_UNSUPPORTED, PRE("{\"type\":\"Whitespace\"}"), "pre_tokenizer of type \"White"},
        {QY_ERR_FORMAT, PRE("7"), "pre_tokenizer is not an object"},
        {QY_ERR_FORMAT, PRE("{\"type\":\"Sequence\",\"pretokenizers\":[7]}"), "not an object"},
        {QY_ERR_FORMAT, PRE("{\"type\":\"ByteLevel\",\"use_regex\":1}"), "not true or false"},
        {QY_ERR_UNSUPPORTED, PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"}}"),
         "the behavior \"\""},
        {QY_ERR_FORMAT, PRE("{\"type\":\"Split\",\"behavior\":\"Removed\",\"pattern\":{}}"),
         "without a Regex or a String"},
        {QY_ERR_UNSUPPORTED, REGEX("(a"), "pattern \"(a\": missing closing parenthesis"},
        {QY_ERR_UNSUPPORTED, REGEX("a**"), "pattern \"a**\""},
        {QY_ERR_UNSUPPORTED, REGEX(""), "too short"},
        {QY_ERR_UNSUPPORTED, REGEX("[a[bc]]"), "class inside a class"},
        {QY_ERR_UNSUPPORTED, REGEX("[a-z&&b]"), "intersection"},
        {QY_ERR_UNSUPPORTED, REGEX("\\\\h+"), "\\h is not"},
        {QY_ERR_UNSUPPORTED, REGEX("[\\\\H]"), "\\h is not"},
        {QY_ERR_UNSUPPORTED, REGEX("[a\\\\w]"), "\\w and \\b are not"},
        {QY_ERR_UNSUPPORTED, REGEX("a\\\\b"), "\\w and \\b are not"},
        {QY_ERR_UNSUPPORTED, REGEX("[[:alpha:]]"), "class inside a class"},
        {QY_ERR_UNSUPPORTED, REGEX("[]a"), "pattern \"[]a\""},
        {QY_ERR_UNSUPPORTED, REGEX("\\\\p{N}{1,3}+"), "this repetition"},
        {QY_ERR_UNSUPPORTED, REGEX("a{,3}"), "this repetition"},
        {QY_ERR_UNSUPPORTED, REGEX("(?m:a.b)"), "options other than"},
        {QY_ERR_UNSUPPORTED, REGEX("a\\\\C"), "pattern"},
        {QY_ERR_UNSUPPORTED, "{" MODEL ",\"normalizer\":{\"type\":\"Lowercase\"}}",
         "normalizer of type \"Lowercase\" (known: Sequence, NFC, Prepend, Replace)"},
        {QY_ERR_FORMAT, NORMAL("{\"type\":\"Prepend\"}"), "without \"prepend\""},
        {QY_ERR_FORMAT, NORMAL("{\"type\":\"Prepend\",\"prepend\":7}"), "\"prepend\" is a number"},
        {QY_ERR_UNSUPPORTED, NORMAL("{\"type\":\"Replace\",\"content\":\"a\"}"), "is no String"},
        {QY_ERR_UNSUPPORTED,
         NORMAL("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"a\"}"),
         "is no String"},
        {QY_ERR_UNSUPPORTED,
         NORMAL("{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"a\"}"),
         "an empty String"},
        {QY_ERR_FORMAT, NORMAL("{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}"),
         "without \"content\""},
        {QY_ERR_FORMAT, PRE("{\"type\":\"Metaspace\"}"), "is not a character"},
        {QY_ERR_FORMAT, PRE("{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"),
         "is not a character"},
        {QY_ERR_FORMAT,
         PRE("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"x\"}"),
         "the prepend_scheme \"x\""},
        {QY_ERR_FORMAT,
         PRE("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false}"),
         "\"always\" and without add_prefix_space"},
        {QY_ERR_FORMAT, "{" MODEL ",\"normalizer\":[]}", "not an object"},
        {QY_ERR_UNSUPPORTED, "{" MODEL ",\"post_processor\":{\"type\":\"BertProcessing\"}}",
         "post_processor of type \"BertProcessing\""},
        {QY_ERR_FORMAT,
         "{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
         "[{\"SpecialToken\":{\"id\":\"<s>\"}}],\"special_tokens\":{}}}",
         "\"<s>\" has no ids"},
        {QY_ERR_FORMAT,
         "{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
         "[{\"SpecialToken\":{\"id\":\"<s>\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[3]}}}}",
         "id out of range"},
        {QY_ERR_FORMAT, "{" MODEL ",\"added_tokens\":[7]}", "added token 0 is not an object"},
        {QY_ERR_FORMAT, "{" MODEL ",\"added_tokens\":[{\"id\":3}]}", "without content or id"},
        {QY_ERR_FORMAT, "{" MODEL ",\"added_tokens\":[{\"id\":1,\"content\":\"a\"}]}",
         "has id 1, in the vocab 0"},
        {QY_ERR_FORMAT, "{" MODEL ",\"added_tokens\":[{\"id\":99999999,\"content\":\"x\"}]}",
         "without content or id"},
    };
    check_refused(cases, sizeof cases / sizeof *cases);
}

static void test_refuses_deep_nesting(void **state)
{
    (void)state;
    char file[1024] = "{" MODEL ",\"pre_tokenizer\":";
    for (int i = 0; i < 12; i++)
        strcat(file, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    strcat(file, "{\"type\":\"Digits\"}");
    for (int i = 0; i < 12; i++)
        strcat(file, "]}");
    strcat(file, "}");
    qy_tokenizer_t *t = NULL;
    REFUSED(open_text(&t, file), QY_ERR_UNSUPPORTED, "nested 8 deep");
}

static void test_refuses_directories(void **state)
{
    (void)state;
    qy_tokenizer_t *t = NULL;
    scratch_dir("d");
    REFUSED(qy_tokenizer_open(&t, scratch_path("d"), &err), QY_ERR_IO, "no tokenizer.json, and no");
    scratch_text("d/vocab.json", "{\"a\":0,\"b\":1,\"ab\":2}");
    REFUSED(qy_tokenizer_open(&t, scratch_path("d"), &err), QY_ERR_IO, "no tokenizer.json, and no");
    scratch_text("d/merges.txt", "#version: 0.2\na b c\n");
    REFUSED(qy_tokenizer_open(&t, scratch_path("d"), &err), QY_ERR_FORMAT, "line 2 is not a pair");
    scratch_text("d/merges.txt", "#version: 0.2\na \xff\n");
    REFUSED(qy_tokenizer_open(&t, scratch_path("d"), &err), QY_ERR_FORMAT, "line 2 is not a pair");
    scratch_text("d/merges.txt", "a b\r\n\r\n");
    scratch_text("d/tokenizer_config.json", "{\"add_bos_token\":\"yes\"}");
    REFUSED(qy_tokenizer_open(&t, scratch_path("d"), &err), QY_ERR_FORMAT, "not true or false");
    scratch_text("d/tokenizer_config.json", "{\"bos_token\":\"ab\"}");
    OK(qy_tokenizer_open(&t, scratch_path("d"), &err));
    int32_t *ids;
    int64_t n;
    OK(qy_tokenizer_encode(t, "ab", 2, &ids, &n, &err));
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 2);
    assert_int_equal(qy_tokenizer_prefix(t, ids, 1), 0); /* a BOS token, not asked for */
    free(ids);
    qy_tokenizer_close(&t);
}

static qy_status_t open_pair(qy_tokenizer_t **t, const char *settings, const char *added)
{
    scratch_dir("pair");
    scratch_text("pair/vocab.json", "{\"a\":0,\"b\":1,\"ab\":2}");
    scratch_text("pair/merges.txt", "a b\n");
    scratch_text("pair/tokenizer_config.json", settings);
    if (added)
        scratch_text("pair/added_tokens.json", added);
    return qy_tokenizer_open(t, scratch_path("pair"), &err);
}

/* The pair alone reads as GPT-2's: others are refused, and so are tokens that are not in it. */
static void test_pairs_of_others(void **state)
{
    (void)state;
    static const struct {
        const char *settings, *added, *text;
    } refused[] = {
        {"{\"tokenizer_class\":\"Qwen2Tokenizer\"}", NULL, "tokenizer_class is \"Qwen2Tokenizer\""},
        {"{}", "{\"a\":0,\"<|im_end|>\":3}", "lacks the added token \"<|im_end|>\""},
        {"{\"added_tokens_decoder\":{\"3\":{\"content\":\"<pad>\"}}}", NULL,
         "lacks the added token \"<pad>\""},
        {"{\"tokenizer_class\":\"GPT2Tokenizer\"}", "{\"<x>\":3}", "save_pretrained(DIR)"},
    };
    static const struct {
        const char *settings, *added;
    } good[] = {
        {"{\"tokenizer_class\":\"GPT2Tokenizer\"}", NULL}, /* which OPT says as well */
        {"{\"tokenizer_class\":\"GPT2TokenizerFast\"}", "{\"ab\":2}"},
        {"{\"tokenizer_class\":null,\"added_tokens_decoder\":{\"2\":{\"content\":\"ab\"}}}", "{}"},
    };
    qy_tokenizer_t *t = NULL;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        REFUSED(open_pair(&t, refused[i].settings, refused[i].added), QY_ERR_UNSUPPORTED,
                refused[i].text);
        assert_null(t);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        OK(open_pair(&t, good[i].settings, good[i].added));
        qy_tokenizer_close(&t);
    }
}

/* "No limit", as transformers writes it. */
static void test_model_max_length(void **state)
{
    (void)state;
    qy_tokenizer_t *t = NULL;
    scratch_dir("unlimited");
    scratch_text("unlimited/vocab.json", "{\"a\":0,\"b\":1,\"ab\":2}");
    scratch_text("unlimited/merges.txt", "a b\n");
    scratch_text("unlimited/tokenizer_config.json",
                 "{\"model_max_length\":1000000000000000019884624838656,"
                 "\"add_bos_token\":true,\"bos_token\":\"ab\"}");
    OK(qy_tokenizer_open(&t, scratch_path("unlimited"), &err));
    int32_t prefix;
    assert_int_equal(qy_tokenizer_prefix(t, &prefix, 1), 1);
    assert_int_equal(prefix, 2);
    qy_tokenizer_close(&t);
}

/* Any damage to the file is an error or an honest reading, never a crash. */
static void check_survives_damage(const char *path)
{
    char *good;
    size_t bytes;
    OK(qy_file_read(path, 1 << 20, &good, &bytes, &err));
    const char *model = strstr(good, "\"model\"");
    assert_non_null(model);
    unsigned seed = 1;
    for (int round = 0; round < 150; round++) {
        char *bad = malloc(bytes);
        memcpy(bad, good, bytes);
        size_t range = round % 3 ? (size_t)(model - good) : bytes; /* mostly the small parts */
        for (int k = 0; k < 3; k++) {
            seed = seed * 1664525u + 1013904223u;
            bad[seed / 7 % range] = (char)"0919{}[]\",:\\ \xff"[(seed >> 16) % 14];
        }
        scratch_write("tokenizer.json", bad, bytes);
        free(bad);
        qy_tokenizer_t *t = NULL;
        qy_status_t status = qy_tokenizer_open(&t, scratch, &err);
        assert_true(status == QY_OK || status == QY_ERR_FORMAT || status == QY_ERR_UNSUPPORTED);
        if (status == QY_OK) {
            int32_t *ids = NULL;
            int64_t n;
            (void)qy_tokenizer_encode(t, "<mask> It's the LORD</s>", 24, &ids, &n, &err);
            free(ids);
        }
        qy_tokenizer_close(&t);
    }
    free(good);
}

static void test_survives_damage(void **state)
{
    (void)state;
    check_survives_damage(TEST_GOLDEN "/tokenizers/prefix-space/tokenizer.json");
    check_survives_damage(TEST_GOLDEN "/tokenizers/llama2/tokenizer.json");
    check_survives_damage(TEST_GOLDEN "/tokenizers/metaspace-late/tokenizer.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_models),       cmocka_unit_test(test_refuses_pipelines),
        cmocka_unit_test(test_refuses_deep_nesting), cmocka_unit_test(test_refuses_directories),
        cmocka_unit_test(test_pairs_of_others),      cmocka_unit_test(test_model_max_length),
        cmocka_unit_test(test_survives_damage),
    };
    return cmocka_run_group_tests_name("tokenizer files", tests, scratch_setup, scratch_teardown);
}
