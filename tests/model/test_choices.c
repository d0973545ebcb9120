#include "model/choices.h"

#include <math.h>

#include "tests/model/scratch.h"

#define KJV_TOKENIZER TEST_DATA "/models/tiny-llama-kjv"
#define BOS_TOKENIZER TEST_GOLDEN "/tokenizers/prefix-space" /* puts token 1 before a text */

static qy_tokenizer_t *open_tokenizer(const char *dir)
{
    qy_tokenizer_t *t;
    OK(qy_tokenizer_open(&t, dir, &err));
    return t;
}

static qy_status_t read_task(qy_choices_t *out, const char *dir, const char *text, bool prefix,
                             int64_t max_length)
{
    qy_tokenizer_t *t = open_tokenizer(dir);
    scratch_text("t.mc.jsonl", text);
    qy_status_t status =
        qy_choices_read(out, scratch_path("t.mc.jsonl"), t, prefix, max_length, &err);
    qy_tokenizer_close(&t);
    return status;
}

static const qy_choice_t *find(const qy_choices_t *t, int item, int choice)
{
    for (int64_t i = 0; i < t->n; i++)
        if (t->choice[i].item == item && t->choice[i].choice == choice)
            return &t->choice[i];
    fail_msg("no choice %d of item %d", choice, item);
    return NULL;
}

/* The tokens of the choice are the last of text's, behind prefix tokens of 1. */
static void check_tokens(const qy_choices_t *task, const qy_choice_t *c, const char *dir,
                         const char *text, int prefix)
{
    qy_tokenizer_t *t = open_tokenizer(dir);
    int32_t *ids;
    int64_t n;
    OK(qy_tokenizer_encode(t, text, strlen(text), &ids, &n, &err));
    assert_true(c->n <= n + prefix);
    for (int i = 0; i < prefix; i++)
        assert_int_equal(task->ids[c->first + i], 1);
    assert_memory_equal(task->ids + c->first + prefix, ids + (n - (c->n - prefix)),
                        (size_t)(c->n - prefix) * sizeof *ids);
    free(ids);
    qy_tokenizer_close(&t);
}

static const char two_items[] =
    "{\"id\": 0, \"context\": \"In the beginning God created\", \"continuations\": [\" the heaven "
    "and the earth.\", \" man\"], \"gold\": 0}\n"
    "\n"
    "{\"id\": \"x\", \"context\": \"And God said \", \"continuations\": [\" \\u00e9\", \"Let\", \" "
    "Amen\"], \"gold\": 2}";

static void test_read(void **state)
{
    (void)state;
    qy_choices_t t;
    OK(read_task(&t, KJV_TOKENIZER, two_items, true, 512));
    OK(qy_choices_check(&t, 2048, "t", &err));
    assert_int_equal(t.n_items, 2);
    assert_int_equal(t.n, 5);
    assert_int_equal(t.gold[0], 0);
    assert_int_equal(t.gold[1], 2);
    for (int64_t i = 1; i < t.n; i++) {
        assert_true(t.choice[i].n >= t.choice[i - 1].n);
        assert_int_equal(t.choice[i].first, t.choice[i - 1].first + t.choice[i - 1].n);
    }
    const qy_choice_t *c = find(&t, 0, 0);
    check_tokens(&t, c, KJV_TOKENIZER, "In the beginning God created the heaven and the earth.", 0);
    assert_int_equal(c->bytes, 25);
    /* Bytes, not characters, and without the first space only. */
    assert_int_equal(find(&t, 1, 0)->bytes, 2);
    assert_int_equal(find(&t, 1, 1)->bytes, 3);
    /* The space at the context's end is the continuation's to predict. */
    qy_tokenizer_t *tokenizer = open_tokenizer(KJV_TOKENIZER);
    int32_t *ids;
    int64_t n;
    OK(qy_tokenizer_encode(tokenizer, "And God said", 12, &ids, &n, &err));
    free(ids);
    qy_tokenizer_close(&tokenizer);
    c = find(&t, 1, 1);
    check_tokens(&t, c, KJV_TOKENIZER, "And God said Let", 0);
    assert_int_equal(c->n_scored, c->n - n);
    qy_choices_free(&t);
}

static void test_prefix_and_cut(void **state)
{
    (void)state;
    static const char text[] = "{\"context\": \"and the land of the sons\", \"continuations\": [\" "
                               "of God\"], \"gold\": 0}";
    qy_choices_t whole, cut;
    OK(read_task(&whole, BOS_TOKENIZER, text, true, 512));
    check_tokens(&whole, &whole.choice[0], BOS_TOKENIZER, "and the land of the sons of God", 1);
    OK(read_task(&cut, BOS_TOKENIZER, text, false, 512));
    assert_int_equal(cut.choice[0].n, whole.choice[0].n - 1);
    assert_int_equal(cut.choice[0].n_scored, whole.choice[0].n_scored);
    qy_choices_free(&cut);
    int64_t scored = whole.choice[0].n_scored;
    OK(read_task(&cut, BOS_TOKENIZER, text, true, scored + 2)); /* the first tokens go, BOS first */
    assert_int_equal(cut.choice[0].n, scored + 2);
    check_tokens(&cut, &cut.choice[0], BOS_TOKENIZER, "and the land of the sons of God", 0);
    qy_choices_free(&cut);
    assert_int_equal(read_task(&cut, BOS_TOKENIZER, text, true, scored), QY_ERR_FORMAT);
    qy_choices_free(&whole);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "no item"},
        {"[1]", "line 1"},
        {"{\"context\": \"a\", \"continuations\": [\" b\"], \"gold\": 0}\n{", "line 2"},
        {"{\"context\": \"a\", \"continuations\": [\" b\"], \"gold\": 1}", "\"gold\""},
        {"{\"context\": \"a\", \"continuations\": [\" b\"], \"gold\": -1}", "\"gold\""},
        {"{\"context\": \"a\", \"continuations\": [], \"gold\": 0}", "\"continuations\""},
        {"{\"context\": \"a\", \"continuations\": [\" \"], \"gold\": 0}",
         "continuation 0 is empty"},
        {"{\"context\": \"a\", \"continuations\": [\" b\", 1], \"gold\": 0}", "no string"},
        {"{\"context\": \"\", \"continuations\": [\" b\"], \"gold\": 0}", "nothing is before"},
        {"{\"continuations\": [\" b\"], \"gold\": 0}", "context"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_choices_t t = {.n = 77};
        assert_int_equal(read_task(&t, KJV_TOKENIZER, cases[i].text, true, 512), QY_ERR_FORMAT);
        if (!strstr(err.text, cases[i].words))
            fail_msg("\"%s\" is not in \"%s\"", cases[i].words, err.text);
        assert_int_equal(t.n, 77);
    }
}

/* Two items of three and two choices, by hand: nll and bytes. */
static void test_score(void **state)
{
    (void)state;
    qy_choice_t choice[] = {{.item = 1, .choice = 1, .bytes = 4},
                            {.item = 0, .choice = 2, .bytes = 1},
                            {.item = 0, .choice = 0, .bytes = 8},
                            {.item = 1, .choice = 0, .bytes = 2},
                            {.item = 0, .choice = 1, .bytes = 2}};
    int32_t gold[] = {2, 0}, chosen[2], by_bytes[2];
    qy_choices_t t = {.n_items = 2, .n = 5, .gold = gold, .choice = choice};
    double nll[] = {3, 2.5, 8, 3, 2.5}, best[4];
    qy_accuracy_t a;
    /* Item 0: 8, 2.5, 2.5: the tie goes to choice 1, per byte 1, 1.25, 2.5: choice 0. Item 1: 3, 3:
     * choice 0, per byte 1.5, 0.75: choice 1. */
    qy_choices_pick(&t, nll, chosen, by_bytes, best);
    assert_int_equal(chosen[0], 1);
    assert_int_equal(by_bytes[0], 0);
    assert_int_equal(chosen[1], 0);
    assert_int_equal(by_bytes[1], 1);
    OK(qy_choices_score(&t, nll, &a, &err));
    assert_int_equal(a.n_items, 2);
    assert_true(a.accuracy == 0.5 && a.by_bytes == 0.0);
    assert_true(fabs(a.error - 0.5) <= 1e-15 && a.by_bytes_error == 0.0);
    nll[3] = (double)NAN;
    assert_int_equal(qy_choices_score(&t, nll, &a, &err), QY_ERR_NUMERIC);
}

static void test_cut(void **state)
{
    (void)state;
    enum { N = 5000 };
    int64_t first[QY_CHOICES_RANGES + 1];
    qy_choice_t *choice = calloc(N, sizeof *choice);
    assert_non_null(choice);
    qy_choices_t t = {.n = N, .choice = choice};
    for (int i = 0; i < N; i++)
        choice[i].n = 10 + i / 10;
    int n = qy_choices_cut(&t, 1024, first); /* about 1.4 million padded tokens */
    assert_int_equal(n, 5);
    assert_int_equal(first[0], 0);
    assert_int_equal(first[n], N);
    for (int r = 0; r < n; r++) {
        int64_t tokens = 0;
        for (int64_t i = first[r]; i < first[r + 1]; i++)
            tokens += qy_choices_padded(choice[i].n, 1024);
        assert_true(tokens > 250000 && tokens < 350000);
    }
    t.n = 1;
    choice[0].n = 1000000; /* one that is worth many ranges is one */
    assert_int_equal(qy_choices_cut(&t, 1 << 20, first), 1);
    assert_int_equal(first[1], 1);
    free(choice);
    assert_int_equal(qy_choices_padded(1, 512), 32);
    assert_int_equal(qy_choices_padded(64, 512), 64);
    assert_int_equal(qy_choices_padded(501, 511), 511); /* no more than there are positions */
}

/* A task file of the run that does not fit together is refused. */
static void test_check(void **state)
{
    (void)state;
    for (int fault = 0; fault < 8; fault++) {
        qy_choices_t t;
        OK(read_task(&t, KJV_TOKENIZER, two_items, true, 512));
        OK(qy_choices_check(&t, 2048, "t", &err));
        qy_choice_t *c = &t.choice[2];
        int32_t *broken[] = {&c->n,    &c->n_scored, &c->item,   &c->choice,
                             &c->item, &c->bytes,    &t.ids[30], &t.choice[4].n};
        *broken[fault] = (int32_t[]){c->n + 1, c->n, 2, -1, -1, 0, 2048, 1 << 30}[fault];
        assert_int_equal(qy_choices_check(&t, 2048, "t", &err), QY_ERR_FORMAT);
        qy_choices_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),    cmocka_unit_test(test_prefix_and_cut),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_score),
        cmocka_unit_test(test_cut),     cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
