/* A GGUF file as a Hugging Face directory, for programs that read no GGUF. */
#ifndef QY_MODEL_IMPORT_H
#define QY_MODEL_IMPORT_H

#include <stdbool.h>

#include "base/status.h"

/*
 * Writes dir: config.json, model.safetensors, the tokenizer's files, generation_config.json and
 * quarry.json. Tensors keep F32, F16 and BF16; what blocks decode to is stored as F32, because it
 * does not fit into less (a step of 11 bits times a code of up to 8). ARG where dir is in use and
 * overwrite is not set, or no export or import of ours.
 */
qy_status_t qy_import(const char *gguf, const char *dir, bool overwrite, const char *version,
                      qy_error_t *err);

#endif
