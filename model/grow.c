#include "model/grow.h"

#include <stdlib.h>

enum { CAPACITY_MIN = 64 };

void *qy_grow(void *data, int64_t *capacity, int64_t wanted, size_t size)
{
    if (data && wanted <= *capacity)
        return data;
    int64_t n = *capacity ? *capacity : CAPACITY_MIN;
    while (n < wanted && n <= INT64_MAX / 2)
        n *= 2;
    if (n < wanted || (uint64_t)n > SIZE_MAX / size)
        return NULL;
    void *grown = realloc(data, (size_t)n * size);
    if (grown)
        *capacity = n;
    return grown;
}
