#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <zlib.h>

struct qy_sha256 {
    EVP_MD_CTX *context;
};

static void sha256_destroy(qy_sha256_t **h)
{
    EVP_MD_CTX_free((*h)->context);
    free(*h);
    *h = NULL;
}

qy_status_t qy_sha256_create(qy_sha256_t **out, qy_error_t *err)
{
    qy_sha256_t *h = calloc(1, sizeof *h);
    if (!h)
        return qy_fail(err, QY_ERR_MEMORY, "SHA-256: out of memory");
    h->context = EVP_MD_CTX_new();
    if (!h->context || !EVP_DigestInit_ex(h->context, EVP_sha256(), NULL)) {
        sha256_destroy(&h);
        return qy_fail(err, QY_ERR_MEMORY, "SHA-256: libcrypto cannot start a digest");
    }
    *out = h;
    return QY_OK;
}

/* After a good start libcrypto's SHA-256 has no way to fail. */
void qy_sha256_add(qy_sha256_t *h, const void *data, size_t bytes)
{
    (void)EVP_DigestUpdate(h->context, data, bytes);
}

void qy_sha256_finish(qy_sha256_t **h, char hex[QY_SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[QY_SHA256_BYTES] = {0};
    (void)EVP_DigestFinal_ex((*h)->context, digest, NULL);
    for (int i = 0; i < QY_SHA256_BYTES; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[QY_SHA256_HEX - 1] = '\0';
    sha256_destroy(h);
}

static qy_status_t add_file(qy_sha256_t *h, int fd, const char *path, qy_error_t *err)
{
    enum { CHUNK = 1 << 20 };
    char *buffer = malloc(CHUNK);
    if (!buffer)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory to read it", path);
    ssize_t n;
    while ((n = read(fd, buffer, CHUNK)) != 0) {
        if (n > 0)
            qy_sha256_add(h, buffer, (size_t)n);
        else if (errno != EINTR)
            break;
    }
    free(buffer);
    return n < 0 ? qy_fail(err, QY_ERR_IO, "%s: read: %s", path, strerror(errno)) : QY_OK;
}

qy_status_t qy_sha256_file(const char *path, char hex[QY_SHA256_HEX], qy_error_t *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return qy_fail(err, QY_ERR_IO, "%s: %s", path, strerror(errno));
    qy_sha256_t *h = NULL;
    qy_status_t status = qy_sha256_create(&h, err);
    if (status == QY_OK)
        status = add_file(h, fd, path, err);
    if (status == QY_OK)
        qy_sha256_finish(&h, hex);
    else if (h)
        sha256_destroy(&h);
    close(fd);
    return status;
}

uint32_t qy_crc32(const void *data, size_t bytes)
{
    return (uint32_t)crc32_z(crc32_z(0, NULL, 0), data, bytes);
}

uint64_t qy_xxh3_seeded(const void *data, size_t bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, bytes, seed);
}

uint64_t qy_xxh3(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}
