#include "kernels/check.h"

#include <stdio.h>
#include <string.h>

enum { TEXT = 96, MIN_BITS = 2, MAX_BITS = 8 };

static void describe_shape(char out[TEXT], int n_dims, const int64_t *shape)
{
    size_t used = 0;
    for (int i = 0; i < n_dims && used < TEXT; i++)
        used +=
            (size_t)snprintf(out + used, TEXT - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (n_dims == 0)
        out[0] = '\0';
}

static void describe_types(char out[TEXT], unsigned types)
{
    size_t used = 0;
    out[0] = '\0';
    for (int d = 0; d < QY_N_DTYPES && used < TEXT; d++)
        if (types & QY_TYPE(d))
            used += (size_t)snprintf(out + used, TEXT - used, "%s%s", used ? " or " : "",
                                     qy_dtype_name((qy_dtype_t)d));
}

qy_status_t qy_check_given(const char *op, const char *name, const qy_tensor_t *t, unsigned types,
                           qy_error_t *err)
{
    char shape[TEXT];
    if (!t)
        return qy_fail(err, QY_ERR_ARG, "%s: %s is missing", op, name);
    if (!(types & QY_TYPE(t->dtype))) {
        char wanted[TEXT];
        describe_types(wanted, types);
        return qy_fail(err, QY_ERR_ARG, "%s: %s is %s, expected %s", op, name,
                       qy_dtype_name(t->dtype), wanted);
    }
    for (int i = 0; i < t->n_dims; i++) {
        if (t->shape[i] >= 1)
            continue;
        describe_shape(shape, t->n_dims, t->shape);
        return qy_fail(err, QY_ERR_SHAPE, "%s: %s (%s) is empty", op, name, shape);
    }
    if (!t->data)
        return qy_fail(err, QY_ERR_ARG, "%s: %s has no data", op, name);
    return QY_OK;
}

static qy_status_t fail_shape(const char *op, const char *name, const qy_tensor_t *t, int n_dims,
                              const int64_t *shape, qy_error_t *err)
{
    char got[TEXT], wanted[TEXT];
    describe_shape(got, t->n_dims, t->shape);
    describe_shape(wanted, n_dims, shape);
    return qy_fail(err, QY_ERR_SHAPE, "%s: %s is (%s), expected (%s)", op, name, got, wanted);
}

qy_status_t qy_check_matrix(const char *op, const char *name, const qy_tensor_t *t, unsigned types,
                            int64_t rows, int64_t cols, qy_error_t *err)
{
    QY_TRY(qy_check_given(op, name, t, types, err));
    if (qy_tensor_rows(t) != rows || qy_tensor_cols(t) != cols)
        return fail_shape(op, name, t, 2, (int64_t[]){rows, cols}, err);
    return QY_OK;
}

qy_status_t qy_check_shape(const char *op, const char *name, const qy_tensor_t *t, unsigned types,
                           int n_dims, const int64_t *shape, qy_error_t *err)
{
    QY_TRY(qy_check_given(op, name, t, types, err));
    if (t->n_dims != n_dims || memcmp(t->shape, shape, (size_t)n_dims * sizeof *shape) != 0)
        return fail_shape(op, name, t, n_dims, shape, err);
    return QY_OK;
}

qy_status_t qy_check_count(const char *op, const char *name, const qy_tensor_t *t, unsigned types,
                           int64_t n, qy_error_t *err)
{
    QY_TRY(qy_check_given(op, name, t, types, err));
    if (qy_tensor_count(t) != n)
        return fail_shape(op, name, t, 1, &n, err);
    return QY_OK;
}

qy_status_t qy_check_groups(const char *op, int64_t o, int64_t i, const char *s_name,
                            const qy_tensor_t *s, int bits, qy_error_t *err)
{
    QY_TRY(qy_check_given(op, s_name, s, QY_TYPE(QY_F32), err));
    int64_t n_groups = qy_tensor_cols(s);
    QY_TRY(qy_check_matrix(op, s_name, s, QY_TYPE(QY_F32), o, n_groups, err));
    if (i % n_groups != 0)
        return qy_fail(err, QY_ERR_SHAPE, "%s: %lld groups do not divide %lld columns", op,
                       (long long)n_groups, (long long)i);
    if (bits < MIN_BITS || bits > MAX_BITS)
        return qy_fail(err, QY_ERR_ARG, "%s: %d bits, expected %d to %d", op, bits, MIN_BITS,
                       MAX_BITS);
    return QY_OK;
}

qy_status_t qy_check_apart(const char *op, const char *a_name, const qy_tensor_t *a,
                           const char *b_name, const qy_tensor_t *b, qy_error_t *err)
{
    if (a->data == b->data)
        return qy_fail(err, QY_ERR_ARG, "%s: %s and %s may not be the same memory", op, a_name,
                       b_name);
    return QY_OK;
}
