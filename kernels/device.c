#include "kernels/device.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device_own.h"

/* One allocation. */
typedef struct {
    const void *memory;
    size_t bytes;
} qy_device_piece_t;

struct qy_device_usage {
    size_t used, peak, limit, stage;
    qy_device_piece_t *at;
    int n, capacity;
};

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

static int has_cuda(void)
{
#ifdef QUARRY_HAVE_CUDA
    return qy_cuda_present();
#else
    return 0;
#endif
}

static qy_status_t open_named(qy_device_t *dev, const char *name, qy_error_t *err)
{
    if (strcmp(name, "cpu") == 0)
        return qy_cpu_open(dev, 0, err);
    if (strcmp(name, "cuda") == 0)
        return open_cuda(dev, 0, err);
    if (strcmp(name, "auto") == 0)
        return has_cuda() ? open_cuda(dev, 0, err) : qy_cpu_open(dev, 0, err);
    int index = cuda_index(name);
    if (index < 0)
        return qy_fail(err, QY_ERR_ARG, "device \"%s\": expected cpu, cuda, cuda:N or auto", name);
    return open_cuda(dev, index, err);
}

static void discard(qy_device_t *dev)
{
    if (dev->usage)
        free(dev->usage->at);
    free(dev->usage);
    free(dev);
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
    dev->threads = threads ? threads : qy_cpu_threads();
    dev->usage = calloc(1, sizeof *dev->usage);
    qy_status_t status = dev->usage ? open_named(dev, name, err)
                                    : qy_fail(err, QY_ERR_MEMORY, "device %s: out of memory", name);
    if (status == QY_OK)
        *out = dev;
    else
        discard(dev);
    return status;
}

void qy_device_close(qy_device_t **dev)
{
    if (!dev || !*dev)
        return;
    (*dev)->vtable->close(*dev);
    discard(*dev);
    *dev = NULL;
}

/* --- memory ------------------------------------------------------------------------------------
 */

/* Room to remember one more allocation. */
static qy_status_t reserve(struct qy_device_usage *u, qy_error_t *err)
{
    if (u->n < u->capacity)
        return QY_OK;
    int capacity = u->capacity ? 2 * u->capacity : 32;
    void *grown = realloc(u->at, (size_t)capacity * sizeof *u->at);
    if (!grown)
        return qy_fail(err, QY_ERR_MEMORY, "device: out of host memory");
    u->at = grown;
    u->capacity = capacity;
    return QY_OK;
}

qy_status_t qy_device_alloc(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err)
{
    struct qy_device_usage *u = dev->usage;
    if (u->limit && (u->used > u->limit || bytes > u->limit - u->used))
        return qy_fail(err, QY_ERR_MEMORY, "%s: %zu bytes wanted, %zu of the %zu allowed are taken",
                       dev->kind, bytes, u->used, u->limit);
    QY_TRY(reserve(u, err));
    QY_TRY(dev->vtable->alloc(dev, out, bytes, err));
    u->at[u->n++] = (qy_device_piece_t){*out, bytes};
    u->used += bytes;
    if (u->used > u->peak)
        u->peak = u->used;
    return QY_OK;
}

void qy_device_free(const qy_device_t *dev, void **p)
{
    struct qy_device_usage *u = dev->usage;
    int i = 0;
    if (!p || !*p)
        return;
    while (i < u->n && u->at[i].memory != *p)
        i++;
    if (i < u->n) {
        u->used -= u->at[i].bytes;
        u->at[i] = u->at[--u->n];
    }
    dev->vtable->release(dev, *p);
    *p = NULL;
}

size_t qy_device_used(const qy_device_t *dev)
{
    return dev->usage->used;
}

size_t qy_device_peak(const qy_device_t *dev)
{
    return dev->usage->peak;
}

void qy_device_limit(const qy_device_t *dev, size_t bytes)
{
    dev->usage->limit = bytes;
}

size_t qy_device_own_bytes(const char *kind, size_t scratch_bytes)
{
    if (strcmp(kind, "cuda") != 0)
        return 0;
    return QY_CUDA_BLAS_WORKSPACE +
           (scratch_bytes > QY_CUDA_SCRATCH ? scratch_bytes : QY_CUDA_SCRATCH);
}

size_t qy_device_stage_bytes(const char *kind, size_t piece_bytes)
{
    return strcmp(kind, "cuda") == 0 && piece_bytes <= QY_STAGE_LARGEST
               ? QY_CUDA_STAGES * piece_bytes
               : 0;
}

void qy_device_stage(const qy_device_t *dev, size_t piece_bytes)
{
    if (piece_bytes > dev->usage->stage && piece_bytes <= QY_STAGE_LARGEST)
        dev->usage->stage = piece_bytes;
}

size_t qy_device_staged(const qy_device_t *dev)
{
    return dev->usage->stage;
}

qy_status_t qy_device_take(const qy_device_t *dev, void **memory, const char *name, qy_take_fn take,
                           void *context, qy_error_t *err)
{
    qy_arena_t arena;
    void *taken;
    qy_arena_init(&arena, name, NULL, 0);
    QY_TRY(take(context, &arena, err));
    size_t bytes = arena.peak;
    QY_TRY(qy_device_alloc(dev, &taken, bytes, err));
    qy_arena_init(&arena, name, taken, bytes);
    qy_status_t status = take(context, &arena, err);
    if (status == QY_OK)
        *memory = taken;
    else
        qy_device_free(dev, &taken);
    return status;
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

qy_status_t qy_device_mark(const qy_device_t *dev, void **mark, qy_direction_t direction,
                           qy_error_t *err)
{
    return dev->vtable->mark(dev, mark, direction, err);
}

qy_status_t qy_device_mark_wait(const qy_device_t *dev, const void *mark, qy_error_t *err)
{
    return mark ? dev->vtable->mark_wait(dev, mark, err) : QY_OK;
}

void qy_device_mark_free(const qy_device_t *dev, void **mark)
{
    if (*mark)
        dev->vtable->mark_release(dev, *mark);
    *mark = NULL;
}

int qy_device_idle(const qy_device_t *dev)
{
    return dev->vtable->idle(dev);
}

qy_status_t qy_device_repeat(const qy_device_t *dev, qy_graph_t **graph,
                             qy_status_t (*queue)(void *context, qy_error_t *err), void *context,
                             qy_error_t *err)
{
    if (!dev->vtable->repeat)
        return queue(context, err);
    return dev->vtable->repeat(dev, graph, queue, context, err);
}

void qy_graph_free(const qy_device_t *dev, qy_graph_t **graph)
{
    if (*graph)
        dev->vtable->graph_free(dev, *graph);
    *graph = NULL;
}

qy_status_t qy_device_memory(const qy_device_t *dev, size_t *free_bytes, size_t *total_bytes,
                             qy_error_t *err)
{
    return dev->vtable->memory(dev, free_bytes, total_bytes, err);
}
