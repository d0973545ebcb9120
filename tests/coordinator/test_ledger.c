/* The ledger: every field comes back, torn ends are dropped, anything else that is wrong is
 * refused. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hash.h"
#include "coordinator/ledger.h"

static char root[] = "/tmp/qy_ledger_XXXXXX";
static char path[QY_PATH_MAX];

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(root) && qy_path(path, NULL, "%s/ledger.jsonl", root) == QY_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return qy_remove_tree(root, NULL) == QY_OK ? 0 : -1;
}

/* Without the fsync of qy_file_write: there are thousands. */
static void put(const char *text, size_t bytes)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static qy_entry_t block_entry(int64_t block)
{
    return (qy_entry_t){.kind = QY_LEDGER_BLOCK,
                        .phase = "quantize",
                        .task = "segment 1",
                        .task_id = 1,
                        .rank = 2,
                        .block = block,
                        .seconds = 1.0 / 3,
                        .loss_before = 0.1,
                        .loss_after = 1e-300,
                        .validation_before = (double)NAN,
                        .validation_after = -0.0};
}

static void append(qy_ledger_t *ledger, const qy_entry_t *entry)
{
    qy_error_t err = {0};
    qy_status_t status = qy_ledger_append(ledger, entry, &err);
    if (status != QY_OK)
        fail_msg("%s", err.text);
}

static qy_ledger_t *open_ledger(void)
{
    qy_error_t err = {0};
    qy_ledger_t *ledger = NULL;
    if (qy_ledger_open(&ledger, path, &err) != QY_OK)
        fail_msg("%s", err.text);
    return ledger;
}

/* Three whole lines in a fresh ledger. */
static char *write_three(size_t *bytes)
{
    char *text = NULL;
    unlink(path);
    qy_ledger_t *ledger = open_ledger();
    for (int64_t b = 0; b < 3; b++) {
        qy_entry_t entry = block_entry(b);
        append(ledger, &entry);
    }
    qy_ledger_close(&ledger);
    assert_null(ledger);
    assert_int_equal(qy_file_read(path, 1 << 20, &text, bytes, NULL), QY_OK);
    return text;
}

static void test_every_field(void **state)
{
    (void)state;
    double values[] = {1.0 / 3, 1e308, -5e-324, 123456789.123456789};
    unlink(path);
    qy_ledger_t *ledger = open_ledger();
    const qy_entry_t entries[] = {
        {.kind = QY_LEDGER_START, .host = "n1", .pid = 1LL << 40, .workers = 8},
        {.kind = QY_LEDGER_ASSIGN,
         .phase = "capture",
         .task = "capture e2e range 3",
         .task_id = 3,
         .attempt = 2,
         .rank = 7,
         .host = "n2"},
        block_entry(5),
        {.kind = QY_LEDGER_DONE,
         .phase = "evaluate",
         .task = "evaluate",
         .text = "a tag",
         .attempt = 1,
         .seconds = 2.5,
         .n_values = 4,
         .values = values},
        {.kind = QY_LEDGER_FAILED,
         .time = "2026-01-02T03:04:05Z",
         .phase = "quantize",
         .task = "segment 0",
         .attempt = 3,
         .status = QY_ERR_CRASHED,
         .text = "a \"quote\", a tab\t, a line\n, \xc3\xa9"},
        {.kind = QY_LEDGER_PHASE, .phase = "stitch", .seconds = -1.0},
        {.kind = QY_LEDGER_STOP, .status = QY_ERR_STOPPED, .text = "stopped"},
    };
    const int n = (int)(sizeof entries / sizeof *entries);
    for (int i = 0; i < n; i++)
        append(ledger, &entries[i]);
    for (int pass = 0; pass < 2; pass++) { /* as kept, and as read back */
        assert_int_equal(qy_ledger_count(ledger), n);
        for (int i = 0; i < n; i++) {
            const qy_entry_t *a = &entries[i], *b = qy_ledger_at(ledger, i);
            assert_int_equal(a->kind, b->kind);
            assert_int_equal(strlen(b->time), 20);
            if (a->time[0])
                assert_string_equal(a->time, b->time);
            assert_string_equal(a->phase, b->phase);
            assert_string_equal(a->task, b->task);
            assert_string_equal(a->text, b->text);
            assert_string_equal(a->host, b->host);
            assert_int_equal(a->task_id, b->task_id);
            assert_int_equal(a->attempt, b->attempt);
            assert_int_equal(a->rank, b->rank);
            assert_int_equal(a->pid, b->pid);
            assert_int_equal(a->workers, b->workers);
            assert_int_equal(a->block, b->block);
            assert_int_equal(a->status, b->status);
            assert_true(a->seconds == b->seconds);
            assert_true(a->loss_before == b->loss_before);
            assert_true(a->loss_after == b->loss_after);
            assert_int_equal(isnan(a->validation_before) != 0, isnan(b->validation_before) != 0);
            assert_true(a->validation_after == b->validation_after);
            assert_int_equal(a->n_values, b->n_values);
            for (int64_t v = 0; v < a->n_values; v++)
                assert_true(a->values[v] == b->values[v]);
        }
        if (pass == 1)
            break;
        qy_ledger_close(&ledger);
        assert_int_equal(qy_ledger_read(&ledger, path, NULL), QY_OK);
    }
    assert_int_equal(qy_ledger_append(ledger, &entries[0], NULL),
                     QY_ERR_ARG); /* for reading only */
    qy_ledger_close(&ledger);
}

/* Texts from outside may be no UTF-8, or end inside a character. */
static void test_foreign_bytes(void **state)
{
    (void)state;
    unlink(path);
    qy_ledger_t *ledger = open_ledger();
    qy_entry_t entry = {.kind = QY_LEDGER_STOP, .status = QY_ERR_IO, .text = "no file \xff\xc3"};
    append(ledger, &entry);
    qy_ledger_close(&ledger);
    ledger = open_ledger();
    assert_string_equal(qy_ledger_at(ledger, 0)->text, "no file ??");
    qy_ledger_close(&ledger);
}

static void test_torn_anywhere(void **state)
{
    (void)state;
    size_t bytes, second = 0;
    char *text = write_three(&bytes);
    for (size_t i = 0, lines = 0; lines < 2; i++)
        if (text[i] == '\n' && ++lines == 2)
            second = i + 1;
    for (size_t cut = second; cut < bytes; cut++) {
        qy_ledger_t *ledger = NULL;
        put(text, cut);
        assert_int_equal(qy_ledger_read(&ledger, path, NULL), QY_OK);
        assert_int_equal(qy_ledger_count(ledger), 2);
        qy_ledger_close(&ledger);
        if (cut % 16 == 0) { /* opening for writing cuts it off, and the next line is whole */
            char *after = NULL;
            size_t n;
            qy_entry_t entry = block_entry(9);
            ledger = open_ledger();
            append(ledger, &entry);
            qy_ledger_close(&ledger);
            ledger = open_ledger();
            assert_int_equal(qy_ledger_count(ledger), 3);
            assert_int_equal(qy_ledger_at(ledger, 2)->block, 9);
            qy_ledger_close(&ledger);
            assert_int_equal(qy_file_read(path, 1 << 20, &after, &n, NULL), QY_OK);
            assert_memory_equal(after, text, second);
            free(after);
        }
    }
    free(text);
}

static void test_flipped_bits(void **state)
{
    (void)state;
    size_t bytes, first = 0, second = 0;
    char *text = write_three(&bytes);
    first = (size_t)(strchr(text, '\n') + 1 - text);
    second = (size_t)(strchr(text + first, '\n') + 1 - text);
    for (size_t at = first; at < bytes; at++)
        for (int bit = 0; bit < 8; bit += 3) {
            qy_ledger_t *ledger = NULL;
            qy_error_t err = {0};
            text[at] = (char)(text[at] ^ 1 << bit);
            put(text, bytes);
            qy_status_t status = qy_ledger_read(&ledger, path, &err);
            if (at < second - 1) { /* before the last line and the newline that makes it one */
                assert_int_equal(status, QY_ERR_FORMAT);
                assert_non_null(strstr(err.text, "ledger.jsonl:2"));
            } else { /* taken for torn; a newline inside makes it a bad line before the last */
                assert_true(status == QY_OK || text[at] == '\n');
                if (status == QY_OK)
                    assert_int_equal(qy_ledger_count(ledger), at < second ? 1 : 2);
            }
            qy_ledger_close(&ledger);
            text[at] = (char)(text[at] ^ 1 << bit);
        }
    free(text);
}

/* Lines with a right checksum and a wrong content: of another version, or made by hand. */
static void test_wrong_content(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "",
        "[]",
        "{}",
        "not json",
        "{\"event\":\"start\"}",
        "{\"event\":\"dance\",\"time\":\"\"}",
        "{\"event\":7,\"time\":\"\"}",
        "{\"event\":\"stop\",\"time\":\"\",\"status\":\"ok\"}",
        "{\"event\":\"stop\",\"time\":\"\",\"status\":\"no such\",\"text\":\"\"}",
        "{\"event\":\"stop\",\"time\":\"0123456789012345678901234567890\",\"status\":\"ok\","
        "\"text\":\"\"}",
        "{\"event\":\"phase\",\"time\":\"\",\"phase\":\"x\",\"seconds\":\"1\"}",
        "{\"event\":\"phase\",\"time\":\"\",\"phase\":\"x\",\"seconds\":1,\"seconds\":2}",
        "{\"event\":\"start\",\"time\":\"\",\"host\":\"\",\"pid\":1.5,\"workers\":1}",
        "{\"event\":\"start\",\"time\":\"\",\"host\":\"\",\"pid\":1,\"workers\":"
        "99999999999999999999}",
        "{\"event\":\"assign\",\"time\":\"\",\"phase\":\"\",\"task\":\"\",\"task_id\":4294967296,"
        "\"attempt\":1,\"rank\":0,\"host\":\"\"}",
        "{\"event\":\"done\",\"time\":\"\",\"phase\":\"\",\"task\":\"\",\"task_id\":1,\"attempt\":"
        "1,"
        "\"rank\":0,\"seconds\":1,\"text\":\"\",\"values\":[1,\"2\"]}",
        "{\"event\":\"done\",\"time\":\"\",\"phase\":\"\",\"task\":\"\",\"task_id\":1,\"attempt\":"
        "1,"
        "\"rank\":0,\"seconds\":1,\"text\":\"\",\"values\":7}",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char text[512];
        qy_ledger_t *ledger = NULL;
        qy_error_t err = {0};
        snprintf(text, sizeof text, "%s\t%08x\n", lines[i],
                 (unsigned)qy_crc32(lines[i], strlen(lines[i])));
        put(text, strlen(text));
        print_message("line %s\n", lines[i]);
        assert_int_equal(qy_ledger_open(&ledger, path, &err), QY_ERR_FORMAT);
        assert_non_null(strstr(err.text, "ledger.jsonl:1"));
        assert_null(ledger);
    }
    assert_int_equal(qy_ledger_read(&(qy_ledger_t *){NULL}, root, NULL), QY_ERR_IO);
}

/* A full disk: the line that does not fit is taken back, the ledger stays whole. */
static void test_full_disk(void **state)
{
    (void)state;
    size_t bytes;
    char *text = write_three(&bytes);
    struct rlimit before, tight;
    getrlimit(RLIMIT_FSIZE, &before);
    tight = before;
    tight.rlim_cur = bytes + 40;
    signal(SIGXFSZ, SIG_IGN);
    qy_ledger_t *ledger = open_ledger();
    qy_entry_t entry = block_entry(3);
    setrlimit(RLIMIT_FSIZE, &tight);
    qy_status_t status = qy_ledger_append(ledger, &entry, NULL);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(status, QY_ERR_IO);
    assert_int_equal(qy_ledger_count(ledger), 3);
    append(ledger, &entry);
    qy_ledger_close(&ledger);
    ledger = open_ledger();
    assert_int_equal(qy_ledger_count(ledger), 4);
    qy_ledger_close(&ledger);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field),   cmocka_unit_test(test_foreign_bytes),
        cmocka_unit_test(test_torn_anywhere), cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_wrong_content), cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
