/*
 * What a device does in a second: the few numbers that hours are estimated from. A table ships with
 * the program (docs/performance.md says where its numbers come from); `quarry plan --calibrate`
 * measures the device at hand (worker/calibrate.h) and keeps the outcome in the user's cache,
 * $XDG_CACHE_HOME/quarry/speeds.json.
 */
#ifndef QY_JOBS_SPEED_H
#define QY_JOBS_SPEED_H

#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

typedef struct {
    char kind[16];    /* "cpu", "cuda" */
    char model[128];  /* as qy_device_t has it */
    char compute[8];  /* type of activations */
    char source[128]; /* "shipped (docs/performance.md)", "measured 2026-11-22T12:00:00Z on n1" */
    int64_t threads;  /* CPU: of the measurement; else 0 */
    double memory;    /* bytes of device memory; 0: not known (CPU) */
    double open_s;    /* a worker's process, its device, model and first calls ready to work */
    double pin;       /* bytes/s: host memory taken for streams */
    double read;      /* weights/s: of a block of the checkpoint, to f32 in host memory */
    double load;      /* weights/s: from there to the device */
    double start;     /* weights/s: least-squares steps and zero points */
    double freeze;    /* weights/s: trained weights to codes on the host */
    double decode;    /* weights/s: codes to weights on the device */
    double update;    /* weights/s: one optimizer step of weights, steps and zero points */
    double forward;   /* FLOP/s: samples through a block, copies included */
    double train;     /* FLOP/s: forward and backward of a training step, copies included */
    double head;      /* FLOP/s: final norm, logits and loss */
    double tokenize;  /* bytes of text/s */
    double disk;      /* bytes/s: written to the run directory and synced */
} qy_speed_t;

/*
 * The speeds to plan with: of device ("cpu", "cuda", "cuda:N"; "auto": whichever was measured last)
 * what was measured last in this user's cache, else the shipped table's. CPU speeds are taken to
 * grow with the threads (0: as measured). UNSUPPORTED where nothing is known of the device.
 */
qy_status_t qy_speed_find(qy_speed_t *out, const char *device, int64_t threads, qy_error_t *err);

/* Puts it in front of the user's cache, in place of an older one of the same device. */
qy_status_t qy_speed_keep(const qy_speed_t *speed, qy_error_t *err);

/* A table of what is in *speed, for people. */
void qy_speed_print(const qy_speed_t *speed, FILE *file);

#endif
