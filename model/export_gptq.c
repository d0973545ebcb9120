/*
 * GPTQ checkpoints. Per linear layer of N rows and K columns, b bits, G groups:
 *   P.qweight  I32 (K b/32, N)  each column n: the row's codes as a dense bit stream along K
 *   P.qzeros   I32 (G, N b/32)  each row g: zero points as a dense bit stream along N
 *   P.scales   F16 (G, N)       P.g_idx  I32 (K): k's group
 * checkpoint_format "gptq" (v1) stores z − 1 in qzeros, "gptq_v2" stores z. Readers of v1 add the 1
 * to whole words, so that a zero point of 0 would carry into its neighbour: v1 serves symmetric
 * models, whose z is 2^(b−1), and asymmetric ones are v2.
 *
 * Source: GPTQModel 7.7.0, nn_modules/qlinear and utils/model.py; transformers 5.17 GPTQConfig.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/pack.h"
#include "model/export_gptq.h"

enum {
    WORD_BITS = 32,
    UNIT = 32 /* rows and columns come in whole words at any width */
};
static const double damp_percent = 0.01; /* unused by readers; transformers wants one in (0, 1) */

qy_status_t qy_gptq_check(const char *format, const qy_arch_t *arch, const qy_quant_form_t *form,
                          qy_error_t *err)
{
    if (form->bits != 2 && form->bits != 3 && form->bits != 4 && form->bits != 8)
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s holds 2, 3, 4 or 8 bits, not %d", format,
                       form->bits);
    if (qy_quant_activations(form))
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "%s holds quantized weights only, no quantized activations; "
                       "compressed-tensors does, and hf with quarry.json",
                       format);
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        if (d->present && (d->out % UNIT != 0 || d->in % UNIT != 0))
            return qy_fail(err, QY_ERR_UNSUPPORTED,
                           "%s wants rows and columns in multiples of %d: %s is %lld × %lld",
                           format, UNIT, d->name, (long long)d->out, (long long)d->in);
    }
    return qy_export_check_groups(arch, form, err);
}

static qy_status_t check(const qy_arch_t *arch, const qy_quant_form_t *form, qy_error_t *err)
{
    return qy_gptq_check("gptq", arch, form, err);
}

qy_status_t qy_gptq_declare(qy_tensor_list_t *list, const char *layer, const qy_linear_desc_t *d,
                            const qy_quant_form_t *form, qy_error_t *err)
{
    int64_t groups = qy_quant_n_groups(form, d->in), bits = form->bits;
    QY_TRY(qy_tensor_list_add(list, layer, ".qweight", "I32", 2,
                              (int64_t[]){d->in * bits / WORD_BITS, d->out}, err));
    QY_TRY(qy_tensor_list_add(list, layer, ".qzeros", "I32", 2,
                              (int64_t[]){groups, d->out * bits / WORD_BITS}, err));
    return qy_tensor_list_add(list, layer, ".scales", "F16", 2, (int64_t[]){groups, d->out}, err);
}

static qy_status_t declare(qy_tensor_list_t *list, const char *layer, const qy_linear_desc_t *d,
                           const qy_quant_form_t *form, qy_error_t *err)
{
    QY_TRY(qy_gptq_declare(list, layer, d, form, err));
    return qy_tensor_list_add(list, layer, ".g_idx", "I32", 1, &d->in, err);
}

/* --- the four tensors: fresh memory, or NULL where there is none --- */

/* By tiles, so that reads and writes stay in the cache. */
static void *make_qweight(const qy_tensor_t *codes)
{
    enum { TILE = 32 };
    int64_t rows = codes->shape[0], words = codes->shape[1];
    const uint32_t *src = codes->data;
    uint32_t *dst = malloc(qy_tensor_bytes(codes));
    for (int64_t r0 = 0; dst && r0 < rows; r0 += TILE)
        for (int64_t w = 0; w < words; w++)
            for (int64_t r = r0; r < r0 + TILE && r < rows; r++)
                dst[w * rows + r] = src[r * words + w];
    return dst;
}

/* bias is what the format subtracts: 1 in v1. */
static void *make_qzeros(const qy_tensor_t *zeros, int bits, int bias)
{
    int64_t rows = zeros->shape[0], groups = zeros->shape[1], words = qy_pack_words(rows, bits);
    const uint8_t *src = zeros->data;
    uint32_t *dst = malloc((size_t)(groups * words) * sizeof *dst);
    uint8_t *line = malloc((size_t)rows);
    for (int64_t g = 0; dst && line && g < groups; g++) {
        for (int64_t r = 0; r < rows; r++)
            line[r] = (uint8_t)(src[r * groups + g] - bias);
        qy_pack(dst + g * words, line, rows, bits);
    }
    if (!line) {
        free(dst);
        dst = NULL;
    }
    free(line);
    return dst;
}

void *qy_gptq_scales(const qy_tensor_t *scales)
{
    int64_t rows = scales->shape[0], groups = scales->shape[1];
    const uint16_t *src = scales->data;
    uint16_t *dst = malloc(qy_tensor_bytes(scales));
    for (int64_t g = 0; dst && g < groups; g++)
        for (int64_t r = 0; r < rows; r++)
            dst[g * rows + r] = src[r * groups + g];
    return dst;
}

static void *make_g_idx(int64_t cols, int64_t group_cols)
{
    int32_t *dst = malloc((size_t)cols * sizeof *dst);
    for (int64_t k = 0; dst && k < cols; k++)
        dst[k] = (int32_t)(k / group_cols);
    return dst;
}

qy_status_t qy_gptq_put(qy_st_writer_t *writer, const char *layer, const char *suffix, void *data,
                        int64_t bytes, qy_error_t *err)
{
    char name[QY_TENSOR_NAME_MAX];
    snprintf(name, sizeof name, "%s%s", layer, suffix);
    qy_status_t status = data ? qy_st_writer_put(writer, name, data, (uint64_t)bytes, err)
                              : qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its %lld bytes",
                                        name, (long long)bytes);
    free(data);
    return status;
}

qy_status_t qy_gptq_write(qy_st_writer_t *writer, const char *layer, const qy_qblock_t *block,
                          const qy_arch_t *arch, qy_linear_id_t linear, qy_error_t *err)
{
    const qy_linear_desc_t *d = &arch->linear[linear];
    int bits = block->form.bits, bias = block->form.symmetric ? 1 : 0;
    int64_t groups = qy_quant_n_groups(&block->form, d->in);
    if (block->form.symmetric)
        QY_TRY(qy_export_check_symmetric(block, layer, linear, err));
    QY_TRY(qy_gptq_put(writer, layer, ".qweight", make_qweight(&block->codes[linear]),
                       4 * qy_pack_words(d->in, bits) * d->out, err));
    QY_TRY(qy_gptq_put(writer, layer, ".qzeros", make_qzeros(&block->zeros[linear], bits, bias),
                       4 * groups * qy_pack_words(d->out, bits), err));
    return qy_gptq_put(writer, layer, ".scales", qy_gptq_scales(&block->scales[linear]),
                       2 * groups * d->out, err);
}

static qy_status_t write_layer(qy_st_writer_t *writer, const char *layer, const qy_qblock_t *block,
                               const qy_arch_t *arch, qy_linear_id_t linear, qy_error_t *err)
{
    int64_t cols = arch->linear[linear].in;
    QY_TRY(qy_gptq_write(writer, layer, block, arch, linear, err));
    return qy_gptq_put(writer, layer, ".g_idx",
                       make_g_idx(cols, qy_quant_group_cols(&block->form, cols)), 4 * cols, err);
}

/* --- the checkpoint --- */

static json_t *make_quantization_config(const qy_export_t *job)
{
    const qy_quant_form_t *form = &job->form;
    const char *format = form->symmetric ? "gptq" : "gptq_v2";
    char quantizer[64];
    snprintf(quantizer, sizeof quantizer, "quarry:%s", job->version);
    return json_pack("{s:i, s:I, s:b, s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:f, s:s, s:{s:[s]}}",
                     "bits", form->bits, "group_size",
                     (json_int_t)(form->group > 0 ? form->group : -1), "desc_act", 0, "sym",
                     form->symmetric, "quant_method", "gptq", "checkpoint_format", format, "format",
                     format, "lm_head", 0, "true_sequential", 1, "static_groups", 0, "damp_percent",
                     damp_percent, "pack_dtype", "int32", "meta", "quantizer", quantizer);
}

static qy_status_t write_configs(const qy_export_t *job, const char *dir, qy_error_t *err)
{
    json_t *quantization = make_quantization_config(job);
    qy_status_t status = qy_export_write_config(job, dir, quantization, err);
    if (status == QY_OK)
        status = qy_checkpoint_write_json(dir, "quantize_config.json", quantization, err);
    json_decref(quantization);
    return status;
}

static qy_status_t write_gptq(const qy_export_t *job, const char *dir, qy_error_t *err)
{
    static const qy_layer_format_t format = {.declare = declare, .write = write_layer};
    QY_TRY(write_configs(job, dir, err));
    return qy_export_tensors(job, &format, dir, err);
}

const qy_exporter_t qy_exporter_gptq = {
    .name = "gptq",
    .help = "packed codes for GPTQ engines: 2, 3, 4 or 8 bits",
    .check = check,
    .write = write_gptq,
};
