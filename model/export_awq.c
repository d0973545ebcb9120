/*
 * AWQ checkpoints ("gemm"), 4 bits. Per linear layer of N rows and K columns, G groups:
 *   P.qweight  I32 (K, N/8)  each column k: the codes of 8 rows in a word
 *   P.qzeros   I32 (G, N/8)  zero points in the same way, as they are
 *   P.scales   F16 (G, N)
 * Nibble i of a word is of row 8c + ORDER[i].
 *
 * Source: AutoAWQ 0.2.9, awq/modules/linear/gemm.py and awq/utils/packing_utils.py.
 */
#include <stdlib.h>

#include "base/pack.h"
#include "model/export_gptq.h"

enum { BITS = 4, IN_WORD = 8 };
static const int order[IN_WORD] = {0, 2, 4, 6, 1, 3, 5, 7};

static qy_status_t check(const qy_arch_t *arch, const qy_quant_form_t *form, qy_error_t *err)
{
    if (form->bits != BITS)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "awq holds 4 bits, not %d; gptq and compressed-tensors hold %d", form->bits,
                       form->bits);
    return qy_gptq_check("awq", arch, form, err);
}

static qy_status_t declare(qy_tensor_list_t *list, const char *layer, const qy_linear_desc_t *d,
                           const qy_quant_form_t *form, qy_error_t *err)
{
    int64_t groups = qy_quant_n_groups(form, d->in);
    QY_TRY(qy_tensor_list_add(list, layer, ".qweight", "I32", 2,
                              (int64_t[]){d->in, d->out / IN_WORD}, err));
    QY_TRY(qy_tensor_list_add(list, layer, ".qzeros", "I32", 2,
                              (int64_t[]){groups, d->out / IN_WORD}, err));
    return qy_tensor_list_add(list, layer, ".scales", "F16", 2, (int64_t[]){groups, d->out}, err);
}

/* values (rows, cols), one a byte, into words (cols, rows/8); words start as zero. */
static void pack_columns(uint32_t *words, const uint8_t *values, int64_t rows, int64_t cols)
{
    for (int64_t c = 0; c < rows / IN_WORD; c++)
        for (int i = 0; i < IN_WORD; i++) {
            const uint8_t *line = values + (c * IN_WORD + order[i]) * cols;
            for (int64_t k = 0; k < cols; k++)
                words[k * (rows / IN_WORD) + c] |= (uint32_t)line[k] << (BITS * i);
        }
}

static void *make_qweight(const qy_tensor_t *codes, int64_t cols)
{
    int64_t rows = codes->shape[0], words = codes->shape[1];
    const uint32_t *src = codes->data;
    uint32_t *dst = calloc((size_t)(cols * rows / IN_WORD), sizeof *dst);
    uint8_t *values = malloc((size_t)(rows * cols));
    for (int64_t r = 0; dst && values && r < rows; r++)
        qy_unpack(values + r * cols, src + r * words, cols, BITS);
    if (dst && values)
        pack_columns(dst, values, rows, cols);
    if (!values) {
        free(dst);
        dst = NULL;
    }
    free(values);
    return dst;
}

static void *make_qzeros(const qy_tensor_t *zeros)
{
    int64_t rows = zeros->shape[0], groups = zeros->shape[1];
    uint32_t *dst = calloc((size_t)(groups * rows / IN_WORD), sizeof *dst);
    if (dst)
        pack_columns(dst, zeros->data, rows, groups);
    return dst;
}

static qy_status_t write_layer(qy_st_writer_t *writer, const char *layer, const qy_qblock_t *block,
                               const qy_arch_t *arch, qy_linear_id_t linear, qy_error_t *err)
{
    const qy_linear_desc_t *d = &arch->linear[linear];
    int64_t groups = qy_quant_n_groups(&block->form, d->in);
    QY_TRY(qy_gptq_put(writer, layer, ".qweight", make_qweight(&block->codes[linear], d->in),
                       4 * d->in * d->out / IN_WORD, err));
    QY_TRY(qy_gptq_put(writer, layer, ".qzeros", make_qzeros(&block->zeros[linear]),
                       4 * groups * d->out / IN_WORD, err));
    return qy_gptq_put(writer, layer, ".scales", qy_gptq_scales(&block->scales[linear]),
                       2 * groups * d->out, err);
}

/* zero_point true: readers then take the stored ones, symmetric or not. */
static json_t *make_quantization_config(const qy_export_t *job)
{
    return json_pack("{s:s, s:i, s:I, s:b, s:s, s:n}", "quant_method", "awq", "bits", BITS,
                     "group_size", (json_int_t)(job->form.group > 0 ? job->form.group : -1),
                     "zero_point", 1, "version", "gemm", "modules_to_not_convert");
}

static qy_status_t write_awq(const qy_export_t *job, const char *dir, qy_error_t *err)
{
    static const qy_layer_format_t format = {.declare = declare, .write = write_layer};
    json_t *quantization = make_quantization_config(job);
    qy_status_t status = qy_export_write_config(job, dir, quantization, err);
    json_decref(quantization);
    QY_TRY(status);
    return qy_export_tensors(job, &format, dir, err);
}

const qy_exporter_t qy_exporter_awq = {
    .name = "awq",
    .help = "packed codes for AWQ engines: 4 bits",
    .check = check,
    .write = write_awq,
};
