/* What the tests of streams share: a small stream held in each way there is, and what its samples
 * hold. */
#ifndef QY_TESTS_WORKER_STREAM_FIXTURE_H
#define QY_TESTS_WORKER_STREAM_FIXTURE_H

#include "tests/model/scratch.h"
#include "worker/stream.h"

/* More samples than a ring has slots: readers and writers wait for room. */
enum { N = 151, BYTES = 4948, RECORD = 8192, SEED = 77 };

/* How samples are held: how many in memory, and whether the rest passes the page cache. */
static const struct {
    int64_t in_memory;
    int buffered;
} modes[] = {{N, 0}, {0, 0}, {0, 1}, {9, 0}};
enum { N_MODES = sizeof modes / sizeof *modes };

static inline qy_stream_options_t options(int mode, const char *name)
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

static inline qy_stream_t *open_stream(const qy_device_t *dev, int mode, const char *name)
{
    qy_stream_t *s = NULL;
    const qy_stream_options_t o = options(mode, name);
    OK(qy_stream_create(&s, dev, &o, &err));
    return s;
}

static inline uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* What version v of a sample holds. */
static inline void make_sample(char out[BYTES], int64_t sample, int64_t version)
{
    uint64_t state = (uint64_t)(sample * 1000003 + version);
    for (int i = 0; i < BYTES; i++)
        out[i] = (char)next(&state);
}

static inline void expect_sample(const char *got, int64_t sample, int64_t version)
{
    char want[BYTES];
    make_sample(want, sample, version);
    assert_memory_equal(got, want, BYTES);
}

static inline void fill_all(qy_stream_t *s, int64_t block)
{
    char bytes[BYTES];
    for (int64_t i = 0; i < N; i++) {
        make_sample(bytes, i, block);
        OK(qy_stream_write(s, i, block, bytes, &err));
    }
    OK(qy_stream_flush(s, &err));
}

static inline void expect_all(qy_stream_t *s, int64_t block)
{
    char bytes[BYTES];
    for (int64_t i = 0; i < N; i++) {
        assert_int_equal(qy_stream_block(s, i), block);
        OK(qy_stream_read(s, i, bytes, &err));
        expect_sample(bytes, i, block);
    }
}

#endif
