/* tokenizer.json, and a text through it. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "In the beginning,  it's 1234 \xc3\xa9t\xc3\xa9\n\xff <s>\xf0\x9f\x98\x80 a";
    qy_tokenizer_t *tokenizer = NULL;
    int32_t *ids = NULL, prefix[4];
    int64_t n = 0;
    qy_error_t err;
    fuzz_file("tokenizer.json", data, size);
    if (qy_tokenizer_open(&tokenizer, fuzz_folder(), &err) != QY_OK)
        return 0;
    qy_tokenizer_prefix(tokenizer, prefix, 4);
    if (qy_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &n, &err) == QY_OK) {
        for (int64_t i = 0; i < n; i++)
            if (ids[i] < 0 || ids[i] >= qy_tokenizer_size(tokenizer))
                abort();
        free(ids);
    }
    qy_tokenizer_close(&tokenizer);
    return 0;
}
