#include "model/qmodel.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/half.h"
#include "base/pack.h"

enum {
    PARTS_MAX = 4 * QY_N_LINEARS + 2 * QY_N_NORMS + 6 * QY_N_SITES,
    PART_NAME_MAX = QY_NAME_MAX + 16, /* "self_attn.q_proj/scales" */
    STORAGE_ALIGN = 64, /* bytes from one tensor of a block to the next, rounded up to this */
    BITS_MAX = 8
};

/* One dataset of a block: its name, type and shape, and the place of its tensor in qy_qblock_t. */
typedef struct {
    char name[PART_NAME_MAX];
    qy_tensor_t like; /* data is NULL */
    size_t place;
} part_t;

int64_t qy_quant_group_cols(const qy_quant_form_t *form, int64_t in)
{
    return form->group > 0 ? form->group : in;
}

int64_t qy_quant_n_groups(const qy_quant_form_t *form, int64_t in)
{
    return in / qy_quant_group_cols(form, in);
}

bool qy_quant_clustered(const qy_quant_form_t *form)
{
    return form->n_clusters[QY_SITE_ATTENTION_IN] > 0;
}

qy_site_t qy_linear_site(int linear)
{
    return linear == QY_LINEAR_O                                ? QY_SITE_O_IN
           : linear == QY_LINEAR_DOWN                           ? QY_SITE_DOWN_IN
           : linear == QY_LINEAR_GATE || linear == QY_LINEAR_UP ? QY_SITE_MLP_IN
                                                                : QY_SITE_ATTENTION_IN;
}

int64_t qy_quant_linear_groups(const qy_quant_form_t *form, const qy_arch_t *arch, int linear)
{
    return qy_quant_clustered(form) ? form->n_clusters[qy_linear_site(linear)]
                                    : qy_quant_n_groups(form, arch->linear[linear].in);
}

const char *qy_site_name(qy_site_t site)
{
    static const char *const names[QY_N_SITES] = {
        "attention_in", "o_in", "mlp_in", "down_in", "q", "k", "v"};
    return names[site];
}

int64_t qy_site_channels(const qy_arch_t *arch, qy_site_t site)
{
    switch (site) {
    case QY_SITE_O_IN:
    case QY_SITE_Q:
        return arch->n_heads * arch->head_dim;
    case QY_SITE_K:
    case QY_SITE_V:
        return arch->n_kv_heads * arch->head_dim;
    case QY_SITE_DOWN_IN:
        return arch->intermediate;
    default:
        return arch->hidden;
    }
}

int qy_quant_site_bits(const qy_quant_form_t *form, qy_site_t site)
{
    enum { NORM_LEAST = 8 }; /* with clusters: outputs of norms */
    int bits = site == QY_SITE_K || site == QY_SITE_V ? form->kv_bits : form->activation_bits;
    if (qy_quant_clustered(form) && (site == QY_SITE_ATTENTION_IN || site == QY_SITE_MLP_IN) &&
        bits && bits < NORM_LEAST)
        bits = NORM_LEAST;
    return bits ? bits : QY_BITS_NONE;
}

bool qy_quant_activations(const qy_quant_form_t *form)
{
    return form->map_sites || qy_quant_site_bits(form, QY_SITE_Q) != QY_BITS_NONE ||
           qy_quant_site_bits(form, QY_SITE_K) != QY_BITS_NONE;
}

qy_decoration_t qy_quant_decoration(const qy_quant_form_t *form)
{
    qy_decoration_t decoration = {0};
    for (int i = 0; i < QY_N_SITES; i++) {
        decoration.mapped[i] = form->map_sites & 1u << i;
        decoration.quantized[i] = qy_quant_site_bits(form, (qy_site_t)i) != QY_BITS_NONE;
    }
    if (qy_quant_clustered(form)) /* where an order may be a map: model/reorder.h */
        decoration.mapped[QY_SITE_ATTENTION_IN] = decoration.mapped[QY_SITE_MLP_IN] =
            decoration.mapped[QY_SITE_Q] = decoration.mapped[QY_SITE_K] = true;
    return decoration;
}

/* --- the parts of a block --- */

static void add_part(part_t *parts, int *n, const char *layer, const char *what, size_t place,
                     qy_tensor_t like)
{
    part_t *part = &parts[(*n)++];
    snprintf(part->name, sizeof part->name, "%s/%s", layer, what);
    part->like = like;
    part->place = place;
}

#define PLACE(field, i) (offsetof(qy_qblock_t, field) + (size_t)(i) * sizeof(qy_tensor_t))

static int list_parts(part_t parts[PARTS_MAX], const qy_arch_t *arch, const qy_quant_form_t *form)
{
    int n = 0;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        if (!d->present)
            continue;
        int64_t words = qy_pack_words(d->in, form->bits);
        int64_t groups = qy_quant_linear_groups(form, arch, i);
        add_part(parts, &n, d->name, "codes", PLACE(codes, i),
                 qy_tensor_2d(NULL, QY_U32, d->out, words));
        add_part(parts, &n, d->name, "scales", PLACE(scales, i),
                 qy_tensor_2d(NULL, QY_F16, d->out, groups));
        add_part(parts, &n, d->name, "zeros", PLACE(zeros, i),
                 qy_tensor_2d(NULL, qy_quant_clustered(form) ? QY_I32 : QY_U8, d->out, groups));
        if (d->bias)
            add_part(parts, &n, d->name, "bias", PLACE(bias, i),
                     qy_tensor_1d(NULL, QY_F32, d->out));
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        const qy_norm_desc_t *d = &arch->norm[i];
        if (!d->present)
            continue;
        add_part(parts, &n, d->name, "weight", PLACE(norm, i), qy_tensor_1d(NULL, QY_F32, d->size));
        if (d->bias)
            add_part(parts, &n, d->name, "bias", PLACE(norm_bias, i),
                     qy_tensor_1d(NULL, QY_F32, d->size));
    }
    for (int i = 0; i < QY_N_SITES && qy_quant_clustered(form); i++) {
        char name[QY_NAME_MAX];
        int64_t channels = qy_site_channels(arch, (qy_site_t)i), clusters = form->n_clusters[i];
        snprintf(name, sizeof name, "sites/%s", qy_site_name((qy_site_t)i));
        add_part(parts, &n, name, "order", PLACE(site_order, i),
                 qy_tensor_1d(NULL, QY_I32, channels));
        add_part(parts, &n, name, "counts", PLACE(site_counts, i),
                 qy_tensor_1d(NULL, QY_I32, clusters));
        add_part(parts, &n, name, "scales", PLACE(site_scales, i),
                 qy_tensor_1d(NULL, QY_F32, clusters));
        add_part(parts, &n, name, "zeros", PLACE(site_zeros, i),
                 qy_tensor_1d(NULL, QY_I32, clusters));
    }
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t channels = qy_site_channels(arch, (qy_site_t)i);
        char name[PART_NAME_MAX - 8];
        if (!(form->map_sites & 1u << i))
            continue;
        snprintf(name, sizeof name, "sites/%s", qy_site_name((qy_site_t)i));
        add_part(parts, &n, name, "offsets", PLACE(map_offsets, i),
                 qy_tensor_1d(NULL, QY_I32, channels + 1));
        add_part(parts, &n, name, "items", PLACE(map_items, i),
                 qy_tensor_1d(NULL, QY_I32, QY_MAP_ITEMS * channels));
    }
    return n;
}

static qy_tensor_t *part_tensor(qy_qblock_t *block, const part_t *part)
{
    return (qy_tensor_t *)((char *)block + part->place);
}

static qy_status_t check_form(const qy_arch_t *arch, const qy_quant_form_t *form, qy_error_t *err)
{
    if (form->bits < 1 || form->bits > BITS_MAX)
        return qy_fail(err, QY_ERR_ARG, "%d bits per weight, 1 to %d expected", form->bits,
                       BITS_MAX);
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        if (d->present && (form->group < 0 || d->in % qy_quant_group_cols(form, d->in) != 0))
            return qy_fail(err, QY_ERR_SHAPE, "%s: group of %lld columns does not divide %lld",
                           d->name, (long long)form->group, (long long)d->in);
    }
    return QY_OK;
}

static size_t aligned_bytes(const qy_tensor_t *t)
{
    return (qy_tensor_bytes(t) + STORAGE_ALIGN - 1) / STORAGE_ALIGN * STORAGE_ALIGN;
}

qy_status_t qy_qblock_create(qy_qblock_t *out, const qy_arch_t *arch, const qy_quant_form_t *form,
                             qy_error_t *err)
{
    QY_TRY(check_form(arch, form, err));
    part_t parts[PARTS_MAX];
    int n = list_parts(parts, arch, form);
    size_t total = 0;
    for (int i = 0; i < n; i++)
        total += aligned_bytes(&parts[i].like);
    qy_qblock_t made = {.form = *form, .storage = calloc(1, total)};
    if (!made.storage)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for the %zu bytes of a quantized block",
                       total);
    char *at = made.storage;
    for (int i = 0; i < n; i++) {
        qy_tensor_t *t = part_tensor(&made, &parts[i]);
        *t = parts[i].like;
        t->data = at;
        at += aligned_bytes(t);
    }
    for (int i = 0; i < QY_N_SITES; i++)
        if (made.map_offsets[i].data)
            qy_channels_identity(made.map_offsets[i].data, made.map_items[i].data,
                                 qy_tensor_count(&made.map_offsets[i]) - 1);
    *out = made;
    return QY_OK;
}

void qy_qblock_free(qy_qblock_t *block)
{
    if (!block)
        return;
    free(block->storage);
    *block = (qy_qblock_t){0};
}

/* --- files --- */

qy_status_t qy_qblock_write(const qy_qblock_t *block, const qy_arch_t *arch, qy_h5_t *file,
                            const char *prefix, qy_error_t *err)
{
    part_t parts[PARTS_MAX];
    int n = list_parts(parts, arch, &block->form);
    for (int i = 0; i < n; i++) {
        char name[QY_PATH_MAX];
        QY_TRY(qy_path(name, err, "%s%s", prefix, parts[i].name));
        const qy_tensor_t *t = (const qy_tensor_t *)((const char *)block + parts[i].place);
        QY_TRY(qy_h5_write(file, name, t, err));
    }
    return QY_OK;
}

static bool f16_usable(uint16_t step)
{
    return step > 0 && step < 0x7c00u; /* positive and finite */
}

/* What a file may not hold, whoever wrote it: a zero point without a code, a step that is no step.
 */
static qy_status_t check_values(const qy_qblock_t *block, const qy_arch_t *arch,
                                const qy_h5_t *file, const char *prefix, qy_error_t *err)
{
    int q_max = (1 << block->form.bits) - 1;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!arch->linear[i].present)
            continue;
        const uint8_t *zeros = block->zeros[i].data;
        const uint16_t *scales = block->scales[i].data;
        int64_t n = qy_tensor_count(&block->zeros[i]);
        bool narrow = block->zeros[i].dtype == QY_U8; /* with clusters they may lie outside */
        for (int64_t k = 0; k < n; k++) {
            if (narrow && zeros[k] > q_max)
                return qy_fail(err, QY_ERR_FORMAT, "%s: %s%s/zeros: %d at %lld, at most %d",
                               qy_h5_path(file), prefix, arch->linear[i].name, zeros[k],
                               (long long)k, q_max);
            if (!f16_usable(scales[k]))
                return qy_fail(err, QY_ERR_NUMERIC,
                               "%s: %s%s/scales: %g at %lld is not a positive finite step",
                               qy_h5_path(file), prefix, arch->linear[i].name,
                               (double)qy_f16_to_f32(scales[k]), (long long)k);
        }
    }
    for (int i = 0; i < QY_N_SITES; i++)
        if (block->map_offsets[i].data &&
            qy_channels_check(block->map_offsets[i].data, block->map_items[i].data,
                              qy_tensor_count(&block->map_offsets[i]) - 1, err) != QY_OK)
            return qy_fail_in(err, "%s: %ssites/%s", qy_h5_path(file), prefix,
                              qy_site_name((qy_site_t)i));
    return QY_OK;
}

static qy_status_t check_site(const qy_qblock_t *block, int site, const qy_h5_t *file,
                              const char *prefix, qy_error_t *err)
{
    int64_t n = qy_tensor_count(&block->site_order[site]), sum = 0;
    const int32_t *order = block->site_order[site].data, *counts = block->site_counts[site].data;
    const float *scales = block->site_scales[site].data;
    bool fits = true;
    uint8_t *seen = calloc((size_t)n, 1);
    if (!seen)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %lld flags", qy_h5_path(file),
                       (long long)n);
    for (int64_t i = 0; i < n && fits; i++)
        fits = order[i] >= 0 && order[i] < n && !seen[order[i]]++;
    for (int64_t c = 0; c < qy_tensor_count(&block->site_counts[site]) && fits; c++) {
        fits = counts[c] >= 0 && counts[c] <= n && scales[c] > 0;
        sum += counts[c];
    }
    free(seen);
    if (!fits || sum != n)
        return qy_fail(err, QY_ERR_FORMAT,
                       "%s: %ssites/%s: is no order of %lld channels in clusters", qy_h5_path(file),
                       prefix, qy_site_name((qy_site_t)site), (long long)n);
    return QY_OK;
}

static qy_status_t read_parts(qy_qblock_t *block, const qy_arch_t *arch, qy_h5_t *file,
                              const char *prefix, qy_error_t *err)
{
    part_t parts[PARTS_MAX];
    int n = list_parts(parts, arch, &block->form);
    for (int i = 0; i < n; i++) {
        char name[QY_PATH_MAX];
        QY_TRY(qy_path(name, err, "%s%s", prefix, parts[i].name));
        QY_TRY(qy_h5_read(file, name, part_tensor(block, &parts[i]), err));
    }
    for (int i = 0; i < QY_N_SITES && qy_quant_clustered(&block->form); i++)
        QY_TRY(check_site(block, i, file, prefix, err));
    return check_values(block, arch, file, prefix, err);
}

qy_status_t qy_qblock_read(qy_qblock_t *out, const qy_arch_t *arch, const qy_quant_form_t *form,
                           qy_h5_t *file, const char *prefix, qy_error_t *err)
{
    qy_qblock_t made;
    QY_TRY(qy_qblock_create(&made, arch, form, err));
    qy_status_t status = read_parts(&made, arch, file, prefix, err);
    if (status == QY_OK)
        *out = made;
    else
        qy_qblock_free(&made);
    return status;
}

/* Steps of one layer from f32 to f16; steps is room for them. */
static qy_status_t read_layer_scales(uint16_t *dst, float *steps, const qy_tensor_t *like,
                                     const char *layer, qy_h5_t *file, qy_error_t *err)
{
    char name[PART_NAME_MAX];
    snprintf(name, sizeof name, "%s/scales", layer);
    qy_tensor_t t = qy_tensor_2d(steps, QY_F32, like->shape[0], like->shape[1]);
    QY_TRY(qy_h5_read(file, name, &t, err));
    int64_t n = qy_tensor_count(&t);
    for (int64_t i = 0; i < n; i++) {
        dst[i] = qy_f32_to_f16(steps[i]);
        if (!f16_usable(dst[i]))
            return qy_fail(err, QY_ERR_NUMERIC,
                           "%s: %s: %g at %lld is not a positive finite step in f16",
                           qy_h5_path(file), name, (double)steps[i], (long long)i);
    }
    return QY_OK;
}

/* All layers' steps one after the other into halves, so that a failure leaves the block as it was.
 */
static qy_status_t read_all_scales(uint16_t *halves, float *steps, const qy_qblock_t *block,
                                   const qy_arch_t *arch, qy_h5_t *file, qy_error_t *err)
{
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!arch->linear[i].present)
            continue;
        QY_TRY(
            read_layer_scales(halves, steps, &block->scales[i], arch->linear[i].name, file, err));
        halves += qy_tensor_count(&block->scales[i]);
    }
    return QY_OK;
}

qy_status_t qy_qblock_read_scales(qy_qblock_t *block, const qy_arch_t *arch, qy_h5_t *file,
                                  qy_error_t *err)
{
    size_t total = 0;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (arch->linear[i].present)
            total += (size_t)qy_tensor_count(&block->scales[i]);
    float *steps = malloc(total * sizeof *steps);
    uint16_t *halves = malloc(total * sizeof *halves);
    qy_status_t status =
        steps && halves
            ? read_all_scales(halves, steps, block, arch, file, err)
            : qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %zu steps", qy_h5_path(file), total);
    const uint16_t *at = halves;
    for (int i = 0; status == QY_OK && i < QY_N_LINEARS; i++) {
        if (!arch->linear[i].present)
            continue;
        memcpy(block->scales[i].data, at, qy_tensor_bytes(&block->scales[i]));
        at += qy_tensor_count(&block->scales[i]);
    }
    free(steps);
    free(halves);
    return status;
}

/* --- finished weights --- */

/* A group of n columns: what each code stands for is found once, where that is less. */
static void dequantize_group(uint16_t *dst, const uint8_t *codes, int64_t n, float step, int zero,
                             int n_codes)
{
    uint16_t value[1 << 8];
    if (n <= n_codes) {
        for (int64_t i = 0; i < n; i++)
            dst[i] = qy_f32_to_f16((float)(codes[i] - zero) * step);
        return;
    }
    for (int c = 0; c < n_codes; c++)
        value[c] = qy_f32_to_f16((float)(c - zero) * step);
    for (int64_t i = 0; i < n; i++)
        dst[i] = value[codes[i]];
}

/* The first that is infinite or no number, or −1. */
static int64_t first_not_finite(const uint16_t *x, int64_t n)
{
    int found = 0;
#pragma omp simd reduction(| : found)
    for (int64_t i = 0; i < n; i++)
        found |= (x[i] & 0x7c00) == 0x7c00;
    for (int64_t i = 0; i < n && found; i++)
        if ((x[i] & 0x7c00) == 0x7c00)
            return i;
    return -1;
}

/* Layer number `linear` of a block, and whose columns its groups are. */
typedef struct {
    const qy_qblock_t *block;
    int linear;
    int64_t n, cols;       /* columns; of each group, without counts */
    const int32_t *counts; /* or NULL */
} layer_t;

/* One row by way of room for its codes; the first column whose weight is not finite in f16, or −1.
 */
static int64_t dequantize_row(const layer_t *l, uint16_t *dst, uint8_t *codes, int64_t row)
{
    const qy_qblock_t *b = l->block;
    const qy_tensor_t *zeros = &b->zeros[l->linear];
    const uint16_t *scales = b->scales[l->linear].data;
    const uint32_t *packed = b->codes[l->linear].data;
    int bits = b->form.bits;
    int64_t groups = zeros->shape[1], first = 0;
    qy_unpack(codes, packed + row * qy_pack_words(l->n, bits), l->n, bits);
    for (int64_t g = 0; g < groups; g++) {
        int64_t at = row * groups + g, n = l->counts ? l->counts[g] : l->cols;
        int zero = zeros->dtype == QY_U8 ? ((const uint8_t *)zeros->data)[at]
                                         : (int)((const int32_t *)zeros->data)[at];
        dequantize_group(dst + first, codes + first, n, qy_f16_to_f32(scales[at]), zero, 1 << bits);
        first += n;
    }
    return first_not_finite(dst, l->n);
}

qy_status_t qy_qblock_dequantize(const qy_qblock_t *block, const qy_arch_t *arch,
                                 qy_linear_id_t linear, uint16_t *dst, int threads, qy_error_t *err)
{
    const qy_linear_desc_t *d = &arch->linear[linear];
    const layer_t layer = {block, (int)linear, d->in, qy_quant_group_cols(&block->form, d->in),
                           block->site_counts[qy_linear_site(linear)].data};
    int64_t bands = threads < d->out ? threads : d->out;
    qy_status_t status = QY_OK;
    bool finite = true;
    uint8_t *codes = malloc((size_t)(bands * d->in));
    if (!codes)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for rows of codes", d->name);
#pragma omp parallel for num_threads(threads) reduction(&& : finite) if (threads > 1)
    for (int64_t b = 0; b < bands; b++)
        for (int64_t row = d->out * b / bands; row < d->out * (b + 1) / bands; row++)
            finite =
                dequantize_row(&layer, dst + row * d->in, codes + b * d->in, row) < 0 && finite;
    for (int64_t row = 0; row < d->out && !finite && status == QY_OK; row++) {
        int64_t bad = dequantize_row(&layer, dst + row * d->in, codes, row);
        if (bad >= 0)
            status = qy_fail(err, QY_ERR_NUMERIC, "%s: weight (%lld, %lld) is too large for f16",
                             d->name, (long long)row, (long long)bad);
    }
    free(codes);
    return status;
}
