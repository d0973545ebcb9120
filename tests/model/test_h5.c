#include "model/h5.h"

#include <hdf5.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/half.h"
#include "tests/model/scratch.h"

/* HDF5 1.10 itself forgets some memory when it meets damaged metadata (no handle stays open): the
 * sanitizer's leak check asks here what to leave out. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

static qy_h5_t *create(const char *name)
{
    qy_h5_t *file;
    OK(qy_h5_create(&file, scratch_path(name), &err));
    return file;
}

static qy_h5_t *open_file(const char *name)
{
    qy_h5_t *file;
    OK(qy_h5_open(&file, scratch_path(name), &err));
    return file;
}

static void test_attributes(void **state)
{
    (void)state;
    qy_h5_t *file = create("a.h5");
    OK(qy_h5_set_string(file, "kind", "block – 7", &err));
    OK(qy_h5_set_string(file, "empty", "", &err));
    OK(qy_h5_set_i64(file, "n", INT64_MIN, &err));
    OK(qy_h5_set_f64(file, "loss", 0.1, &err));
    OK(qy_h5_set_i64(file, "n", 42, &err)); /* the last one counts */
    OK(qy_h5_commit(&file, &err));
    assert_null(file);

    char text[32];
    int64_t n;
    double x;
    file = open_file("a.h5");
    assert_string_equal(qy_h5_path(file), scratch_path("a.h5"));
    OK(qy_h5_get_string(file, "kind", text, sizeof text, &err));
    assert_string_equal(text, "block – 7");
    OK(qy_h5_get_string(file, "empty", text, sizeof text, &err));
    assert_string_equal(text, "");
    OK(qy_h5_get_i64(file, "n", &n, &err));
    assert_int_equal(n, 42);
    OK(qy_h5_get_f64(file, "loss", &x, &err));
    assert_true(x == 0.1);
    OK(qy_h5_get_string(file, "kind", text, strlen("block – 7") + 1, &err));
    REFUSED(qy_h5_get_string(file, "kind", text, strlen("block – 7"), &err), QY_ERR_FORMAT,
            "another type or size");
    REFUSED(qy_h5_get_i64(file, "kind", &n, &err), QY_ERR_FORMAT, "kind is of another type");
    REFUSED(qy_h5_get_i64(file, "loss", &n, &err), QY_ERR_FORMAT, "another type");
    REFUSED(qy_h5_get_string(file, "n", text, sizeof text, &err), QY_ERR_FORMAT, "another type");
    REFUSED(qy_h5_get_i64(file, "absent", &n, &err), QY_ERR_FORMAT, "no attribute absent");
    qy_h5_close(&file);
    assert_null(file);
    qy_h5_close(&file);
}

/* The library itself reads the 16-bit floats of t.h5 as the numbers that they are. */
static void check_half(const unsigned char *data)
{
    float got[15];
    hid_t file = H5Fopen(scratch_path("t.h5"), H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, "group/deeper/f16", H5P_DEFAULT);
    assert_true(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, got) >= 0);
    for (int i = 0; i < 15; i++) {
        uint16_t h;
        memcpy(&h, data + 2 * i, sizeof h);
        assert_true(fabsf(got[i] - qy_f16_to_f32(h)) <= 0);
    }
    H5Dclose(set);
    H5Fclose(file);
}

static void test_every_type_comes_back(void **state)
{
    (void)state;
    const int64_t shape[] = {3, 5};
    unsigned char data[QY_N_DTYPES][15 * 8];
    qy_h5_t *file = create("t.h5");
    for (int t = 0; t < QY_N_DTYPES; t++) {
        char name[32];
        for (size_t i = 0; i < sizeof data[t]; i++)
            data[t][i] = (unsigned char)(i * 37 + (size_t)t);
        snprintf(name, sizeof name, "group/deeper/%s", qy_dtype_name((qy_dtype_t)t));
        const qy_tensor_t tensor = qy_tensor_view(data[t], (qy_dtype_t)t, 2, shape);
        OK(qy_h5_write(file, name, &tensor, &err));
    }
    OK(qy_h5_commit(&file, &err));

    file = open_file("t.h5");
    for (int t = 0; t < QY_N_DTYPES; t++) {
        char name[32];
        unsigned char got[15 * 8];
        qy_tensor_t info;
        snprintf(name, sizeof name, "group/deeper/%s", qy_dtype_name((qy_dtype_t)t));
        OK(qy_h5_info(file, name, &info, &err));
        assert_null(info.data);
        assert_int_equal(info.dtype, t);
        assert_int_equal(info.n_dims, 2);
        assert_int_equal(info.shape[0], 3);
        assert_int_equal(info.shape[1], 5);
        info.data = got;
        OK(qy_h5_read(file, name, &info, &err));
        assert_memory_equal(got, data[t], qy_tensor_bytes(&info));
    }
    assert_true(qy_h5_has(file, "group/deeper/f32"));
    assert_true(qy_h5_has(file, "group/deeper"));
    assert_false(qy_h5_has(file, "group/shallower/f32"));
    assert_false(qy_h5_has(file, "group/deeper/f33"));
    qy_h5_close(&file);
    check_half(data[QY_F16]);
}

static void test_large_and_many_dimensional(void **state)
{
    (void)state;
    /* rows of 1.5 MiB: several in a chunk of at most 8 MiB, the last chunk not full */
    const int64_t shape[] = {13, 3, 2, 65536};
    int64_t n = 13 * 3 * 2 * 65536;
    int32_t *data = malloc((size_t)n * 4), *got = malloc((size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        data[i] = (int32_t)(i * 2654435761u);
    qy_h5_t *file = create("l.h5");
    qy_tensor_t t = qy_tensor_view(data, QY_I32, 4, shape);
    OK(qy_h5_write(file, "x", &t, &err));
    OK(qy_h5_commit(&file, &err));
    file = open_file("l.h5");
    t.data = got;
    OK(qy_h5_read(file, "x", &t, &err));
    assert_memory_equal(got, data, (size_t)n * 4);
    OK(qy_h5_read_rows(file, "x", 6, 5, got, &err));
    assert_memory_equal(got, data + 6 * (n / 13), (size_t)(5 * (n / 13)) * 4);
    qy_h5_close(&file);
    free(data);
    free(got);
}

static void test_rows_in_any_order(void **state)
{
    (void)state;
    const int64_t shape[] = {7, 2, 3};
    uint16_t row[2 * 6];
    qy_h5_t *file = create("r.h5");
    OK(qy_h5_declare(file, "s/x", QY_BF16, 3, shape, &err));
    for (int r = 6; r >= 0; r -= 2) {
        int n = r == 0 ? 1 : 2;
        for (int i = 0; i < n * 6; i++)
            row[i] = (uint16_t)((r - n + 1) * 6 + i);
        OK(qy_h5_write_rows(file, "s/x", r - n + 1, n, row, &err));
    }
    REFUSED(qy_h5_write_rows(file, "s/x", 6, 2, row, &err), QY_ERR_ARG, "rows 6 to 8 of 7");
    REFUSED(qy_h5_write_rows(file, "s/x", -1, 1, row, &err), QY_ERR_ARG, "rows -1");
    REFUSED(qy_h5_write_rows(file, "s/x", 0, 0, row, &err), QY_ERR_ARG, "rows 0 to 0");
    REFUSED(qy_h5_write_rows(file, "s/y", 0, 1, row, &err), QY_ERR_FORMAT, "no dataset s/y");
    OK(qy_h5_commit(&file, &err));
    file = open_file("r.h5");
    qy_tensor_t info;
    OK(qy_h5_info(file, "s/x", &info, &err));
    assert_int_equal(info.dtype, QY_BF16);
    for (int r = 0; r < 7; r++) {
        OK(qy_h5_read_rows(file, "s/x", r, 1, row, &err));
        for (int i = 0; i < 6; i++)
            assert_int_equal(row[i], r * 6 + i);
    }
    REFUSED(qy_h5_read_rows(file, "s/x", 7, 1, row, &err), QY_ERR_ARG, "rows 7 to 8 of 7");
    qy_h5_close(&file);
}

static void fill(float x[600], uint16_t h[600])
{
    for (int i = 0; i < 600; i++) {
        x[i] = (float)i / 7;
        h[i] = qy_f32_to_f16(x[i]);
    }
}

/* All kinds of content, written in a fixed order. */
static void write_content(const char *name)
{
    float x[600];
    uint16_t h[600];
    fill(x, h);
    const qy_tensor_t a = qy_tensor_2d(x, QY_F32, 20, 30), b = qy_tensor_1d(h, QY_F16, 600);
    qy_h5_t *file = create(name);
    OK(qy_h5_set_string(file, "kind", "block", &err));
    OK(qy_h5_set_i64(file, "schema", 1, &err));
    OK(qy_h5_write(file, "g/a", &a, &err));
    OK(qy_h5_write(file, "g/h/b", &b, &err));
    OK(qy_h5_declare(file, "rows", QY_F32, 2, (int64_t[]){4, 150}, &err));
    for (int r = 0; r < 4; r++)
        OK(qy_h5_write_rows(file, "rows", r, 1, x + 150 * r, &err));
    for (int i = 0; i < 40; i++) {
        char many[32];
        snprintf(many, sizeof many, "many/%d", i);
        OK(qy_h5_write(file, many, &b, &err));
    }
    OK(qy_h5_commit(&file, &err));
}

static void test_same_content_same_bytes(void **state)
{
    (void)state;
    char *first, *second;
    size_t n, m;
    write_content("first.h5");
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 100000000}, NULL); /* times are seconds */
    write_content("second.h5");
    OK(qy_file_read(scratch_path("first.h5"), 1 << 24, &first, &n, &err));
    OK(qy_file_read(scratch_path("second.h5"), 1 << 24, &second, &m, &err));
    assert_int_equal(n, m);
    assert_memory_equal(first, second, n);
    free(first);
    free(second);
}

static void test_refuses_wrong_arguments(void **state)
{
    (void)state;
    float x[6] = {0};
    qy_h5_t *file = create("w.h5");
    qy_tensor_t t = qy_tensor_2d(x, QY_F32, 2, 3);
    OK(qy_h5_write(file, "x", &t, &err));
    REFUSED(qy_h5_write(file, "x", &t, &err), QY_ERR_IO, "x: creating the dataset");
    REFUSED(qy_h5_write(file, "x/y", &t, &err), QY_ERR_IO, "x/y");
    const qy_tensor_t empty = qy_tensor_2d(x, QY_F32, 2, 0);
    REFUSED(qy_h5_write(file, "y", &empty, &err), QY_ERR_ARG, "dimension 1 is 0");
    const qy_tensor_t scalar = {.data = x, .dtype = QY_F32};
    REFUSED(qy_h5_write(file, "y", &scalar, &err), QY_ERR_ARG, "0 dimensions");
    REFUSED(qy_h5_declare(file, "y", QY_F32, 2, (int64_t[]){1, 1ll << 30}, &err), QY_ERR_ARG,
            "dimension 1");
    REFUSED(qy_h5_declare(file, "y", QY_F32, 2, (int64_t[]){-1, 1}, &err), QY_ERR_ARG,
            "dimension 0 is -1");
    OK(qy_h5_commit(&file, &err));

    file = open_file("w.h5");
    t.dtype = QY_I32;
    REFUSED(qy_h5_read(file, "x", &t, &err), QY_ERR_FORMAT, "holds f32, i32 wanted");
    t = qy_tensor_2d(x, QY_F32, 3, 2);
    REFUSED(qy_h5_read(file, "x", &t, &err), QY_ERR_SHAPE, "3, 6 wanted");
    t = qy_tensor_1d(x, QY_F32, 6);
    REFUSED(qy_h5_read(file, "x", &t, &err), QY_ERR_SHAPE, "wanted");
    REFUSED(qy_h5_read(file, "y", &t, &err), QY_ERR_FORMAT, "no dataset y");
    REFUSED(qy_h5_info(file, "x/y", &t, &err), QY_ERR_FORMAT, "no dataset x/y");
    REFUSED(qy_h5_write_rows(file, "x", 0, 1, x, &err), QY_ERR_IO, "writing");
    qy_h5_close(&file);
}

static bool exists(const char *name)
{
    return access(scratch_path(name), F_OK) == 0;
}

static int entries(void)
{
    char command[QY_PATH_MAX], line[32] = "";
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", scratch_path("u"));
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, sizeof line, pipe));
    pclose(pipe);
    return atoi(line);
}

static void test_uncommitted_files_vanish(void **state)
{
    (void)state;
    scratch_dir("u");
    qy_h5_t *file = create("u/x.h5");
    OK(qy_h5_set_i64(file, "n", 1, &err));
    assert_false(exists("u/x.h5"));
    assert_int_equal(entries(), 1);
    qy_h5_close(&file);
    assert_int_equal(entries(), 0);
    REFUSED(qy_h5_create(&file, scratch_path("absent/x.h5"), &err), QY_ERR_IO, "create");
}

/* A full disk, played by a limit on the size of files. */
static void test_a_full_disk_is_an_error(void **state)
{
    (void)state;
    struct rlimit old, small = {.rlim_cur = 1 << 20, .rlim_max = RLIM_INFINITY};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    static float x[1 << 20];
    const qy_tensor_t t = qy_tensor_1d(x, QY_F32, 1 << 20);
    scratch_dir("u");
    qy_h5_t *file = create("u/x.h5");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    qy_status_t status = qy_h5_write(file, "x", &t, &err);
    if (status == QY_OK) /* the library may keep it until the end */
        status = qy_h5_commit(&file, &err);
    REFUSED(status, QY_ERR_IO, "x.h5");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    qy_h5_close(&file);
    assert_int_equal(entries(), 0);
    signal(SIGXFSZ, handler);
    file = create("u/z.h5"); /* nothing but what is written at the end */
    OK(qy_h5_set_i64(file, "n", 1, &err));
    small.rlim_cur = 64;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    REFUSED(qy_h5_commit(&file, &err), QY_ERR_IO, "z.h5: close");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_non_null(file);
    qy_h5_close(&file);
    assert_int_equal(entries(), 0);
    file = create("u/y.h5"); /* and the library goes on */
    OK(qy_h5_write(file, "x", &t, &err));
    OK(qy_h5_commit(&file, &err));
}

static void test_refuses_what_is_no_hdf5(void **state)
{
    (void)state;
    qy_h5_t *file = NULL;
    struct stat printed;
    int old = dup(STDERR_FILENO); /* the library prints its errors unless it is told not to */
    assert_non_null(freopen(scratch_path("printed"), "w", stderr));
    REFUSED(qy_h5_open(&file, scratch_path("absent.h5"), &err), QY_ERR_IO, "No such file");
    scratch_text("text.h5", "not HDF5 at all");
    REFUSED(qy_h5_open(&file, scratch_path("text.h5"), &err), QY_ERR_FORMAT, "no readable HDF5");
    scratch_text("empty.h5", "");
    REFUSED(qy_h5_open(&file, scratch_path("empty.h5"), &err), QY_ERR_FORMAT, "no readable HDF5");
    REFUSED(qy_h5_open(&file, scratch, &err), QY_ERR_IO, "not a regular file");
    assert_int_equal(mkfifo(scratch_path("pipe.h5"), 0600), 0);
    REFUSED(qy_h5_open(&file, scratch_path("pipe.h5"), &err), QY_ERR_IO, "not a regular file");
    assert_null(file);
    fflush(stderr);
    assert_int_equal(fstat(STDERR_FILENO, &printed), 0);
    dup2(old, STDERR_FILENO);
    close(old);
    assert_int_equal(printed.st_size, 0);
}

/* A dataset as a stranger may store it. */
static void put_foreign(hid_t file, const char *name, hid_t type, bool deflate)
{
    static const double zeros[64];
    const hsize_t size = 8;
    hid_t space = H5Screate_simple(1, &size, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(plist, 1, &size);
    if (deflate)
        H5Pset_deflate(plist, 9);
    H5Pset_fletcher32(plist);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    assert_true(set >= 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros) >= 0);
    H5Dclose(set);
    H5Pclose(plist);
    H5Sclose(space);
}

static void test_refuses_what_others_store(void **state)
{
    (void)state;
    hid_t file = H5Fcreate(scratch_path("f.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    put_foreign(file, "ours", H5T_IEEE_F32LE, false);
    put_foreign(file, "deflated", H5T_IEEE_F32LE, true);
    put_foreign(file, "big-endian", H5T_IEEE_F32BE, false);
    put_foreign(file, "u16", H5T_STD_U16LE, false);
    H5Lcreate_soft("/ours", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_external("good.h5", "/rows", file, "external", H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(H5Gcreate2(file, "group", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    const hsize_t size = 8;
    hid_t space = H5Screate_simple(1, &size, NULL);
    H5Dclose(H5Dcreate2(file, "contiguous", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT,
                        H5P_DEFAULT));
    hid_t variable = H5Tcopy(H5T_C_S1);
    H5Tset_size(variable, H5T_VARIABLE);
    hid_t scalar = H5Screate(H5S_SCALAR);
    hid_t at = H5Acreate2(file, "text", variable, scalar, H5P_DEFAULT, H5P_DEFAULT);
    const char *text = "text";
    assert_true(H5Awrite(at, variable, &text) >= 0);
    H5Aclose(at);
    H5Sclose(scalar);
    H5Tclose(variable);
    H5Sclose(space);
    assert_true(H5Fclose(file) >= 0);

    static const struct {
        const char *name, *text;
    } cases[] = {
        {"deflated", "deflated: is not a chunked dataset with a checksum"},
        {"contiguous", "contiguous: is not a chunked dataset"},
        {"big-endian", "a type that is not ours"},
        {"u16", "a type that is not ours"},
        {"soft", "no dataset soft"},
        {"external", "no dataset external"},
        {"group", "group: opening the dataset"},
        {"", "no dataset"},
    };
    qy_h5_t *ours = open_file("f.h5");
    qy_tensor_t t;
    OK(qy_h5_info(ours, "ours", &t, &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        REFUSED(qy_h5_info(ours, cases[i].name, &t, &err), QY_ERR_FORMAT, cases[i].text);
    assert_false(qy_h5_has(ours, "external"));
    char value[8];
    REFUSED(qy_h5_get_string(ours, "text", value, sizeof value, &err), QY_ERR_FORMAT,
            "text is of another type");
    qy_h5_close(&ours);
}

/* Reads all that write_content wrote: the first failure, or everything is as it was. */
static qy_status_t read_content(const char *name)
{
    qy_h5_t *file;
    QY_TRY(qy_h5_open(&file, scratch_path(name), &err));
    float x[600], want_x[600];
    uint16_t h[600], want_h[600];
    int64_t schema = 0;
    char kind[16] = "";
    fill(want_x, want_h);
    const qy_tensor_t a = qy_tensor_2d(x, QY_F32, 20, 30), b = qy_tensor_1d(h, QY_F16, 600);
    qy_status_t status = QY_OK;
    QY_TRY_GOTO(qy_h5_read(file, "g/a", &a, &err), done);
    assert_memory_equal(x, want_x, sizeof x);
    QY_TRY_GOTO(qy_h5_read(file, "g/h/b", &b, &err), done);
    assert_memory_equal(h, want_h, sizeof h);
    QY_TRY_GOTO(qy_h5_get_i64(file, "schema", &schema, &err), done);
    assert_int_equal(schema, 1);
    QY_TRY_GOTO(qy_h5_get_string(file, "kind", kind, sizeof kind, &err), done);
    assert_string_equal(kind, "block");
    for (int r = 0; r < 4; r++)
        QY_TRY_GOTO(qy_h5_read_rows(file, "rows", r, 1, x + 150 * r, &err), done);
    assert_memory_equal(x, want_x, sizeof x);
    for (int i = 0; i < 40; i++) {
        char many[32];
        snprintf(many, sizeof many, "many/%d", i);
        QY_TRY_GOTO(qy_h5_read(file, many, &b, &err), done);
        assert_memory_equal(h, want_h, sizeof h);
    }
done:
    qy_h5_close(&file);
    return status;
}

/* A flipped bit anywhere is found, or lies where nothing is stored. */
static void test_finds_every_flipped_bit(void **state)
{
    (void)state;
    char *good;
    size_t n;
    write_content("good.h5");
    OK(read_content("good.h5"));
    OK(qy_file_read(scratch_path("good.h5"), 1 << 24, &good, &n, &err));
    int found = 0, rounds = 0;
    for (size_t at = 0; at < n; at += 97, rounds++) {
        good[at] ^= 0x10;
        scratch_write("bad.h5", good, n);
        good[at] ^= 0x10;
        qy_status_t status = read_content("bad.h5");
        if (status == QY_OK)
            continue;
        REFUSED(status, QY_ERR_FORMAT, "bad.h5");
        found++;
    }
    assert_true(found > rounds / 2);
    scratch_write("bad.h5", good, n - 1);
    REFUSED(read_content("bad.h5"), QY_ERR_FORMAT, "no readable HDF5");
    free(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attributes),
        cmocka_unit_test(test_every_type_comes_back),
        cmocka_unit_test(test_large_and_many_dimensional),
        cmocka_unit_test(test_rows_in_any_order),
        cmocka_unit_test(test_same_content_same_bytes),
        cmocka_unit_test(test_refuses_wrong_arguments),
        cmocka_unit_test(test_uncommitted_files_vanish),
        cmocka_unit_test(test_a_full_disk_is_an_error),
        cmocka_unit_test(test_refuses_what_is_no_hdf5),
        cmocka_unit_test(test_refuses_what_others_store),
        cmocka_unit_test(test_finds_every_flipped_bit),
    };
    return cmocka_run_group_tests_name("h5", tests, scratch_setup, scratch_teardown);
}
