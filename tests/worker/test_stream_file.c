/* What streams leave in files and take from them: after a restart, after damage, without room,
 * saved and restored, and from the rows of a capture. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../support/devices.h"
#include "stream_fixture.h"

/* --- restart ---------------------------------------------------------------------------------- */

static void patch(const char *name, off_t at, const void *bytes, size_t n)
{
    int fd = open(scratch_path(name), O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    close(fd);
}

static void copy_record(const char *name, int64_t from, int64_t to)
{
    char record[RECORD];
    int fd = open(scratch_path(name), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, record, RECORD, from * RECORD), RECORD);
    close(fd);
    patch(name, to * RECORD, record, RECORD);
}

static void test_restart(void **state)
{
    (void)state;
    qy_device_t *dev = test_cpu(1);
    char zeros[4096] = {0}, flipped, bytes[BYTES];
    qy_stream_t *s = open_stream(dev, 2, "again");
    fill_all(s, 4);
    make_sample(bytes, 5, 5); /* the advance had come to one sample */
    OK(qy_stream_write(s, 5, 5, bytes, &err));
    qy_stream_destroy(&s);
    make_sample(bytes, 2, 4);
    flipped = (char)(bytes[100] ^ 1);
    patch("again", 2 * RECORD + 100, &flipped, 1);      /* a bit */
    patch("again", 7 * RECORD + 4096, zeros, 4096);     /* the half that did not arrive */
    copy_record("again", 9, 8);                         /* a whole record, elsewhere */
    patch("again", 11 * RECORD + RECORD - 16, "\5", 1); /* the block alone */
    s = open_stream(dev, 1, "again");
    for (int64_t i = 0; i < N; i++) {
        int bad = i == 2 || i == 7 || i == 8 || i == 11;
        assert_int_equal(qy_stream_block(s, i), bad ? -1 : i == 5 ? 5 : 4);
        if (bad)
            continue;
        OK(qy_stream_read(s, i, bytes, &err));
        expect_sample(bytes, i, i == 5 ? 5 : 4);
    }
    assert_int_equal(qy_stream_lowest(s), -1);
    /* Who comes while the file is in use gets one of its own. */
    qy_stream_t *other = open_stream(dev, 1, "again");
    assert_int_equal(qy_stream_block(other, 0), -1);
    fill_all(other, 9);
    expect_all(other, 9);
    qy_stream_destroy(&other);
    OK(qy_stream_read(s, 0, bytes, &err));
    expect_sample(bytes, 0, 4);
    qy_stream_destroy(&s);
    /* Of another run, or of another shape. */
    qy_stream_options_t o = options(1, "again");
    o.seed = SEED + 1;
    OK(qy_stream_create(&s, dev, &o, &err));
    for (int64_t i = 0; i < N; i++)
        assert_int_equal(qy_stream_block(s, i), -1);
    qy_stream_destroy(&s);
    o = options(1, "again");
    o.sample_bytes = BYTES + RECORD;
    OK(qy_stream_create(&s, dev, &o, &err));
    assert_int_equal(qy_stream_block(s, 0), -1);
    qy_stream_discard(&s);
    assert_false(qy_file_exists(scratch_path("again")));
    qy_device_close(&dev);
}

/* Damage that comes while the stream is open is seen when the sample is read. */
static void test_damage(void **state)
{
    (void)state;
    qy_device_t *dev = test_cpu(1);
    char bytes[BYTES];
    qy_stream_t *s = open_stream(dev, 2, "damage");
    fill_all(s, 1);
    patch("damage", 3 * RECORD + 9, "x", 1);
    OK(qy_stream_read(s, 4, bytes, &err));
    REFUSED(qy_stream_read(s, 3, bytes, &err), QY_ERR_IO, "damage: sample 3 is damaged");
    qy_stream_discard(&s);
    REFUSED(qy_stream_create(
                &s, dev,
                &(qy_stream_options_t){.n = N, .sample_bytes = BYTES, .scratch = "/proc/nowhere"},
                &err),
            QY_ERR_IO, "/proc/nowhere");
    qy_device_close(&dev);
}

static int64_t room_of(const char *name)
{
    struct stat st;
    assert_int_equal(stat(scratch_path(name), &st), 0);
    assert_int_equal(st.st_size, N * RECORD);
    return (int64_t)st.st_blocks * 512;
}

/* Samples in memory take no room in scratch; one that is opened again takes what it then needs. */
static void test_room(void **state)
{
    (void)state;
    qy_device_t *dev = test_cpu(1);
    qy_stream_t *s = open_stream(dev, 3, "room");
    int64_t in_file = N - modes[3].in_memory, less = room_of("room");
    assert_true(less < (N - 1) * RECORD);
    qy_stream_destroy(&s);
    s = open_stream(dev, 1, "room");
    if (less >= in_file * RECORD) /* the file system sets room aside */
        assert_true(room_of("room") >= N * RECORD);
    qy_stream_discard(&s);
    qy_device_close(&dev);
}

static void test_no_room(void **state)
{
    (void)state;
    qy_device_t *dev = test_cpu(1);
    struct rlimit before, small;
    qy_stream_t *s = NULL;
    const qy_stream_options_t o = options(1, NULL);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){5 * RECORD, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    qy_status_t status = qy_stream_create(&s, dev, &o, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    REFUSED(status, QY_ERR_IO, "no room for 1236992 bytes of scratch");
    /* Room that goes away later: what was put is reported by the next call that can. */
    s = open_stream(dev, 1, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    char bytes[BYTES];
    make_sample(bytes, N - 1, 0);
    status = qy_stream_write(s, N - 1, 0, bytes, &err);
    if (status == QY_OK)
        status = qy_stream_flush(s, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    REFUSED(status, QY_ERR_IO, "writing sample 150");
    qy_stream_destroy(&s);
    qy_device_close(&dev);
}

/* --- saves ------------------------------------------------------------------------------------ */

static void test_saves(void **state)
{
    (void)state;
    qy_device_t *dev = test_cpu(1);
    const atomic_int stop = 1;
    const qy_hooks_t go = {0}, stopped = {.stop = &stop};
    atomic_int cancel;
    atomic_init(&cancel, 0);
    for (int mode = 0; mode < N_MODES; mode++) {
        const char *path = scratch_path("saved.bin");
        qy_stream_t *s = open_stream(dev, mode, NULL),
                    *back = open_stream(dev, N_MODES - 1 - mode, NULL);
        fill_all(s, 6);
        OK(qy_stream_flush(s, &err));
        REFUSED(qy_stream_save(s, path, &stopped, NULL, &err), QY_ERR_STOPPED, "stopped");
        atomic_store(&cancel, 1);
        REFUSED(qy_stream_save(s, path, &go, &cancel, &err), QY_ERR_STOPPED, "stopped");
        atomic_store(&cancel, 0);
        assert_false(qy_file_exists(path));
        OK(qy_stream_restore(back, path, 6, &err)); /* nothing there */
        OK(qy_stream_save(s, path, &go, &cancel, &err));
        patch("saved.bin", 4 * RECORD + 1, "y", 1);
        fill_all(back, 3);
        OK(qy_stream_restore(back, path, 3, &err)); /* not further than they are */
        expect_all(back, 3);
        OK(qy_stream_restore(back, path, 6, &err));
        assert_int_equal(qy_stream_block(back, 4), 3);
        assert_int_equal(qy_stream_block(back, 5), 6);
        qy_stream_reset(back, 4);
        char bytes[BYTES];
        make_sample(bytes, 4, 6);
        OK(qy_stream_write(back, 4, 6, bytes, &err));
        expect_all(back, 6);
        qy_stream_reset(back, 0);
        assert_int_equal(truncate(path, RECORD), 0);
        REFUSED(qy_stream_restore(back, path, 6, &err), QY_ERR_FORMAT, "saved.bin: has 8192 bytes");
        qy_stream_destroy(&s);
        qy_stream_destroy(&back);
        scratch_remove("saved.bin");
    }
    qy_device_close(&dev);
}

/* --- rows of a capture ------------------------------------------------------------------------ */

static void write_rows(const char *name, int64_t n, int64_t width)
{
    qy_h5_t *file = NULL;
    float *row = malloc((size_t)width * sizeof *row);
    OK(qy_h5_create(&file, scratch_path(name), &err));
    OK(qy_h5_declare(file, "x", QY_F32, 2, (int64_t[]){n, width}, &err));
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < width; k++)
            row[k] = (float)(i * 1000 + k);
        OK(qy_h5_write_rows(file, "x", i, 1, row, &err));
    }
    OK(qy_h5_commit(&file, &err));
    free(row);
}

static qy_status_t fill_from(qy_stream_t **streams, const char *name, int64_t first, int64_t n)
{
    qy_h5_t *file = NULL;
    OK(qy_h5_open(&file, scratch_path(name), &err));
    qy_status_t status = qy_stream_fill(streams, 2, file, QY_F32, first, n, 8, &err);
    qy_h5_close(&file);
    return status;
}

static void test_fill(void **state)
{
    (void)state;
    enum { WIDTH = BYTES / sizeof(float), ROWS = 6, FIRST = 5 };
    qy_device_t *dev = test_cpu(1);
    qy_stream_t *streams[] = {open_stream(dev, 0, NULL), open_stream(dev, 1, NULL)};
    char bytes[BYTES] = {0};
    float row[WIDTH];
    write_rows("rows.h5", ROWS, WIDTH);
    OK(qy_stream_write(streams[1], FIRST + 2, 9, bytes, &err));
    OK(fill_from(streams, "rows.h5", FIRST, ROWS));
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < ROWS; i++) {
            int was_there = k == 1 && i == 2;
            assert_int_equal(qy_stream_block(streams[k], FIRST + i), was_there ? 9 : 8);
            OK(qy_stream_read(streams[k], FIRST + i, row, &err));
            assert_true(was_there ? row[7] == 0 : row[7] == (float)(i * 1000 + 7));
        }
    assert_int_equal(qy_stream_block(streams[0], FIRST + ROWS), -1);
    write_rows("wide.h5", ROWS, WIDTH + 1);
    REFUSED(fill_from(streams, "wide.h5", 12, ROWS), QY_ERR_FORMAT, "wide.h5: x is not 6 samples");
    REFUSED(fill_from(streams, "rows.h5", 12, ROWS - 1), QY_ERR_FORMAT, "rows.h5: x is not 5");
    REFUSED(fill_from(streams, "rows.h5", N - 2, ROWS), QY_ERR_ARG, "samples 149 to 155 of 151");
    struct stat st;
    assert_int_equal(stat(scratch_path("rows.h5"), &st), 0);
    patch("rows.h5", st.st_size - 6000, "damage", 6); /* inside the last rows */
    REFUSED(fill_from(streams, "rows.h5", 12, ROWS), QY_ERR_FORMAT, "rows.h5");
    qy_stream_destroy(&streams[0]);
    qy_stream_destroy(&streams[1]);
    qy_device_close(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart), cmocka_unit_test(test_damage), cmocka_unit_test(test_room),
        cmocka_unit_test(test_no_room), cmocka_unit_test(test_saves),  cmocka_unit_test(test_fill),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
