/*
 * A GGUF file for llama.cpp and what is built on it. Each linear layer is in the smallest of ggml's
 * blocks that holds its numbers (c − z) s exactly; embedding and head in the smallest of Q8_0, F16,
 * BF16 and F32 that loses nothing; vectors in F32.
 *
 * Source: llama.cpp, convert_hf_to_gguf.py; model/gguf_block.h.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "model/export_common.h"
#include "model/export_gguf.h"
#include "model/gguf_encode.h"
#include "model/gguf_inner.h"
#include "model/gguf_model.h"

enum { NUMBERS_AT_ONCE = 1 << 20, TYPES_MAX = 64 };
static const char temporary_name[] = "model.gguf";

typedef struct {
    const qy_export_t *job;
    qy_gguf_writer_t *writer;
    int64_t weights_of[TYPES_MAX]; /* by ggml's type: how many weights of linear layers */
} export_t;

/* --- what can be exported --- */

/* Tensors that llama.cpp's loader of the architecture does not ask for: it takes no file with them.
 */
static qy_status_t check_tensors(const qy_arch_t *arch, qy_error_t *err)
{
    const char *name = qy_gguf_arch_name(arch);
    if (strcmp(name, "llama") == 0)
        return QY_OK;
    if (arch->rope_kind == QY_ROPE_LLAMA3)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "gguf: llama.cpp has no rope of type llama3 in %s models", name);
    if (arch->linear[QY_LINEAR_O].bias)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "gguf: llama.cpp has no bias of %s in %s models",
                       arch->linear[QY_LINEAR_O].name, name);
    return QY_OK;
}

static qy_status_t check(const qy_arch_t *arch, const qy_quant_form_t *form, qy_error_t *err)
{
    if (!qy_gguf_arch_name(arch))
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "gguf: llama.cpp has no %s architecture, so no GGUF file of it can be run",
                       arch->model_type);
    if (arch->window > 0 && arch->window < arch->max_positions)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "gguf: llama.cpp computes no sliding window (%lld) in %s models",
                       (long long)arch->window, qy_gguf_arch_name(arch));
    QY_TRY(check_tensors(arch, err));
    if (qy_quant_activations(form))
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "gguf holds quantized weights only, no quantized activations");
    QY_TRY(qy_export_check_groups(arch, form, err));
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (arch->linear[i].present)
            QY_TRY(qy_gguf_check_form(form, arch->linear[i].name, arch->linear[i].in, err));
    return QY_OK;
}

static qy_status_t check_model(const qy_model_t *model, qy_error_t *err)
{
    return qy_gguf_put_tokenizer(NULL, model, err);
}

/* --- rows in llama.cpp's order --- */

/* Rows of a head whose halves llama.cpp wants interleaved; 1 where they stay as they are. */
static int64_t pairs_of(const qy_arch_t *arch, qy_linear_id_t linear)
{
    bool turned = linear == QY_LINEAR_Q || linear == QY_LINEAR_K;
    return turned && strcmp(qy_gguf_arch_name(arch), "llama") == 0 ? arch->head_dim : 1;
}

/* Row r of the file: new[2 i + j] = old[j d/2 + i]. */
static int64_t source_row(int64_t r, int64_t d)
{
    int64_t inside = r % d;
    return d == 1 ? r : r - inside + inside % 2 * (d / 2) + inside / 2;
}

static qy_status_t write_rows(export_t *e, const void *data, int64_t rows, size_t row_bytes,
                              int64_t pairs, qy_error_t *err)
{
    for (int64_t r = 0; r < rows; r++)
        QY_TRY(qy_gguf_tensor_data(e->writer,
                                   (const char *)data + (size_t)source_row(r, pairs) * row_bytes,
                                   row_bytes, err));
    return QY_OK;
}

/* --- names --- */

static const char *block_name(char out[QY_GGUF_NAME_MAX], int64_t block, const char *part,
                              const char *suffix)
{
    snprintf(out, QY_GGUF_NAME_MAX, "blk.%lld.%s%s", (long long)block, part, suffix);
    return out;
}

static void declare_block(export_t *e, int64_t b)
{
    const qy_arch_t *arch = &e->job->model->arch;
    char name[QY_GGUF_NAME_MAX];
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        if (d->present)
            qy_gguf_declare(e->writer, block_name(name, b, qy_gguf_linears[i], ".weight"), d->in,
                            d->out);
        if (d->present && d->bias)
            qy_gguf_declare(e->writer, block_name(name, b, qy_gguf_linears[i], ".bias"), d->out, 0);
    }
    for (int i = 0; i < QY_N_NORMS; i++)
        if (arch->norm[i].present)
            qy_gguf_declare(e->writer, block_name(name, b, qy_gguf_norms[i], ".weight"),
                            arch->norm[i].size, 0);
}

static void declare_all(export_t *e)
{
    const qy_arch_t *arch = &e->job->model->arch;
    qy_gguf_declare(e->writer, "token_embd.weight", arch->hidden, arch->vocab);
    for (int64_t b = 0; b < arch->n_blocks; b++)
        declare_block(e, b);
    qy_gguf_declare(e->writer, "output_norm.weight", arch->hidden, 0);
    if (!arch->tied_head)
        qy_gguf_declare(e->writer, "output.weight", arch->hidden, arch->vocab);
    if (arch->rope_kind == QY_ROPE_LLAMA3)
        qy_gguf_declare(e->writer, QY_GGUF_ROPE_FREQS, arch->head_dim / 2, 0);
}

/* --- the blocks --- */

static qy_status_t write_linear(export_t *e, const qy_qblock_t *q, int64_t b, qy_linear_id_t linear,
                                qy_error_t *err)
{
    const qy_arch_t *arch = &e->job->model->arch;
    const qy_linear_desc_t *d = &arch->linear[linear];
    const qy_gguf_encoder_t *encoder = NULL;
    unsigned char *data = NULL;
    char name[QY_GGUF_NAME_MAX];
    QY_TRY(qy_gguf_encode(&encoder, &data, q, d, linear, err));
    const qy_gguf_block_t *format = qy_gguf_block_find((uint32_t)encoder->type);
    block_name(name, b, qy_gguf_linears[linear], ".weight");
    qy_status_t status = qy_gguf_tensor_begin(e->writer, name, encoder->type, err);
    if (status == QY_OK)
        status =
            write_rows(e, data, d->out, (size_t)(d->in / format->elements) * (size_t)format->bytes,
                       pairs_of(arch, linear), err);
    free(data);
    e->weights_of[encoder->type] += d->out * d->in;
    return status;
}

static qy_status_t write_vector(export_t *e, const char *name, const qy_tensor_t *t, int64_t pairs,
                                qy_error_t *err)
{
    QY_TRY(qy_gguf_tensor_begin(e->writer, name, QY_GGML_F32, err));
    return write_rows(e, t->data, qy_tensor_count(t), sizeof(float), pairs, err);
}

static qy_status_t write_block(export_t *e, const qy_qblock_t *q, int64_t b, qy_error_t *err)
{
    const qy_arch_t *arch = &e->job->model->arch;
    char name[QY_GGUF_NAME_MAX];
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!arch->linear[i].present)
            continue;
        QY_TRY(write_linear(e, q, b, (qy_linear_id_t)i, err));
        if (arch->linear[i].bias)
            QY_TRY(write_vector(e, block_name(name, b, qy_gguf_linears[i], ".bias"), &q->bias[i],
                                pairs_of(arch, (qy_linear_id_t)i), err));
    }
    for (int i = 0; i < QY_N_NORMS; i++)
        if (arch->norm[i].present)
            QY_TRY(write_vector(e, block_name(name, b, qy_gguf_norms[i], ".weight"), &q->norm[i], 1,
                                err));
    return QY_OK;
}

static qy_status_t write_blocks(export_t *e, qy_error_t *err)
{
    for (int64_t b = 0; b < e->job->model->arch.n_blocks; b++) {
        qy_qblock_t block;
        QY_TRY(e->job->source.read_block(e->job->source.context, b, &block, err));
        qy_status_t status = write_block(e, &block, b, err);
        qy_qblock_free(&block);
        if (status != QY_OK)
            return qy_fail_in(err, "block %lld", (long long)b);
    }
    return QY_OK;
}

/* --- embedding and head --- */

/* n numbers in a type, if it holds them exactly; n is a whole number of rows. */
static bool pack(unsigned char *dst, qy_ggml_type_t type, const float *src, int64_t n, int64_t cols)
{
    bool exact = true;
    if (type == QY_GGML_Q8_0)
        return cols % 32 == 0 && qy_gguf_encode_q8_0(dst, src, n);
    if (type == QY_GGML_F32) {
        memcpy(dst, src, (size_t)n * sizeof *src);
        return true;
    }
    for (int64_t i = 0; i < n; i++) {
        bool brain = type == QY_GGML_BF16;
        uint16_t half = brain ? qy_f32_to_bf16(src[i]) : qy_f32_to_f16(src[i]);
        exact &= (brain ? qy_bf16_to_f32(half) : qy_f16_to_f32(half)) == src[i];
        memcpy(dst + 2 * i, &half, sizeof half);
    }
    return exact;
}

/* A matrix by parts of whole rows. */
typedef struct {
    const qy_st_set_t *set;
    const qy_st_entry_t *entry;
    int64_t rows, cols, rows_at_once;
    float *numbers;
    unsigned char *raw, *packed;
} matrix_t;

static qy_status_t read_rows(const matrix_t *m, int64_t row, int64_t n, qy_error_t *err)
{
    bool wide = strcmp(m->entry->dtype, "F32") == 0;
    uint64_t row_bytes = m->entry->bytes / (uint64_t)m->rows;
    void *to = wide ? (void *)m->numbers : m->raw;
    QY_TRY(
        qy_st_read(m->set, m->entry, to, (uint64_t)row * row_bytes, (uint64_t)n * row_bytes, err));
    if (!wide && strcmp(m->entry->dtype, "F16") == 0)
        qy_f16_widen(m->numbers, (const uint16_t *)to, n * m->cols);
    else if (!wide)
        qy_bf16_widen(m->numbers, (const uint16_t *)to, n * m->cols);
    return QY_OK;
}

/* Goes through all of it: *exact says whether the type holds it. Writes it where e is not NULL. */
static qy_status_t pass(const matrix_t *m, qy_ggml_type_t type, export_t *e, bool *exact,
                        qy_error_t *err)
{
    const qy_gguf_block_t *format = qy_gguf_block_find((uint32_t)type);
    *exact = true;
    for (int64_t r = 0; r < m->rows && *exact; r += m->rows_at_once) {
        int64_t n = m->rows - r < m->rows_at_once ? m->rows - r : m->rows_at_once;
        QY_TRY(read_rows(m, r, n, err));
        *exact = pack(m->packed, type, m->numbers, n * m->cols, m->cols);
        if (e)
            QY_TRY(qy_gguf_tensor_data(
                e->writer, m->packed,
                (size_t)(n * m->cols / format->elements) * (size_t)format->bytes, err));
    }
    return QY_OK;
}

static qy_status_t write_passes(export_t *e, const matrix_t *m, const char *name, qy_error_t *err)
{
    static const qy_ggml_type_t types[] = {QY_GGML_Q8_0, QY_GGML_F16, QY_GGML_BF16, QY_GGML_F32};
    bool exact = false;
    int first = strcmp(m->entry->dtype, "F32") == 0 ? 0 : 1, i = first;
    for (;; i++) {
        QY_TRY(pass(m, types[i], NULL, &exact, err));
        if (exact)
            break;
    }
    QY_TRY(qy_gguf_tensor_begin(e->writer, name, types[i], err));
    return pass(m, types[i], e, &exact, err);
}

static qy_status_t write_matrix(export_t *e, const char *name, const char *source, qy_error_t *err)
{
    const qy_st_set_t *set = e->job->model->tensors;
    matrix_t m = {.set = set, .entry = qy_st_find(set, source)};
    m.rows = m.entry->shape[0];
    m.cols = m.entry->shape[1];
    m.rows_at_once = 1 + NUMBERS_AT_ONCE / m.cols;
    size_t n = (size_t)(m.rows_at_once * m.cols);
    m.numbers = malloc(n * sizeof(float));
    m.raw = malloc(n * sizeof(uint16_t));
    m.packed = malloc(n * sizeof(float));
    qy_status_t status = m.numbers && m.raw && m.packed
                             ? write_passes(e, &m, name, err)
                             : qy_fail(err, QY_ERR_MEMORY, "tensor %s: no memory", name);
    free(m.numbers);
    free(m.raw);
    free(m.packed);
    return status;
}

/* --- the rest --- */

static qy_status_t write_final_norm(export_t *e, qy_error_t *err)
{
    const qy_model_t *model = e->job->model;
    char name[QY_TENSOR_NAME_MAX];
    snprintf(name, sizeof name, "%s.weight", model->arch.final_norm.name);
    const qy_st_entry_t *entry = qy_st_find(model->tensors, name);
    float *values = malloc((size_t)model->arch.hidden * sizeof *values);
    uint16_t *raw = malloc((size_t)model->arch.hidden * sizeof *raw);
    matrix_t m = {.set = model->tensors,
                  .entry = entry,
                  .rows = 1,
                  .cols = model->arch.hidden,
                  .numbers = values,
                  .raw = (unsigned char *)raw};
    qy_status_t status = values && raw ? read_rows(&m, 0, 1, err)
                                       : qy_fail(err, QY_ERR_MEMORY, "%s: no memory", name);
    qy_tensor_t view =
        qy_tensor_1d(model->final_norm ? model->final_norm : values, QY_F32, model->arch.hidden);
    if (status == QY_OK)
        status = write_vector(e, "output_norm.weight", &view, 1, err);
    free(raw);
    free(values);
    return status;
}

/* Divisors of the frequencies. */
static qy_status_t write_rope(export_t *e, qy_error_t *err)
{
    const qy_arch_t *arch = &e->job->model->arch;
    double scaled[QY_HEAD_DIM_MAX / 2], plain[QY_HEAD_DIM_MAX / 2];
    float divisors[QY_HEAD_DIM_MAX / 2];
    qy_arch_t unscaled = *arch;
    unscaled.rope_kind = QY_ROPE_DEFAULT;
    qy_arch_rope_frequencies(arch, scaled);
    qy_arch_rope_frequencies(&unscaled, plain);
    for (int64_t i = 0; i < arch->head_dim / 2; i++)
        divisors[i] = (float)(plain[i] / scaled[i]);
    qy_tensor_t view = qy_tensor_1d(divisors, QY_F32, arch->head_dim / 2);
    return write_vector(e, QY_GGUF_ROPE_FREQS, &view, 1, err);
}

static qy_status_t write_tensors(export_t *e, qy_error_t *err)
{
    const qy_arch_t *arch = &e->job->model->arch;
    QY_TRY(qy_gguf_writer_begin(e->writer, err));
    QY_TRY(write_matrix(e, "token_embd.weight", arch->embedding_name, err));
    QY_TRY(write_blocks(e, err));
    QY_TRY(write_final_norm(e, err));
    if (!arch->tied_head)
        QY_TRY(write_matrix(e, "output.weight", arch->head_name, err));
    return arch->rope_kind == QY_ROPE_LLAMA3 ? write_rope(e, err) : QY_OK;
}

/* The format of most weights, which names the file. */
static const qy_gguf_encoder_t *main_format(const export_t *e)
{
    const qy_gguf_encoder_t *best = qy_gguf_encoder(0);
    for (int i = 1; qy_gguf_encoder(i); i++)
        if (e->weights_of[qy_gguf_encoder(i)->type] > e->weights_of[best->type])
            best = qy_gguf_encoder(i);
    return best;
}

static qy_status_t write_file(export_t *e, const char *base, qy_error_t *err)
{
    qy_gguf_writer_t *w = e->writer;
    qy_gguf_put_string(w, "general.architecture", qy_gguf_arch_name(&e->job->model->arch));
    qy_gguf_put_string(w, "general.type", "model");
    qy_gguf_put_string(w, "general.name", base);
    qy_gguf_put_u32(w, "general.quantization_version", 2);
    int64_t file_type = qy_gguf_reserve_u32(w, "general.file_type");
    qy_gguf_put_arch(w, &e->job->model->arch);
    QY_TRY(qy_gguf_put_tokenizer(w, e->job->model, err));
    declare_all(e);
    QY_TRY(write_tensors(e, err));
    qy_gguf_set_u32(w, file_type, main_format(e)->file_type);
    return qy_gguf_writer_finish(&e->writer, err);
}

static qy_status_t write_gguf(const qy_export_t *job, const char *dir, qy_error_t *err)
{
    export_t e = {.job = job};
    char base[QY_PATH_MAX], temporary[QY_PATH_MAX], path[QY_PATH_MAX];
    QY_TRY(qy_checkpoint_name(base, job->model->dir, err));
    QY_TRY(qy_path(temporary, err, "%s/%s", dir, temporary_name));
    QY_TRY(qy_gguf_writer_create(&e.writer, temporary, err));
    qy_status_t status = write_file(&e, base, err);
    qy_gguf_writer_abandon(&e.writer);
    QY_TRY(status);
    QY_TRY(qy_path(path, err, "%s/%s-%s.gguf", dir, base,
                   qy_gguf_block_find((uint32_t)main_format(&e)->type)->name));
    return qy_file_commit(temporary, path, err);
}

const qy_exporter_t qy_exporter_gguf = {
    .name = "gguf",
    .help = "one file for llama.cpp, each weight exact",
    .whole = true,
    .check = check,
    .check_model = check_model,
    .write = write_gguf,
};
