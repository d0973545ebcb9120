/* config.json, and what is made of it. */
#include "model/arch.h"
#include "model/program.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static qy_arch_t arch;
    static qy_program_t program;
    static double frequencies[QY_HEAD_DIM_MAX / 2];
    qy_error_t err;
    fuzz_file("config.json", data, size);
    if (qy_arch_read(&arch, fuzz_folder(), &err) != QY_OK)
        return 0;
    qy_program_build(&program, &arch, NULL);
    qy_arch_rope_frequencies(&arch, frequencies);
    (void)qy_arch_parameters(&arch);
    return 0;
}
