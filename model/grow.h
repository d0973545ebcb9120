/* Growing arrays. */
#ifndef QY_MODEL_GROW_H
#define QY_MODEL_GROW_H

#include <stddef.h>
#include <stdint.h>

/* Room for `wanted` elements of `size` bytes, doubling: the array, perhaps moved, and its
 * *capacity; NULL without memory, and then the old array stays as it is. */
void *qy_grow(void *data, int64_t *capacity, int64_t wanted, size_t size);

#endif
