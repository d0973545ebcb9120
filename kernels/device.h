/*
 * A device: where numbers live and which kernels work on them. It is chosen once, in
 * qy_device_open; nothing above kernels/ asks which one it is.
 *
 * All work is queued on the device's one stream, in call order. On the CPU device it is done when
 * the call returns; on a GPU only qy_device_wait and qy_device_download wait for it.
 */
#ifndef QY_KERNELS_DEVICE_H
#define QY_KERNELS_DEVICE_H

#include <stdbool.h>

#include "base/arena.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct qy_device {
    const qy_ops_t *ops;
    const struct qy_device_vtable *vtable;
    qy_dtype_t compute;  /* type of activations and of weights in GEMMs: CPU f32, GPU f16 or bf16 */
    int threads;         /* of the CPU's kernels and of loops on the host; no result depends on it */
    bool fuses;          /* activation.h is faster there than the ops it stands for */
    char kind[16];       /* "cpu" or "cuda" */
    char model[128];     /* CPU or GPU model, as the system names it */
    char libraries[128]; /* libraries that the bytes depend on, with their versions */
    struct qy_device_usage *usage; /* what is allocated */
    void *impl;                    /* the backend's own */
};

typedef enum { QY_UPLOADS, QY_DOWNLOADS } qy_direction_t;

typedef struct qy_graph qy_graph_t; /* ops recorded by qy_device_repeat */

/* What a backend brings beside its kernels. */
struct qy_device_vtable {
    void (*close)(qy_device_t *dev);
    qy_status_t (*alloc)(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err);
    void (*release)(const qy_device_t *dev, void *p);
    qy_status_t (*host_alloc)(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err);
    void (*host_release)(const qy_device_t *dev, void *p);
    qy_status_t (*upload)(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                          qy_error_t *err);
    qy_status_t (*download)(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                            qy_error_t *err);
    qy_status_t (*download_queued)(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                                   qy_error_t *err);
    qy_status_t (*copy)(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                        qy_error_t *err);
    qy_status_t (*wait)(const qy_device_t *dev, qy_error_t *err);
    qy_status_t (*mark)(const qy_device_t *dev, void **mark, qy_direction_t direction,
                        qy_error_t *err);
    qy_status_t (*mark_wait)(const qy_device_t *dev, const void *mark, qy_error_t *err);
    void (*mark_release)(const qy_device_t *dev, void *mark);
    int (*idle)(const qy_device_t *dev);
    /* May be NULL: then queue is called each time. */
    qy_status_t (*repeat)(const qy_device_t *dev, qy_graph_t **graph,
                          qy_status_t (*queue)(void *context, qy_error_t *err), void *context,
                          qy_error_t *err);
    void (*graph_free)(const qy_device_t *dev, qy_graph_t *graph);
    qy_status_t (*memory)(const qy_device_t *dev, size_t *free_bytes, size_t *total_bytes,
                          qy_error_t *err);
};

/*
 * name     "cpu", "cuda:N", or "auto" (the first GPU where there is one that can be taken, else the
 *          CPU; a GPU that is there and fails is an error)
 * compute  "auto", "f32", "f16", "bf16"; the CPU device knows f32 only
 * threads  CPU threads; 0: OMP_NUM_THREADS, else the CPUs this process may use
 * Errors: ARG for an unknown name, UNSUPPORTED where it was not built, DEVICE where it fails.
 */
qy_status_t qy_device_open(qy_device_t **out, const char *name, const char *compute, int threads,
                           qy_error_t *err);
void qy_device_close(qy_device_t **dev);

/* Device memory; contents undefined. Aligned to 256 bytes. Not for use inside a step. */
qy_status_t qy_device_alloc(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err);
void qy_device_free(const qy_device_t *dev, void **p);

/*
 * Bytes of device memory that are and were at most allocated at once, the backend's own work space
 * included; a GPU's context and what libraries keep to themselves are not. Beyond a limit (0: none)
 * an allocation fails with MEMORY.
 */
size_t qy_device_used(const qy_device_t *dev);
size_t qy_device_peak(const qy_device_t *dev);
void qy_device_limit(const qy_device_t *dev, size_t bytes);

/* What a device of this kind allocates for itself from the start, and when the largest scratch of
 * an op is scratch_bytes; and the stages of one direction of transfers (qy_device_stage). */
size_t qy_device_own_bytes(const char *kind, size_t scratch_bytes);
size_t qy_device_stage_bytes(const char *kind, size_t piece_bytes);

/*
 * Transfers of host memory from qy_device_host_alloc in pieces of up to so many bytes pass beside
 * the ops from now on, through device memory that is taken at the first; larger ones, and those of
 * more than QY_STAGE_LARGEST bytes, go in the order of the ops. It only grows; 0 at first.
 */
#define QY_STAGE_LARGEST ((size_t)64 << 20)
void qy_device_stage(const qy_device_t *dev, size_t piece_bytes);

/*
 * One allocation for everything that take points into an arena: take runs twice, first on an arena
 * that only measures, then on *memory, which is the caller's to free. On failure there is none.
 */
typedef qy_status_t (*qy_take_fn)(void *context, qy_arena_t *arena, qy_error_t *err);
qy_status_t qy_device_take(const qy_device_t *dev, void **memory, const char *name, qy_take_fn take,
                           void *context, qy_error_t *err);

/* Host memory that the device copies from and to at full speed (pinned on a GPU). */
qy_status_t qy_device_host_alloc(const qy_device_t *dev, void **out, size_t bytes, qy_error_t *err);
void qy_device_host_free(const qy_device_t *dev, void **p);

/* upload is queued, src stays untouched until the next wait; download returns when dst is there. */
qy_status_t qy_device_upload(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                             qy_error_t *err);
qy_status_t qy_device_download(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                               qy_error_t *err);
/* Queued: dst is there after the next wait; what is queued later may write src. */
qy_status_t qy_device_download_queued(const qy_device_t *dev, void *dst, const void *src,
                                      size_t bytes, qy_error_t *err);
qy_status_t qy_device_copy(const qy_device_t *dev, void *dst, const void *src, size_t bytes,
                           qy_error_t *err);
qy_status_t qy_device_wait(const qy_device_t *dev, qy_error_t *err);

/*
 * A mark behind all transfers of one direction that are queued so far: once mark_wait returns, they
 * no longer touch the host memory of qy_device_host_alloc that they read or wrote. *mark is NULL at
 * first and may be set again and again. Waiting for one (NULL: nothing to wait for) may happen in
 * another thread.
 */
qy_status_t qy_device_mark(const qy_device_t *dev, void **mark, qy_direction_t direction,
                           qy_error_t *err);
qy_status_t qy_device_mark_wait(const qy_device_t *dev, const void *mark, qy_error_t *err);
void qy_device_mark_free(const qy_device_t *dev, void **mark);
/* 1 where the device has nothing left to do of what is queued (always on the CPU). */
int qy_device_idle(const qy_device_t *dev);

/*
 * Queues the ops that queue(context) queues. It must queue the same ops on the same memory each
 * time, no transfers to or from the host: a GPU records them once and replays the recording. *graph
 * is NULL before the first call. Freed with qy_graph_free before the device is closed.
 */
qy_status_t qy_device_repeat(const qy_device_t *dev, qy_graph_t **graph,
                             qy_status_t (*queue)(void *context, qy_error_t *err), void *context,
                             qy_error_t *err);
void qy_graph_free(const qy_device_t *dev, qy_graph_t **graph);

qy_status_t qy_device_memory(const qy_device_t *dev, size_t *free_bytes, size_t *total_bytes,
                             qy_error_t *err);

/*
 * The backends' doors, called by qy_device_open only. dev comes zeroed but for compute, the wanted
 * type (QY_N_DTYPES: the backend's choice), and threads; on failure it is thrown away.
 */
qy_status_t qy_cpu_open(qy_device_t *dev, int index, qy_error_t *err);
qy_status_t qy_cuda_open(qy_device_t *dev, int index, qy_error_t *err);
/* Whether there are a driver and a GPU new enough, in whatever state. */
int qy_cuda_present(void);

/* OMP_NUM_THREADS, else the CPUs of the process's affinity. */
int qy_cpu_threads(void);

#ifdef __cplusplus
}
#endif
#endif
