/*
 * What lies beside a model's tensors: its configuration, its tokenizer's files, its name. A model
 * is a Hugging Face directory, or a GGUF file, which is taken for the directory it was made from.
 */
#ifndef QY_MODEL_CHECKPOINT_H
#define QY_MODEL_CHECKPOINT_H

#include <jansson.h>

#include "base/file.h"

/* config.json; where names it in errors. The caller decrefs. */
qy_status_t qy_checkpoint_config(json_t **out, char where[QY_PATH_MAX], const char *model,
                                 qy_error_t *err);

/* One of the files beside it, "tokenizer_config.json" or "generation_config.json"; NULL where it is
 * not there. Numbers may come as real ones. The caller decrefs. */
qy_status_t qy_checkpoint_part(json_t **out, const char *model, const char *name, qy_error_t *err);

/* Puts the tokenizer's files and the generation settings that the model has into dir; never code or
 * pickles. */
qy_status_t qy_checkpoint_copy_files(const char *model, const char *dir, qy_error_t *err);

/* The last part of the model's path, as its owner named it; without .gguf. Of a directory in the
 * cache of Hugging Face the repository's name. */
qy_status_t qy_checkpoint_name(char out[QY_PATH_MAX], const char *model, qy_error_t *err);

/* The same, but of any model in that cache the whole of "ORG/NAME". */
qy_status_t qy_checkpoint_origin(char out[QY_PATH_MAX], const char *model, qy_error_t *err);

/* dir/name from an object in its own key order. */
qy_status_t qy_checkpoint_write_json(const char *dir, const char *name, const json_t *object,
                                     qy_error_t *err);

#endif
