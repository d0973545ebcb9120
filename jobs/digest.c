#include "jobs/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/gguf_model.h"

/* A line of text into the digest; every part of a composite one is a line. */
static void add_line(qy_sha256_t *h, const char *text)
{
    qy_sha256_add(h, text, strlen(text));
    qy_sha256_add(h, "\n", 1);
}

static qy_status_t add_range(qy_sha256_t *h, int fd, const char *path, uint64_t begin, uint64_t end,
                             char *buffer, qy_error_t *err)
{
    while (begin < end) {
        size_t n = end - begin < QY_DIGEST_PAGE ? (size_t)(end - begin) : QY_DIGEST_PAGE;
        QY_TRY(qy_pread(fd, path, buffer, n, begin, err));
        qy_sha256_add(h, buffer, n);
        begin += n;
    }
    return QY_OK;
}

/* The bytes of one shard that count. */
static qy_status_t add_shard(qy_sha256_t *h, int fd, const char *path, uint64_t header_bytes,
                             uint64_t file_bytes, qy_error_t *err)
{
    char buffer[QY_DIGEST_PAGE], line[64];
    snprintf(line, sizeof line, "shard %" PRIu64 " %" PRIu64, header_bytes, file_bytes);
    add_line(h, line);
    if (file_bytes <= QY_DIGEST_WHOLE)
        return add_range(h, fd, path, 0, file_bytes, buffer, err);
    QY_TRY(add_range(h, fd, path, 0, header_bytes, buffer, err));
    const uint64_t step = (uint64_t)QY_DIGEST_PAGE * QY_DIGEST_STRIDE;
    for (uint64_t at = header_bytes; at + QY_DIGEST_PAGE < file_bytes; at += step)
        QY_TRY(add_range(h, fd, path, at, at + QY_DIGEST_PAGE, buffer, err));
    return add_range(h, fd, path, file_bytes - QY_DIGEST_PAGE, file_bytes, buffer, err);
}

static qy_status_t add_shards(qy_sha256_t *h, const qy_model_t *model, qy_error_t *err)
{
    for (int i = 0; i < qy_st_files(model->tensors); i++) {
        uint64_t header_bytes = 0, file_bytes = 0;
        const char *path = qy_st_file(model->tensors, i, &header_bytes, &file_bytes);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return qy_fail(err, QY_ERR_IO, "%s: open: %s", path, strerror(errno));
        qy_status_t status = add_shard(h, fd, path, header_bytes, file_bytes, err);
        close(fd);
        QY_TRY(status);
    }
    return QY_OK;
}

qy_status_t qy_digest_model(const qy_model_t *model, char hex[QY_SHA256_HEX], qy_error_t *err)
{
    char path[QY_PATH_MAX], config[QY_SHA256_HEX], tokenizer[QY_SHA256_HEX];
    QY_TRY(qy_digest_tokenizer(model->dir, tokenizer, err));
    QY_TRY(qy_path(path, err, "%s/config.json", model->dir));
    if (qy_gguf_is_name(model->dir))
        memcpy(config, tokenizer, sizeof config); /* both are in the header */
    else
        QY_TRY(qy_sha256_file(path, config, err));
    qy_sha256_t *h = NULL;
    QY_TRY(qy_sha256_create(&h, err));
    add_line(h, config);
    add_line(h, tokenizer);
    qy_status_t status = add_shards(h, model, err);
    char result[QY_SHA256_HEX];
    qy_sha256_finish(&h, result); /* also frees it */
    if (status == QY_OK)
        memcpy(hex, result, sizeof result);
    return status;
}

/* A GGUF file's header. */
static qy_status_t digest_header(const char *path, char hex[QY_SHA256_HEX], qy_error_t *err)
{
    char buffer[QY_DIGEST_PAGE], result[QY_SHA256_HEX];
    qy_gguf_t *gguf = NULL;
    qy_sha256_t *h = NULL;
    QY_TRY(qy_gguf_open(&gguf, path, err));
    qy_status_t status = qy_sha256_create(&h, err);
    if (status == QY_OK) {
        uint64_t end = gguf->header.data_begin;
        end = end < gguf->file_bytes ? end : gguf->file_bytes;
        status = add_range(h, gguf->fd, path, 0, end, buffer, err);
        qy_sha256_finish(&h, result);
    }
    if (status == QY_OK)
        memcpy(hex, result, sizeof result);
    qy_gguf_close(&gguf);
    return status;
}

qy_status_t qy_digest_tokenizer(const char *model_dir, char hex[QY_SHA256_HEX], qy_error_t *err)
{
    if (qy_gguf_is_name(model_dir))
        return digest_header(model_dir, hex, err);
    /* The settings say what the pair leaves open: BOS, special tokens, a space in front. */
    static const char *const parts[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    char path[QY_PATH_MAX], part[QY_SHA256_HEX];
    QY_TRY(qy_path(path, err, "%s/tokenizer.json", model_dir));
    if (qy_file_exists(path))
        return qy_sha256_file(path, hex, err);
    qy_sha256_t *h = NULL;
    QY_TRY(qy_sha256_create(&h, err));
    qy_status_t status = QY_OK;
    for (int i = 0; i < 3 && status == QY_OK; i++) {
        status = qy_path(path, err, "%s/%s", model_dir, parts[i]);
        if (status != QY_OK || !qy_file_exists(path))
            continue;
        status = qy_sha256_file(path, part, err);
        if (status == QY_OK)
            add_line(h, part);
    }
    char result[QY_SHA256_HEX];
    qy_sha256_finish(&h, result);
    if (status == QY_OK)
        memcpy(hex, result, sizeof result);
    return status;
}

qy_status_t qy_digest_evaluation(const char *text_hex, const char *tokenizer_hex,
                                 int64_t sequence_length, char hex[QY_SHA256_HEX], qy_error_t *err)
{
    char length[32];
    snprintf(length, sizeof length, "%" PRId64, sequence_length);
    qy_sha256_t *h = NULL;
    QY_TRY(qy_sha256_create(&h, err));
    add_line(h, text_hex);
    add_line(h, tokenizer_hex);
    add_line(h, length);
    qy_sha256_finish(&h, hex);
    return QY_OK;
}
