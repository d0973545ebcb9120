/* SHA-256 (libcrypto), CRC-32 (zlib) and XXH3 (xxhash) behind names of ours. */
#ifndef QY_BASE_HASH_H
#define QY_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { QY_SHA256_BYTES = 32, QY_SHA256_HEX = 65 };

typedef struct qy_sha256 qy_sha256_t;

qy_status_t qy_sha256_create(qy_sha256_t **out, qy_error_t *err);
void qy_sha256_add(qy_sha256_t *h, const void *data, size_t bytes);
/* Writes 64 hexadecimal digits and a NUL, and destroys *h. */
void qy_sha256_finish(qy_sha256_t **h, char hex[QY_SHA256_HEX]);

/* Whole file. IO with the path where it cannot be read. */
qy_status_t qy_sha256_file(const char *path, char hex[QY_SHA256_HEX], qy_error_t *err);

uint32_t qy_crc32(const void *data, size_t bytes);
uint64_t qy_xxh3(const void *data, size_t bytes);
uint64_t qy_xxh3_seeded(const void *data, size_t bytes, uint64_t seed);

#endif
