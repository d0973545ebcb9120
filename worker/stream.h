/*
 * Activations of many samples at one place in the model: a stream, advanced in place block by
 * block. It lives in host memory up to a limit and beyond that in a scratch file that only this
 * process uses.
 */
#ifndef QY_WORKER_STREAM_H
#define QY_WORKER_STREAM_H

#include "base/file.h"
#include "kernels/device.h"

typedef struct qy_stream qy_stream_t;

/*
 * n samples of sample_bytes each. in_memory: host memory that the device copies from at full speed;
 * else a file in the folder scratch, unlinked at once so that nothing is left behind by any death.
 */
qy_status_t qy_stream_create(qy_stream_t **out, const qy_device_t *dev, int64_t n,
                             size_t sample_bytes, int in_memory, const char *scratch,
                             qy_error_t *err);
void qy_stream_destroy(qy_stream_t **stream);

int64_t qy_stream_count(const qy_stream_t *stream);
size_t qy_stream_sample_bytes(const qy_stream_t *stream);

/* n samples by index, one after the other, into device memory at dst / from device memory at src.
 */
qy_status_t qy_stream_load(qy_stream_t *stream, const int64_t *samples, int64_t n, void *dst,
                           qy_error_t *err);
qy_status_t qy_stream_store(qy_stream_t *stream, int64_t first, int64_t n, const void *src,
                            qy_error_t *err);

/* Between host memory and the stream: samples [first, first + n). */
qy_status_t qy_stream_write(qy_stream_t *stream, int64_t first, int64_t n, const void *host,
                            qy_error_t *err);
qy_status_t qy_stream_read(qy_stream_t *stream, int64_t first, int64_t n, void *host,
                           qy_error_t *err);

#endif
