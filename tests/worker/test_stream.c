/* Streams in memory, through the page cache and past it: the same samples whatever is done to them
 * in what order, and the same activations behind a walk through a model. */
#include <time.h>

#include "../support/devices.h"
#include "golden_model.h"
#include "stream_fixture.h"

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

static int64_t below(uint64_t *state, int64_t n)
{
    return (int64_t)(next(state) % (uint64_t)n);
}

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
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_read_ahead),
        cmocka_unit_test(test_alone),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
