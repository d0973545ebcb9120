/*
 * Rope scaling out of a GGUF. Llama 3's comes as rope_freqs.weight, the divisors f / f' of the
 * frequencies; Hugging Face names the four numbers that they follow from (model/arch_derived.c):
 * with w = 2 π / f, 1 / divisor = (1 − s) / factor + s, s = (L / w − low) / (high − low), and 0 and
 * 1 outside. Of L, low and high only two follow from s: low is 1, as it is in every published
 * model.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/gguf_inner.h"
#include "model/gguf_model.h"

static const double divisor_tolerance = 4e-6; /* relative: f32 divisors of f32 frequencies */
static const double usual_high = 4;           /* where the divisors leave it open */

typedef struct {
    const char *path;
    int64_t half; /* of a head: divisors */
    int64_t head_dim;
    double theta;
    double divisor[QY_HEAD_DIM_MAX / 2];
} divisors_t;

static qy_status_t read_divisors(divisors_t *out, const qy_gguf_t *g, qy_error_t *err)
{
    const qy_gguf_tensor_t *t = qy_gguf_tensor(g, QY_GGUF_ROPE_FREQS);
    if (t->block->type != QY_GGML_F32 || t->n_dims != 1 || t->dims[0] != out->half)
        return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %s: %lld F32 expected", g->path, t->name,
                       (long long)out->half);
    float values[QY_HEAD_DIM_MAX / 2];
    QY_TRY(qy_pread(g->fd, g->path, values, (size_t)t->bytes, t->offset, err));
    for (int64_t i = 0; i < out->half; i++) {
        out->divisor[i] = (double)values[i];
        if (!(values[i] >= 1) || !isfinite(values[i]))
            return qy_fail(err, QY_ERR_UNSUPPORTED,
                           "%s: %s: divisor %lld is %g, 1 or more expected", g->path, t->name,
                           (long long)i, (double)values[i]);
    }
    return QY_OK;
}

static double frequency(const divisors_t *d, int64_t i)
{
    return pow(d->theta, -2 * (double)i / (double)d->head_dim);
}

/* Do these numbers give the divisors? */
static bool explains(const divisors_t *d, const qy_arch_t *rope)
{
    double f[QY_HEAD_DIM_MAX / 2];
    qy_arch_rope_frequencies(rope, f);
    for (int64_t i = 0; i < d->half; i++)
        if (!(fabs(frequency(d, i) / f[i] / d->divisor[i] - 1) <= divisor_tolerance))
            return false;
    return true;
}

static bool is_near(double a, double b)
{
    return fabs(a / b - 1) <= divisor_tolerance;
}

/* L and high from the divisors between 1 and factor: two that are far apart, or one, or none. */
static void fit(const divisors_t *d, double factor, double *positions, double *high)
{
    int64_t first = 0, last = d->half - 1;
    while (first < d->half && is_near(d->divisor[first], 1))
        first++;
    while (last >= 0 && is_near(d->divisor[last], factor))
        last--;
    double x[2], s[2];
    for (int k = 0; k < 2; k++) {
        int64_t i = k ? last : first;
        x[k] = first <= last ? frequency(d, i) / (2 * M_PI) : 0;
        s[k] = first <= last ? (1 / d->divisor[i] - 1 / factor) / (1 - 1 / factor) : 0;
    }
    *high = usual_high;
    if (first < last) {
        double slope = (s[0] - s[1]) / (x[0] - x[1]), offset = slope * x[0] - s[0];
        *high = 1 + 1 / offset;
        *positions = slope / offset;
    } else if (first == last) {
        *positions = (s[0] * (usual_high - 1) + 1) / x[0];
    } else { /* between the last wavelength that stays and the first that does not */
        double stays = first > 0 ? 2 * M_PI / frequency(d, first - 1) : 1;
        *positions = sqrt(usual_high * stays * 2 * M_PI / frequency(d, first));
    }
    *high = round(*high * 1000) / 1000;
    *positions = round(*positions);
}

static qy_status_t from_divisors(json_t **out, const divisors_t *d, qy_error_t *err)
{
    double factor = 1, least = HUGE_VAL, positions, high;
    for (int64_t i = 0; i < d->half; i++) {
        factor = fmax(factor, d->divisor[i]);
        least = fmin(least, d->divisor[i]);
    }
    if (is_near(factor, 1))
        return QY_OK;
    if (is_near(factor, least)) {
        *out = json_pack("{s:s, s:f}", "rope_type", "linear", "factor", factor);
        return QY_OK;
    }
    fit(d, factor, &positions, &high);
    qy_arch_t rope = {.rope_kind = QY_ROPE_LLAMA3,
                      .head_dim = d->head_dim,
                      .rope_theta = d->theta,
                      .rope_factor = factor,
                      .rope_low_freq = 1,
                      .rope_high_freq = high};
    if (positions >= 1 && positions <= INT32_MAX && high > 1) {
        rope.rope_original_positions = (int64_t)positions;
        if (explains(d, &rope)) {
            *out = json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", factor,
                             "low_freq_factor", 1.0, "high_freq_factor", high,
                             "original_max_position_embeddings", (json_int_t)positions);
            return QY_OK;
        }
    }
    return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: %s is no scaling of Llama 3's kind", d->path,
                   QY_GGUF_ROPE_FREQS);
}

/* The scaling that keys name: *factor of a linear one, else 1. */
static qy_status_t read_keys(const qy_gguf_t *g, float *factor, qy_error_t *err)
{
    const qy_family_row_t *row;
    qy_gguf_text_t type = {.bytes = "none", .n = 4};
    char key[64];
    QY_TRY(qy_gguf_family(g, &row, err));
    snprintf(key, sizeof key, "%s.rope.scaling.type", row->model_type);
    QY_TRY(qy_gguf_text(g, key, &type, err));
    bool linear = type.n == 6 && memcmp(type.bytes, "linear", 6) == 0;
    if (!linear && (type.n != 4 || memcmp(type.bytes, "none", 4) != 0))
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: %s is \"%.*s\" (known: none, linear)", g->path,
                       key, (int)(type.n < 40 ? type.n : 40), type.bytes);
    *factor = 1;
    if (linear)
        QY_TRY(qy_gguf_arch_f32(g, row, "rope.scaling.factor", factor, err));
    if (!(*factor > 0) || !isfinite(*factor))
        return qy_fail(err, QY_ERR_FORMAT, "%s: rope.scaling.factor is %g", g->path,
                       (double)*factor);
    return QY_OK;
}

qy_status_t qy_gguf_rope(json_t **out, const qy_gguf_t *gguf, int64_t head_dim, double theta,
                         qy_error_t *err)
{
    float factor;
    json_t *made = NULL;
    divisors_t d = {.path = gguf->path, .half = head_dim / 2, .head_dim = head_dim, .theta = theta};
    QY_TRY(read_keys(gguf, &factor, err));
    if (factor != 1)
        made = json_pack("{s:s, s:o}", "rope_type", "linear", "factor", qy_gguf_real(factor));
    if (qy_gguf_tensor(gguf, QY_GGUF_ROPE_FREQS)) {
        json_t *other = NULL;
        qy_status_t status = read_divisors(&d, gguf, err);
        if (status == QY_OK)
            status = from_divisors(&other, &d, err);
        if (status == QY_OK && made && other)
            status = qy_fail(err, QY_ERR_UNSUPPORTED, "%s: rope.scaling and %s", gguf->path,
                             QY_GGUF_ROPE_FREQS);
        if (status != QY_OK) {
            json_decref(made);
            json_decref(other);
            return status;
        }
        made = made ? made : other;
    }
    *out = made;
    return QY_OK;
}
