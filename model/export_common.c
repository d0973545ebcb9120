#include "model/export_common.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "model/grow.h"

enum { SPEC_DIMS_MAX = 4 };
const uint64_t qy_export_shard_bytes = 5000000000u;

/* --- the list of tensors --- */

qy_status_t qy_tensor_list_add(qy_tensor_list_t *list, const char *layer, const char *suffix,
                               const char *dtype, int n_dims, const int64_t *shape, qy_error_t *err)
{
    if (n_dims > SPEC_DIMS_MAX)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s%s: %d dimensions, at most %d can be exported",
                       layer, suffix, n_dims, SPEC_DIMS_MAX);
    qy_st_spec_t *specs = qy_grow(list->specs, &list->capacity, list->n + 1, sizeof *specs);
    if (!specs)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for a list of %lld tensors",
                       (long long)list->n + 1);
    list->specs = specs;
    size_t size = strlen(layer) + strlen(suffix) + 1;
    char *name = malloc(size);
    if (!name)
        return qy_fail(err, QY_ERR_MEMORY, "no memory for the name of a tensor");
    snprintf(name, size, "%s%s", layer, suffix);
    qy_st_spec_t *spec = &list->specs[list->n++];
    *spec = (qy_st_spec_t){.name = name, .dtype = dtype, .n_dims = n_dims};
    for (int i = 0; i < n_dims; i++)
        spec->shape[i] = shape[i];
    return QY_OK;
}

void qy_tensor_list_free(qy_tensor_list_t *list)
{
    for (int64_t i = 0; i < list->n; i++)
        free((char *)list->specs[i].name);
    free(list->specs);
    *list = (qy_tensor_list_t){0};
}

/* --- which tensor of the checkpoint is what --- */

typedef enum { PART_OUTER, PART_WEIGHT, PART_BIAS, PART_NORM } part_kind_t;

typedef struct {
    part_kind_t kind;
    int64_t block;
    qy_linear_id_t linear; /* of a weight or bias */
} part_t;

static bool is_suffixed(const char *text, const char *name, const char *suffix)
{
    size_t n = strlen(name);
    return strncmp(text, name, n) == 0 && strcmp(text + n, suffix) == 0;
}

/* Reads "model.layers.12.self_attn.q_proj.weight"; everything that is not the blocks' is outer. */
static part_t find_part(const qy_arch_t *arch, const char *name)
{
    part_t outer = {.kind = PART_OUTER}, part = outer;
    size_t n = strlen(arch->block_prefix);
    if (strncmp(name, arch->block_prefix, n) != 0 || !isdigit((unsigned char)name[n]))
        return outer;
    char *rest;
    part.block = strtoll(name + n, &rest, 10);
    if (*rest != '.' || part.block >= arch->n_blocks)
        return outer;
    rest++;
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        part.linear = (qy_linear_id_t)i;
        part.kind = PART_WEIGHT;
        if (d->present && is_suffixed(rest, d->name, ".weight"))
            return part;
        part.kind = PART_BIAS;
        if (d->present && d->bias && is_suffixed(rest, d->name, ".bias"))
            return part;
    }
    part.kind = PART_NORM;
    for (int i = 0; i < QY_N_NORMS; i++) {
        const qy_norm_desc_t *d = &arch->norm[i];
        if (d->present && (is_suffixed(rest, d->name, ".weight") ||
                           (d->bias && is_suffixed(rest, d->name, ".bias"))))
            return part;
    }
    return outer;
}

/* The weights outside the blocks that the arch knows; others (buffers of old checkpoints) are not
 * weights, and keep their type. */
static bool is_outer_weight(const qy_arch_t *arch, const char *name)
{
    return strcmp(name, arch->embedding_name) == 0 || strcmp(name, arch->position_name) == 0 ||
           strcmp(name, arch->head_name) == 0 ||
           is_suffixed(name, arch->final_norm.name, ".weight") ||
           is_suffixed(name, arch->final_norm.name, ".bias");
}

/* Type in which a tensor that is no linear layer's is stored. */
static const char *kept_dtype(const qy_arch_t *arch, const qy_layer_format_t *format,
                              const qy_st_entry_t *entry, part_kind_t kind)
{
    bool weight = kind == PART_NORM || is_outer_weight(arch, entry->name);
    return format->all_f16 && weight ? "F16" : entry->dtype;
}

static qy_status_t declare_all(qy_tensor_list_t *list, const qy_export_t *job,
                               const qy_layer_format_t *format, qy_error_t *err)
{
    const qy_arch_t *arch = &job->model->arch;
    int64_t n = qy_st_count(job->model->tensors);
    for (int64_t i = 0; i < n; i++) {
        const qy_st_entry_t *e = qy_st_at(job->model->tensors, i);
        part_t part = find_part(arch, e->name);
        char layer[QY_TENSOR_NAME_MAX];
        switch (part.kind) {
        case PART_WEIGHT:
            qy_model_tensor_name(layer, arch, part.block, arch->linear[part.linear].name, "");
            QY_TRY(format->declare(list, layer, &arch->linear[part.linear], &job->form, err));
            break;
        case PART_BIAS:
            QY_TRY(qy_tensor_list_add(list, e->name, "", format->kept_biases ? e->dtype : "F16",
                                      e->n_dims, e->shape, err));
            break;
        case PART_NORM:
        case PART_OUTER:
            QY_TRY(qy_tensor_list_add(list, e->name, "", kept_dtype(arch, format, e, part.kind),
                                      e->n_dims, e->shape, err));
            break;
        }
    }
    return QY_OK;
}

/* --- values --- */

static qy_status_t to_f16(uint16_t *out, float x, const char *name, qy_error_t *err)
{
    *out = qy_f32_to_f16(x);
    if ((*out & 0x7c00u) == 0x7c00u)
        return qy_fail(err, QY_ERR_NUMERIC, "tensor %s holds %g, which f16 does not", name,
                       (double)x);
    return QY_OK;
}

/* n numbers of type F32 or BF16 become F16 where they lie. */
static qy_status_t narrow_in_place(void *data, const char *dtype, int64_t n, const char *name,
                                   qy_error_t *err)
{
    bool wide = strcmp(dtype, "F32") == 0;
    char *bytes = data;
    for (int64_t i = 0; i < n; i++) {
        float x;
        uint16_t half;
        if (wide) {
            memcpy(&x, bytes + 4 * i, sizeof x);
        } else {
            memcpy(&half, bytes + 2 * i, sizeof half);
            x = qy_bf16_to_f32(half);
        }
        QY_TRY(to_f16(&half, x, name, err));
        memcpy(bytes + 2 * i, &half, sizeof half);
    }
    return QY_OK;
}

static qy_status_t copy_tensor(qy_st_writer_t *writer, const qy_st_set_t *set,
                               const qy_st_entry_t *e, const char *dtype, qy_error_t *err)
{
    void *data = malloc(e->bytes + 1);
    if (!data)
        return qy_fail(err, QY_ERR_MEMORY, "tensor %s: no memory for its %llu bytes", e->name,
                       (unsigned long long)e->bytes);
    qy_status_t status = qy_st_read(set, e, data, 0, e->bytes, err);
    uint64_t bytes = e->bytes;
    if (status == QY_OK && strcmp(dtype, e->dtype) != 0) {
        int64_t n = 1;
        for (int i = 0; i < e->n_dims; i++)
            n *= e->shape[i];
        status = narrow_in_place(data, e->dtype, n, e->name, err);
        bytes = 2 * (uint64_t)n;
    }
    if (status == QY_OK)
        status = qy_st_writer_put(writer, e->name, data, bytes, err);
    free(data);
    return status;
}

/* A bias or norm of a quantized block, from f32 to the type it is stored in. */
static qy_status_t put_vector(qy_st_writer_t *writer, const char *name, const qy_tensor_t *t,
                              const char *dtype, qy_error_t *err)
{
    const float *values = t->data;
    int64_t n = qy_tensor_count(t);
    if (strcmp(dtype, "F32") == 0)
        return qy_st_writer_put(writer, name, values, 4 * (uint64_t)n, err);
    uint16_t *halves = malloc((size_t)n * sizeof *halves);
    if (!halves)
        return qy_fail(err, QY_ERR_MEMORY, "tensor %s: no memory", name);
    qy_status_t status = QY_OK;
    bool brain = strcmp(dtype, "BF16") == 0;
    for (int64_t i = 0; i < n && status == QY_OK; i++) {
        if (brain)
            halves[i] = qy_f32_to_bf16(values[i]);
        else
            status = to_f16(&halves[i], values[i], name, err);
    }
    if (status == QY_OK)
        status = qy_st_writer_put(writer, name, halves, 2 * (uint64_t)n, err);
    free(halves);
    return status;
}

/* The last norm's vector of this name that stands in for the checkpoint's; NULL data: none does. */
static qy_tensor_t set_norm(const qy_model_t *model, const char *name)
{
    int64_t n = model->arch.hidden;
    float *w = model->final_norm;
    if (w && is_suffixed(name, model->arch.final_norm.name, ".weight"))
        return qy_tensor_1d(w, QY_F32, n);
    if (w && is_suffixed(name, model->arch.final_norm.name, ".bias"))
        return qy_tensor_1d(w + n, QY_F32, n);
    return (qy_tensor_t){0};
}

static qy_status_t copy_outer(qy_st_writer_t *writer, const qy_export_t *job,
                              const qy_layer_format_t *format, qy_error_t *err)
{
    const qy_arch_t *arch = &job->model->arch;
    int64_t n = qy_st_count(job->model->tensors);
    for (int64_t i = 0; i < n; i++) {
        const qy_st_entry_t *e = qy_st_at(job->model->tensors, i);
        if (find_part(arch, e->name).kind != PART_OUTER)
            continue;
        const char *dtype = kept_dtype(arch, format, e, PART_OUTER);
        qy_tensor_t norm = set_norm(job->model, e->name);
        QY_TRY(norm.data ? put_vector(writer, e->name, &norm, dtype, err)
                         : copy_tensor(writer, job->model->tensors, e, dtype, err));
    }
    return QY_OK;
}

/* In f16 if narrow, else in the checkpoint's type. */
static qy_status_t put_kept(qy_st_writer_t *writer, const qy_export_t *job, bool narrow,
                            const char *name, const qy_tensor_t *t, qy_error_t *err)
{
    const qy_st_entry_t *e = qy_st_find(job->model->tensors, name);
    if (!e)
        return qy_fail(err, QY_ERR_FORMAT, "%s: no tensor %s", job->model->dir, name);
    return put_vector(writer, name, t, narrow ? "F16" : e->dtype, err);
}

static qy_status_t write_block(qy_st_writer_t *writer, const qy_export_t *job,
                               const qy_layer_format_t *format, const qy_qblock_t *block,
                               int64_t index, qy_error_t *err)
{
    const qy_arch_t *arch = &job->model->arch;
    char name[QY_TENSOR_NAME_MAX];
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!arch->linear[i].present)
            continue;
        qy_model_tensor_name(name, arch, index, arch->linear[i].name, "");
        QY_TRY(format->write(writer, name, block, arch, (qy_linear_id_t)i, err));
        qy_model_tensor_name(name, arch, index, arch->linear[i].name, ".bias");
        if (arch->linear[i].bias)
            QY_TRY(put_kept(writer, job, !format->kept_biases, name, &block->bias[i], err));
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        if (!arch->norm[i].present)
            continue;
        qy_model_tensor_name(name, arch, index, arch->norm[i].name, ".weight");
        QY_TRY(put_kept(writer, job, format->all_f16, name, &block->norm[i], err));
        qy_model_tensor_name(name, arch, index, arch->norm[i].name, ".bias");
        if (arch->norm[i].bias)
            QY_TRY(put_kept(writer, job, format->all_f16, name, &block->norm_bias[i], err));
    }
    return QY_OK;
}

static qy_status_t check_form(const qy_quant_form_t *has, const qy_quant_form_t *wanted,
                              qy_error_t *err)
{
    if (has->bits != wanted->bits || has->group != wanted->group ||
        has->symmetric != wanted->symmetric)
        return qy_fail(
            err, QY_ERR_FORMAT,
            "quantized with %d bits, group %lld, symmetric %d; the export wants %d, %lld, "
            "%d",
            has->bits, (long long)has->group, has->symmetric, wanted->bits,
            (long long)wanted->group, wanted->symmetric);
    return QY_OK;
}

static qy_status_t write_blocks(qy_st_writer_t *writer, const qy_export_t *job,
                                const qy_layer_format_t *format, qy_error_t *err)
{
    for (int64_t b = 0; b < job->model->arch.n_blocks; b++) {
        qy_qblock_t block;
        QY_TRY(job->source.read_block(job->source.context, b, &block, err));
        qy_status_t status = check_form(&block.form, &job->form, err);
        if (status == QY_OK)
            status = write_block(writer, job, format, &block, b, err);
        qy_qblock_free(&block);
        if (status != QY_OK)
            return qy_fail_in(err, "block %lld", (long long)b);
    }
    return QY_OK;
}

qy_status_t qy_export_tensors(const qy_export_t *job, const qy_layer_format_t *format,
                              const char *dir, qy_error_t *err)
{
    qy_tensor_list_t list = {0};
    qy_st_writer_t *writer = NULL;
    qy_status_t status = declare_all(&list, job, format, err);
    if (status == QY_OK)
        status = qy_st_writer_create(&writer, dir, list.specs, list.n, qy_export_shard_bytes, err);
    if (status == QY_OK)
        status = copy_outer(writer, job, format, err);
    if (status == QY_OK)
        status = write_blocks(writer, job, format, err);
    if (status == QY_OK)
        status = qy_st_writer_finish(&writer, err);
    qy_st_writer_abandon(&writer);
    qy_tensor_list_free(&list);
    return status;
}

/* --- small parts --- */

qy_status_t qy_export_check_groups(const qy_arch_t *arch, const qy_quant_form_t *form,
                                   qy_error_t *err)
{
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        if (d->present && d->in % qy_quant_group_cols(form, d->in) != 0)
            return qy_fail(err, QY_ERR_SHAPE, "%s: groups of %lld do not divide %lld columns",
                           d->name, (long long)form->group, (long long)d->in);
    }
    return QY_OK;
}

qy_status_t qy_export_check_symmetric(const qy_qblock_t *block, const char *layer,
                                      qy_linear_id_t linear, qy_error_t *err)
{
    const qy_tensor_t *zeros = &block->zeros[linear];
    const uint8_t *z = zeros->data;
    int64_t n = qy_tensor_count(zeros);
    int middle = 1 << (block->form.bits - 1);
    for (int64_t i = 0; i < n; i++)
        if (z[i] != middle)
            return qy_fail(err, QY_ERR_FORMAT,
                           "%s: zero point %d in row %lld, symmetric weights have %d", layer, z[i],
                           (long long)(i / zeros->shape[1]), middle);
    return QY_OK;
}

qy_status_t qy_export_read_config(json_t **config, const qy_model_t *model, qy_error_t *err)
{
    char where[QY_PATH_MAX];
    return qy_checkpoint_config(config, where, model->dir, err);
}

qy_status_t qy_export_write_config(const qy_export_t *job, const char *dir, json_t *quantization,
                                   qy_error_t *err)
{
    json_t *config;
    QY_TRY(qy_export_read_config(&config, job->model, err));
    qy_status_t status =
        quantization && json_object_set(config, "quantization_config", quantization) == 0
            ? qy_checkpoint_write_json(dir, "config.json", config, err)
            : qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its configuration", dir);
    json_decref(config);
    return status;
}
