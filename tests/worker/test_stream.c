/* Streams in memory, through the page cache and past it: the same samples whatever is done to them
 * in what order, after a restart, and after damage. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../model/scratch.h"
#include "../support/devices.h"
#include "golden_model.h"
#include "worker/stream.h"

enum { N = 23, BYTES = 4948, RECORD = 8192, SEED = 77 };

/* How samples are held: how many in memory, and whether the rest passes the page cache. */
static const struct {
    int64_t in_memory;
    int buffered;
} modes[] = {{N, 0}, {0, 0}, {0, 1}, {9, 0}};
enum { N_MODES = sizeof modes / sizeof *modes };

static qy_stream_options_t options(int mode, const char *name)
{
    return (qy_stream_options_t){.n = N,
                                 .sample_bytes = BYTES,
                                 .in_memory = modes[mode].in_memory,
                                 .together = 3, /* runs that end at samples and at the file */
                                 .scratch = scratch,
                                 .name = name,
                                 .seed = SEED,
                                 .buffered = modes[mode].buffered};
}

static qy_stream_t *open_stream(const qy_device_t *dev, int mode, const char *name)
{
    qy_stream_t *s = NULL;
    const qy_stream_options_t o = options(mode, name);
    OK(qy_stream_create(&s, dev, &o, &err));
    return s;
}

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static int64_t below(uint64_t *state, int64_t n)
{
    return (int64_t)(next(state) % (uint64_t)n);
}

/* What version v of a sample holds. */
static void make_sample(char out[BYTES], int64_t sample, int64_t version)
{
    uint64_t state = (uint64_t)(sample * 1000003 + version);
    for (int i = 0; i < BYTES; i++)
        out[i] = (char)next(&state);
}

static void expect_sample(const char *got, int64_t sample, int64_t version)
{
    char want[BYTES];
    make_sample(want, sample, version);
    assert_memory_equal(got, want, BYTES);
}

static void fill_all(qy_stream_t *s, int64_t block)
{
    char bytes[BYTES];
    for (int64_t i = 0; i < N; i++) {
        make_sample(bytes, i, block);
        OK(qy_stream_write(s, i, block, bytes, &err));
    }
    OK(qy_stream_flush(s, &err));
}

static void expect_all(qy_stream_t *s, int64_t block)
{
    char bytes[BYTES];
    for (int64_t i = 0; i < N; i++) {
        assert_int_equal(qy_stream_block(s, i), block);
        OK(qy_stream_read(s, i, bytes, &err));
        expect_sample(bytes, i, block);
    }
}

/* --- any order -------------------------------------------------------------------------------- */

enum { BATCH = 4, STEPS = 300 };

typedef struct {
    const qy_device_t *dev;
    qy_stream_t *s;
    int64_t version[N]; /* −1: none yet */
    void *x;            /* device, BATCH samples */
    char *host;         /* BATCH samples */
    uint64_t state;
} walk_t;

static void load_some(walk_t *w)
{
    int64_t samples[BATCH], n = 1 + below(&w->state, BATCH);
    for (int64_t i = 0; i < n; i++) {
        samples[i] = below(&w->state, N);
        if (w->version[samples[i]] < 0) {
            REFUSED(qy_stream_load(w->s, samples + i, 1, w->x, &err), QY_ERR_ARG, "no activations");
            return;
        }
    }
    switch (below(&w->state, 3)) {
    case 0: /* told the truth, and then what never comes */
        OK(qy_stream_expect(w->s, samples, n, &err));
        OK(qy_stream_expect_range(w->s, 0, N / 2, &err));
        break;
    case 1:
        OK(qy_stream_expect_range(w->s, samples[0], 1, &err));
        break;
    }
    OK(qy_stream_load(w->s, samples, n, w->x, &err));
    OK(qy_device_download(w->dev, w->host, w->x, (size_t)n * BYTES, &err));
    for (int64_t i = 0; i < n; i++)
        expect_sample(w->host + i * BYTES, samples[i], w->version[samples[i]]);
}

/* Neighbours, of which some may pass together. */
static void load_range(walk_t *w)
{
    int64_t n = 1 + below(&w->state, BATCH), first = below(&w->state, N - n + 1);
    for (int64_t i = first; i < first + n; i++)
        if (qy_stream_block(w->s, i) < 0) {
            REFUSED(qy_stream_load_range(w->s, first, n, w->x, &err), QY_ERR_ARG, "no activations");
            return;
        }
    OK(qy_stream_load_range(w->s, first, n, w->x, &err));
    OK(qy_device_download(w->dev, w->host, w->x, (size_t)n * BYTES, &err));
    for (int64_t i = 0; i < n; i++)
        expect_sample(w->host + i * BYTES, first + i, w->version[first + i]);
}

static void store_some(walk_t *w, int64_t step)
{
    int64_t n = 1 + below(&w->state, BATCH), first = below(&w->state, N - n + 1);
    OK(qy_device_wait(w->dev, &err)); /* host may be on its way still */
    for (int64_t i = 0; i < n; i++) {
        make_sample(w->host + i * BYTES, first + i, step);
        w->version[first + i] = step;
    }
    OK(qy_device_upload(w->dev, w->x, w->host, (size_t)n * BYTES, &err));
    OK(qy_stream_store(w->s, first, n, step, w->x, &err));
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(qy_stream_block(w->s, first + i), step);
}

static void random_walk(const qy_device_t *dev, int mode)
{
    walk_t w = {.dev = dev, .s = open_stream(dev, mode, NULL), .state = (uint64_t)mode};
    char bytes[BYTES];
    OK(qy_device_alloc(dev, &w.x, (size_t)BATCH * BYTES, &err));
    OK(qy_device_host_alloc(dev, (void **)&w.host, (size_t)BATCH * BYTES, &err));
    for (int64_t i = 0; i < N; i++)
        w.version[i] = -1;
    for (int64_t step = 0; step < STEPS; step++) {
        int64_t what = below(&w.state, 9), sample = below(&w.state, N);
        if (what < 3) {
            load_some(&w);
        } else if (what < 6) {
            store_some(&w, step);
        } else if (what == 6) {
            make_sample(bytes, sample, w.version[sample] = step);
            OK(qy_stream_write(w.s, sample, step, bytes, &err));
        } else if (what == 7) {
            load_range(&w);
        } else if (w.version[sample] >= 0) {
            OK(qy_stream_read(w.s, sample, bytes, &err));
            expect_sample(bytes, sample, w.version[sample]);
        }
    }
    assert_true(qy_stream_stall_s(w.s) >= 0);
    qy_stream_destroy(&w.s);
    qy_device_host_free(dev, (void **)&w.host);
    qy_device_free(dev, &w.x);
}

static void any_order(const qy_device_t *dev)
{
    for (int mode = 0; mode < N_MODES; mode++)
        random_walk(dev, mode);
}
TEST_ON_DEVICES(any_order)

/* In place and queued, as a walk does it: loads ahead of stores of other samples. */
static void in_place(const qy_device_t *dev)
{
    for (int mode = 0; mode < N_MODES; mode++) {
        qy_stream_t *s = open_stream(dev, mode, NULL);
        void *x;
        OK(qy_device_alloc(dev, &x, (size_t)2 * BYTES, &err));
        fill_all(s, 0);
        for (int64_t pass = 1; pass <= 3; pass++) {
            OK(qy_stream_expect_range(s, 0, N - 1, &err));
            for (int64_t at = 0; at + 2 <= N; at += 2) { /* two neighbours change places */
                const int64_t samples[] = {at, at + 1};
                OK(qy_stream_load(s, samples, 2, x, &err));
                OK(qy_stream_store(s, at, 1, pass, (char *)x + BYTES, &err));
                OK(qy_stream_store(s, at + 1, 1, pass, x, &err));
            }
        }
        for (int64_t i = 0; i < N - 1; i++) {
            char bytes[BYTES];
            OK(qy_stream_read(s, i, bytes, &err));
            expect_sample(bytes, i ^ 1, 0);
            assert_int_equal(qy_stream_block(s, i), 3);
        }
        assert_int_equal(qy_stream_lowest(s), 0); /* the odd one out */
        qy_device_free(dev, &x);
        qy_stream_destroy(&s);
    }
}
TEST_ON_DEVICES(in_place)

/* What has been read ahead when a newer one is stored is not what is loaded. */
static void read_ahead(const qy_device_t *dev)
{
    for (int mode = 1; mode < N_MODES; mode++) {
        qy_stream_t *s = open_stream(dev, mode, NULL);
        char bytes[BYTES];
        fill_all(s, 0);
        OK(qy_stream_expect_range(s, 12, 6, &err));
        OK(qy_stream_read(s, 12, bytes, &err));
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* the next ones come in */
        make_sample(bytes, 13, 7);
        OK(qy_stream_write(s, 13, 7, bytes, &err));
        for (int64_t i = 13; i < 18; i++) {
            OK(qy_stream_read(s, i, bytes, &err));
            expect_sample(bytes, i, i == 13 ? 7 : 0);
        }
        qy_stream_destroy(&s);
    }
}
TEST_ON_DEVICES(read_ahead)

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
    REFUSED(status, QY_ERR_IO, "no room for 188416 bytes of scratch");
    /* Room that goes away later: what was put is reported by the next call that can. */
    s = open_stream(dev, 1, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    char bytes[BYTES];
    make_sample(bytes, N - 1, 0);
    status = qy_stream_write(s, N - 1, 0, bytes, &err);
    if (status == QY_OK)
        status = qy_stream_flush(s, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    REFUSED(status, QY_ERR_IO, "writing sample 22");
    qy_stream_destroy(&s);
    qy_device_close(&dev);
}

/* --- saves ------------------------------------------------------------------------------------ */

static void test_saves(void **state)
{
    (void)state;
    qy_device_t *dev = test_cpu(1);
    const volatile sig_atomic_t stop = 1;
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
    REFUSED(fill_from(streams, "rows.h5", N - 2, ROWS), QY_ERR_ARG, "samples 21 to 27 of 23");
    struct stat st;
    assert_int_equal(stat(scratch_path("rows.h5"), &st), 0);
    patch("rows.h5", st.st_size - 6000, "damage", 6); /* inside the last rows */
    REFUSED(fill_from(streams, "rows.h5", 12, ROWS), QY_ERR_FORMAT, "rows.h5");
    qy_stream_destroy(&streams[0]);
    qy_stream_destroy(&streams[1]);
    qy_device_close(&dev);
}

/* --- walks ------------------------------------------------------------------------------------ */

enum { SAMPLES = 5 };

/* Samples through two blocks of a golden model, those in `late` alone, after all others. */
static void walk_model(golden_t *g, qy_stream_t *s, const int32_t *tokens, const int *late)
{
    qy_forward_t *f = &g->forward;
    const qy_hooks_t go = {0};
    OK(qy_forward_embed(f, &s, 1, tokens, &err));
    for (int round = 0; round < 2; round++) {
        for (int64_t b = 0; b < 2; b++) {
            OK(qy_forward_load_original(f, b, &err));
            OK(qy_forward_advance(f, s, b, &go, &err));
        }
        for (int64_t i = 0; i < SAMPLES && round == 0; i++)
            if (late[i])
                qy_stream_reset(s, i);
        OK(qy_forward_embed(f, &s, 1, tokens, &err));
    }
    assert_int_equal(qy_stream_lowest(s), 2);
}

static void alone(const qy_device_t *dev)
{
    golden_t g;
    qy_stream_t *s[3] = {0};
    const int none[SAMPLES] = {0}, some[SAMPLES] = {0, 1, 0, 0, 1};
    golden_open(&g, dev, "llama-gqa");
    size_t bytes = (size_t)(g.length * g.model->arch.hidden) * qy_dtype_bytes(dev->compute);
    int32_t *tokens = malloc((size_t)(SAMPLES * g.length) * sizeof *tokens);
    double nll[3][SAMPLES], mse[2];
    char *want = malloc(bytes), *got = malloc(bytes);
    for (int64_t i = 0; i < SAMPLES * g.length; i++)
        tokens[i] = g.tokens[(i * 7 + i / g.length) % g.rows];
    for (int k = 0; k < 3; k++) {
        OK(qy_stream_create(&s[k], dev,
                            &(qy_stream_options_t){.n = SAMPLES,
                                                   .sample_bytes = bytes,
                                                   .in_memory = k == 0   ? SAMPLES
                                                                : k == 1 ? 0
                                                                         : 2,
                                                   .scratch = scratch,
                                                   .seed = SEED},
                            &err));
        walk_model(&g, s[k], tokens, k == 0 ? none : some);
        OK(qy_forward_nll(&g.forward, s[k], tokens, nll[k], &err));
        assert_memory_equal(nll[k], nll[0], sizeof nll[0]);
        for (int64_t i = 0; i < SAMPLES; i++) {
            OK(qy_stream_read(s[0], i, want, &err));
            OK(qy_stream_read(s[k], i, got, &err));
            assert_memory_equal(got, want, bytes);
        }
    }
    OK(qy_forward_error(&g.forward, s[0], s[0], 1, SAMPLES - 1, &mse[0], &err));
    OK(qy_forward_error(&g.forward, s[1], s[2], 1, SAMPLES - 1, &mse[1], &err));
    assert_true(mse[0] > 0 && mse[0] == mse[1]);
    for (int k = 0; k < 3; k++)
        qy_stream_destroy(&s[k]);
    test_drop(tokens, want, got);
    golden_close(&g);
}
TEST_ON_DEVICES(alone)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_order),  cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_read_ahead), cmocka_unit_test(test_restart),
        cmocka_unit_test(test_damage),     cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_saves),      cmocka_unit_test(test_fill),
        cmocka_unit_test(test_alone),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
