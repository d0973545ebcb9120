/* What model/h5.c (files, attributes) and model/h5_dataset.c share; nothing else includes HDF5. */
#ifndef QY_MODEL_H5_INNER_H
#define QY_MODEL_H5_INNER_H

#include <hdf5.h>
#include <stdbool.h>

#include "base/file.h"
#include "model/h5.h"

struct qy_h5 {
    hid_t id;
    bool writing;
    char path[QY_PATH_MAX], temp[QY_PATH_MAX];
};

/* The library's messages must not be printed; the setting is per thread, so every entry makes it.
 */
void qy_h5_quiet(void);

/*
 * call failed: IO where bytes could not be moved, else otherwise. what is an object's name or "".
 * To be called before anything else of the library, as every call forgets the last one's cause.
 */
qy_status_t qy_h5_fail(const qy_h5_t *file, const char *what, const char *call,
                       qy_status_t otherwise, qy_error_t *err);

/* A string attribute of any object. */
qy_status_t qy_h5_set_text(hid_t object, const qy_h5_t *file, const char *name, const char *value,
                           qy_error_t *err);
qy_status_t qy_h5_get_text(hid_t object, const qy_h5_t *file, const char *name, char *out,
                           size_t size, qy_error_t *err);

#endif
