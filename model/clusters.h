/*
 * Clusters of channels with similar ranges, and the step and zero point that each gets. Pure
 * arithmetic on the host; random numbers come from counters.
 *
 * Source: RPTQ, arXiv:2304.01089, official code; k-means++ with restarts as scikit-learn has it.
 */
#ifndef QY_MODEL_CLUSTERS_H
#define QY_MODEL_CLUSTERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/*
 * n channels with d numbers each (n, d), the first of them the largest value, in k clusters: the
 * least squared distance to the centres among 10 starts of k-means++, each at most 300 rounds.
 * order (n): the channels of the first cluster, then of the second …, ascending within one;
 * clusters by the largest value of their centre. counts (k): sizes; with fewer distinct channels
 * than k the last are 0. Equal arguments give equal bytes, with any number of threads. ARG where k
 * is not 1…n or a number is not finite.
 */
qy_status_t qy_clusters_find(int32_t *order, int32_t *counts, const float *features, int64_t n,
                             int64_t d, int64_t k, uint32_t seed, uint64_t stream, int threads,
                             qy_error_t *err);

/* Σ squared distance of the channels to the centres of their clusters. */
double qy_clusters_inertia(const int32_t *order, const int32_t *counts, const float *features,
                           int64_t n, int64_t d, int64_t k);

/*
 * Step and zero point of values in [lo, hi]; code = clamp(rint(x/s) + z, 0, 2^bits − 1).
 *   s = clamp((hi − lo)/(2^bits − 1), 1e-4, 1e4);  z = rint(clamp(−lo/s, ±1e4))
 *   published: s = clamp((hi − lo)/2^bits, …);  z = rint(clamp(−(hi + lo)/(2 s), ±1e4)) +
 * 2^(bits−1), which cuts off the largest value by half a step or more
 */
void qy_cluster_step(float *s, float *z, float lo, float hi, int bits, bool published);

/*
 * Step and zero point for values that were counted in QY_CLUSTER_BINS bins of equal width over [lo,
 * hi]: those of qy_cluster_step for the range, of its ends pulled in by 24ths of three quarters of
 * their way to 0 (to the middle where 0 lies outside), that leaves the least Σ (ŵ − x)² over the
 * bins' middles x. First both ends go together, then each alone, by turns, until nothing is gained;
 * on ties the first. lo ≤ hi.
 */
enum { QY_CLUSTER_BINS = 4096 };
void qy_cluster_fit(float *s, float *z, const uint32_t bins[QY_CLUSTER_BINS], float lo, float hi,
                    int bits);

/*
 * A sample's ranges into the clusters': hi (k) becomes .99 hi + .01 of the sample's largest value,
 * lo likewise; with first they become the sample's. sample_lo, sample_hi (n) are by channel in the
 * order of the clusters. Clusters without channels stay as they are.
 */
void qy_clusters_average(float *lo, float *hi, const int32_t *counts, int64_t k,
                         const float *sample_lo, const float *sample_hi, bool first);

#endif
