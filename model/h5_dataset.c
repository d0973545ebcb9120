#include <stdio.h>
#include <string.h>

#include "model/h5_inner.h"

static const hsize_t chunk_bytes_max = 8 << 20;        /* of a dataset written whole */
static const hsize_t row_bytes_max = (hsize_t)1 << 31; /* the format ends below 4 GiB a chunk */
static const char bf16_mark[] = "dtype";

/* --- types --- */

/* 16-bit floats, which HDF5 1.10 does not know by name: sign 1, exponent 5, mantissa 10. */
static hid_t make_f16(void)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type < 0 || H5Tset_fields(type, 15, 10, 5, 0, 10) < 0 || H5Tset_size(type, 2) < 0 ||
        H5Tset_ebias(type, 15) < 0) {
        H5Tclose(type);
        return H5I_INVALID_HID;
    }
    return type;
}

/* The file's type, which is the machine's too (little-endian). The caller closes it. */
static hid_t make_type(qy_dtype_t dtype)
{
    switch (dtype) {
    case QY_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case QY_F16:
        return make_f16();
    case QY_BF16:
        return H5Tcopy(H5T_STD_U16LE);
    case QY_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case QY_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case QY_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case QY_U32:
        return H5Tcopy(H5T_STD_U32LE);
    case QY_U8:
        return H5Tcopy(H5T_STD_U8LE);
    default:
        return H5I_INVALID_HID;
    }
}

/* Whether a dataset's type is dtype's; 16-bit integers are bf16 only with the mark. */
static bool is_type(hid_t type, qy_dtype_t dtype)
{
    hid_t ours = make_type(dtype);
    bool same = ours >= 0 && H5Tequal(type, ours) > 0;
    H5Tclose(ours);
    return same;
}

/* --- datasets: making them --- */

/* Creates the groups before the last "/"; by hand, as the library would give them times. */
static qy_status_t make_groups(qy_h5_t *file, const char *name, qy_error_t *err)
{
    char part[256];
    if (snprintf(part, sizeof part, "%s", name) >= (int)sizeof part)
        return qy_fail(err, QY_ERR_ARG, "%s: the name %.60s… is too long", file->path, name);
    for (char *slash = strchr(part, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (H5Lexists(file->id, part, H5P_DEFAULT) <= 0) {
            hid_t plist = H5Pcreate(H5P_GROUP_CREATE);
            H5Pset_obj_track_times(plist, false);
            hid_t group = H5Gcreate2(file->id, part, H5P_DEFAULT, plist, H5P_DEFAULT);
            qy_status_t status = QY_OK;
            if (group < 0)
                status = qy_h5_fail(file, part, "creating the group", QY_ERR_IO, err);
            H5Gclose(group);
            H5Pclose(plist);
            QY_TRY(status);
        }
        *slash = '/';
    }
    return QY_OK;
}

/* Rows in a chunk: all where they fit. */
static qy_status_t fill_shape(const qy_h5_t *file, const char *name, qy_dtype_t dtype, int n_dims,
                              const int64_t *shape, bool by_row, hsize_t *dims, hsize_t *chunk,
                              qy_error_t *err)
{
    if (n_dims < 1 || n_dims > QY_MAX_DIMS)
        return qy_fail(err, QY_ERR_ARG, "%s: %s: %d dimensions, 1 to %d expected", file->path, name,
                       n_dims, QY_MAX_DIMS);
    hsize_t row_bytes = qy_dtype_bytes(dtype);
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] <= 0 || (i > 0 && row_bytes > row_bytes_max / (hsize_t)shape[i]))
            return qy_fail(err, QY_ERR_ARG, "%s: %s: dimension %d is %lld", file->path, name, i,
                           (long long)shape[i]);
        dims[i] = chunk[i] = (hsize_t)shape[i];
        row_bytes *= i > 0 ? dims[i] : 1;
    }
    hsize_t rows = by_row ? 1 : chunk_bytes_max / row_bytes;
    chunk[0] = rows == 0 ? 1 : rows < dims[0] ? rows : dims[0];
    return QY_OK;
}

/* A new dataset, open in *out. */
static qy_status_t make_dataset(qy_h5_t *file, const char *name, qy_dtype_t dtype, int n_dims,
                                const int64_t *shape, bool by_row, hid_t *out, qy_error_t *err)
{
    hsize_t dims[QY_MAX_DIMS], chunk[QY_MAX_DIMS];
    QY_TRY(fill_shape(file, name, dtype, n_dims, shape, by_row, dims, chunk, err));
    QY_TRY(make_groups(file, name, err));
    hid_t type = make_type(dtype), space = H5Screate_simple(n_dims, dims, NULL);
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(plist, n_dims, chunk);
    H5Pset_fletcher32(plist);
    H5Pset_obj_track_times(plist, false);
    hid_t set = H5Dcreate2(file->id, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    qy_status_t status = QY_OK;
    if (set < 0)
        status = qy_h5_fail(file, name, "creating the dataset", QY_ERR_IO, err);
    else if (dtype == QY_BF16)
        status = qy_h5_set_text(set, file, bf16_mark, "bf16", err);
    H5Pclose(plist);
    H5Sclose(space);
    H5Tclose(type);
    if (status != QY_OK) {
        H5Dclose(set);
        return status;
    }
    *out = set;
    return QY_OK;
}

qy_status_t qy_h5_write(qy_h5_t *file, const char *name, const qy_tensor_t *t, qy_error_t *err)
{
    qy_h5_quiet();
    hid_t set;
    QY_TRY(make_dataset(file, name, t->dtype, t->n_dims, t->shape, false, &set, err));
    hid_t type = H5Dget_type(set);
    herr_t done = H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, t->data);
    qy_status_t status = done < 0 ? qy_h5_fail(file, name, "writing", QY_ERR_IO, err) : QY_OK;
    H5Tclose(type);
    if (H5Dclose(set) < 0 && status == QY_OK)
        status = qy_h5_fail(file, name, "closing the dataset", QY_ERR_IO, err);
    return status;
}

qy_status_t qy_h5_declare(qy_h5_t *file, const char *name, qy_dtype_t dtype, int n_dims,
                          const int64_t *shape, qy_error_t *err)
{
    qy_h5_quiet();
    hid_t set;
    QY_TRY(make_dataset(file, name, dtype, n_dims, shape, true, &set, err));
    return H5Dclose(set) < 0 ? qy_h5_fail(file, name, "closing the dataset", QY_ERR_IO, err)
                             : QY_OK;
}

/* --- datasets: finding them --- */

/* Only links inside the file are followed: a stranger's file must not make us read another. */
static bool has_link(const qy_h5_t *file, const char *name)
{
    char part[256];
    if (snprintf(part, sizeof part, "%s", name) >= (int)sizeof part)
        return false;
    for (char *slash = strchr(part, '/');; slash = strchr(slash + 1, '/')) {
        H5L_info_t info;
        if (slash)
            *slash = '\0';
        if (H5Lexists(file->id, part, H5P_DEFAULT) <= 0 ||
            H5Lget_info(file->id, part, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD)
            return false;
        if (!slash)
            return true;
        *slash = '/';
    }
}

int qy_h5_has(const qy_h5_t *file, const char *name)
{
    qy_h5_quiet();
    return has_link(file, name);
}

/* Chunked with a checksum and no other filter, as this file writes them: a stranger's dataset must
 * neither unpack to terabytes nor live in another file. */
static bool is_stored_our_way(hid_t set)
{
    hid_t plist = H5Dget_create_plist(set);
    unsigned flags, config;
    size_t n = 0;
    char name[1];
    bool ours = H5Pget_layout(plist) == H5D_CHUNKED && H5Pget_nfilters(plist) == 1 &&
                H5Pget_filter2(plist, 0, &flags, &n, NULL, sizeof name, name, &config) ==
                    H5Z_FILTER_FLETCHER32;
    H5Pclose(plist);
    return ours;
}

static bool find_dtype(hid_t set, const qy_h5_t *file, qy_dtype_t *out)
{
    hid_t type = H5Dget_type(set);
    int found = -1;
    for (int i = 0; i < QY_N_DTYPES && found < 0; i++)
        if (is_type(type, (qy_dtype_t)i))
            found = i;
    H5Tclose(type);
    char mark[8];
    if (found == QY_BF16 &&
        (qy_h5_get_text(set, file, bf16_mark, mark, sizeof mark, NULL) != QY_OK ||
         strcmp(mark, "bf16") != 0))
        found = -1;
    if (found >= 0)
        *out = (qy_dtype_t)found;
    return found >= 0;
}

/* Type and shape of an open dataset. */
static qy_status_t describe(hid_t set, const qy_h5_t *file, const char *name, qy_tensor_t *out,
                            qy_error_t *err)
{
    if (!is_stored_our_way(set))
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s: is not a chunked dataset with a checksum",
                       file->path, name);
    qy_tensor_t t = {0};
    hsize_t dims[QY_MAX_DIMS];
    hid_t space = H5Dget_space(set);
    t.n_dims = H5Sget_simple_extent_ndims(space);
    bool bounded = t.n_dims >= 1 && t.n_dims <= QY_MAX_DIMS &&
                   H5Sget_simple_extent_dims(space, dims, NULL) == t.n_dims;
    H5Sclose(space);
    bool known = find_dtype(set, file, &t.dtype);
    hsize_t bytes = known ? qy_dtype_bytes(t.dtype) : 1;
    for (int i = 0; bounded && i < t.n_dims; i++) {
        bounded = dims[i] > 0 && bytes <= (hsize_t)INT64_MAX / dims[i];
        bytes *= dims[i];
        t.shape[i] = (int64_t)dims[i];
    }
    if (!known || !bounded)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s: %s", file->path, name,
                       known ? "its shape is out of range" : "a type that is not ours");
    *out = t;
    return QY_OK;
}

/* Opens a dataset and tells its type and shape. */
static qy_status_t open_dataset(const qy_h5_t *file, const char *name, hid_t *out, qy_tensor_t *t,
                                qy_error_t *err)
{
    qy_h5_quiet();
    if (!has_link(file, name))
        return qy_fail(err, QY_ERR_FORMAT, "%s: no dataset %s", file->path, name);
    hid_t set = H5Dopen2(file->id, name, H5P_DEFAULT);
    if (set < 0)
        return qy_h5_fail(file, name, "opening the dataset", QY_ERR_FORMAT, err);
    qy_status_t status = describe(set, file, name, t, err);
    if (status != QY_OK) {
        H5Dclose(set);
        return status;
    }
    *out = set;
    return QY_OK;
}

qy_status_t qy_h5_info(qy_h5_t *file, const char *name, qy_tensor_t *out, qy_error_t *err)
{
    hid_t set;
    QY_TRY(open_dataset(file, name, &set, out, err));
    H5Dclose(set);
    return QY_OK;
}

/* --- datasets: moving rows --- */

/* Reads into dst or writes from src the rows [first, first + n) of an open dataset. */
static qy_status_t move_rows(const qy_h5_t *file, const char *name, hid_t set, const qy_tensor_t *t,
                             int64_t first, int64_t n, void *dst, const void *src, qy_error_t *err)
{
    if (first < 0 || n < 1 || n > t->shape[0] || first > t->shape[0] - n)
        return qy_fail(err, QY_ERR_ARG, "%s: %s: rows %lld to %lld of %lld", file->path, name,
                       (long long)first, (long long)first + n, (long long)t->shape[0]);
    hsize_t start[QY_MAX_DIMS] = {(hsize_t)first}, count[QY_MAX_DIMS] = {(hsize_t)n};
    for (int i = 1; i < t->n_dims; i++)
        count[i] = (hsize_t)t->shape[i];
    hid_t type = H5Dget_type(set), memory = H5Screate_simple(t->n_dims, count, NULL);
    hid_t space = H5Dget_space(set);
    herr_t done = H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL);
    if (done >= 0)
        done = src ? H5Dwrite(set, type, memory, space, H5P_DEFAULT, src)
                   : H5Dread(set, type, memory, space, H5P_DEFAULT, dst);
    qy_status_t status = QY_OK;
    if (done < 0)
        status = qy_h5_fail(file, name, src ? "writing" : "reading",
                            src ? QY_ERR_IO : QY_ERR_FORMAT, err);
    H5Sclose(space);
    H5Sclose(memory);
    H5Tclose(type);
    return status;
}

qy_status_t qy_h5_write_rows(qy_h5_t *file, const char *name, int64_t first, int64_t n,
                             const void *data, qy_error_t *err)
{
    hid_t set;
    qy_tensor_t t;
    QY_TRY(open_dataset(file, name, &set, &t, err));
    qy_status_t status = move_rows(file, name, set, &t, first, n, NULL, data, err);
    if (H5Dclose(set) < 0 && status == QY_OK)
        status = qy_h5_fail(file, name, "closing the dataset", QY_ERR_IO, err);
    return status;
}

qy_status_t qy_h5_read(qy_h5_t *file, const char *name, const qy_tensor_t *t, qy_error_t *err)
{
    hid_t set;
    qy_tensor_t stored;
    QY_TRY(open_dataset(file, name, &set, &stored, err));
    qy_status_t status = QY_OK;
    if (stored.dtype != t->dtype)
        status = qy_fail(err, QY_ERR_FORMAT, "%s: %s: holds %s, %s wanted", file->path, name,
                         qy_dtype_name(stored.dtype), qy_dtype_name(t->dtype));
    else if (!qy_tensor_same_shape(&stored, t))
        status = qy_fail(err, QY_ERR_SHAPE,
                         "%s: %s: %d dimensions, %lld rows, %lld numbers; "
                         "%d, %lld, %lld wanted",
                         file->path, name, stored.n_dims, (long long)stored.shape[0],
                         (long long)qy_tensor_count(&stored), t->n_dims, (long long)t->shape[0],
                         (long long)qy_tensor_count(t));
    else
        status = move_rows(file, name, set, &stored, 0, stored.shape[0], t->data, NULL, err);
    H5Dclose(set);
    return status;
}

qy_status_t qy_h5_read_rows(qy_h5_t *file, const char *name, int64_t first, int64_t n, void *data,
                            qy_error_t *err)
{
    hid_t set;
    qy_tensor_t t;
    QY_TRY(open_dataset(file, name, &set, &t, err));
    qy_status_t status = move_rows(file, name, set, &t, first, n, data, NULL, err);
    H5Dclose(set);
    return status;
}
