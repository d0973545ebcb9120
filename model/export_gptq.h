/* The packed tensors of a GPTQ layer, which AutoRound checkpoints have as well. */
#ifndef QY_MODEL_EXPORT_GPTQ_H
#define QY_MODEL_EXPORT_GPTQ_H

#include "model/export_common.h"

/* What P.qweight, P.qzeros and P.scales hold: UNSUPPORTED, SHAPE with format's name where they do
 * not hold this form. */
qy_status_t qy_gptq_check(const char *format, const qy_arch_t *arch, const qy_quant_form_t *form,
                          qy_error_t *err);

/* Those three; see model/export_gptq.c. Zero points are v1's where the form is symmetric, else
 * v2's. */
qy_status_t qy_gptq_declare(qy_tensor_list_t *list, const char *layer, const qy_linear_desc_t *desc,
                            const qy_quant_form_t *form, qy_error_t *err);
qy_status_t qy_gptq_write(qy_st_writer_t *writer, const char *layer, const qy_qblock_t *block,
                          const qy_arch_t *arch, qy_linear_id_t linear, qy_error_t *err);

/* scales (N, G) f16 as (G, N): fresh memory, or NULL where there is none. */
void *qy_gptq_scales(const qy_tensor_t *scales);

/* Puts LAYER + SUFFIX and frees data, which may be NULL: then MEMORY. */
qy_status_t qy_gptq_put(qy_st_writer_t *writer, const char *layer, const char *suffix, void *data,
                        int64_t bytes, qy_error_t *err);

#endif
