/*
 * Random numbers from counters: the value is a pure function of (seed, phase, index), never of call
 * order. Philox4x32-10, Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11).
 */
#ifndef QY_BASE_RANDOM_H
#define QY_BASE_RANDOM_H

#include <stdint.h>

/* One block of Philox4x32-10. */
void qy_philox4x32(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* What a number is drawn for; part of the key. New ones are added at the end. */
typedef enum {
    QY_PHASE_CALIBRATION = 1,
    QY_PHASE_VALIDATION = 2,
    QY_PHASE_E2E = 3,
    QY_PHASE_SHUFFLE_BLOCK = 4,
    QY_PHASE_SHUFFLE_E2E = 5,
    QY_PHASE_LOW_RANK = 6,
    QY_PHASE_CLUSTERS = 8
} qy_phase_t;

/* 64 bits of Philox4x32-10 with key (seed, phase) and counter (index, stream): words 0 (low) and 1. */
uint64_t qy_random_u64(uint32_t seed, qy_phase_t phase, uint64_t index, uint64_t stream);

/* ⌊u n / 2^64⌋, u as above: uniform in [0, n). */
uint64_t qy_random_below(uint32_t seed, qy_phase_t phase, uint64_t index, uint64_t stream,
                         uint64_t n);

/* order[0…n): the permutation that sorts i by (qy_random_u64(seed, phase, i, stream), i). */
void qy_random_permutation(int64_t *order, int64_t n, uint32_t seed, qy_phase_t phase,
                           uint64_t stream);

#endif
