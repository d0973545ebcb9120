#include "model/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include "tests/model/scratch.h"

/* m/model.safetensors: a header, its length if not `length`, and data_bytes bytes counting up. */
static void write_raw(const char *header, uint64_t length, size_t data_bytes)
{
    char file[4096];
    size_t n = strlen(header);
    memcpy(file, &length, sizeof length);
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++)
        file[8 + n + i] = (char)i;
    scratch_write("m/model.safetensors", file, 8 + n + data_bytes);
}

static void write_header(const char *header, size_t data_bytes)
{
    write_raw(header, strlen(header), data_bytes);
}

static qy_status_t open_m(qy_st_set_t **set)
{
    return qy_st_open(set, scratch_path("m"), &err);
}

static void test_reads_what_the_reference_wrote(void **state)
{
    (void)state;
    qy_st_set_t *set;
    OK(qy_st_open(&set, TEST_GOLDEN "/models/llama-gqa", &err));
    assert_int_equal(qy_st_count(set), 21);
    assert_null(qy_st_find(set, "model.layers.2.mlp.up_proj.weight"));
    const qy_st_entry_t *e = qy_st_find(set, "model.layers.1.self_attn.k_proj.weight");
    assert_non_null(e);
    assert_string_equal(e->dtype, "F16");
    assert_int_equal(e->n_dims, 2);
    assert_int_equal(e->shape[0], 16);
    assert_int_equal(e->shape[1], 32);
    assert_int_equal(e->bytes, 1024);
    for (int64_t i = 1; i < qy_st_count(set); i++)
        assert_true(strcmp(qy_st_at(set, i - 1)->name, qy_st_at(set, i)->name) < 0);
    assert_null(qy_st_at(set, 21));
    assert_null(qy_st_at(set, -1));

    uint64_t header, bytes;
    struct stat st;
    assert_int_equal(qy_st_files(set), 1);
    const char *path = qy_st_file(set, 0, &header, &bytes);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(bytes, st.st_size);
    assert_null(qy_st_file(set, 1, &header, &bytes));
    qy_st_close(&set);
    assert_null(set);
    qy_st_close(&set);
}

static void test_reads_the_bytes_asked_for(void **state)
{
    (void)state;
    qy_st_set_t *set;
    write_header("{\"b\":{\"dtype\":\"U8\",\"shape\":[2,3],\"data_offsets\":[4,10]},"
                 "\"__metadata__\":{\"format\":\"pt\"},"
                 "\"z\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
                 "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}  ",
                 10);
    OK(open_m(&set));
    assert_int_equal(qy_st_count(set), 3);
    unsigned char got[6];
    const qy_st_entry_t *b = qy_st_find(set, "b");
    OK(qy_st_read(set, b, got, 0, 6, &err));
    for (int i = 0; i < 6; i++)
        assert_int_equal(got[i], 4 + i);
    OK(qy_st_read(set, b, got, 5, 1, &err));
    assert_int_equal(got[0], 9);
    OK(qy_st_read(set, qy_st_find(set, "z"), got, 0, 0, &err));
    REFUSED(qy_st_read(set, b, got, 5, 2, &err), QY_ERR_ARG, "tensor b: 2 bytes at 5 of its 6");
    REFUSED(qy_st_read(set, b, got, UINT64_MAX, 2, &err), QY_ERR_ARG, "tensor b");
    assert_int_equal(qy_st_find(set, "a")->n_dims, 0);
    qy_st_close(&set);
}

/* A header for a file with 8 bytes of data, and what is said of it. */
typedef struct {
    const char *header, *text;
} refused_t;

static void test_refuses_bad_headers(void **state)
{
    (void)state;
    static const refused_t cases[] = {
        {"", "does not begin with {"},
        {" {}", "does not begin with {"},
        {"{", "line 1"},
        {"{}", "end at byte 10, the file at 18"},
        {"{\"a\":1}", "tensor a: is not an object"},
        {"{\"a\":{\"shape\":[8],\"data_offsets\":[0,8]}}", "tensor a: no dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,8]}}", "tensor a: no shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8]}}", "data_offsets are not two numbers"},
        {"{\"a\":{\"dtype\":\"X8\",\"shape\":[8],\"data_offsets\":[0,8]}}", "unknown dtype \"X8\""},
        {"{\"a\":{\"dtype\":8,\"shape\":[8],\"data_offsets\":[0,8]}}", "\"dtype\" is a number"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":8,\"data_offsets\":[0,8]}}", "not a list"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-8],\"data_offsets\":[0,8]}}", "is not a size"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8.0],\"data_offsets\":[0,8]}}", "is not a size"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,8],\"data_offsets\":[0,8]}}",
         "9 dimensions"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}",
         "more than 2^63"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2305843009213693953],\"data_offsets\":[0,8]}}",
         "more than 2^63"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,8]}}", "not whole bytes"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0]}}", "not two numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,\"8\"]}}", "not two numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,0]}}", "8 to 0 of 8 bytes"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}}", "0 to 9 of 8 bytes"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[-8,0]}}", "not two numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,99999999999999999999]}}",
         "too big integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[0,8]}}",
         "its shape takes 7 bytes, its data_offsets 8"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[1,8]}}", "leaving a hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[0,7]}}", "the file at"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
         "tensor b begins at byte"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}",
         "inside one that ends"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
         "duplicate object key"},
        {"{\"a\\nb\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}",
         "control character 10"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", "name of 0 bytes"},
        {"{\"__metadata__\":{\"format\":1}}", "__metadata__ \"format\" is not a string"},
        {"{\"__metadata__\":[]}", "__metadata__ is not an object"},
        {"[]", "does not begin with {"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qy_st_set_t *set = NULL;
        write_header(cases[i].header, 8);
        REFUSED(open_m(&set), QY_ERR_FORMAT, cases[i].text);
        assert_null(set);
    }
}

static void test_refuses_lengths_that_do_not_fit(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {3, 100000001, 1ull << 40, 1ull << 63, UINT64_MAX};
    qy_st_set_t *set = NULL;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        write_raw("{}", lengths[i], 0);
        REFUSED(open_m(&set), QY_ERR_FORMAT, "a header of");
    }
    scratch_write("m/model.safetensors", "\2\0\0\0\0\0\0", 7);
    REFUSED(open_m(&set), QY_ERR_FORMAT, "7 bytes are no safetensors file");
    write_raw("{}", 100000001, 0); /* also in a file that has so many bytes */
    assert_int_equal(truncate(scratch_path("m/model.safetensors"), 100000100), 0);
    REFUSED(open_m(&set), QY_ERR_FORMAT, "a header of");
    write_raw("{}", 2, 0);
    OK(open_m(&set));
    assert_int_equal(qy_st_count(set), 0);
    qy_st_close(&set);
}

static void test_refuses_what_is_no_checkpoint(void **state)
{
    (void)state;
    qy_st_set_t *set = NULL;
    REFUSED(qy_st_open(&set, scratch_path("absent"), &err), QY_ERR_IO, "is not a directory");
    scratch_dir("e");
    REFUSED(qy_st_open(&set, scratch_path("e"), &err), QY_ERR_IO, "no model.safetensors and no");
    scratch_text("e/pytorch_model.bin", "pickle");
    REFUSED(qy_st_open(&set, scratch_path("e"), &err), QY_ERR_UNSUPPORTED, "convert it first");
    scratch_dir("e");
    scratch_dir("e/model.safetensors");
    REFUSED(qy_st_open(&set, scratch_path("e"), &err), QY_ERR_IO, "not a regular file");
    scratch_dir("e");
    assert_int_equal(mkfifo(scratch_path("e/model.safetensors"), 0600), 0);
    REFUSED(qy_st_open(&set, scratch_path("e"), &err), QY_ERR_IO, "not a regular file");
}

static void test_a_file_cut_under_us_is_an_error(void **state)
{
    (void)state;
    qy_st_set_t *set;
    char got[8];
    write_header("{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", 8);
    OK(open_m(&set));
    uint64_t header, bytes;
    const char *path = qy_st_file(set, 0, &header, &bytes);
    assert_int_equal(truncate(path, (off_t)bytes - 3), 0);
    REFUSED(qy_st_read(set, qy_st_find(set, "a"), got, 0, 8, &err), QY_ERR_FORMAT, "ends at byte");
    qy_st_close(&set);
}

/* --- shards --- */

static const char *const shard_a =
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";
static const char *const shard_b =
    "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";

static void write_shard(const char *name, const char *header)
{
    char file[512];
    uint64_t length = strlen(header);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    memcpy(file + 8 + length, name + strlen(name) - 2, 2);
    scratch_write(name, file, 8 + length + 2);
}

static void test_refuses_a_bad_index(void **state)
{
    (void)state;
    static const refused_t cases[] = {
        {"{}", "no weight_map"},
        {"{\"weight_map\":[]}", "\"weight_map\" is a list"},
        {"{\"weight_map\":{}}", "names 0 files"},
        {"{\"weight_map\":{\"a\":1}}", "file of tensor a is not a string"},
        {"{\"weight_map\":{\"a\":\"../s/x1\"}}", "\"../s/x1\" is not a bare file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "is not a bare file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "is not a bare file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "is not a bare file name"},
        {"{\"weight_map\":{\"a\":\"x1\",\"b\":\"x1\"}}", "tensor b is not in x1"},
        {"{\"weight_map\":{\"a\":\"x2\",\"b\":\"x1\"}}", "tensor a is not in x2"},
        {"{\"weight_map\":{\"a\":\"x1\",\"b\":\"x2\",\"c\":\"x2\"}}", "tensor c is not in x2"},
        {"{\"weight_map\":{\"a\":\"x1\",\"b\":\"x2\"},\"weight_map\":{}}", "duplicate object key"},
    };
    qy_st_set_t *set = NULL;
    scratch_dir("s");
    write_shard("s/x1", shard_a);
    write_shard("s/x2", shard_b);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch_text("s/model.safetensors.index.json", cases[i].header);
        REFUSED(qy_st_open(&set, scratch_path("s"), &err), QY_ERR_FORMAT, cases[i].text);
    }
    scratch_text("s/model.safetensors.index.json",
                 "{\"weight_map\":{\"a\":\"x1\",\"b\":\"absent\"}}");
    REFUSED(qy_st_open(&set, scratch_path("s"), &err), QY_ERR_IO, "absent: open");
    write_shard("s/x2", shard_a);
    scratch_text("s/model.safetensors.index.json", "{\"weight_map\":{\"a\":\"x1\",\"b\":\"x2\"}}");
    REFUSED(qy_st_open(&set, scratch_path("s"), &err), QY_ERR_FORMAT, "tensor a is also in");
    write_shard("s/x2", "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                        "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}");
    scratch_text("s/model.safetensors.index.json", "{\"weight_map\":{\"b\":\"x2\"}}");
    REFUSED(qy_st_open(&set, scratch_path("s"), &err), QY_ERR_FORMAT, "tensor c of");
    write_shard("s/x2", shard_b);
    scratch_text("s/model.safetensors.index.json", "{\"weight_map\":{\"b\":\"x2\"}}");
    OK(qy_st_open(&set, scratch_path("s"), &err));
    qy_st_close(&set);
}

/* --- writing --- */

static const qy_st_spec_t specs[] = {
    {.name = "c", .dtype = "F16", .n_dims = 2, .shape = {2, 3}},
    {.name = "b", .dtype = "F32", .n_dims = 1, .shape = {2}},
    {.name = "a", .dtype = "F16", .n_dims = 1, .shape = {1}},
    {.name = "d \"quoted\"", .dtype = "I64", .n_dims = 0},
};
static const char *const contents[] = {"cccccccccccc", "bbbbbbbb", "aa", "dddddddd"};

static void write_all(const char *dir, uint64_t shard_bytes)
{
    qy_st_writer_t *w;
    scratch_dir(dir);
    OK(qy_st_writer_create(&w, scratch_path(dir), specs, 4, shard_bytes, &err));
    for (int i = 3; i >= 0; i--)
        OK(qy_st_writer_put(w, specs[i].name, contents[i], strlen(contents[i]), &err));
    OK(qy_st_writer_finish(&w, &err));
    assert_null(w);
}

static void check_written(const char *dir, int files)
{
    qy_st_set_t *set;
    OK(qy_st_open(&set, scratch_path(dir), &err));
    assert_int_equal(qy_st_files(set), files);
    assert_int_equal(qy_st_count(set), 4);
    for (int i = 0; i < 4; i++) {
        char got[16];
        const qy_st_entry_t *e = qy_st_find(set, specs[i].name);
        assert_non_null(e);
        assert_string_equal(e->dtype, specs[i].dtype);
        assert_int_equal(e->n_dims, specs[i].n_dims);
        for (int d = 0; d < e->n_dims; d++)
            assert_int_equal(e->shape[d], specs[i].shape[d]);
        assert_int_equal(e->bytes, strlen(contents[i]));
        OK(qy_st_read(set, e, got, 0, e->bytes, &err));
        assert_memory_equal(got, contents[i], e->bytes);
    }
    qy_st_close(&set);
}

static void test_writes_as_the_reference_does(void **state)
{
    (void)state;
    write_all("w", 1000);
    check_written("w", 1);
    char *text;
    size_t bytes;
    OK(qy_file_read(scratch_path("w/model.safetensors"), 4096, &text, &bytes, &err));
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"d \\\"quoted\\\"\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]},"
        "\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[16,18]},"
        "\"c\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[18,30]}}";
    uint64_t length;
    memcpy(&length, text, 8);
    assert_int_equal(length % 8, 0);
    assert_true(length >= strlen(header) && length < strlen(header) + 8);
    assert_memory_equal(text + 8, header, strlen(header));
    for (size_t i = strlen(header); i < length; i++)
        assert_int_equal(text[8 + i], ' ');
    assert_int_equal(bytes, 8 + length + 30);
    assert_memory_equal(text + 8 + length, "ddddddddbbbbbbbbaacccccccccccc", 30);
    free(text);
}

static void test_writes_shards(void **state)
{
    (void)state;
    write_all("w", 20);
    check_written("w", 2);
    char *text;
    size_t bytes;
    OK(qy_file_read(scratch_path("w/model.safetensors.index.json"), 4096, &text, &bytes, &err));
    assert_non_null(strstr(text, "\"total_size\": 30"));
    assert_non_null(strstr(text, "\"a\": \"model-00002-of-00002.safetensors\""));
    assert_non_null(strstr(text, "\"c\": \"model-00001-of-00002.safetensors\""));
    free(text);
    write_all("w", 1); /* each tensor is larger than a shard: one each */
    check_written("w", 4);
    assert_true(qy_file_exists(scratch_path("w/model-00001-of-00004.safetensors")));
}

static void test_refuses_wrong_puts(void **state)
{
    (void)state;
    qy_st_writer_t *w = NULL;
    scratch_dir("w");
    const char *dir = scratch_path("w");
    OK(qy_st_writer_create(&w, dir, specs, 4, 1000, &err));
    REFUSED(qy_st_writer_put(w, "x", "", 0, &err), QY_ERR_ARG, "x was not planned");
    REFUSED(qy_st_writer_put(w, "a", "aaa", 3, &err), QY_ERR_SHAPE, "3 bytes put, 2 planned");
    OK(qy_st_writer_put(w, "a", "aa", 2, &err));
    REFUSED(qy_st_writer_put(w, "a", "aa", 2, &err), QY_ERR_ARG, "put twice");
    REFUSED(qy_st_writer_finish(&w, &err), QY_ERR_ARG, "never put");
    assert_null(w);
    OK(qy_st_writer_create(&w, dir, specs, 4, 1000, &err));
    qy_st_writer_abandon(&w);
    assert_int_equal(rmdir(dir), 0); /* nothing is left */

    REFUSED(qy_st_writer_create(&w, dir, specs, 4, 1000, &err), QY_ERR_IO, "open");
    const qy_st_spec_t twice[] = {specs[1], specs[0], specs[1]};
    REFUSED(qy_st_writer_create(&w, dir, twice, 3, 1000, &err), QY_ERR_ARG, "listed twice");
    const qy_st_spec_t unknown = {.name = "a", .dtype = "F17"};
    REFUSED(qy_st_writer_create(&w, dir, &unknown, 1, 1000, &err), QY_ERR_ARG, "unknown dtype");
    const qy_st_spec_t negative = {.name = "a", .dtype = "U8", .n_dims = 1, .shape = {-1}};
    REFUSED(qy_st_writer_create(&w, dir, &negative, 1, 1000, &err), QY_ERR_ARG, "dimension 0");
    const qy_st_spec_t huge = {.name = "a", .dtype = "U8", .n_dims = 2, .shape = {1ll << 62, 16}};
    REFUSED(qy_st_writer_create(&w, dir, &huge, 1, 1000, &err), QY_ERR_ARG, "dimension");
    assert_null(w);
}

/* Any damage to a header is an error or an honest reading, never a crash. */
static void test_survives_damage(void **state)
{
    (void)state;
    char *good;
    size_t bytes;
    OK(qy_file_read(TEST_GOLDEN "/models/llama-gqa/model.safetensors", 1 << 20, &good, &bytes,
                    &err));
    uint64_t header;
    memcpy(&header, good, 8);
    unsigned seed = 1;
    for (int round = 0; round < 400; round++) {
        char *bad = malloc(bytes);
        memcpy(bad, good, bytes);
        for (int k = 0; k <= round % 3; k++) {
            seed = seed * 1664525u + 1013904223u;
            bad[seed / 7 % (8 + header)] = (char)"0919{}[]\",:\\ \xff"[(seed >> 16) % 14];
        }
        scratch_write("m/model.safetensors", bad, round % 5 == 0 ? bytes - seed % 99 : bytes);
        free(bad);
        qy_st_set_t *set = NULL;
        qy_status_t status = open_m(&set);
        assert_true(status == QY_OK || status == QY_ERR_FORMAT);
        qy_st_close(&set);
    }
    free(good);
}

static int setup(void **state)
{
    return scratch_setup(state) == 0 && qy_make_dirs(scratch_path("m"), &err) == QY_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_what_the_reference_wrote),
        cmocka_unit_test(test_reads_the_bytes_asked_for),
        cmocka_unit_test(test_refuses_bad_headers),
        cmocka_unit_test(test_refuses_lengths_that_do_not_fit),
        cmocka_unit_test(test_refuses_what_is_no_checkpoint),
        cmocka_unit_test(test_a_file_cut_under_us_is_an_error),
        cmocka_unit_test(test_refuses_a_bad_index),
        cmocka_unit_test(test_writes_as_the_reference_does),
        cmocka_unit_test(test_writes_shards),
        cmocka_unit_test(test_refuses_wrong_puts),
        cmocka_unit_test(test_survives_damage),
    };
    return cmocka_run_group_tests_name("safetensors", tests, setup, scratch_teardown);
}
