/* The CPU device: memory, copies, scratch; its one stream is the calling thread. */
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/table.h"

enum { MEMORY_ALIGN = 256, SCRATCH_ALIGN_FLOATS = 16 };

typedef struct {
    float *scratch;
    int64_t scratch_floats;
} impl_t;

static qy_status_t memory_alloc(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err)
{
    (void)dev;
    size_t rounded = (bytes + MEMORY_ALIGN) / MEMORY_ALIGN * MEMORY_ALIGN;
    void *p = rounded > bytes ? aligned_alloc(MEMORY_ALIGN, rounded) : NULL;
    if (!p)
        return qy_fail(err, QY_ERR_MEMORY, "cpu: no memory for %zu bytes", bytes);
    *out = p;
    return QY_OK;
}

static void memory_release(const qy_device_t *dev, void *p)
{
    (void)dev;
    free(p);
}

static qy_status_t memory_copy(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                               qy_error_t *err)
{
    (void)dev;
    (void)err;
    memmove(dst, src, bytes);
    return QY_OK;
}

static qy_status_t wait_for_nothing(const qy_device_t *dev, qy_error_t *err)
{
    (void)dev;
    (void)err;
    return QY_OK;
}

static qy_status_t mark_nothing(const qy_device_t *dev, void **mark, qy_direction_t direction,
                                qy_error_t *err)
{
    (void)dev;
    (void)mark; /* stays NULL: transfers are done when they return */
    (void)direction;
    (void)err;
    return QY_OK;
}

static int always_idle(const qy_device_t *dev)
{
    (void)dev;
    return 1;
}

/* Number of the line "key  N kB" of /proc/meminfo in bytes, 0 where there is none. */
static size_t meminfo(const char *key)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%llu", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return (size_t)kib * 1024;
}

static qy_status_t memory_state(const qy_device_t *dev, size_t *free_bytes, size_t *total_bytes,
                                qy_error_t *err)
{
    (void)dev;
    size_t total = meminfo("MemTotal:"), available = meminfo("MemAvailable:");
    if (total == 0)
        return qy_fail(err, QY_ERR_DEVICE, "cpu: /proc/meminfo does not tell the memory");
    *free_bytes = available;
    *total_bytes = total;
    return QY_OK;
}

static void close_device(qy_device_t *dev)
{
    impl_t *impl = dev->impl;
    free(impl->scratch);
    free(impl);
}

static const struct qy_device_vtable vtable = {
    .close = close_device,
    .alloc = memory_alloc,
    .release = memory_release,
    .host_alloc = memory_alloc,
    .host_release = memory_release,
    .upload = memory_copy,
    .download = memory_copy,
    .download_queued = memory_copy,
    .copy = memory_copy,
    .wait = wait_for_nothing,
    .mark = mark_nothing,
    .idle = always_idle,
    .memory = memory_state,
};

qy_status_t qy_cpu_scratch(const qy_device_t *dev, float **out, int64_t n_parts,
                           int64_t *part_floats, qy_error_t *err)
{
    impl_t *impl = dev->impl;
    int64_t part = qy_chunks(*part_floats, SCRATCH_ALIGN_FLOATS) * SCRATCH_ALIGN_FLOATS;
    if (n_parts * part > impl->scratch_floats) {
        void *grown = NULL;
        QY_TRY(memory_alloc(dev, &grown, (size_t)(n_parts * part) * sizeof(float), err));
        free(impl->scratch);
        impl->scratch = grown;
        impl->scratch_floats = n_parts * part;
    }
    *out = impl->scratch;
    *part_floats = part;
    return QY_OK;
}

/* "model name" of the first processor; on systems that have none, the machine's name. */
static void find_model(char *out, size_t bytes)
{
    static const char key[] = "model name";
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");
    out[0] = '\0';
    while (file && out[0] == '\0' && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, key, sizeof key - 1) == 0 && colon) {
            const char *value = colon + 1 + strspn(colon + 1, " \t");
            snprintf(out, bytes, "%.*s", (int)strcspn(value, "\n"), value);
        }
    }
    if (file)
        fclose(file);
    struct utsname system;
    if (out[0] == '\0' && uname(&system) == 0)
        snprintf(out, bytes, "%s", system.machine);
}

int qy_cpu_threads(void)
{
    return omp_get_max_threads();
}

qy_status_t qy_cpu_open(qy_device_t *dev, int index, qy_error_t *err)
{
    (void)index;
    if (dev->compute != QY_F32 && dev->compute != QY_N_DTYPES)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "cpu: computes in f32, not in %s",
                       qy_dtype_name(dev->compute));
    impl_t *impl = calloc(1, sizeof *impl);
    if (!impl)
        return qy_fail(err, QY_ERR_MEMORY, "cpu: out of memory");
    dev->impl = impl;
    dev->ops = &qy_cpu_ops;
    dev->vtable = &vtable;
    dev->compute = QY_F32;
    openblas_set_num_threads(1);
    snprintf(dev->kind, sizeof dev->kind, "cpu");
    find_model(dev->model, sizeof dev->model);
    snprintf(dev->libraries, sizeof dev->libraries, "%s; core %s", openblas_get_config(),
             openblas_get_corename());
    return QY_OK;
}
