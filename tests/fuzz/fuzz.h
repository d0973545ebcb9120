/*
 * A fuzz target is one file with LLVMFuzzerTestOneInput: built by clang it is a fuzzer (make fuzz),
 * by any compiler a test that replays its seeds and whatever was found (main.c).
 */
#ifndef TEST_FUZZ_FUZZ_H
#define TEST_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A folder of this process, in memory where there is /dev/shm; its path. */
const char *fuzz_folder(void);
/* data as the file `name` there; its path, valid until the next call. */
const char *fuzz_file(const char *name, const uint8_t *data, size_t size);

#endif
