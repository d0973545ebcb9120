/* A folder of a test's own, files in it, and the two ways a call may end. */
#ifndef QY_TESTS_MODEL_SCRATCH_H
#define QY_TESTS_MODEL_SCRATCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"

static char scratch[] = "/tmp/quarry-model-XXXXXX";
static qy_error_t err;

/* The call succeeded. */
#define OK(call) scratch_ok((call), #call, __LINE__)
/* The call was refused with this status, in one line that holds text. */
#define REFUSED(call, status, text) scratch_refused((call), (status), (text), #call, __LINE__)

static inline void scratch_ok(qy_status_t got, const char *call, int line)
{
    if (got != QY_OK)
        fail_msg("line %d: %s: %s", line, call, err.text);
}

static inline void scratch_refused(qy_status_t got, qy_status_t want, const char *text,
                                   const char *call, int line)
{
    if (got != want)
        fail_msg("line %d: %s: %s (%s), not %s", line, call, qy_status_name(got),
                 got == QY_OK ? "" : err.text, qy_status_name(want));
    if (err.status != want || !strstr(err.text, text) || strchr(err.text, '\n'))
        fail_msg("line %d: %s: \"%s\" does not say \"%s\" in one line", line, call, err.text, text);
}

static inline int scratch_setup(void **state)
{
    (void)state;
    return mkdtemp(scratch) ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
    (void)state;
    return qy_remove_tree(scratch, &err) == QY_OK ? 0 : -1;
}

/* scratch/name; the buffer is good until the fourth call after. */
static inline const char *scratch_path(const char *name)
{
    static char paths[4][QY_PATH_MAX];
    static int turn;
    char *path = paths[turn++ % 4];
    OK(qy_path(path, &err, "%s/%s", scratch, name));
    return path;
}

static inline void scratch_write(const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(scratch_path(name), "wb"); /* no fsync: tests write much */
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static inline void scratch_text(const char *name, const char *text)
{
    scratch_write(name, text, strlen(text));
}

static inline void scratch_remove(const char *name)
{
    (void)remove(scratch_path(name));
}

/* A new empty folder scratch/name. */
static inline void scratch_dir(const char *name)
{
    const char *path = scratch_path(name);
    if (qy_is_dir(path))
        OK(qy_remove_tree(path, &err));
    OK(qy_make_dirs(path, &err));
}

/* A file of the tree copied to scratch/name. */
static inline void scratch_copy(const char *from, const char *name)
{
    char *text;
    size_t bytes;
    OK(qy_file_read(from, (size_t)1 << 30, &text, &bytes, &err));
    scratch_write(name, text, bytes);
    free(text);
}

#endif
