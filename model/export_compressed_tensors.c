/*
 * Checkpoints of the compressed-tensors library, format pack-quantized. Per linear layer of N rows,
 * K columns, b bits and G groups:
 *   P.weight_packed      I32 (N, ⌈K b/32⌉)  each row's codes, a dense bit stream as in block files
 *   P.weight_scale       F16 (N, G)         G is 1 for the strategy "channel"
 *   P.weight_shape       I64 (2)            N, K
 *   P.weight_zero_point  I32 (⌈N b/32⌉, G)  if asymmetric: each column's, dense along N
 * Readers take codes and zero points as signed, c − 2^(b−1), which leaves c − z as it is.
 *
 * Codes that straddle words (3 and 6 bits) are read from version 0.18 of the library on.
 * transformers computes with all of these; vLLM takes zero points at 4 and 8 bits only. Readers
 * cast steps to the type that they compute in: f16 gives the finished weights bit for bit; bf16,
 * which is what they take where config.json says so, rounds the steps.
 *
 * Source: compressed-tensors 0.20.0, compressors/pack_quantized; transformers 5.17
 * CompressedTensorsConfig.
 */
#include <stdlib.h>

#include "base/pack.h"
#include "model/export_common.h"

static const char format_name[] = "pack-quantized";
static const char layout_version[] = "0.18.0"; /* the first whose streams are dense */

static qy_status_t check(const qy_arch_t *arch, const qy_quant_form_t *form, qy_error_t *err)
{
    int b = form->bits;
    if (b != 2 && b != 3 && b != 4 && b != 6 && b != 8)
        return qy_fail(err, QY_ERR_UNSUPPORTED,
                       "compressed-tensors is written with 2, 3, 4, 6 or 8 bits, not %d; hf holds "
                       "any number",
                       b);
    return qy_export_check_groups(arch, form, err);
}

static qy_status_t declare(qy_tensor_list_t *list, const char *layer, const qy_linear_desc_t *d,
                           const qy_quant_form_t *form, qy_error_t *err)
{
    int64_t groups = qy_quant_n_groups(form, d->in), shape_numbers = 2;
    QY_TRY(qy_tensor_list_add(list, layer, ".weight_packed", "I32", 2,
                              (int64_t[]){d->out, qy_pack_words(d->in, form->bits)}, err));
    QY_TRY(qy_tensor_list_add(list, layer, ".weight_scale", "F16", 2, (int64_t[]){d->out, groups},
                              err));
    QY_TRY(qy_tensor_list_add(list, layer, ".weight_shape", "I64", 1, &shape_numbers, err));
    if (form->symmetric)
        return QY_OK;
    return qy_tensor_list_add(list, layer, ".weight_zero_point", "I32", 2,
                              (int64_t[]){qy_pack_words(d->out, form->bits), groups}, err);
}

/* --- the tensors of a layer --- */

static qy_status_t put(qy_st_writer_t *writer, const char *layer, const char *suffix,
                       const void *data, int64_t bytes, qy_error_t *err)
{
    char name[QY_TENSOR_NAME_MAX];
    snprintf(name, sizeof name, "%s%s", layer, suffix);
    return qy_st_writer_put(writer, name, data, (uint64_t)bytes, err);
}

/* packed (W, G) from zeros (N, G), each column by way of line (N) and stream (W). */
static void pack_columns(uint32_t *packed, const qy_tensor_t *zeros, int bits, uint8_t *line,
                         uint32_t *stream)
{
    int64_t rows = zeros->shape[0], groups = zeros->shape[1], words = qy_pack_words(rows, bits);
    const uint8_t *src = zeros->data;
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t r = 0; r < rows; r++)
            line[r] = src[r * groups + g];
        qy_pack(stream, line, rows, bits);
        for (int64_t w = 0; w < words; w++)
            packed[w * groups + g] = stream[w];
    }
}

static qy_status_t put_zeros(qy_st_writer_t *writer, const char *layer, const qy_tensor_t *zeros,
                             int bits, qy_error_t *err)
{
    int64_t rows = zeros->shape[0], groups = zeros->shape[1], words = qy_pack_words(rows, bits);
    uint32_t *packed = malloc((size_t)(words * groups) * sizeof *packed);
    uint32_t *stream = malloc((size_t)words * sizeof *stream);
    uint8_t *line = malloc((size_t)rows);
    qy_status_t status = QY_OK;
    if (packed && stream && line) {
        pack_columns(packed, zeros, bits, line, stream);
        status = put(writer, layer, ".weight_zero_point", packed, 4 * words * groups, err);
    } else {
        status = qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its zero points", layer);
    }
    free(packed);
    free(stream);
    free(line);
    return status;
}

static qy_status_t write_layer(qy_st_writer_t *writer, const char *layer, const qy_qblock_t *block,
                               const qy_arch_t *arch, qy_linear_id_t linear, qy_error_t *err)
{
    const qy_linear_desc_t *d = &arch->linear[linear];
    int bits = block->form.bits;
    int64_t shape[] = {d->out, d->in};
    QY_TRY(put(writer, layer, ".weight_packed", block->codes[linear].data,
               4 * d->out * qy_pack_words(d->in, bits), err));
    QY_TRY(put(writer, layer, ".weight_scale", block->scales[linear].data,
               2 * d->out * qy_quant_n_groups(&block->form, d->in), err));
    QY_TRY(put(writer, layer, ".weight_shape", shape, sizeof shape, err));
    if (block->form.symmetric)
        return qy_export_check_symmetric(block, layer, linear, err);
    return put_zeros(writer, layer, &block->zeros[linear], bits, err);
}

/* --- the checkpoint --- */

/* Of the weights; NULL where there is no memory. */
static json_t *make_arguments(const qy_quant_form_t *form)
{
    json_t *group = form->group > 0 ? json_integer(form->group) : json_null();
    return json_pack("{s:i, s:s, s:b, s:s, s:o, s:b, s:n, s:n, s:s, s:{}}", "num_bits", form->bits,
                     "type", "int", "symmetric", form->symmetric, "strategy",
                     form->group > 0 ? "group" : "channel", "group_size", group, "dynamic", 0,
                     "block_structure", "actorder", "observer", "minmax", "observer_kwargs");
}

/* Of the linear layers' inputs, a step for each token; null where they are not quantized. Readers
 * widen the range to hold 0. What they cannot say, queries, keys and values, is in quarry.json. */
static json_t *make_activations(const qy_quant_form_t *form)
{
    int bits = qy_quant_site_bits(form, QY_SITE_ATTENTION_IN);
    if (bits == QY_BITS_NONE)
        return json_null();
    return json_pack("{s:i, s:s, s:b, s:s, s:n, s:b, s:n, s:n, s:s, s:{}}", "num_bits", bits,
                     "type", "int", "symmetric", 0, "strategy", "token", "group_size", "dynamic", 1,
                     "block_structure", "actorder", "observer", "minmax", "observer_kwargs");
}

/* The head is a linear layer for readers too, and stays as it is. */
static json_t *make_quantization_config(const qy_quant_form_t *form)
{
    json_t *group = json_pack("{s:[s], s:o, s:o, s:n, s:s}", "targets", "Linear", "weights",
                              make_arguments(form), "input_activations", make_activations(form),
                              "output_activations", "format", format_name);
    return json_pack("{s:s, s:s, s:s, s:s, s:[s], s:n, s:n, s:{s:o}}", "quant_method",
                     "compressed-tensors", "format", format_name, "quantization_status",
                     "compressed", "version", layout_version, "ignore", "lm_head",
                     "kv_cache_scheme", "global_compression_ratio", "config_groups", "group_0",
                     group);
}

static qy_status_t write_compressed_tensors(const qy_export_t *job, const char *dir,
                                            qy_error_t *err)
{
    static const qy_layer_format_t format = {
        .kept_biases = true, .declare = declare, .write = write_layer};
    json_t *quantization = make_quantization_config(&job->form);
    qy_status_t status = qy_export_write_config(job, dir, quantization, err);
    json_decref(quantization);
    return status == QY_OK ? qy_export_tensors(job, &format, dir, err) : status;
}

const qy_exporter_t qy_exporter_compressed_tensors = {
    .name = "compressed-tensors",
    .help = "packed codes for engines of that library: 2, 3, 4, 6 or 8 bits",
    .check = check,
    .write = write_compressed_tensors,
};
