#include "model/text.h"

#include "tests/model/scratch.h"

#define KJV_TOKENIZER TEST_DATA "/models/tiny-llama-kjv"
#define BOS_TOKENIZER TEST_GOLDEN "/tokenizers/prefix-space" /* puts token 1 before a text */

static qy_tokenizer_t *open_tokenizer(const char *dir)
{
    qy_tokenizer_t *t;
    OK(qy_tokenizer_open(&t, dir, &err));
    return t;
}

/* The text has these documents, each tokenized alone behind the prefix. */
static void check_documents(const qy_text_t *text, const qy_tokenizer_t *t, int32_t prefix,
                            const char *const *documents, int64_t n)
{
    assert_int_equal(text->n_documents, n);
    assert_int_equal(text->row_length, 0);
    assert_int_equal(text->starts[0], 0);
    assert_int_equal(text->starts[n], text->n);
    for (int64_t i = 0; i < n; i++) {
        int32_t *ids;
        int64_t count, first = text->starts[i];
        if (prefix >= 0)
            assert_int_equal(text->ids[first++], prefix);
        OK(qy_tokenizer_encode(t, documents[i], strlen(documents[i]), &ids, &count, &err));
        assert_int_equal(text->starts[i + 1] - first, count);
        if (count)
            assert_memory_equal(text->ids + first, ids, (size_t)count * sizeof *ids);
        free(ids);
    }
}

static void test_txt(void **state)
{
    (void)state;
    qy_text_t text;
    qy_tokenizer_t *t = open_tokenizer(BOS_TOKENIZER);
    const char *const document = "In the beginning\n\nGod created\n";
    scratch_text("a.txt", document);
    OK(qy_text_read(&text, scratch_path("a.txt"), t, QY_TEXT_JOIN, &err));
    check_documents(&text, t, -1, &document, 1);
    qy_text_free(&text);
    assert_null(text.ids);
    OK(qy_text_read(&text, scratch_path("a.txt"), t, QY_TEXT_DOCUMENTS, &err));
    check_documents(&text, t, 1, &document, 1);
    qy_text_free(&text);
    qy_text_free(&text);
    scratch_text("empty.txt", "");
    OK(qy_text_read(&text, scratch_path("empty.txt"), t, QY_TEXT_JOIN, &err));
    assert_int_equal(text.n, 0);
    assert_int_equal(text.n_documents, 1);
    qy_text_free(&text);
    qy_tokenizer_close(&t);
}

static void test_jsonl(void **state)
{
    (void)state;
    qy_text_t text;
    qy_tokenizer_t *t = open_tokenizer(BOS_TOKENIZER);
    scratch_text("a.jsonl", "{\"text\":\"First\\nline\",\"id\":7}\n"
                            "\n  \t\r\n"
                            "{\"text\":\"\"}\r\n"
                            "{\"meta\":{\"text\":1},\"text\":\"caf\\u00e9 \\u0000\"}");
    const char *const documents[] = {"First\nline", "", "café "};
    OK(qy_text_read(&text, scratch_path("a.jsonl"), t, QY_TEXT_DOCUMENTS, &err));
    assert_int_equal(text.n_documents, 3);
    text.n_documents = 2; /* the third ends in a NUL, which a C string cannot show */
    int64_t n = text.n;
    text.n = text.starts[2];
    check_documents(&text, t, 1, documents, 2);
    assert_true(n - text.n > 3);
    qy_text_free(&text);
    OK(qy_text_read(&text, scratch_path("a.jsonl"), t, QY_TEXT_JOIN, &err));
    static const char joined[] = "First\nline\n\n\n\ncafé \0";
    int32_t *ids;
    OK(qy_tokenizer_encode(t, joined, sizeof joined - 1, &ids, &n, &err));
    assert_int_equal(text.n_documents, 1);
    assert_int_equal(text.n, n);
    assert_memory_equal(text.ids, ids, (size_t)n * sizeof *ids);
    free(ids);
    qy_text_free(&text);
    qy_tokenizer_close(&t);
}

/* Other keys may hold what they like: hashes beyond 64 bits, for one. */
static void test_large_integers(void **state)
{
    (void)state;
    qy_text_t text;
    qy_tokenizer_t *t = open_tokenizer(BOS_TOKENIZER);
    const char *const document = "First line";
    scratch_text("a.jsonl", "{\"text\":\"First line\",\"hash\":340282366920938463463374607431}\n");
    OK(qy_text_read(&text, scratch_path("a.jsonl"), t, QY_TEXT_DOCUMENTS, &err));
    check_documents(&text, t, 1, &document, 1);
    qy_text_free(&text);
    qy_tokenizer_close(&t);
}

static void test_refuses_texts(void **state)
{
    (void)state;
    static const struct {
        const char *name, *content;
        qy_status_t status;
        const char *text;
    } cases[] = {
        {"a.raw", "text", QY_ERR_UNSUPPORTED, "ends in .txt, .jsonl or .npy"},
        {".txt.gz", "text", QY_ERR_UNSUPPORTED, "ends in .txt"},
        {"a.jsonl", "", QY_ERR_FORMAT, "holds no document"},
        {"a.jsonl", "\n\n", QY_ERR_FORMAT, "holds no document"},
        {"a.jsonl", "{\"text\":\"a\"}\n{\"text\":1}\n", QY_ERR_FORMAT,
         "a.jsonl: line 2: no string"},
        {"a.jsonl", "{\"text\":\"a\"}\n\n{\"texts\":\"a\"}\n", QY_ERR_FORMAT, "line 3: no string"},
        {"a.jsonl", "{\"text\":\"a\"}\n{\"text\":", QY_ERR_FORMAT, "a.jsonl: line 2: "},
        {"a.jsonl", "[1]", QY_ERR_FORMAT, "line 1: no string"},
        {"a.jsonl", "{\"text\":\"a\",\"text\":\"b\"}", QY_ERR_FORMAT, "duplicate"},
        {"a.jsonl", "{\"text\":\"\xff\"}", QY_ERR_FORMAT, "line 1: "},
    };
    qy_tokenizer_t *t = open_tokenizer(KJV_TOKENIZER);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_text_t text;
        scratch_text(cases[i].name, cases[i].content);
        for (int mode = 0; mode < 2; mode++)
            REFUSED(qy_text_read(&text, scratch_path(cases[i].name), t, (qy_text_mode_t)mode, &err),
                    cases[i].status, cases[i].text);
    }
    qy_text_t text;
    REFUSED(qy_text_read(&text, scratch_path("absent.txt"), t, QY_TEXT_JOIN, &err), QY_ERR_IO,
            "absent.txt");
    qy_tokenizer_close(&t);
}

/* --- .npy --- */

/* A file of version 1 or 2 with this header text and data. */
static void write_npy(const char *name, int version, const char *header, const void *data,
                      size_t bytes)
{
    char file[1024] = "\x93NUMPY";
    size_t n = strlen(header), start = version == 1 ? 10 : 12;
    file[6] = (char)version;
    file[8] = (char)(n & 0xff);
    file[9] = (char)(n >> 8);
    memcpy(file + start, header, n);
    memcpy(file + start + n, data, bytes);
    scratch_write(name, file, start + n + bytes);
}

#define DICT(descr, shape)                                                                         \
    "{'descr': '" descr "', 'fortran_order': False, 'shape': " shape ", }   \n"

static void test_npy(void **state)
{
    (void)state;
    static const int32_t i4[] = {1, 2, 3, 4, 5, 2047};
    static const int64_t i8[] = {1, 2, 3, 4, 5, 2047};
    static const uint16_t u2[] = {1, 2, 3, 4, 5, 2047};
    qy_tokenizer_t *t = open_tokenizer(KJV_TOKENIZER);
    for (int kind = 0; kind < 4; kind++) {
        qy_text_t text;
        if (kind == 0)
            write_npy("a.npy", 1, DICT("<i4", "(2, 3)"), i4, sizeof i4);
        else if (kind == 1)
            write_npy("a.npy", 2, DICT("<i8", "(2, 3,)"), i8, sizeof i8);
        else if (kind == 2)
            write_npy("a.npy", 1, DICT("<u2", "( 2 , 3 )"), u2, sizeof u2);
        else
            write_npy("a.npy", 2, DICT("<u4", "(2, 3)"), i4, sizeof i4);
        OK(qy_text_read(&text, scratch_path("a.npy"), t, QY_TEXT_JOIN, &err));
        assert_int_equal(text.n, 6);
        assert_int_equal(text.n_documents, 2);
        assert_int_equal(text.row_length, 3);
        assert_memory_equal(text.ids, i4, sizeof i4);
        assert_int_equal(text.starts[1], 3);
        assert_int_equal(text.starts[2], 6);
        qy_text_free(&text);
    }
    qy_tokenizer_close(&t);
}

static void test_refuses_npy(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        qy_status_t status;
        const char *text;
    } cases[] = {
        {DICT("<i4", "(3, 3)"), QY_ERR_FORMAT, "a shape of 3 × 3 of 4 bytes each, but 24"},
        {DICT("<i4", "(1, 3)"), QY_ERR_FORMAT, "a shape of 1 × 3"},
        {DICT("<i4", "(0, 3)"), QY_ERR_FORMAT, "a shape of 0 × 3"},
        {DICT("<i4", "(4294967296, 4294967296)"), QY_ERR_FORMAT, "a shape of 4294967296"},
        {DICT("<i4", "(461168601842738791, 10)"), QY_ERR_FORMAT, "a shape of 4611"}, /* 2^62 + 6 */
        {DICT("<i4", "(6148914691236517206, 6)"), QY_ERR_FORMAT, "not (samples, length)"},
        {DICT("<i4", "(6,)"), QY_ERR_FORMAT, "not (samples, length)"},
        {DICT("<i4", "(1, 2, 3)"), QY_ERR_FORMAT, "not (samples, length)"},
        {DICT("<i4", "(-2, -3)"), QY_ERR_FORMAT, "not (samples, length)"},
        {DICT("<i4", "(2, 3"), QY_ERR_FORMAT, "not (samples, length)"},
        {DICT("<i4", "[2, 3]"), QY_ERR_FORMAT, "not (samples, length)"},
        {DICT("<f4", "(2, 3)"), QY_ERR_UNSUPPORTED, "of type <f4 (known: <i4"},
        {DICT(">i4", "(2, 3)"), QY_ERR_UNSUPPORTED, "of type >i4"},
        {DICT("<i8", "(2, 3)"), QY_ERR_FORMAT, "of 8 bytes each, but 24"},
        {"{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }", QY_ERR_UNSUPPORTED,
         "not in C order"},
        {"{'descr': '<i4', 'shape': (2, 3), }", QY_ERR_FORMAT, "lacks descr, fortran_order"},
        {"", QY_ERR_FORMAT, "lacks descr"},
        {DICT("<i4", "(2, 3)"), QY_ERR_FORMAT, "row 1 has token 2048, 0 to 2047 expected"},
    };
    static const int32_t ids[] = {1, 2, 3, 4, 5, 2048};
    qy_tokenizer_t *t = open_tokenizer(KJV_TOKENIZER);
    qy_text_t text;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_npy("a.npy", 1, cases[i].header, ids, sizeof ids);
        REFUSED(qy_text_read(&text, scratch_path("a.npy"), t, QY_TEXT_JOIN, &err), cases[i].status,
                cases[i].text);
    }
    static const int32_t negative[] = {1, -1};
    write_npy("a.npy", 1, DICT("<i4", "(1, 2)"), negative, sizeof negative);
    REFUSED(qy_text_read(&text, scratch_path("a.npy"), t, QY_TEXT_JOIN, &err), QY_ERR_FORMAT,
            "token -1");
    static const uint32_t high[] = {1, 0xffffffff};
    write_npy("a.npy", 1, DICT("<u4", "(1, 2)"), high, sizeof high);
    REFUSED(qy_text_read(&text, scratch_path("a.npy"), t, QY_TEXT_JOIN, &err), QY_ERR_FORMAT,
            "token 4294967295");
    write_npy("a.npy", 3, DICT("<i4", "(1, 2)"), ids, 8);
    REFUSED(qy_text_read(&text, scratch_path("a.npy"), t, QY_TEXT_JOIN, &err), QY_ERR_UNSUPPORTED,
            "version 3");
    scratch_write("a.npy", "\x93NUMPY\1\0\xff\xff{}", 12);
    REFUSED(qy_text_read(&text, scratch_path("a.npy"), t, QY_TEXT_JOIN, &err), QY_ERR_FORMAT,
            "a header of 65535 bytes in a file of 12");
    scratch_write("a.npy", "\x93NUMPY\1", 7);
    REFUSED(qy_text_read(&text, scratch_path("a.npy"), t, QY_TEXT_JOIN, &err), QY_ERR_FORMAT,
            "is not a .npy file");
    qy_tokenizer_close(&t);
}

/* --- windows --- */

enum { TOKENS = 1003 };

/* Token i is i; documents as the starts say. */
static void make_text(qy_text_t *text, const int64_t *starts, int64_t n_documents)
{
    *text = (qy_text_t){.n = starts[n_documents], .n_documents = n_documents};
    text->ids = malloc((size_t)text->n * sizeof *text->ids);
    text->starts = malloc((size_t)(n_documents + 1) * sizeof *text->starts);
    for (int64_t i = 0; i < text->n; i++)
        text->ids[i] = (int32_t)i;
    memcpy(text->starts, starts, (size_t)(n_documents + 1) * sizeof *starts);
}

/* Window i is length tokens in a row from where the definition puts it. */
static void check_stream(const qy_text_t *text, bool held_out, int64_t first, int64_t end)
{
    enum { N = 300, LENGTH = 20 };
    int32_t *windows;
    int64_t least = INT64_MAX, most = -1;
    OK(qy_text_windows(&windows, text, QY_SAMPLING_STREAM, N, LENGTH, held_out, 5,
                       QY_PHASE_CALIBRATION, &err));
    for (int i = 0; i < N; i++) {
        uint64_t u = qy_random_u64(5, QY_PHASE_CALIBRATION, (uint64_t)i, 0);
        /* ⌊u (L' − T) / 2^64⌋ of a small range by halves of u */
        uint64_t range = (uint64_t)(end - first - LENGTH);
        uint64_t start = ((u >> 32) * range + ((u & 0xffffffff) * range >> 32)) >> 32;
        for (int k = 0; k < LENGTH; k++)
            assert_int_equal(windows[i * LENGTH + k], first + (int64_t)start + k);
        least = windows[i * LENGTH] < least ? windows[i * LENGTH] : least;
        most = windows[i * LENGTH] > most ? windows[i * LENGTH] : most;
    }
    /* 300 windows come near both ends */
    assert_true(least < first + (end - first) / 10 && most + LENGTH > end - (end - first) / 10);
    free(windows);
}

static void test_stream(void **state)
{
    (void)state;
    qy_text_t text;
    make_text(&text, (int64_t[]){0, 400, TOKENS}, 2);
    check_stream(&text, false, 0, 902);
    check_stream(&text, true, 902, TOKENS);
    int32_t *windows;
    OK(qy_text_windows(&windows, &text, QY_SAMPLING_STREAM, 2, 101, true, 5, QY_PHASE_VALIDATION,
                       &err));
    for (int i = 0; i < 2; i++) /* the part is one window */
        assert_int_equal(windows[i * 101], 902);
    free(windows);
    REFUSED(qy_text_windows(&windows, &text, QY_SAMPLING_STREAM, 2, 102, true, 5,
                            QY_PHASE_VALIDATION, &err),
            QY_ERR_FORMAT, "the last 10 % of the text has 101 tokens, a window of 102 is wanted");
    REFUSED(qy_text_windows(&windows, &text, QY_SAMPLING_STREAM, 2, 903, false, 5,
                            QY_PHASE_CALIBRATION, &err),
            QY_ERR_FORMAT, "the first 90 % of the text has 902 tokens");
    REFUSED(qy_text_windows(&windows, &text, QY_SAMPLING_STREAM, 0, 10, false, 5,
                            QY_PHASE_CALIBRATION, &err),
            QY_ERR_ARG, "0 windows");
    REFUSED(qy_text_windows(&windows, &text, QY_SAMPLING_STREAM, INT64_MAX / 4, 10, false, 5,
                            QY_PHASE_CALIBRATION, &err),
            QY_ERR_ARG, "windows of 10");
    qy_text_free(&text);
}

static void test_documents(void **state)
{
    (void)state;
    /* 20 documents of 10, 20, … 200 tokens: 18 for training */
    int64_t starts[21] = {0};
    for (int i = 0; i < 20; i++)
        starts[i + 1] = starts[i] + 10 * (i + 1);
    qy_text_t text;
    make_text(&text, starts, 20);
    enum { N = 400, LENGTH = 100 };
    int32_t *windows;
    int hits[20] = {0};
    OK(qy_text_windows(&windows, &text, QY_SAMPLING_DOCUMENTS, N, LENGTH, false, 5,
                       QY_PHASE_CALIBRATION, &err));
    for (int i = 0; i < N; i++) {
        int d = 0;
        while (windows[i * LENGTH] >= starts[d + 1])
            d++;
        hits[d]++;
        for (int k = 0; k < LENGTH; k++)
            assert_int_equal(windows[i * LENGTH + k], windows[i * LENGTH] + k);
        uint64_t index = (uint64_t)i, room = (uint64_t)(10 * (d + 1) - LENGTH);
        assert_int_equal(d, 10 + qy_random_below(5, QY_PHASE_CALIBRATION, index, 0, 8));
        assert_int_equal(windows[i * LENGTH] - starts[d],
                         qy_random_below(5, QY_PHASE_CALIBRATION, index, 1, room));
    }
    for (int d = 0; d < 20; d++) /* 8 documents of more than 100 tokens, 50 windows each */
        assert_true(d >= 10 && d < 18 ? hits[d] >= 25 && hits[d] <= 80 : hits[d] == 0);
    free(windows);
    OK(qy_text_windows(&windows, &text, QY_SAMPLING_DOCUMENTS, 50, 195, true, 5,
                       QY_PHASE_VALIDATION, &err));
    for (int i = 0; i < 50; i++)
        assert_in_range(windows[i * 195], starts[19], starts[19] + 4);
    free(windows);
    REFUSED(qy_text_windows(&windows, &text, QY_SAMPLING_DOCUMENTS, 5, 180, false, 5,
                            QY_PHASE_CALIBRATION, &err),
            QY_ERR_FORMAT, "(18) has more than 180 tokens, the longest has 180");
    qy_text_free(&text);
}

static void test_rows(void **state)
{
    (void)state;
    qy_text_t text;
    make_text(&text, (int64_t[]){0, 4, 8, 12}, 3);
    text.row_length = 4;
    int32_t *windows;
    OK(qy_text_windows(&windows, &text, QY_SAMPLING_STREAM, 2, 4, false, 5, QY_PHASE_CALIBRATION,
                       &err));
    for (int i = 0; i < 8; i++)
        assert_int_equal(windows[i], i);
    free(windows);
    OK(qy_text_windows(&windows, &text, QY_SAMPLING_DOCUMENTS, 2, 4, true, 5, QY_PHASE_CALIBRATION,
                       &err));
    for (int i = 0; i < 8; i++)
        assert_int_equal(windows[i], 4 + i);
    free(windows);
    REFUSED(qy_text_windows(&windows, &text, QY_SAMPLING_STREAM, 4, 4, false, 5,
                            QY_PHASE_CALIBRATION, &err),
            QY_ERR_FORMAT, "3 rows of tokens, 4 wanted");
    REFUSED(qy_text_windows(&windows, &text, QY_SAMPLING_STREAM, 1, 3, false, 5,
                            QY_PHASE_CALIBRATION, &err),
            QY_ERR_FORMAT, "rows of 4 tokens, windows of 3 wanted");
    qy_text_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_txt),
        cmocka_unit_test(test_jsonl),
        cmocka_unit_test(test_large_integers),
        cmocka_unit_test(test_refuses_texts),
        cmocka_unit_test(test_npy),
        cmocka_unit_test(test_refuses_npy),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_documents),
        cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests_name("text", tests, scratch_setup, scratch_teardown);
}
