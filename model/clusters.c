#include "model/clusters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/quant_rule.h"
#include "base/random.h"

enum { STARTS = 10, ROUNDS = 300 };
static const double tolerance = 1e-4; /* of the features' mean variance */
static const double zero_limit = 1e4;
static const float kept = 0.99f, taken = 0.01f;

/* One problem and the working memory of its starts, which are drawn one after the other. */
typedef struct {
    int64_t n, d, k;
    const float *x;
    double *nearest, *trial; /* (n): squared distance to the nearest centre */
    uint32_t seed;
    uint64_t stream, draws;
} problem_t;

/* One start and what becomes of it. */
typedef struct {
    int64_t found;          /* centres: fewer than k where all channels lie on them */
    double *centre, *fresh; /* (d, k) */
    double *away;           /* (k): a channel's squared distances */
    int64_t *size;          /* (k) */
    int32_t *label;         /* (n) */
    double inertia;
} attempt_t;

static double random_unit(problem_t *p)
{
    uint64_t bits = qy_random_u64(p->seed, QY_PHASE_CLUSTERS, p->draws++, p->stream);
    return (double)(bits >> 11) * 0x1p-53;
}

static double distance(const problem_t *p, int64_t channel, const double *centre)
{
    double sum = 0;
    for (int64_t j = 0; j < p->d; j++) {
        double difference = (double)p->x[channel * p->d + j] - centre[j * p->k];
        sum += difference * difference;
    }
    return sum;
}

static void place(const problem_t *p, attempt_t *a, int64_t c, int64_t channel)
{
    for (int64_t j = 0; j < p->d; j++)
        a->centre[j * p->k + c] = (double)p->x[channel * p->d + j];
}

/* Distances with centre c added, into to; their sum. */
static double with_centre(const problem_t *p, const attempt_t *a, double *to, int64_t c)
{
    double sum = 0;
    for (int64_t i = 0; i < p->n; i++) {
        double away = distance(p, i, a->centre + c);
        to[i] = c == 0 || away < p->nearest[i] ? away : p->nearest[i];
        sum += to[i];
    }
    return sum;
}

/* A channel drawn by its distance from the centres there are. */
static int64_t draw(problem_t *p, double total)
{
    double at = random_unit(p) * total;
    for (int64_t i = 0; i < p->n; i++) {
        at -= p->nearest[i];
        if (at < 0)
            return i;
    }
    return p->n - 1;
}

/* k-means++, greedy: of a few drawn channels the one that leaves least. */
static void start(problem_t *p, attempt_t *a)
{
    int64_t n_trials = 2 + (int64_t)log((double)p->k);
    place(p, a, 0, (int64_t)(random_unit(p) * (double)p->n));
    double total = with_centre(p, a, p->nearest, 0);
    for (a->found = 1; a->found < p->k && total > 0; a->found++) {
        double least = HUGE_VAL;
        int64_t chosen = -1;
        for (int64_t t = 0; t < n_trials; t++) {
            int64_t channel = draw(p, total);
            place(p, a, a->found, channel);
            double sum = with_centre(p, a, p->trial, a->found);
            if (sum < least) {
                least = sum;
                chosen = channel;
            }
        }
        place(p, a, a->found, chosen);
        total = with_centre(p, a, p->nearest, a->found);
    }
}

/* Each channel to its nearest centre, on ties the first; Σ squared distance. */
static double assign(const problem_t *p, attempt_t *a)
{
    double inertia = 0, *away = a->away;
    for (int64_t i = 0; i < p->n; i++) {
        double least = HUGE_VAL;
        for (int64_t c = 0; c < a->found; c++)
            away[c] = 0;
        for (int64_t j = 0; j < p->d; j++) {
            double x = (double)p->x[i * p->d + j];
            const double *centre = a->centre + j * p->k;
#pragma omp simd
            for (int64_t c = 0; c < a->found; c++)
                away[c] += (x - centre[c]) * (x - centre[c]);
        }
        for (int64_t c = 0; c < a->found; c++)
            if (away[c] < least) {
                least = away[c];
                a->label[i] = (int32_t)c;
            }
        inertia += least;
    }
    return inertia;
}

/* Centres to the means of their channels; how far they moved, squared. One without stays. */
static double move(const problem_t *p, attempt_t *a)
{
    double moved = 0;
    memset(a->fresh, 0, (size_t)(p->k * p->d) * sizeof *a->fresh);
    memset(a->size, 0, (size_t)p->k * sizeof *a->size);
    for (int64_t i = 0; i < p->n; i++) {
        a->size[a->label[i]]++;
        for (int64_t j = 0; j < p->d; j++)
            a->fresh[j * p->k + a->label[i]] += (double)p->x[i * p->d + j];
    }
    for (int64_t c = 0; c < a->found; c++)
        for (int64_t j = 0; j < p->d && a->size[c]; j++) {
            double *at = &a->centre[j * p->k + c];
            double to = a->fresh[j * p->k + c] / (double)a->size[c];
            moved += (to - *at) * (to - *at);
            *at = to;
        }
    return moved;
}

static double mean_variance(const problem_t *p)
{
    double sum = 0;
    for (int64_t j = 0; j < p->d; j++) {
        double mean = 0, square = 0;
        for (int64_t i = 0; i < p->n; i++)
            mean += (double)p->x[i * p->d + j] / (double)p->n;
        for (int64_t i = 0; i < p->n; i++) {
            double away = (double)p->x[i * p->d + j] - mean;
            square += away * away / (double)p->n;
        }
        sum += square / (double)p->d;
    }
    return sum;
}

/* Rounds until the centres keep still. */
static void settle(const problem_t *p, attempt_t *a, double still)
{
    a->inertia = assign(p, a);
    for (int round = 0; round < ROUNDS; round++) {
        double moved = move(p, a);
        a->inertia = assign(p, a);
        if (moved <= still)
            break;
    }
}

/* The best of all starts. */
static const attempt_t *solve(problem_t *p, attempt_t attempt[STARTS], int threads)
{
    const attempt_t *best = &attempt[0];
    double still = tolerance * mean_variance(p);
    for (int s = 0; s < STARTS; s++)
        start(p, &attempt[s]);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int s = 0; s < STARTS; s++)
        settle(p, &attempt[s], still);
    for (int s = 1; s < STARTS; s++)
        if (attempt[s].inertia < best->inertia)
            best = &attempt[s];
    return best;
}

/* Labels become order and counts; clusters by the mean of their first numbers. */
static void arrange(const problem_t *p, const attempt_t *a, int32_t *order, int32_t *counts)
{
    double *top = a->fresh; /* room for k */
    memset(top, 0, (size_t)p->k * sizeof *top);
    memset(a->size, 0, (size_t)p->k * sizeof *a->size);
    for (int64_t i = 0; i < p->n; i++) {
        top[a->label[i]] += (double)p->x[i * p->d];
        a->size[a->label[i]]++;
    }
    for (int64_t c = 0; c < p->k; c++)
        top[c] = a->size[c] ? top[c] / (double)a->size[c] : HUGE_VAL;
    for (int64_t place_at = 0, at = 0; place_at < p->k; place_at++) {
        int64_t next = -1;
        for (int64_t c = 0; c < p->k; c++)
            if (a->size[c] > 0 && (next < 0 || top[c] < top[next]))
                next = c;
        counts[place_at] = next < 0 ? 0 : (int32_t)a->size[next];
        for (int64_t i = 0; i < p->n && next >= 0; i++)
            if (a->label[i] == next)
                order[at++] = (int32_t)i;
        if (next >= 0)
            a->size[next] = 0;
    }
}

qy_status_t qy_clusters_find(int32_t *order, int32_t *counts, const float *features, int64_t n,
                             int64_t d, int64_t k, uint32_t seed, uint64_t stream, int threads,
                             qy_error_t *err)
{
    if (k < 1 || k > n)
        return qy_fail(err, QY_ERR_ARG, "%lld clusters of %lld channels", (long long)k,
                       (long long)n);
    for (int64_t i = 0; i < n * d; i++)
        if (!isfinite(features[i]))
            return qy_fail(err, QY_ERR_ARG, "channel %lld: its range is not finite",
                           (long long)(i / d));
    size_t each = (size_t)(2 * k * d + 2 * k);
    double *memory = calloc((size_t)(2 * n) + STARTS * each, sizeof *memory);
    int32_t *labels = calloc((size_t)n, STARTS * sizeof *labels);
    attempt_t attempt[STARTS];
    qy_status_t status =
        memory && labels
            ? QY_OK
            : qy_fail(err, QY_ERR_MEMORY, "no memory to cluster %lld channels", (long long)n);
    if (status == QY_OK) {
        problem_t p = {.n = n, .d = d, .k = k, .x = features, .seed = seed, .stream = stream};
        p.nearest = memory;
        p.trial = memory + n;
        for (int i = 0; i < STARTS; i++) {
            double *centre = memory + 2 * n + (size_t)i * each, *away = centre + 2 * k * d;
            attempt[i] = (attempt_t){.centre = centre,
                                     .fresh = centre + k * d,
                                     .away = away,
                                     .size = (int64_t *)(void *)(away + k),
                                     .label = labels + (int64_t)i * n};
        }
        arrange(&p, solve(&p, attempt, threads), order, counts);
    }
    free(memory);
    free(labels);
    return status;
}

double qy_clusters_inertia(const int32_t *order, const int32_t *counts, const float *features,
                           int64_t n, int64_t d, int64_t k)
{
    double inertia = 0;
    for (int64_t c = 0, at = 0; c < k && at < n; at += counts[c++])
        for (int64_t j = 0; j < d; j++) {
            double mean = 0;
            for (int64_t i = at; i < at + counts[c]; i++)
                mean += (double)features[order[i] * d + j] / (double)counts[c];
            for (int64_t i = at; i < at + counts[c]; i++) {
                double away = (double)features[order[i] * d + j] - mean;
                inertia += away * away;
            }
        }
    return inertia;
}

void qy_cluster_step(float *s, float *z, float lo, float hi, int bits, bool published)
{
    double range = (double)hi - (double)lo, codes = (double)(1 << bits) - (published ? 0 : 1);
    *s = qy_step_used((float)(range / codes));
    double middle =
        published ? -((double)hi + (double)lo) / (2 * (double)*s) : -(double)lo / (double)*s;
    middle = middle < -zero_limit ? -zero_limit : middle > zero_limit ? zero_limit : middle;
    *z = (float)(rint(middle) + (published ? (double)(1 << (bits - 1)) : 0));
}

/* Values that were counted, and the best range so far: how far each end is pulled in. */
typedef struct {
    int n, bits, pulled[2];
    float lo, hi, s, z;
    double least;
    float value[QY_CLUSTER_BINS];
    double count[QY_CLUSTER_BINS];
} fit_t;

enum { PULLS = 24, ALONE_ROUNDS = 4 };
static const float farthest = 0.75f;

/* No further than to what is no less than the least. */
static double fit_error(const fit_t *f, float s, float z)
{
    float q_max = qy_quant_max(f->bits);
    double sum = 0;
    for (int i = 0; i < f->n && sum < f->least; i++) {
        double away = (double)((qy_code(f->value[i], s, z, q_max) - z) * s - f->value[i]);
        sum += f->count[i] * away * away;
    }
    return sum;
}

static bool try_range(fit_t *f, int low, int high)
{
    float s, z, aim = f->lo <= 0 && f->hi >= 0 ? 0.0f : 0.5f * (f->lo + f->hi);
    float lo = f->lo + (aim - f->lo) * farthest * (float)low / PULLS;
    float hi = f->hi + (aim - f->hi) * farthest * (float)high / PULLS;
    qy_cluster_step(&s, &z, lo, hi, f->bits, false);
    double error = fit_error(f, s, z);
    if (error >= f->least)
        return false;
    f->least = error;
    f->s = s;
    f->z = z;
    f->pulled[0] = low;
    f->pulled[1] = high;
    return true;
}

void qy_cluster_fit(float *s, float *z, const uint32_t bins[QY_CLUSTER_BINS], float lo, float hi,
                    int bits)
{
    fit_t f = {.bits = bits, .lo = lo, .hi = hi, .least = HUGE_VAL};
    bool gained = true;
    for (int i = 0; i < QY_CLUSTER_BINS; i++) {
        if (!bins[i])
            continue;
        f.value[f.n] = lo + (hi - lo) * ((float)i + 0.5f) / QY_CLUSTER_BINS;
        f.count[f.n++] = (double)bins[i];
    }
    for (int i = 0; i < PULLS; i++)
        try_range(&f, i, i);
    for (int round = 0; round < ALONE_ROUNDS && gained; round++) {
        gained = false;
        for (int i = 0; i < PULLS; i++)
            gained |= try_range(&f, i, f.pulled[1]);
        for (int i = 0; i < PULLS; i++)
            gained |= try_range(&f, f.pulled[0], i);
    }
    *s = f.s;
    *z = f.z;
}

void qy_clusters_average(float *lo, float *hi, const int32_t *counts, int64_t k,
                         const float *sample_lo, const float *sample_hi, bool first)
{
    for (int64_t c = 0, at = 0; c < k; at += counts[c++]) {
        if (counts[c] == 0)
            continue;
        float least = sample_lo[at], most = sample_hi[at];
        for (int64_t i = at; i < at + counts[c]; i++) {
            least = sample_lo[i] < least ? sample_lo[i] : least;
            most = sample_hi[i] > most ? sample_hi[i] : most;
        }
        lo[c] = first ? least : kept * lo[c] + taken * least;
        hi[c] = first ? most : kept * hi[c] + taken * most;
    }
}
