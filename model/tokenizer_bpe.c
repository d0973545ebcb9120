#include "model/tokenizer_bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "model/grow.h"
#include "model/tokenizer_bpe_inner.h"
#include "model/tokenizer_utf8.h"

/* The cache takes words of natural length, and stops growing at some megabytes. */
enum { CACHED_BYTES_MAX = 64, CACHE_SLOTS_MIN = 1 << 8, CACHE_SLOTS_MAX = 1 << 18 };

typedef struct {
    int32_t id, previous, next; /* id < 0: merged into the one before it */
} symbol_t;

/* A merge that may be done at a position; it is stale where the symbols there have changed. */
typedef struct {
    uint32_t rank;
    int32_t at, id;
} candidate_t;

typedef struct {
    uint64_t hash;
    uint32_t text, ids; /* where they begin */
    uint16_t text_bytes, n_ids;
} cached_t;

struct qy_bpe_run {
    const qy_bpe_t *bpe;
    symbol_t *symbols;
    int64_t n_symbols, symbols_capacity;
    candidate_t *heap;
    int64_t n_heap, heap_capacity;
    /* the cache: open addressing, n_ids 0 where free */
    cached_t *cache;
    uint32_t n_cached, cache_slots;
    char *cache_text;
    int64_t cache_text_bytes, cache_text_capacity;
    qy_ids_t cache_ids;
};

qy_status_t qy_ids_add(qy_ids_t *list, const int32_t *ids, int64_t n, qy_error_t *err)
{
    int32_t *grown = qy_grow(list->ids, &list->capacity, list->n + n, sizeof *ids);
    if (!grown)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %lld tokens", (long long)(list->n + n));
    list->ids = grown;
    if (n > 0)
        memcpy(list->ids + list->n, ids, (size_t)n * sizeof *ids);
    list->n += n;
    return QY_OK;
}

/* --- merging --- */

static bool before(const candidate_t *a, const candidate_t *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void sift_up(candidate_t *heap, int64_t i)
{
    candidate_t moving = heap[i];
    for (; i > 0 && before(&moving, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = moving;
}

static void sift_down(candidate_t *heap, int64_t n, int64_t i)
{
    candidate_t moving = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &moving))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

/* A candidate at symbol `at` and its neighbour, where they merge. There is room for it. */
static void consider(qy_bpe_run_t *run, int32_t at)
{
    const symbol_t *left = &run->symbols[at];
    if (left->next < 0)
        return;
    const qy_bpe_merge_t *m = qy_bpe_merge(run->bpe, left->id, run->symbols[left->next].id);
    if (!m)
        return;
    run->heap[run->n_heap] = (candidate_t){.rank = m->rank, .at = at, .id = m->id};
    sift_up(run->heap, run->n_heap++);
}

static candidate_t pop(qy_bpe_run_t *run)
{
    candidate_t top = run->heap[0];
    run->heap[0] = run->heap[--run->n_heap];
    if (run->n_heap > 0)
        sift_down(run->heap, run->n_heap, 0);
    return top;
}

/* Lowest rank first, leftmost on ties. Each merge adds at most two candidates and removes a symbol.
 */
static qy_status_t merge_all(qy_bpe_run_t *run, qy_error_t *err)
{
    candidate_t *heap = qy_grow(run->heap, &run->heap_capacity, 3 * run->n_symbols, sizeof *heap);
    if (!heap)
        return qy_fail(err, QY_ERR_MEMORY, "no memory to merge %lld symbols",
                       (long long)run->n_symbols);
    run->heap = heap;
    run->n_heap = 0;
    for (int64_t i = 0; i < run->n_symbols; i++)
        consider(run, (int32_t)i);
    while (run->n_heap > 0) {
        candidate_t c = pop(run);
        symbol_t *left = &run->symbols[c.at];
        if (left->id < 0 || left->next < 0)
            continue;
        symbol_t *right = &run->symbols[left->next];
        const qy_bpe_merge_t *m = qy_bpe_merge(run->bpe, left->id, right->id);
        if (!m || m->id != c.id)
            continue;
        left->id = c.id;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0)
            run->symbols[left->next].previous = c.at;
        if (left->previous >= 0)
            consider(run, left->previous);
        consider(run, c.at);
    }
    return QY_OK;
}

/* --- symbols of a word --- */

/* There is room: a word has at most as many symbols as bytes. */
static void add_symbol(qy_bpe_run_t *run, int32_t id)
{
    int32_t i = (int32_t)run->n_symbols++;
    run->symbols[i] = (symbol_t){.id = id, .previous = i - 1, .next = -1};
    if (i > 0)
        run->symbols[i - 1].next = i;
}

/* The bytes of a character as "<0xHH>" tokens, where the vocabulary has them all. */
static bool fall_back(qy_bpe_run_t *run, const char *c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (run->bpe->byte_ids[(unsigned char)c[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        add_symbol(run, run->bpe->byte_ids[(unsigned char)c[i]]);
    return true;
}

static qy_status_t split_word(qy_bpe_run_t *run, const char *word, size_t bytes, qy_error_t *err)
{
    const qy_bpe_t *bpe = run->bpe;
    bool pending = false; /* an unknown symbol that may still take in the next unknown character */
    for (size_t at = 0, n; at < bytes; at += n) {
        n = qy_utf8_length(word + at);
        int32_t id = qy_bpe_find(bpe, word + at, n);
        if (id < 0 && bpe->byte_fallback && fall_back(run, word + at, n))
            continue;
        if (id < 0 && bpe->unknown_is_missing)
            return qy_fail(err, QY_ERR_FORMAT,
                           "\"%.*s\" has no token, and the unk_token is not in the vocabulary",
                           (int)n, word + at);
        if (id < 0 && (bpe->unknown_id < 0 || (pending && bpe->fuse_unknown)))
            continue;
        if (pending)
            add_symbol(run, bpe->unknown_id);
        pending = id < 0;
        if (id >= 0)
            add_symbol(run, id);
    }
    if (pending)
        add_symbol(run, bpe->unknown_id);
    return QY_OK;
}

static qy_status_t encode_word(qy_bpe_run_t *run, const char *word, size_t bytes, qy_ids_t *ids,
                               qy_error_t *err)
{
    if (bytes > INT32_MAX / 4)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "a word of %zu bytes, at most %d", bytes,
                       INT32_MAX / 4);
    if (run->bpe->ignore_merges) {
        int32_t id = qy_bpe_find(run->bpe, word, bytes);
        if (id >= 0)
            return qy_ids_add(ids, &id, 1, err);
    }
    symbol_t *symbols =
        qy_grow(run->symbols, &run->symbols_capacity, (int64_t)bytes, sizeof *symbols);
    if (!symbols)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for a word of %zu bytes", bytes);
    run->symbols = symbols;
    run->n_symbols = 0;
    QY_TRY(split_word(run, word, bytes, err));
    QY_TRY(merge_all(run, err));
    for (int64_t i = 0; i < run->n_symbols; i++)
        if (run->symbols[i].id >= 0)
            QY_TRY(qy_ids_add(ids, &run->symbols[i].id, 1, err));
    return QY_OK;
}

/* --- the cache --- */

/* The slot of a word, or the free one where it would go. */
static cached_t *find_cached(const qy_bpe_run_t *run, uint64_t hash, const char *word, size_t bytes)
{
    for (uint64_t i = hash;; i++) {
        cached_t *c = &run->cache[i & (run->cache_slots - 1)];
        if (c->n_ids == 0 || (c->hash == hash && c->text_bytes == bytes &&
                              memcmp(run->cache_text + c->text, word, bytes) == 0))
            return c;
    }
}

static qy_status_t grow_cache(qy_bpe_run_t *run, qy_error_t *err)
{
    uint32_t old_slots = run->cache_slots;
    uint32_t slots = old_slots ? 4 * old_slots : CACHE_SLOTS_MIN;
    cached_t *old = run->cache, *cache = calloc(slots, sizeof *cache);
    if (!cache)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %u words", slots);
    run->cache = cache;
    run->cache_slots = slots;
    for (uint32_t i = 0; i < old_slots; i++)
        if (old[i].n_ids)
            *find_cached(run, old[i].hash, run->cache_text + old[i].text, old[i].text_bytes) =
                old[i];
    free(old);
    return QY_OK;
}

static qy_status_t keep(qy_bpe_run_t *run, uint64_t hash, const char *word, size_t bytes,
                        const int32_t *ids, int64_t n, qy_error_t *err)
{
    if (2 * run->n_cached >= run->cache_slots) {
        if (run->cache_slots >= CACHE_SLOTS_MAX)
            return QY_OK;
        QY_TRY(grow_cache(run, err));
    }
    char *text = qy_grow(run->cache_text, &run->cache_text_capacity,
                         run->cache_text_bytes + (int64_t)bytes, 1);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for %u words", run->n_cached);
    run->cache_text = text;
    memcpy(text + run->cache_text_bytes, word, bytes);
    *find_cached(run, hash, word, bytes) = (cached_t){.hash = hash,
                                                      .text = (uint32_t)run->cache_text_bytes,
                                                      .text_bytes = (uint16_t)bytes,
                                                      .ids = (uint32_t)run->cache_ids.n,
                                                      .n_ids = (uint16_t)n};
    run->cache_text_bytes += (int64_t)bytes;
    run->n_cached++;
    return qy_ids_add(&run->cache_ids, ids, n, err);
}

qy_status_t qy_bpe_word(qy_bpe_run_t *run, const char *word, size_t bytes, qy_ids_t *ids,
                        qy_error_t *err)
{
    if (bytes == 0)
        return QY_OK;
    if (bytes > CACHED_BYTES_MAX)
        return encode_word(run, word, bytes, ids, err);
    uint64_t hash = qy_xxh3(word, bytes);
    const cached_t *known = find_cached(run, hash, word, bytes);
    if (known->n_ids)
        return qy_ids_add(ids, run->cache_ids.ids + known->ids, known->n_ids, err);
    int64_t first = ids->n;
    QY_TRY(encode_word(run, word, bytes, ids, err));
    if (ids->n == first)
        return QY_OK;
    return keep(run, hash, word, bytes, ids->ids + first, ids->n - first, err);
}

qy_status_t qy_bpe_run_create(qy_bpe_run_t **out, const qy_bpe_t *bpe, qy_error_t *err)
{
    qy_bpe_run_t *run = calloc(1, sizeof *run);
    if (!run)
        return qy_fail(err, QY_ERR_MEMORY, "no memory to encode a text");
    run->bpe = bpe;
    qy_status_t status = grow_cache(run, err);
    if (status != QY_OK) {
        qy_bpe_run_destroy(&run);
        return status;
    }
    *out = run;
    return QY_OK;
}

void qy_bpe_run_destroy(qy_bpe_run_t **run)
{
    if (!run || !*run)
        return;
    free((*run)->symbols);
    free((*run)->heap);
    free((*run)->cache);
    free((*run)->cache_text);
    free((*run)->cache_ids.ids);
    free(*run);
    *run = NULL;
}
