/*
 * A quantized block and a quantized model on disk and in host memory: codes, steps, zero points, norms,
 * provenance. blocks/NNN.h5 holds one block under "/"; model/model.h5 holds all under "NNN/".
 *
 * Datasets of a linear layer NAME (as qy_linear_desc_t.name):
 *   NAME/codes   u32 (O, ⌈I bits/32⌉)  dense bit stream along each row (base/pack.h)
 *   NAME/scales  f16 (O, G)
 *   NAME/zeros   u8  (O, G)            in [0, 2^bits − 1]
 *   NAME/bias    f32 (O)               where the layer has one: the checkpoint's
 * and of a norm NAME: NAME/weight, NAME/bias f32 (D), holding values that f16 holds exactly where trained.
 * Of clusters (RPTQ; weights are in the sites' orders, model/reorder.h): zeros are i32, a layer's groups
 * are its input site's clusters, and a site NAME has
 *   sites/NAME/order   i32 (C)  channel i was order[i]
 *   sites/NAME/counts  i32 (K)  channels of each cluster, side by side
 *   sites/NAME/scales  f32 (K)   sites/NAME/zeros  i32 (K)  1 and 0 where the site is not quantized
 * Of a site with a channel map (model/channels.h; weights are those behind it): sites/NAME/offsets,
 * sites/NAME/items i32.
 * A finished weight is f16((c − z) f16(s)), rounded once, everywhere.
 */
#ifndef QY_MODEL_QMODEL_H
#define QY_MODEL_QMODEL_H

#include "base/tensor.h"
#include "model/arch.h"
#include "model/channels.h"
#include "model/h5.h"
#include "model/program.h"

/* How the weights of a model were quantized, and how its activations are. */
enum { QY_BITS_NONE = 16 }; /* not quantized */
typedef struct {
    int bits;
    int64_t group; /* columns per group; 0: each row is one group */
    bool symmetric;
    int activation_bits; /* inputs of linear layers and queries; 0 or QY_BITS_NONE: not quantized */
    int kv_bits;         /* keys and values; likewise */
    /* Clusters of channels with static quantizers (RPTQ), by site; 0 in all: there are none. */
    int64_t n_clusters[QY_N_SITES];
    unsigned map_sites;  /* 1 << qy_site_t: sites that may have a channel map */
} qy_quant_form_t;

typedef struct {
    qy_quant_form_t form;
    qy_tensor_t codes[QY_N_LINEARS];  /* u32 (O, W) */
    qy_tensor_t scales[QY_N_LINEARS]; /* f16 (O, G) */
    qy_tensor_t zeros[QY_N_LINEARS];  /* u8 (O, G); i32 with clusters */
    qy_tensor_t bias[QY_N_LINEARS];   /* f32 (O) or NULL data */
    qy_tensor_t norm[QY_N_NORMS], norm_bias[QY_N_NORMS]; /* f32 (D) or NULL data */
    /* Of form.n_clusters, else NULL data. */
    qy_tensor_t site_order[QY_N_SITES], site_counts[QY_N_SITES]; /* i32 (C), (K) */
    qy_tensor_t site_scales[QY_N_SITES], site_zeros[QY_N_SITES]; /* f32, i32 (K) */
    /* The channel plan of each site of form.map_sites (model/channels.h), else NULL data. */
    qy_tensor_t map_offsets[QY_N_SITES], map_items[QY_N_SITES]; /* i32 (C + 1), (QY_MAP_ITEMS C) */
    void *storage;
} qy_qblock_t;

/* Columns of a group in a layer of `in` columns, and its number of groups. */
int64_t qy_quant_group_cols(const qy_quant_form_t *form, int64_t in);
int64_t qy_quant_n_groups(const qy_quant_form_t *form, int64_t in);

/* Whether channels have clusters; the groups of a layer, and the site that a layer reads. */
bool qy_quant_clustered(const qy_quant_form_t *form);
int64_t qy_quant_linear_groups(const qy_quant_form_t *form, const qy_arch_t *arch, int linear);
qy_site_t qy_linear_site(int linear);

/* Name of a site in files: "attention_in"; its channels. */
const char *qy_site_name(qy_site_t site);
int64_t qy_site_channels(const qy_arch_t *arch, qy_site_t site);

/* Bits of a site's quantizer of activations, QY_BITS_NONE where there is none. */
int qy_quant_site_bits(const qy_quant_form_t *form, qy_site_t site);
/* Whether any site has one, or may have a channel map. */
bool qy_quant_activations(const qy_quant_form_t *form);
/* What a block program of this form carries. */
qy_decoration_t qy_quant_decoration(const qy_quant_form_t *form);

/* Host memory for one block of this arch and form, zeroed; channel plans change nothing. */
qy_status_t qy_qblock_create(qy_qblock_t *out, const qy_arch_t *arch, const qy_quant_form_t *form,
                             qy_error_t *err);
void qy_qblock_free(qy_qblock_t *block);

/* Into and out of a file, names prefixed by prefix ("" or "007/"). Reading checks types and shapes. */
qy_status_t qy_qblock_write(const qy_qblock_t *block, const qy_arch_t *arch, qy_h5_t *file,
                            const char *prefix, qy_error_t *err);
qy_status_t qy_qblock_read(qy_qblock_t *out, const qy_arch_t *arch, const qy_quant_form_t *form,
                           qy_h5_t *file, const char *prefix, qy_error_t *err);

/* Steps of E2E-QP in place of the block's: e2e/…/BBB.h5 holds NAME/scales f32 (O, G). */
qy_status_t qy_qblock_read_scales(qy_qblock_t *block, const qy_arch_t *arch, qy_h5_t *file,
                                  qy_error_t *err);

/* Finished weight of one layer, f16 (O, I) into dst, in the order that it is stored in: f16((c − z) f16(s)).
 * By so many threads. */
qy_status_t qy_qblock_dequantize(const qy_qblock_t *block, const qy_arch_t *arch,
                                 qy_linear_id_t linear, uint16_t *dst, int threads,
                                 qy_error_t *err);

#endif
