/* A NumPy file of token ids: versions 1 and 2, two dimensions, little-endian whole numbers, C
 * order. Source: numpy.lib.format, NEP 1. */
#ifndef QY_MODEL_TEXT_NPY_H
#define QY_MODEL_TEXT_NPY_H

#include "model/text.h"

/* What its header says, which the file's size bears out; ids are not looked at. */
qy_status_t qy_text_npy_shape(int64_t *rows, int64_t *cols, const char *path, qy_error_t *err);

/* Every id must be in [0, vocab). */
qy_status_t qy_text_read_npy(qy_text_t *out, const char *path, int64_t vocab, qy_error_t *err);

#endif
