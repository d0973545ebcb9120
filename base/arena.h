/*
 * An arena: one allocation, tensors pointed into it, everything freed at once.
 * It does not allocate: the caller gives it memory (host or device), whose size the plan computed.
 * With base NULL it only measures: the same calls give the bytes that a real one will need.
 */
#ifndef QY_BASE_ARENA_H
#define QY_BASE_ARENA_H

#include "base/status.h"
#include "base/tensor.h"

enum { QY_ARENA_ALIGN = 256 };

typedef struct {
    char *base;
    size_t capacity;
    size_t used;
    size_t peak;
    const char *name; /* for messages; borrowed */
} qy_arena_t;

void qy_arena_init(qy_arena_t *arena, const char *name, void *base, size_t capacity);

/* MEMORY when it does not fit, with name, wanted and free bytes. */
qy_status_t qy_arena_tensor(qy_arena_t *arena, qy_tensor_t *out, qy_dtype_t dtype, int n_dims,
                            const int64_t *shape, qy_error_t *err);

/* The same for n elements, and for a matrix. */
qy_status_t qy_arena_1d(qy_arena_t *arena, qy_tensor_t *out, qy_dtype_t dtype, int64_t n,
                        qy_error_t *err);
qy_status_t qy_arena_2d(qy_arena_t *arena, qy_tensor_t *out, qy_dtype_t dtype, int64_t rows,
                        int64_t cols, qy_error_t *err);

/* Bracket for scratch: everything taken after mark is given back. */
size_t qy_arena_mark(const qy_arena_t *arena);
void qy_arena_release(qy_arena_t *arena, size_t mark);

#endif
