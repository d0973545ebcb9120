/*
 * The tokenizer.json of a model directory as JSON; where a directory has only the older pair
 * vocab.json and merges.txt (GPT-2, OPT), the tokenizer.json that it stands for.
 */
#ifndef QY_MODEL_TOKENIZER_FILE_H
#define QY_MODEL_TOKENIZER_FILE_H

#include <jansson.h>

#include "base/file.h"

/* where: the file that errors are to name. The caller decrefs *out. IO, FORMAT. */
qy_status_t qy_tokenizer_file(json_t **out, char where[QY_PATH_MAX], const char *model_dir,
                              qy_error_t *err);

#endif
