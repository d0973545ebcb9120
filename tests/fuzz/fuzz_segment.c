/* A segment's activations: one dataset of rows. */
#include <stdlib.h>

#include "model/h5.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { LARGEST = 16 << 20 };
    qy_h5_t *file = NULL;
    qy_tensor_t t;
    qy_error_t err;
    if (qy_h5_open(&file, fuzz_file("00.h5", data, size), &err) != QY_OK)
        return 0;
    if (qy_h5_info(file, "x", &t, &err) == QY_OK && qy_tensor_bytes(&t) < LARGEST) {
        size_t row = qy_tensor_bytes(&t) / (size_t)t.shape[0];
        void *out = malloc(row);
        for (int64_t i = 0; out && i < t.shape[0] && i < 64; i++)
            (void)qy_h5_read_rows(file, "x", i, 1, out, &err);
        free(out);
    }
    qy_h5_close(&file);
    return 0;
}
