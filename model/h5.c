#include "model/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/h5_inner.h"

#if H5_VERSION_GE(1, 10, 2)
#define LIBVER H5F_LIBVER_V110
#else
#define LIBVER H5F_LIBVER_LATEST
#endif

/* --- the library's errors --- */

void qy_h5_quiet(void)
{
    /* Without the library's clean-up at exit: it writes again what a full disk refused, and
     * crashes. Whatever counts has been committed by then. */
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

typedef struct {
    bool found, io;
    char text[128];
} cause_t;

/* The first entry from the inside is the cause; a failing read or write of bytes is of class IO. */
static herr_t note_cause(unsigned n, const H5E_error2_t *entry, void *data)
{
    cause_t *cause = data;
    if (n == 0) {
        cause->found = true;
        cause->io = entry->maj_num == H5E_IO;
        const char *desc = entry->desc ? entry->desc : "", mark[] = "error message = '";
        const char *reason =
            strstr(desc, mark); /* the system's, behind much that nobody asked for */
        reason = reason ? reason + strlen(mark) : NULL;
        snprintf(cause->text, sizeof cause->text, "%.*s", reason ? (int)strcspn(reason, "'") : 127,
                 reason ? reason : desc);
    }
    return 0;
}

qy_status_t qy_h5_fail(const qy_h5_t *file, const char *what, const char *call,
                       qy_status_t otherwise, qy_error_t *err)
{
    cause_t cause = {0};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, note_cause, &cause);
    H5Eclear2(H5E_DEFAULT);
    return qy_fail(err, cause.io ? QY_ERR_IO : otherwise, "%s: %s%s%s: %s", file->path, what,
                   *what ? ": " : "", call, cause.found ? cause.text : "failed");
}

/* --- files --- */

static hid_t make_access(void)
{
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(fapl, LIBVER, LIBVER);
#if H5_VERSION_GE(1, 10, 7) && !(H5_VERSION_GE(1, 12, 0) && !H5_VERSION_GE(1, 12, 1))
    H5Pset_file_locking(fapl, false, true); /* one writer a file; shared file systems fail locks */
#endif
    return fapl;
}

static qy_h5_t *make_handle(const char *path)
{
    qy_h5_t *file = calloc(1, sizeof *file);
    if (file && snprintf(file->path, sizeof file->path, "%s", path) >= QY_PATH_MAX) {
        free(file);
        return NULL;
    }
    if (file)
        file->id = H5I_INVALID_HID;
    return file;
}

qy_status_t qy_h5_create(qy_h5_t **out, const char *path, qy_error_t *err)
{
    qy_h5_quiet();
    qy_h5_t *file = make_handle(path);
    if (!file)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", path);
    qy_status_t status = qy_temp_name(file->temp, path, err);
    if (status != QY_OK) {
        free(file);
        return status;
    }
    hid_t fapl = make_access(), fcpl = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_obj_track_times(fcpl, false);
    file->id = H5Fcreate(file->temp, H5F_ACC_TRUNC, fcpl, fapl);
    if (file->id < 0)
        status = qy_h5_fail(file, "", "create", QY_ERR_IO, err);
    H5Pclose(fcpl);
    H5Pclose(fapl);
    if (status != QY_OK) {
        free(file);
        return status;
    }
    file->writing = true;
    *out = file;
    return QY_OK;
}

qy_status_t qy_h5_commit(qy_h5_t **file, qy_error_t *err)
{
    qy_h5_quiet();
    qy_h5_t *f = *file;
    herr_t closed = H5Fclose(f->id);
    f->id = H5I_INVALID_HID;
    if (closed < 0)
        return qy_h5_fail(f, "", "close", QY_ERR_IO, err);
    QY_TRY(qy_file_commit(f->temp, f->path, err));
    free(f);
    *file = NULL;
    return QY_OK;
}

void qy_h5_close(qy_h5_t **file)
{
    if (!file || !*file)
        return;
    qy_h5_quiet();
    if ((*file)->id >= 0)
        H5Fclose((*file)->id);
    if ((*file)->writing)
        unlink((*file)->temp);
    free(*file);
    *file = NULL;
}

/* The system's own reason where the file cannot be read at all. */
static qy_status_t check_readable(const char *path, qy_error_t *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return qy_fail(err, QY_ERR_IO, "%s: open: %s", path, strerror(errno));
    struct stat st;
    bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    close(fd);
    return regular ? QY_OK : qy_fail(err, QY_ERR_IO, "%s: is not a regular file", path);
}

qy_status_t qy_h5_open(qy_h5_t **out, const char *path, qy_error_t *err)
{
    qy_h5_quiet();
    QY_TRY(check_readable(path, err));
    qy_h5_t *file = make_handle(path);
    if (!file)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", path);
    hid_t fapl = make_access();
    file->id = H5Fopen(path, H5F_ACC_RDONLY, fapl);
    qy_status_t status = QY_OK;
    if (file->id < 0)
        status = qy_h5_fail(file, "", "no readable HDF5 file", QY_ERR_FORMAT, err);
    H5Pclose(fapl);
    if (status != QY_OK) {
        free(file);
        return status;
    }
    *out = file;
    return QY_OK;
}

const char *qy_h5_path(const qy_h5_t *file)
{
    return file->path;
}

/* --- attributes --- */

static qy_status_t set_attribute(hid_t object, const qy_h5_t *file, const char *name, hid_t type,
                                 const void *value, qy_error_t *err)
{
    hid_t space = H5Screate(H5S_SCALAR);
    if (H5Aexists(object, name) > 0)
        H5Adelete(object, name);
    hid_t at = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t done = at < 0 ? -1 : H5Awrite(at, type, value);
    qy_status_t status =
        done < 0 ? qy_h5_fail(file, name, "writing the attribute", QY_ERR_IO, err) : QY_OK;
    H5Aclose(at);
    H5Sclose(space);
    return status;
}

qy_status_t qy_h5_set_text(hid_t object, const qy_h5_t *file, const char *name, const char *value,
                           qy_error_t *err)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(value) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    qy_status_t status = set_attribute(object, file, name, type, value, err);
    H5Tclose(type);
    return status;
}

qy_status_t qy_h5_set_string(qy_h5_t *file, const char *name, const char *value, qy_error_t *err)
{
    qy_h5_quiet();
    return qy_h5_set_text(file->id, file, name, value, err);
}

qy_status_t qy_h5_set_i64(qy_h5_t *file, const char *name, int64_t value, qy_error_t *err)
{
    qy_h5_quiet();
    return set_attribute(file->id, file, name, H5T_STD_I64LE, &value, err);
}

qy_status_t qy_h5_set_f64(qy_h5_t *file, const char *name, double value, qy_error_t *err)
{
    qy_h5_quiet();
    return set_attribute(file->id, file, name, H5T_IEEE_F64LE, &value, err);
}

/* Reads a scalar attribute: of exactly this type, or with type < 0 a fixed string shorter than
 * size. */
static qy_status_t get_attribute(hid_t object, const qy_h5_t *file, const char *name, hid_t type,
                                 void *out, size_t size, qy_error_t *err)
{
    if (H5Aexists(object, name) <= 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: no attribute %s", file->path, name);
    qy_status_t status = QY_OK;
    hid_t at = H5Aopen(object, name, H5P_DEFAULT);
    hid_t stored = H5Aget_type(at), space = H5Aget_space(at);
    bool scalar = H5Sget_simple_extent_npoints(space) == 1;
    bool right = type >= 0
                     ? H5Tequal(stored, type) > 0
                     : H5Tget_class(stored) == H5T_STRING && H5Tis_variable_str(stored) == 0 &&
                           H5Tget_size(stored) <= size && H5Tget_strpad(stored) == H5T_STR_NULLTERM;
    if (!scalar || !right)
        status = qy_fail(err, QY_ERR_FORMAT, "%s: attribute %s is of another type or size",
                         file->path, name);
    else if (H5Aread(at, stored, out) < 0)
        status = qy_h5_fail(file, name, "reading the attribute", QY_ERR_FORMAT, err);
    H5Sclose(space);
    H5Tclose(stored);
    H5Aclose(at);
    return status;
}

qy_status_t qy_h5_get_text(hid_t object, const qy_h5_t *file, const char *name, char *out,
                           size_t size, qy_error_t *err)
{
    char *text = calloc(1, size + 1);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", file->path);
    qy_status_t status = get_attribute(object, file, name, H5I_INVALID_HID, text, size, err);
    if (status == QY_OK)
        snprintf(out, size, "%s", text);
    free(text);
    return status;
}

qy_status_t qy_h5_get_string(qy_h5_t *file, const char *name, char *out, size_t size,
                             qy_error_t *err)
{
    qy_h5_quiet();
    return qy_h5_get_text(file->id, file, name, out, size, err);
}

qy_status_t qy_h5_get_i64(qy_h5_t *file, const char *name, int64_t *out, qy_error_t *err)
{
    qy_h5_quiet();
    return get_attribute(file->id, file, name, H5T_STD_I64LE, out, sizeof *out, err);
}

qy_status_t qy_h5_get_f64(qy_h5_t *file, const char *name, double *out, qy_error_t *err)
{
    qy_h5_quiet();
    return get_attribute(file->id, file, name, H5T_IEEE_F64LE, out, sizeof *out, err);
}
