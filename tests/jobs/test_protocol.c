#include "jobs/protocol.h"
#include "jobs/wire.h"
#include "tests/jobs/job_files.h"

#include "base/hash.h"

#include <math.h>

typedef qy_status_t (*decode_fn)(void *out, const void *bytes, size_t n);

static qy_status_t decode_task(void *out, const void *bytes, size_t n)
{
    return qy_task_decode(out, bytes, n, &err);
}

static qy_status_t decode_progress(void *out, const void *bytes, size_t n)
{
    return qy_progress_decode(out, bytes, n, &err);
}

static qy_status_t decode_result(void *out, const void *bytes, size_t n)
{
    return qy_result_decode(out, bytes, n, &err);
}

static qy_status_t decode_hello(void *out, const void *bytes, size_t n)
{
    return qy_hello_decode(out, bytes, n, &err);
}

static qy_task_t some_task(void)
{
    qy_task_t task;
    memset(&task, 0, sizeof task);
    task.kind = QY_TASK_EVALUATE;
    task.id = 7;
    task.attempt = 2;
    task.variant = QY_VARIANT_FINAL;
    task.text = 3;
    task.range = 1LL << 40;
    task.cost = 0.1;
    memset(task.plan_hash, 'a', 64);
    snprintf(task.run_dir, sizeof task.run_dir, "/runs/one");
    return task;
}

/* Every shorter or longer message is refused, and nothing is read past its end (sanitizers look).
 */
static void refuse_lengths(const char *what, decode_fn decode, void *out, const void *bytes,
                           size_t n)
{
    for (size_t cut = 0; cut < n; cut++) {
        unsigned char *copy = malloc(cut ? cut : 1);
        assert_non_null(copy);
        memcpy(copy, bytes, cut);
        assert_refused(what, decode(out, copy, cut), QY_ERR_FORMAT, what);
        free(copy);
    }
    unsigned char *longer = malloc(n + 1);
    assert_non_null(longer);
    memcpy(longer, bytes, n);
    longer[n] = 0;
    assert_refused(what, decode(out, longer, n + 1), QY_ERR_FORMAT, what);
    free(longer);
}

/* The 4 bytes at `at` as another number. */
static void refuse_u32(const char *what, decode_fn decode, void *out, const void *bytes, size_t n,
                       size_t at, uint32_t value, const char *words)
{
    unsigned char *copy = malloc(n);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    for (size_t i = 0; i < 4; i++)
        copy[at + i] = (unsigned char)(value >> (8 * i));
    assert_refused(what, decode(out, copy, n), QY_ERR_FORMAT, words);
    free(copy);
}

static void test_task(void **state)
{
    (void)state;
    qy_task_t task = some_task(), read;
    void *bytes;
    size_t n;
    OK(qy_task_encode(&task, &bytes, &n, &err));
    OK(qy_task_decode(&read, bytes, n, &err));
    assert_memory_equal(&read, &task, sizeof task);
    assert_int_equal(((unsigned char *)bytes)[4], 7); /* little-endian, field by field */
    refuse_lengths("task", decode_task, &read, bytes, n);
    static const struct {
        size_t at;
        uint32_t value;
        const char *words;
    } cases[] = {
        {0, QY_N_TASK_KINDS, "kind"},
        {0, 0xffffffffu, "kind"},
        {4, 0xffffffffu, "id"},
        {8, 0, "attempt"},
        {12, 2, "set"},
        {16, QY_N_VARIANTS, "variant"},
        {16, 0xffffffffu, "variant"},
        {20, QY_MAX_EVALUATE, "text"},
        {28, 0x80000000u, "range"},
        {36, 0x7ff80000u, "cost"},
        {36, 0xbff00000u, "cost"},
        {40, 65, "longer"},
        {40, 0xffffffffu, "longer"},
        {108, QY_PATH_MAX, "longer"},
        {108, 1000, "ends"},
        {48, 0, "NUL"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse_u32("task", decode_task, &read, bytes, n, cases[i].at, cases[i].value,
                   cases[i].words);
    assert_memory_equal(&read, &task, sizeof task); /* outputs are set on success only */
    free(bytes);
}

static void test_progress(void **state)
{
    (void)state;
    qy_progress_t progress = {.task_id = -1,
                              .kind = QY_TASK_SEGMENT,
                              .block = 5,
                              .step = 10,
                              .n_steps = 20,
                              .loss = 0.25,
                              .tokens_per_s = 1e9,
                              .block_done = 1,
                              .loss_before = 3.0,
                              .loss_after = (double)NAN,
                              .validation_before = -0.0,
                              .validation_after = 1e-300,
                              .seconds = 2.5,
                              .train_s = 1.5,
                              .advance_s = 0.75,
                              .stall_s = 0.125};
    qy_progress_t read = {0};
    void *bytes;
    size_t n;
    OK(qy_progress_encode(&progress, &bytes, &n, &err));
    OK(qy_progress_decode(&read, bytes, n, &err));
    assert_true(isnan(read.loss_after)); /* there is none yet */
    assert_true(signbit(read.validation_before) != 0);
    assert_true(read.task_id == -1 && read.kind == QY_TASK_SEGMENT && read.block == 5);
    assert_true(read.step == 10 && read.n_steps == 20 && read.block_done == 1);
    assert_true(read.loss == 0.25 && read.tokens_per_s == 1e9 && read.loss_before == 3.0);
    assert_true(read.validation_after == 1e-300 && read.seconds == 2.5);
    assert_true(read.train_s == 1.5 && read.advance_s == 0.75 && read.stall_s == 0.125);
    refuse_lengths("progress", decode_progress, &read, bytes, n);
    refuse_u32("progress", decode_progress, &read, bytes, n, 0, 0xfffffffeu, "id");
    refuse_u32("progress", decode_progress, &read, bytes, n, 4, QY_N_TASK_KINDS, "kind");
    refuse_u32("progress", decode_progress, &read, bytes, n, 12, 0x80000000u, "block");
    refuse_u32("progress", decode_progress, &read, bytes, n, 20, 0x80000000u, "step");
    refuse_u32("progress", decode_progress, &read, bytes, n, 48, 2, "block_done");
    free(bytes);
}

static void test_result(void **state)
{
    (void)state;
    double values[3] = {1.5, (double)NAN, -3e300};
    qy_result_t result = {.task_id = 4,
                          .kind = QY_TASK_EVALUATE,
                          .error = {QY_ERR_DEVICE, "a GPU fell off"},
                          .seconds = 9.0,
                          .n_values = 3,
                          .values = values};
    qy_result_t read = {0};
    void *bytes;
    size_t n;
    OK(qy_result_encode(&result, &bytes, &n, &err));
    OK(qy_result_decode(&read, bytes, n, &err));
    assert_int_equal(read.task_id, 4);
    assert_int_equal(read.error.status, QY_ERR_DEVICE);
    assert_string_equal(read.error.text, "a GPU fell off");
    assert_int_equal(read.n_values, 3);
    assert_memory_equal(read.values, values, sizeof values);
    qy_result_free(&read);
    assert_null(read.values);
    refuse_lengths("result", decode_result, &read, bytes, n);
    refuse_u32("result", decode_result, &read, bytes, n, 4, 99, "kind");
    refuse_u32("result", decode_result, &read, bytes, n, 8, QY_N_STATUS, "status");
    refuse_u32("result", decode_result, &read, bytes, n, 12, 508, "longer");
    refuse_u32("result", decode_result, &read, bytes, n, n - 32, 4, "number of values");
    refuse_u32("result", decode_result, &read, bytes, n, n - 28, 0x80000000u, "number of values");
    free(bytes);
    result.n_values = 0;
    OK(qy_result_encode(&result, &bytes, &n, &err));
    OK(qy_result_decode(&read, bytes, n, &err));
    assert_null(read.values);
    free(bytes);
    result.n_values = -1;
    assert_int_equal(qy_result_encode(&result, &bytes, &n, &err), QY_ERR_ARG);
}

static void test_hello(void **state)
{
    (void)state;
    qy_hello_t hello = {.rank = 3, .pid = 12345, .host = "node07", .plan_hash = "abc"}, read;
    void *bytes;
    size_t n;
    OK(qy_hello_encode(&hello, &bytes, &n, &err));
    OK(qy_hello_decode(&read, bytes, n, &err));
    assert_true(read.rank == 3 && read.pid == 12345);
    assert_string_equal(read.host, "node07");
    assert_string_equal(read.plan_hash, "abc");
    refuse_lengths("hello", decode_hello, &read, bytes, n);
    refuse_u32("hello", decode_hello, &read, bytes, n, 0, 0xffffffffu, "rank");
    refuse_u32("hello", decode_hello, &read, bytes, n, 4, 0, "process");
    refuse_u32("hello", decode_hello, &read, bytes, n, 12, 64, "longer");
    free(bytes);
}

static qy_status_t decode_message(void *out, const void *bytes, size_t n)
{
    return qy_message_decode(out, bytes, n, &err);
}

static void test_message(void **state)
{
    (void)state;
    static const char payload[] = "payload";
    qy_message_t read = {0};
    void *bytes;
    size_t n, total;
    OK(qy_message_encode(QY_MSG_PROGRESS, payload, sizeof payload, &bytes, &n, &err));
    assert_int_equal(n, QY_FRAME_BYTES + sizeof payload);
    OK(qy_message_decode(&read, bytes, n, &err));
    assert_int_equal(read.kind, QY_MSG_PROGRESS);
    assert_int_equal(read.bytes, sizeof payload);
    assert_string_equal(read.payload, payload);
    qy_message_free(&read);
    refuse_lengths("message", decode_message, &read, bytes, n);
    static const struct {
        size_t at;
        uint32_t value;
        const char *words;
    } cases[] = {{0, 0x20544547, "magic"},
                 {4, 2, "version"},
                 {8, 0, "kind 0"},
                 {8, QY_N_MSGS, "kind"},
                 {12, 0, "checksum"},
                 {16, 7, "payload bytes"},
                 {16, (64 << 20) + 1, "at most"},
                 {20, 0x80000000u, "at most"},
                 {24, 0, "checksum"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse_u32("message", decode_message, &read, bytes, n, cases[i].at, cases[i].value,
                   cases[i].words);

    /* Over a stream: nothing before a whole frame, then its length; a bad frame is seen at once. */
    OK(qy_message_length(bytes, QY_FRAME_BYTES - 1, &total, &err));
    assert_int_equal(total, 0);
    OK(qy_message_length(bytes, QY_FRAME_BYTES, &total, &err));
    assert_int_equal(total, n);
    ((unsigned char *)bytes)[0] ^= 1;
    assert_refused("length", qy_message_length(bytes, n, &total, &err), QY_ERR_FORMAT, "magic");
    free(bytes);

    OK(qy_message_encode(QY_MSG_STOP, NULL, 0, &bytes, &n, &err));
    OK(qy_message_decode(&read, bytes, n, &err));
    assert_int_equal(read.kind, QY_MSG_STOP);
    assert_int_equal(read.bytes, 0);
    qy_message_free(&read);
    free(bytes);
    assert_int_equal(qy_message_encode(QY_N_MSGS, NULL, 0, &bytes, &n, &err), QY_ERR_ARG);
    assert_int_equal(
        qy_message_encode(QY_MSG_TASK, payload, (size_t)QY_MESSAGE_MAX + 1, &bytes, &n, &err),
        QY_ERR_ARG);
}

/* Bytes of a known message, written out by hand: the format is fixed. */
static void test_message_bytes(void **state)
{
    (void)state;
    void *bytes;
    size_t n;
    OK(qy_message_encode(QY_MSG_ALIVE, "123456789", 9, &bytes, &n, &err));
    static const unsigned char wanted[] = {'Q',  'Y',  'S',  'G',  1,   0,   0,   0,   7,  0, 0, 0,
                                           0x26, 0x39, 0xf4, 0xcb, 9,   0,   0,   0,   0,  0, 0, 0,
                                           '1',  '2',  '3',  '4',  '5', '6', '7', '8', '9'};
    assert_int_equal(n, sizeof wanted);
    assert_memory_equal(bytes, wanted, n);
    free(bytes);
}

static void test_names(void **state)
{
    (void)state;
    char name[96];
    qy_task_t task = some_task();
    task.range = 2;
    qy_task_name(&task, name);
    assert_string_equal(name, "evaluate text 3 final range 2");
    task.kind = QY_TASK_CAPTURE;
    task.set = QY_SET_E2E;
    qy_task_name(&task, name);
    assert_string_equal(name, "capture e2e range 2");
    task.kind = QY_TASK_SEGMENT;
    qy_task_name(&task, name);
    assert_string_equal(name, "segment 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_task),    cmocka_unit_test(test_progress),
        cmocka_unit_test(test_result),  cmocka_unit_test(test_hello),
        cmocka_unit_test(test_message), cmocka_unit_test(test_message_bytes),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
