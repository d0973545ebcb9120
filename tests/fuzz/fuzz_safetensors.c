/* A checkpoint's shard: header, and the bytes of every tensor that it says to hold. */
#include <stdlib.h>

#include "model/safetensors.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qy_st_set_t *set = NULL;
    qy_error_t err;
    fuzz_file("model.safetensors", data, size);
    if (qy_st_open(&set, fuzz_folder(), &err) != QY_OK)
        return 0;
    for (int64_t i = 0; i < qy_st_count(set); i++) {
        const qy_st_entry_t *entry = qy_st_at(set, i);
        char *bytes = malloc(entry->bytes + 1);
        /* No more than the file has: a header that promises more must have been refused. */
        if (entry->bytes > size || !bytes || qy_st_find(set, entry->name) == NULL)
            abort();
        (void)qy_st_read(set, entry, bytes, 0, entry->bytes, &err);
        free(bytes);
    }
    qy_st_close(&set);
    return 0;
}
