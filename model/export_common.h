/*
 * What exporters of safetensors checkpoints share: the walk over the original's tensors and the
 * quantized blocks, and JSON files. How one linear layer is stored is each exporter's own.
 */
#ifndef QY_MODEL_EXPORT_COMMON_H
#define QY_MODEL_EXPORT_COMMON_H

#include <jansson.h>
#include <stdbool.h>

#include "model/checkpoint.h"
#include "model/export.h"

enum { QY_TENSOR_NAME_MAX = 160 };

extern const uint64_t qy_export_shard_bytes; /* as transformers 4.x */

extern const qy_exporter_t qy_exporter_autoround, qy_exporter_awq, qy_exporter_compressed_tensors,
    qy_exporter_gguf, qy_exporter_gptq, qy_exporter_hf;

/* The tensors that a checkpoint will hold; names are owned. */
typedef struct {
    qy_st_spec_t *specs;
    int64_t n, capacity;
} qy_tensor_list_t;

/* Adds LAYER + SUFFIX. */
qy_status_t qy_tensor_list_add(qy_tensor_list_t *list, const char *layer, const char *suffix,
                               const char *dtype, int n_dims, const int64_t *shape,
                               qy_error_t *err);
void qy_tensor_list_free(qy_tensor_list_t *list);

/* How a linear layer's weight is stored; layer is its full name, without a suffix. */
typedef struct {
    bool kept_biases; /* biases in the checkpoint's type; otherwise in f16 */
    bool all_f16;     /* everything else in f16; otherwise in the checkpoint's type */
    qy_status_t (*declare)(qy_tensor_list_t *list, const char *layer, const qy_linear_desc_t *desc,
                           const qy_quant_form_t *form, qy_error_t *err);
    qy_status_t (*write)(qy_st_writer_t *writer, const char *layer, const qy_qblock_t *block,
                         const qy_arch_t *arch, qy_linear_id_t linear, qy_error_t *err);
} qy_layer_format_t;

/*
 * Writes the safetensors files of an export into dir, one block in memory at a time. Norms come
 * from the quantized blocks, everything outside the blocks from the checkpoint. NUMERIC where a
 * value is too large for f16.
 */
qy_status_t qy_export_tensors(const qy_export_t *job, const qy_layer_format_t *format,
                              const char *dir, qy_error_t *err);

/* SHAPE where the groups do not divide the columns of a layer. */
qy_status_t qy_export_check_groups(const qy_arch_t *arch, const qy_quant_form_t *form,
                                   qy_error_t *err);

/* FORMAT where a zero point is not the middle: readers of symmetric weights do not look at them. */
qy_status_t qy_export_check_symmetric(const qy_qblock_t *block, const char *layer,
                                      qy_linear_id_t linear, qy_error_t *err);

/* config.json of the model; the caller decrefs. */
qy_status_t qy_export_read_config(json_t **config, const qy_model_t *model, qy_error_t *err);

/* dir/config.json: the model's with quantization_config added. MEMORY where that is NULL. */
qy_status_t qy_export_write_config(const qy_export_t *job, const char *dir, json_t *quantization,
                                   qy_error_t *err);

/* dir/README.md: the model card. base: the original's name. */
qy_status_t qy_export_write_card(const qy_exporter_t *exporter, const qy_export_t *job,
                                 const char *base, const char *dir, qy_error_t *err);

#endif
