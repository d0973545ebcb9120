#include "jobs/wire.h"

#include <stdlib.h>
#include <string.h>

/* --- writing ---------------------------------------------------------------------------------- */

void qy_put_bytes(qy_wire_out_t *out, const void *bytes, size_t n)
{
    if (out->failed)
        return;
    if (n > out->capacity - out->n) {
        size_t capacity = 2 * (out->n + n);
        unsigned char *larger = realloc(out->bytes, capacity);
        if (!larger) {
            out->failed = 1;
            return;
        }
        out->bytes = larger;
        out->capacity = capacity;
    }
    if (n)
        memcpy(out->bytes + out->n, bytes, n);
    out->n += n;
}

static void put_little(qy_wire_out_t *out, uint64_t value, size_t n)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)(value >> (8 * i));
    qy_put_bytes(out, bytes, n);
}

void qy_put_u32(qy_wire_out_t *out, uint32_t value)
{
    put_little(out, value, 4);
}

void qy_put_i64(qy_wire_out_t *out, int64_t value)
{
    put_little(out, (uint64_t)value, 8);
}

void qy_put_f64(qy_wire_out_t *out, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_little(out, bits, 8);
}

void qy_put_string(qy_wire_out_t *out, const char *text)
{
    size_t n = strlen(text);
    qy_put_u32(out, (uint32_t)n);
    qy_put_bytes(out, text, n);
}

qy_status_t qy_wire_finish(qy_wire_out_t *out, void **bytes, size_t *n, qy_error_t *err)
{
    if (out->failed) {
        free(out->bytes);
        return qy_fail(err, QY_ERR_MEMORY, "message: out of memory after %zu bytes", out->n);
    }
    *bytes = out->bytes;
    *n = out->n;
    return QY_OK;
}

/* --- reading ---------------------------------------------------------------------------------- */

qy_wire_in_t qy_wire_open(const void *bytes, size_t n)
{
    return (qy_wire_in_t){.at = bytes, .left = n};
}

void qy_wire_refuse(qy_wire_in_t *in, const char *problem)
{
    if (!in->problem)
        in->problem = problem;
}

static uint64_t get_little(qy_wire_in_t *in, size_t n)
{
    uint64_t value = 0;
    if (in->left < n)
        qy_wire_refuse(in, "ends too early");
    if (in->problem)
        return 0;
    for (size_t i = 0; i < n; i++)
        value |= (uint64_t)in->at[i] << (8 * i);
    in->at += n;
    in->left -= n;
    return value;
}

uint32_t qy_get_u32(qy_wire_in_t *in)
{
    return (uint32_t)get_little(in, 4);
}

int32_t qy_get_i32(qy_wire_in_t *in)
{
    uint32_t bits = qy_get_u32(in);
    int32_t value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

int64_t qy_get_i64(qy_wire_in_t *in)
{
    uint64_t bits = get_little(in, 8);
    int64_t value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double qy_get_f64(qy_wire_in_t *in)
{
    uint64_t bits = get_little(in, 8);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void qy_get_string(qy_wire_in_t *in, char *text, size_t size)
{
    uint32_t n = qy_get_u32(in);
    text[0] = '\0';
    if (n >= size)
        qy_wire_refuse(in, "a text longer than its field");
    else if (n > in->left)
        qy_wire_refuse(in, "ends too early");
    else if (memchr(in->at, '\0', n))
        qy_wire_refuse(in, "a NUL inside a text");
    if (in->problem)
        return;
    memcpy(text, in->at, n);
    text[n] = '\0';
    in->at += n;
    in->left -= n;
}

qy_status_t qy_wire_close(const qy_wire_in_t *in, const char *what, qy_error_t *err)
{
    if (in->problem)
        return qy_fail(err, QY_ERR_FORMAT, "%s message: %s", what, in->problem);
    if (in->left)
        return qy_fail(err, QY_ERR_FORMAT, "%s message: %zu bytes too many", what, in->left);
    return QY_OK;
}
