/* Tokenizers of SentencePiece's kind, and chat templates, as keys of a GGUF file. */
#include "model/export_gguf.h"
#include "model/gguf_model.h"
#include "model/gguf_vocab.h"
#include "model/tokenizer.h"
#include "tests/model/export_fixture.h"

#define SPACE "\xe2\x96\x81"

/* --- a tokenizer's files, and the keys made of them --- */

static void write_part(const char *name, const char *text)
{
    char path[QY_PATH_MAX];
    path_of(path, "tokens");
    OK(qy_make_dirs(path, &err));
    OK(qy_path(path, &err, "%s/tokens/%s", dir, name));
    OK(qy_file_write(path, text, strlen(text), &err));
}

static void write_tokenizer(const char *text)
{
    write_part("tokenizer.json", text);
    write_part("config.json", "{}");
    write_part("tokenizer_config.json", "{}");
}

static qy_status_t put(qy_gguf_writer_t *w, int64_t vocab)
{
    qy_model_t model = {.arch = {.vocab = vocab}};
    path_of(model.dir, "tokens");
    return qy_gguf_put_tokenizer(w, &model, &err);
}

static qy_gguf_t *open_keys(int64_t vocab)
{
    char path[QY_PATH_MAX];
    qy_gguf_writer_t *w;
    qy_gguf_t *g;
    path_of(path, "keys.gguf");
    OK(qy_gguf_writer_create(&w, path, &err));
    qy_gguf_put_string(w, "general.architecture", "llama");
    OK(put(w, vocab));
    OK(qy_gguf_writer_begin(w, &err));
    OK(qy_gguf_writer_finish(&w, &err));
    OK(qy_gguf_open(&g, path, &err));
    return g;
}

/* --- runs of spaces --- */

enum { N_LETTERS = 4, N_RUNS_MAX = 16 };

static const char *const letters[N_LETTERS] = {"a", "b", SPACE "a", SPACE "ab"};

static void append_spaces(char *text, int n)
{
    for (; n > 0; n--)
        strcat(text, SPACE);
}

static bool has_run(const int *runs, int n_runs, int length)
{
    for (int i = 0; i < n_runs; i++)
        if (runs[i] == length)
            return true;
    return false;
}

/*
 * The tail of LLaMA's tokenizer.json: below the words every pair of runs that makes a run, by its
 * left side and then by its right one, in the order of `runs`. Returns how many tokens there are.
 */
static int write_spaces(const int *runs, int n_runs)
{
    char text[32768] = "{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, "
                       "\"content\": \"" SPACE "\"}, \"model\": {\"type\": \"BPE\", "
                       "\"byte_fallback\": true, \"vocab\": {";
    for (int i = 0; i < N_LETTERS; i++)
        sprintf(text + strlen(text), "\"%s\": %d, ", letters[i], i);
    for (int i = 0; i < n_runs; i++) {
        strcat(text, i ? ", \"" : "\"");
        append_spaces(text, runs[i]);
        sprintf(text + strlen(text), "\": %d", N_LETTERS + i);
    }
    strcat(text, "}, \"merges\": [\"" SPACE " a\", \"" SPACE "a b\"");
    for (int i = 0; i < n_runs; i++)
        for (int j = 0; j < n_runs; j++)
            if (has_run(runs, n_runs, runs[i] + runs[j])) {
                strcat(text, ", \"");
                append_spaces(text, runs[i]);
                strcat(text, " ");
                append_spaces(text, runs[j]);
                strcat(text, "\"");
            }
    strcat(text, "]}}");
    write_tokenizer(text);
    return N_LETTERS + n_runs;
}

/* The id of a text; −1 where it is no token. */
static int64_t find(const qy_gguf_vocab_t *v, const char *text, size_t n)
{
    return qy_gguf_vocab_find(v, (qy_gguf_text_t){.bytes = text, .n = n});
}

/* llama.cpp's rule: of all pairs that make a token the one of the best score, the leftmost of
 * equals. Cuts the text's characters into ids; returns how many. */
static int merge_by_scores(int32_t *ids, const qy_gguf_vocab_t *v, const char *text)
{
    size_t starts[512];
    int n = 0;
    for (size_t at = 0; text[at]; at++)
        if (((unsigned char)text[at] & 0xc0u) != 0x80u)
            starts[n++] = at;
    starts[n] = strlen(text);
    for (;;) {
        int best = -1;
        float score = 0;
        for (int i = 0; i + 1 < n; i++) {
            int64_t id = find(v, text + starts[i], starts[i + 2] - starts[i]);
            if (id >= 0 && (best < 0 || qy_gguf_vocab_score(v, id) > score)) {
                best = i;
                score = qy_gguf_vocab_score(v, id);
            }
        }
        if (best < 0)
            break;
        memmove(starts + best + 1, starts + best + 2, (size_t)(n - best - 1) * sizeof *starts);
        n--;
    }
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)find(v, text + starts[i], starts[i + 1] - starts[i]);
    return n;
}

/* Text with every number of spaces up to 40 before, between and after its words. */
static void write_text(char *text, char *marked)
{
    *text = *marked = '\0';
    for (int n = 0; n <= 40; n += n < 20 ? 1 : 7) {
        append_spaces(marked, n);
        strcat(marked, n % 3 ? "ab" : "b");
        for (int i = 0; i < n; i++)
            strcat(text, " ");
        strcat(text, n % 3 ? "ab" : "b");
    }
    append_spaces(marked, 5);
    strcat(text, "     ");
}

static void check_ids(const char *model, const char *text, const int32_t *want, int n_want)
{
    qy_tokenizer_t *t;
    int32_t *ids;
    int64_t n;
    OK(qy_tokenizer_open(&t, model, &err));
    OK(qy_tokenizer_encode(t, text, strlen(text), &ids, &n, &err));
    assert_int_equal(n, n_want);
    assert_memory_equal(ids, want, (size_t)n * sizeof *ids);
    free(ids);
    qy_tokenizer_close(&t);
}

/* llama.cpp cuts runs of spaces by the scores as the merges do, and as the file does read again. */
static void check_spaces(const int *runs, int n_runs)
{
    char text[1024], marked[3072], path[QY_PATH_MAX];
    int32_t want[512];
    qy_gguf_vocab_t v;
    qy_gguf_t *g = open_keys(write_spaces(runs, n_runs));
    write_text(text, marked);
    OK(qy_gguf_vocab_read(&v, g, &err));
    float three = qy_gguf_vocab_score(&v, find(&v, SPACE SPACE SPACE, 9));
    for (int i = 0; i < n_runs; i++)
        assert_true(runs[i] < 3 || qy_gguf_vocab_score(&v, N_LETTERS + i) == three);
    assert_true(qy_gguf_vocab_score(&v, 3) > three);
    assert_true(qy_gguf_vocab_score(&v, find(&v, SPACE SPACE, 6)) < three);
    int n = merge_by_scores(want, &v, marked);
    path_of(path, "tokens");
    check_ids(path, text, want, n);
    path_of(path, "keys.gguf");
    check_ids(path, text, want, n);
    qy_gguf_vocab_free(&v);
    qy_gguf_close(&g);
}

static void test_runs_of_spaces(void **state)
{
    (void)state;
    static const int llama[] = {2, 4, 8, 5, 6, 3, 7, 1};
    static const int by_length[] = {8, 7, 6, 5, 4, 3, 2, 1}; /* as transformers 5 saves it */
    check_spaces(llama, 8);
    check_spaces(by_length, 8);
}

static void check_spaces_refused(const int *runs, int n_runs)
{
    assert_failed(put(NULL, write_spaces(runs, n_runs)), QY_ERR_UNSUPPORTED,
                  "an order of merges that no scores give");
}

/* Orders in which a run does not grow from its left, as it would by equal scores. */
static void test_other_orders_of_spaces(void **state)
{
    (void)state;
    static const int pairs_first[] = {1, 2, 3, 4, 5}, gap[] = {2, 4, 6, 3, 1};
    check_spaces_refused(pairs_first, 5);
    check_spaces_refused(gap, 5);
}

/* --- long tokens --- */

/* One of 2000 bytes between others: no pairs are looked for in it, nor beyond the longest there is.
 */
static void test_long_token(void **state)
{
    (void)state;
    char text[4096] = "{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, "
                      "\"content\": \"" SPACE "\"}, \"model\": {\"type\": \"BPE\", "
                      "\"byte_fallback\": true, \"vocab\": {\"a\": 0, \"";
    size_t n = strlen(text);
    memset(text + n, 'a', 2000);
    strcpy(text + n + 2000, "\": 1}, \"merges\": []}}");
    write_tokenizer(text);
    assert_failed(put(NULL, 2), QY_ERR_UNSUPPORTED, "token 1 is of 2000 bytes (at most 1024)");
}

static void test_look_up_of_long_text(void **state)
{
    (void)state;
    char text[4096];
    qy_gguf_vocab_t v = {.ids = json_pack("{s:i}", "a", 7)};
    memset(text, 'a', sizeof text);
    assert_int_equal(find(&v, text, 1), 7);
    assert_int_equal(find(&v, text, sizeof text), -1);
    json_decref(v.ids);
}

/* --- settings --- */

#define BYTES                                                                                      \
    "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"model\": "      \
    "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}}"

/* "No limit", as transformers writes it, is beyond 64 bits. */
static void test_model_max_length(void **state)
{
    (void)state;
    int64_t end = -1;
    write_tokenizer(BYTES);
    write_part("tokenizer_config.json", "{\"model_max_length\": 1000000000000000019884624838656, "
                                        "\"eos_token\": \"ab\"}");
    qy_gguf_t *g = open_keys(3);
    OK(qy_gguf_i64(g, "tokenizer.ggml.eos_token_id", &end, &err));
    assert_int_equal(end, 2);
    qy_gguf_close(&g);
}

static void check_text(const qy_gguf_t *g, const char *key, const char *want)
{
    qy_gguf_text_t text = {0};
    OK(qy_gguf_text(g, key, &text, &err));
    assert_int_equal(text.n, strlen(want));
    assert_memory_equal(text.bytes, want, text.n);
}

/* What an import has in tokenizer_config.json. */
static void check_imported(const qy_gguf_t *g, const char *want)
{
    json_t *config = NULL, *wanted = json_loads(want, JSON_DECODE_ANY, NULL);
    OK(qy_gguf_tokenizer_config(&config, g, &err));
    assert_non_null(wanted);
    assert_true(json_equal(json_object_get(config, "chat_template"), wanted));
    json_decref(config);
    json_decref(wanted);
}

/* Templates by names: the default one under the usual key. */
static void test_chat_templates(void **state)
{
    (void)state;
    write_tokenizer(BYTES);
    write_part(
        "tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"tool use\", \"template\": \"old\"}, {\"name\": "
        "\"default\", \"template\": \"{{ x }}\"}, {\"name\": \"tool use\", \"template\": "
        "\"{{ y }}\"}, {\"name\": \"rag\", \"template\": \"{{ z }}\"}, {\"name\": \"none\"}, 7]}");
    qy_gguf_t *g = open_keys(3);
    check_text(g, "tokenizer.chat_template", "{{ x }}");
    check_text(g, "tokenizer.chat_template.tool_use", "{{ y }}");
    check_text(g, "tokenizer.chat_template.rag", "{{ z }}");
    const qy_gguf_value_t *names = qy_gguf_find(g, "tokenizer.chat_templates");
    assert_non_null(names);
    assert_int_equal(names->count, 2);
    const unsigned char *at = names->data;
    assert_memory_equal(qy_gguf_next_text(&at).bytes, "tool_use", 8);
    assert_memory_equal(qy_gguf_next_text(&at).bytes, "rag", 3);
    assert_null(qy_gguf_find(g, "tokenizer.chat_template.none"));
    check_imported(g,
                   "[{\"name\": \"default\", \"template\": \"{{ x }}\"}, {\"name\": \"tool_use\", "
                   "\"template\": \"{{ y }}\"}, {\"name\": \"rag\", \"template\": \"{{ z }}\"}]");
    qy_gguf_close(&g);

    write_part("tokenizer_config.json", "{\"chat_template\": \"{{ one }}\"}");
    g = open_keys(3);
    check_text(g, "tokenizer.chat_template", "{{ one }}");
    assert_null(qy_gguf_find(g, "tokenizer.chat_templates"));
    check_imported(g, "\"{{ one }}\"");
    qy_gguf_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_of_spaces),   cmocka_unit_test(test_other_orders_of_spaces),
        cmocka_unit_test(test_long_token),       cmocka_unit_test(test_look_up_of_long_text),
        cmocka_unit_test(test_model_max_length), cmocka_unit_test(test_chat_templates),
    };
    return cmocka_run_group_tests_name("tokenizers as GGUF", tests, make_dir, remove_dir);
}
