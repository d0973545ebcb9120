#include "base/random.h"

void qy_philox4x32(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    enum { ROUNDS = 10 };
    const uint64_t m0 = 0xd2511f53u, m1 = 0xcd9e8d57u;
    const uint32_t w0 = 0x9e3779b9u, w1 = 0xbb67ae85u;
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int i = 0; i < ROUNDS; i++, k0 += w0, k1 += w1) {
        uint64_t p0 = m0 * c0, p1 = m1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t qy_random_u64(uint32_t seed, qy_phase_t phase, uint64_t index, uint64_t stream)
{
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                                 (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {seed, (uint32_t)phase};
    uint32_t out[4];
    qy_philox4x32(out, counter, key);
    return (uint64_t)out[1] << 32 | out[0];
}

/* The upper 64 bits of a b, from the four products of their halves. */
static uint64_t multiply_high(uint64_t a, uint64_t b)
{
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32);
    uint64_t other = a0 * b1 + (uint32_t)middle;
    return a1 * b1 + (middle >> 32) + (other >> 32);
}

uint64_t qy_random_below(uint32_t seed, qy_phase_t phase, uint64_t index, uint64_t stream,
                         uint64_t n)
{
    return multiply_high(qy_random_u64(seed, phase, index, stream), n);
}

typedef struct {
    uint32_t seed;
    qy_phase_t phase;
    uint64_t stream;
} draw_t;

static int comes_before(const draw_t *d, int64_t a, int64_t b)
{
    uint64_t x = qy_random_u64(d->seed, d->phase, (uint64_t)a, d->stream);
    uint64_t y = qy_random_u64(d->seed, d->phase, (uint64_t)b, d->stream);
    return x < y || (x == y && a < b);
}

static void sift_down(int64_t *heap, int64_t at, int64_t n, const draw_t *d)
{
    int64_t item = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && comes_before(d, heap[child], heap[child + 1]))
            child++;
        if (!comes_before(d, item, heap[child]))
            break;
        heap[at] = heap[child];
    }
    heap[at] = item;
}

/* Heap sort: in place, so that nothing can fail; the keys are computed again where compared. */
void qy_random_permutation(int64_t *order, int64_t n, uint32_t seed, qy_phase_t phase,
                           uint64_t stream)
{
    const draw_t d = {seed, phase, stream};
    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t i = n / 2 - 1; i >= 0; i--)
        sift_down(order, i, n, &d);
    for (int64_t end = n - 1; end > 0; end--) {
        int64_t last = order[0];
        order[0] = order[end];
        order[end] = last;
        sift_down(order, 0, end, &d);
    }
}
