/*
 * Bytes of messages, field by field, little-endian. Writing grows a buffer; reading is
 * bounds-checked. Both remember their first failure, so that a list of fields is written without a
 * test after each.
 */
#ifndef QY_JOBS_WIRE_H
#define QY_JOBS_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    unsigned char *bytes;
    size_t n, capacity;
    int failed; /* out of memory */
} qy_wire_out_t;

void qy_put_u32(qy_wire_out_t *out, uint32_t value);
void qy_put_i64(qy_wire_out_t *out, int64_t value);
void qy_put_f64(qy_wire_out_t *out, double value);
/* Length, then the characters without their NUL. */
void qy_put_string(qy_wire_out_t *out, const char *text);
void qy_put_bytes(qy_wire_out_t *out, const void *bytes, size_t n);
/* Hands the bytes over, or frees them with MEMORY. */
qy_status_t qy_wire_finish(qy_wire_out_t *out, void **bytes, size_t *n, qy_error_t *err);

typedef struct {
    const unsigned char *at;
    size_t left;
    const char *problem; /* first one; NULL while all is well */
} qy_wire_in_t;

qy_wire_in_t qy_wire_open(const void *bytes, size_t n);
/* A failure of meaning, seen by the caller; kept if it is the first. */
void qy_wire_refuse(qy_wire_in_t *in, const char *problem);
uint32_t qy_get_u32(qy_wire_in_t *in);
int32_t qy_get_i32(qy_wire_in_t *in);
int64_t qy_get_i64(qy_wire_in_t *in);
double qy_get_f64(qy_wire_in_t *in);
/* Into size bytes, NUL after it; refuses what is longer or holds a NUL. */
void qy_get_string(qy_wire_in_t *in, char *text, size_t size);
/* FORMAT with what, the first problem, or bytes that are left over. */
qy_status_t qy_wire_close(const qy_wire_in_t *in, const char *what, qy_error_t *err);

#endif
