#include "base/arena.h"

#include <assert.h>

void qy_arena_init(qy_arena_t *arena, const char *name, void *base, size_t capacity)
{
    *arena = (qy_arena_t){.base = base, .capacity = capacity, .name = name};
}

qy_status_t qy_arena_tensor(qy_arena_t *arena, qy_tensor_t *out, qy_dtype_t dtype, int n_dims,
                            const int64_t *shape, qy_error_t *err)
{
    qy_tensor_t t = qy_tensor_view(NULL, dtype, n_dims, shape);
    size_t bytes = qy_tensor_bytes(&t);
    bytes = (bytes + QY_ARENA_ALIGN - 1) / QY_ARENA_ALIGN * QY_ARENA_ALIGN;
    if (arena->base) {
        if (bytes > arena->capacity - arena->used)
            return qy_fail(err, QY_ERR_MEMORY, "arena %s: %zu bytes wanted, %zu of %zu free",
                           arena->name, bytes, arena->capacity - arena->used, arena->capacity);
        t.data = arena->base + arena->used;
    }
    arena->used += bytes;
    if (arena->used > arena->peak)
        arena->peak = arena->used;
    *out = t;
    return QY_OK;
}

qy_status_t qy_arena_1d(qy_arena_t *arena, qy_tensor_t *out, qy_dtype_t dtype, int64_t n,
                        qy_error_t *err)
{
    return qy_arena_tensor(arena, out, dtype, 1, &n, err);
}

qy_status_t qy_arena_2d(qy_arena_t *arena, qy_tensor_t *out, qy_dtype_t dtype, int64_t rows,
                        int64_t cols, qy_error_t *err)
{
    return qy_arena_tensor(arena, out, dtype, 2, (int64_t[]){rows, cols}, err);
}

size_t qy_arena_mark(const qy_arena_t *arena)
{
    return arena->used;
}

void qy_arena_release(qy_arena_t *arena, size_t mark)
{
    assert(mark <= arena->used);
    arena->used = mark;
}
