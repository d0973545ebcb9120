/* job.yaml, and what is written of it read again. */
#include <stdlib.h>
#include <string.h>

#include "jobs/spec.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static qy_spec_t spec, again;
    char *yaml = NULL;
    qy_error_t err;
    if (qy_spec_read(&spec, fuzz_file("job.yaml", data, size), NULL, 0, &err) != QY_OK)
        return 0;
    if (qy_spec_write(&spec, &yaml, &err) != QY_OK)
        return 0;
    const char *path = fuzz_file("job.yaml", (const uint8_t *)yaml, strlen(yaml));
    if (qy_spec_read(&again, path, NULL, 0, &err) != QY_OK)
        abort(); /* what we write we read */
    free(yaml);
    return 0;
}
