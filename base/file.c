#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static qy_status_t fail_io(qy_error_t *err, const char *path, const char *call)
{
    return qy_fail(err, QY_ERR_IO, "%s: %s: %s", path, call, strerror(errno));
}

qy_status_t qy_path(char out[QY_PATH_MAX], qy_error_t *err, const char *format, ...)
{
    char text[QY_PATH_MAX];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || n >= QY_PATH_MAX)
        return qy_fail(err, QY_ERR_ARG, "path of %d bytes, at most %d: %.200s…", n, QY_PATH_MAX - 1,
                       text);
    memcpy(out, text, (size_t)n + 1);
    return QY_OK;
}

qy_status_t qy_make_dirs(const char *path, qy_error_t *err)
{
    char part[QY_PATH_MAX];
    QY_TRY(qy_path(part, err, "%s", path));
    for (char *at = part;;) {
        at += strspn(at, "/");
        at += strcspn(at, "/");
        char kept = *at;
        *at = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return fail_io(err, part, "mkdir");
        *at = kept;
        if (kept == '\0')
            break;
    }
    return qy_is_dir(path) ? QY_OK : qy_fail(err, QY_ERR_IO, "%s: is not a directory", path);
}

int qy_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

int qy_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

qy_status_t qy_disk_free(double *bytes, const char *path, qy_error_t *err)
{
    char folder[QY_PATH_MAX];
    struct statvfs fs;
    QY_TRY(qy_path(folder, err, "%s", path));
    while (statvfs(folder, &fs) != 0) {
        char *slash = strrchr(folder, '/');
        if (errno != ENOENT || !slash)
            return fail_io(err, folder, "statvfs");
        slash[slash == folder] = '\0';
    }
    *bytes = (double)fs.f_bavail * (double)fs.f_frsize;
    return QY_OK;
}

qy_status_t qy_temp_name(char out[QY_PATH_MAX], const char *path, qy_error_t *err)
{
    return qy_path(out, err, "%s.tmp.%ld", path, (long)getpid());
}

static qy_status_t sync_path(const char *path, int flags, qy_error_t *err)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        return fail_io(err, path, "open");
    qy_status_t status = fsync(fd) == 0 ? QY_OK : fail_io(err, path, "fsync");
    close(fd);
    return status;
}

static qy_status_t sync_dir_of(const char *path, qy_error_t *err)
{
    char dir[QY_PATH_MAX];
    QY_TRY(qy_path(dir, err, "%s", path));
    char *slash = strrchr(dir, '/');
    if (!slash)
        return sync_path(".", O_RDONLY | O_DIRECTORY, err);
    slash[slash == dir] = '\0';
    return sync_path(dir, O_RDONLY | O_DIRECTORY, err);
}

/*
 * For tests of resuming: with QUARRY_TEST_KILL=TEXT in the environment the whole process group dies
 * by SIGKILL when a path that holds TEXT is about to be renamed into place, the worst of moments.
 */
static void die_if_told(const char *path)
{
    const char *where = getenv("QUARRY_TEST_KILL");
    if (where && *where && strstr(path, where))
        kill(0, SIGKILL);
}

qy_status_t qy_file_commit(const char *temp, const char *path, qy_error_t *err)
{
    qy_status_t status = sync_path(temp, O_RDONLY, err);
    die_if_told(path);
    if (status == QY_OK && rename(temp, path) != 0)
        status = fail_io(err, path, "rename");
    if (status != QY_OK) {
        unlink(temp);
        return status;
    }
    return sync_dir_of(path, err);
}

qy_status_t qy_file_write(const char *path, const void *data, size_t bytes, qy_error_t *err)
{
    char temp[QY_PATH_MAX];
    QY_TRY(qy_temp_name(temp, path, err));
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return fail_io(err, temp, "open");
    qy_status_t status = qy_write_all(fd, temp, data, bytes, err);
    if (close(fd) != 0 && status == QY_OK)
        status = fail_io(err, temp, "close");
    if (status != QY_OK) {
        unlink(temp);
        return status;
    }
    return qy_file_commit(temp, path, err);
}

qy_status_t qy_file_read(const char *path, size_t max_bytes, char **out, size_t *bytes,
                         qy_error_t *err)
{
    qy_status_t status = QY_OK;
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a named pipe must not make it wait */
    if (fd < 0)
        return fail_io(err, path, "open");
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        status = qy_fail(err, QY_ERR_IO, "%s: is not a regular file", path);
        goto close_file;
    }
    size_t n = (size_t)st.st_size;
    if (n > max_bytes) {
        status =
            qy_fail(err, QY_ERR_FORMAT, "%s: %zu bytes, at most %zu expected", path, n, max_bytes);
        goto close_file;
    }
    text = malloc(n + 1);
    if (!text) {
        status = qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its %zu bytes", path, n);
        goto close_file;
    }
    QY_TRY_GOTO(qy_pread(fd, path, text, n, 0, err), free_text);
    text[n] = '\0';
    *out = text;
    *bytes = n;
    text = NULL;
free_text:
    free(text);
close_file:
    close(fd);
    return status;
}

qy_status_t qy_pread(int fd, const char *path, void *dst, size_t bytes, uint64_t offset,
                     qy_error_t *err)
{
    char *at = dst;
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, at + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_io(err, path, "pread");
        if (n == 0)
            return qy_fail(err, QY_ERR_FORMAT, "%s: ends at byte %llu, %zu bytes at %llu wanted",
                           path, (unsigned long long)(offset + done), bytes,
                           (unsigned long long)offset);
        done += (size_t)n;
    }
    return QY_OK;
}

qy_status_t qy_write_all(int fd, const char *path, const void *src, size_t bytes, qy_error_t *err)
{
    const char *at = src;
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(fd, at + done, bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_io(err, path, "write");
        done += (size_t)n;
    }
    return QY_OK;
}

/* Is name "….tmp.DIGITS"? */
static int is_temp_name(const char *name)
{
    const char *pid = strrchr(name, '.');
    if (!pid || pid - name < 4 || strncmp(pid - 4, ".tmp", 4) != 0)
        return 0;
    pid++;
    return *pid != '\0' && pid[strspn(pid, "0123456789")] == '\0';
}

/*
 * Walks the folder behind fd, which it closes, without following links. Removes files that are
 * temporary, or with all everything. Returns 0, or the first errno.
 */
static int remove_in(int fd, int all)
{
    int first = 0;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        first = errno;
        close(fd);
        return first;
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        const char *name = entry->d_name;
        struct stat st;
        int failed = 0;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        if (fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            failed = errno;
        } else if (S_ISDIR(st.st_mode)) {
            int sub = openat(dirfd(dir), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            failed = sub < 0 ? errno : remove_in(sub, all);
            if (!failed && all && unlinkat(dirfd(dir), name, AT_REMOVEDIR) != 0)
                failed = errno;
        } else if ((all || is_temp_name(name)) && unlinkat(dirfd(dir), name, 0) != 0) {
            failed = errno;
        }
        if (failed && !first)
            first = failed;
    }
    closedir(dir);
    return first;
}

void qy_sweep_temps(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        (void)remove_in(fd, 0);
}

qy_status_t qy_remove_tree(const char *path, qy_error_t *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return fail_io(err, path, "open");
    int failed = remove_in(fd, 1);
    if (failed) {
        errno = failed;
        return fail_io(err, path, "remove");
    }
    return rmdir(path) == 0 ? QY_OK : fail_io(err, path, "rmdir");
}
