#define _GNU_SOURCE /* O_DIRECT, fallocate */
#include "worker/records.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

typedef struct {
    int64_t block;
    uint64_t hash;
} trailer_t;

qy_records_t qy_records_of(int64_t n, size_t sample_bytes, uint64_t seed)
{
    size_t pages = (sample_bytes + sizeof(trailer_t) + QY_RECORD_ALIGN - 1) / QY_RECORD_ALIGN;
    return (qy_records_t){.fd = -1,
                          .n = n,
                          .sample_bytes = sample_bytes,
                          .record_bytes = pages * QY_RECORD_ALIGN,
                          .seed = seed};
}

static off_t file_bytes(const qy_records_t *r)
{
    return (off_t)((size_t)r->n * r->record_bytes);
}

/* --- scratch ---------------------------------------------------------------------------------- */

/* Opens the named file and holds it; 0 where that cannot be, also because another process does. */
static int open_named(qy_records_t *r, int *kept)
{
    struct stat st;
    int fd = open(r->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return 0;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return 0;
    }
    *kept = st.st_size == file_bytes(r);
    if (!*kept && ftruncate(fd, 0) != 0) {
        close(fd);
        return 0;
    }
    r->fd = fd;
    return 1;
}

static qy_status_t open_nameless(qy_records_t *r, const char *folder, qy_error_t *err)
{
    QY_TRY(qy_path(r->path, err, "%s/quarry-stream-XXXXXX", folder));
    r->fd = mkstemp(r->path);
    if (r->fd < 0 || fcntl(r->fd, F_SETFD, FD_CLOEXEC) != 0)
        return qy_fail(err, QY_ERR_IO, "%s: cannot make a scratch file: %s", folder,
                       strerror(errno));
    unlink(r->path);
    return QY_OK;
}

/* Where the file system cannot set room aside, only the length: writing then finds out. */
static qy_status_t take_room(const qy_records_t *r, const char *folder, int64_t first,
                             qy_error_t *err)
{
    off_t at = (off_t)((size_t)first * r->record_bytes), bytes = file_bytes(r) - at;
    if (fallocate(r->fd, 0, at, bytes) != 0 &&
        (errno != EOPNOTSUPP || ftruncate(r->fd, file_bytes(r)) != 0))
        return qy_fail(err, QY_ERR_IO, "%s: no room for %lld bytes of scratch: %s", folder,
                       (long long)bytes, strerror(errno));
    return QY_OK;
}

qy_status_t qy_records_scratch(qy_records_t *r, const char *folder, const char *name, int64_t first,
                               int direct, int *kept, qy_error_t *err)
{
    *kept = 0;
    QY_TRY(qy_make_dirs(folder, err));
    if (name)
        QY_TRY(qy_path(r->path, err, "%s/%s", folder, name));
    if (!name || !open_named(r, kept))
        QY_TRY(open_nameless(r, folder, err));
    QY_TRY(take_room(r, folder, first, err)); /* one that was kept may have begun later */
    if (direct) /* refused by file systems without it, which are then used through the page cache */
        (void)fcntl(r->fd, F_SETFL, O_DIRECT);
    return QY_OK;
}

/* --- files of a run directory ----------------------------------------------------------------- */

qy_status_t qy_records_open(qy_records_t *r, const char *path, qy_error_t *err)
{
    struct stat st;
    QY_TRY(qy_path(r->path, err, "%s", path));
    r->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0 || fstat(r->fd, &st) != 0)
        return qy_fail(err, QY_ERR_IO, "%s: %s", path, strerror(errno));
    if (st.st_size != file_bytes(r))
        return qy_fail(err, QY_ERR_FORMAT, "%s: has %lld bytes, not %lld", path,
                       (long long)st.st_size, (long long)file_bytes(r));
    return QY_OK;
}

qy_status_t qy_records_create(qy_records_t *r, const char *path, qy_error_t *err)
{
    QY_TRY(qy_temp_name(r->path, path, err));
    r->fd = open(r->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (r->fd < 0)
        return qy_fail(err, QY_ERR_IO, "%s: %s", r->path, strerror(errno));
    return QY_OK;
}

qy_status_t qy_records_commit(qy_records_t *r, const char *path, qy_error_t *err)
{
    if (close(r->fd) != 0) {
        r->fd = -1;
        return qy_fail(err, QY_ERR_IO, "%s: close: %s", r->path, strerror(errno));
    }
    r->fd = -1;
    return qy_file_commit(r->path, path, err);
}

void qy_records_close(qy_records_t *r)
{
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
}

void qy_records_unlink(qy_records_t *r)
{
    if (r->path[0])
        unlink(r->path);
}

/* --- records ---------------------------------------------------------------------------------- */

static trailer_t trailer_of(const qy_records_t *r, int64_t sample, int64_t block,
                            const char *record)
{
    const uint64_t place[] = {r->seed, (uint64_t)sample, (uint64_t)block};
    return (trailer_t){block,
                       qy_xxh3_seeded(record, r->sample_bytes, qy_xxh3(place, sizeof place))};
}

void qy_records_seal(const qy_records_t *r, int64_t sample, int64_t block, char *record)
{
    const trailer_t t = trailer_of(r, sample, block, record);
    memset(record + r->sample_bytes, 0, r->record_bytes - r->sample_bytes);
    memcpy(record + r->record_bytes - sizeof t, &t, sizeof t);
}

int64_t qy_records_check(const qy_records_t *r, int64_t sample, const char *record)
{
    trailer_t t;
    memcpy(&t, record + r->record_bytes - sizeof t, sizeof t);
    if (t.block < 0 || trailer_of(r, sample, t.block, record).hash != t.hash)
        return -1;
    return t.block;
}

/* EINVAL of a file system that takes the flag and then not the transfer: without the flag, again.
 */
static int drop_direct(int fd, int code)
{
    return code == EINVAL && fcntl(fd, F_SETFL, 0) == 0;
}

qy_status_t qy_records_read(const qy_records_t *r, int64_t sample, char *record, qy_error_t *err)
{
    off_t at = (off_t)((size_t)sample * r->record_bytes);
    int tried = 0;
    for (size_t done = 0; done < r->record_bytes;) {
        ssize_t n = pread(r->fd, record + done, r->record_bytes - done, at + (off_t)done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0)
            return qy_fail(err, QY_ERR_IO, "%s: ends before sample %lld", r->path,
                           (long long)sample);
        else if (errno != EINTR && (tried++ || !drop_direct(r->fd, errno)))
            return qy_fail(err, QY_ERR_IO, "%s: reading sample %lld: %s", r->path,
                           (long long)sample, strerror(errno));
    }
    return QY_OK;
}

qy_status_t qy_records_write(const qy_records_t *r, int64_t sample, const char *record,
                             qy_error_t *err)
{
    off_t at = (off_t)((size_t)sample * r->record_bytes);
    int tried = 0;
    for (size_t done = 0; done < r->record_bytes;) {
        ssize_t n = pwrite(r->fd, record + done, r->record_bytes - done, at + (off_t)done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR && (tried++ || !drop_direct(r->fd, errno)))
            return qy_fail(err, QY_ERR_IO, "%s: writing sample %lld: %s", r->path,
                           (long long)sample, strerror(errno));
    }
    return QY_OK;
}
