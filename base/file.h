/*
 * Files that are read back: written to a temporary name beside the target, fsynced, renamed, and
 * the directory fsynced; so a file is whole or absent after any kill. Plus small path and reading
 * helpers.
 */
#ifndef QY_BASE_FILE_H
#define QY_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { QY_PATH_MAX = 4096 };

/* out = printf(format, …); ARG where it is longer than QY_PATH_MAX. */
qy_status_t qy_path(char out[QY_PATH_MAX], qy_error_t *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* mkdir -p. */
qy_status_t qy_make_dirs(const char *path, qy_error_t *err);
int qy_file_exists(const char *path);
int qy_is_dir(const char *path);

/* Bytes that may still be written where path is or would be: at the nearest folder above that is
 * there. */
qy_status_t qy_disk_free(double *bytes, const char *path, qy_error_t *err);

/* The temporary name for path: "path.tmp.PID". */
qy_status_t qy_temp_name(char out[QY_PATH_MAX], const char *path, qy_error_t *err);

/* fsync(temp), rename(temp, path), fsync(directory). On failure temp is removed. */
qy_status_t qy_file_commit(const char *temp, const char *path, qy_error_t *err);

/* Writes and commits bytes in one go. */
qy_status_t qy_file_write(const char *path, const void *data, size_t bytes, qy_error_t *err);

/* Whole file into a fresh buffer with a NUL after it; the caller frees. FORMAT above max_bytes. */
qy_status_t qy_file_read(const char *path, size_t max_bytes, char **out, size_t *bytes,
                         qy_error_t *err);

/* pread of exactly bytes at offset; FORMAT where the file ends before. Names path in errors. */
qy_status_t qy_pread(int fd, const char *path, void *dst, size_t bytes, uint64_t offset,
                     qy_error_t *err);

/* write of exactly bytes. */
qy_status_t qy_write_all(int fd, const char *path, const void *src, size_t bytes, qy_error_t *err);

/* Removes everything named "*.tmp.PID" under dir, recursively; the caller knows that no writer
 * lives. */
void qy_sweep_temps(const char *dir);

/* Removes a folder and all in it. */
qy_status_t qy_remove_tree(const char *path, qy_error_t *err);

#endif
