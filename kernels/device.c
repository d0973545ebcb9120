#include "kernels/device.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* "cuda:N" gives N, anything else −1. */
static int cuda_index(const char *name)
{
    static const char prefix[] = "cuda:";
    char *end;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return -1;
    const char *digits = name + sizeof prefix - 1;
    if (*digits < '0' || *digits > '9')
        return -1;
    errno = 0;
    long index = strtol(digits, &end, 10);
    return *end == '\0' && errno == 0 && index <= INT_MAX ? (int)index : -1;
}

/* The wanted compute type; QY_N_DTYPES leaves it to the backend. */
static qy_status_t parse_compute(qy_dtype_t *out, const char *name, qy_error_t *err)
{
    static const struct {
        const char *name;
        qy_dtype_t dtype;
    } known[] = {{"auto", QY_N_DTYPES}, {"f32", QY_F32}, {"f16", QY_F16}, {"bf16", QY_BF16}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].dtype;
            return QY_OK;
        }
    }
    return qy_fail(err, QY_ERR_ARG, "compute type \"%s\": expected auto, f32, f16 or bf16", name);
}

static qy_status_t open_cuda(qy_device_t *dev, int index, qy_error_t *err)
{
#ifdef QUARRY_HAVE_CUDA
    return qy_cuda_open(dev, index, err);
#else
    (void)dev;
    return qy_fail(err, QY_ERR_UNSUPPORTED, "cuda:%d: built without CUDA", index);
#endif
}

static qy_status_t open_named(qy_device_t *dev, const char *name, qy_error_t *err)
{
    if (strcmp(name, "cpu") == 0)
        return qy_cpu_open(dev, 0, err);
    if (strcmp(name, "auto") == 0) {
        const qy_device_t wanted = *dev;
        if (open_cuda(dev, 0, NULL) == QY_OK)
            return QY_OK;
        *dev = wanted;
        return qy_cpu_open(dev, 0, err);
    }
    int index = cuda_index(name);
    if (index < 0)
        return qy_fail(err, QY_ERR_ARG, "device \"%s\": expected cpu, cuda:N or auto", name);
    return open_cuda(dev, index, err);
}

qy_status_t qy_device_open(qy_device_t **out, const char *name, const char *compute, int threads,
                           qy_error_t *err)
{
    qy_dtype_t dtype = QY_N_DTYPES;
    QY_TRY(parse_compute(&dtype, compute, err));
    if (threads < 0)
        return qy_fail(err, QY_ERR_ARG, "%d threads: expected 0 or more", threads);
    qy_device_t *dev = calloc(1, sizeof *dev);
    if (!dev)
        return qy_fail(err, QY_ERR_MEMORY, "device %s: out of memory", name);
    dev->compute = dtype;
    dev->threads = threads;
    qy_status_t status = open_named(dev, name, err);
    if (status == QY_OK)
        *out = dev;
    else
        free(dev);
    return status;
}

void qy_device_close(qy_device_t **dev)
{
    if (!dev || !*dev)
        return;
    (*dev)->vtable->close(*dev);
    free(*dev);
    *dev = NULL;
}

qy_status_t qy_device_alloc(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err)
{
    return dev->vtable->alloc(dev, out, bytes, err);
}

void qy_device_free(const qy_device_t *dev, void **p)
{
    if (!p || !*p)
        return;
    dev->vtable->release(dev, *p);
    *p = NULL;
}

qy_status_t qy_device_host_alloc(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err)
{
    return dev->vtable->host_alloc(dev, out, bytes, err);
}

void qy_device_host_free(const qy_device_t *dev, void **p)
{
    if (!p || !*p)
        return;
    dev->vtable->host_release(dev, *p);
    *p = NULL;
}

qy_status_t qy_device_upload(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                             qy_error_t *err)
{
    return dev->vtable->upload(dev, dst, src, bytes, err);
}

qy_status_t qy_device_download(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                               qy_error_t *err)
{
    return dev->vtable->download(dev, dst, src, bytes, err);
}

qy_status_t qy_device_download_queued(const qy_device_t *dev, void *dst, const void *src,
                                      size_t bytes, qy_error_t *err)
{
    return dev->vtable->download_queued(dev, dst, src, bytes, err);
}

qy_status_t qy_device_copy(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                           qy_error_t *err)
{
    return dev->vtable->copy(dev, dst, src, bytes, err);
}

qy_status_t qy_device_wait(const qy_device_t *dev, qy_error_t *err)
{
    return dev->vtable->wait(dev, err);
}

qy_status_t qy_device_memory(const qy_device_t *dev, size_t *free_bytes, size_t *total_bytes,
                             qy_error_t *err)
{
    return dev->vtable->memory(dev, free_bytes, total_bytes, err);
}
