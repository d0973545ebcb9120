/*
 * The weights of a checkpoint, in host memory, one block at a time: names, types and shapes checked
 * against the arch. Values are widened to f32 here (f16 and bf16 widen exactly); the device
 * narrows.
 */
#ifndef QY_MODEL_WEIGHTS_H
#define QY_MODEL_WEIGHTS_H

#include "base/tensor.h"
#include "model/arch.h"
#include "model/safetensors.h"

/* An open model: its arch and its tensors. */
typedef struct {
    char dir[QY_PATH_MAX];
    qy_arch_t arch;
    qy_st_set_t *tensors;
    int threads; /* that read and widen; 1 unless whoever opened it says more */
    /* The last norm that takes the checkpoint's place (2 H: weights, biases); owned; NULL: none. */
    float *final_norm;
} qy_model_t;

/*
 * Opens a Hugging Face directory. Checks that every tensor which the arch names exists with the
 * right shape and a float type, so that nothing can be missing later. IO, FORMAT, SHAPE,
 * UNSUPPORTED name directory and tensor. A config with quantization_config is UNSUPPORTED.
 */
qy_status_t qy_model_open(qy_model_t **out, const char *dir, qy_error_t *err);
void qy_model_close(qy_model_t **model);

/* From now on its last norm has these H weights and, where it has biases at all, biases; weight
 * NULL: the checkpoint's again. */
qy_status_t qy_model_set_final_norm(qy_model_t *model, const float *weight, const float *bias,
                                    qy_error_t *err);

/* Weights of one block in one allocation: f32 host tensors; .data NULL where the arch has none. */
typedef struct {
    qy_tensor_t linear[QY_N_LINEARS]; /* (O, I) */
    qy_tensor_t bias[QY_N_LINEARS];   /* (O) */
    qy_tensor_t norm[QY_N_NORMS];     /* (D) */
    qy_tensor_t norm_bias[QY_N_NORMS];
    void *storage;
} qy_block_weights_t;

qy_status_t qy_block_weights_read(qy_block_weights_t *out, const qy_model_t *model, int64_t block,
                                  qy_error_t *err);
void qy_block_weights_free(qy_block_weights_t *weights);

/* Everything outside the blocks. head.data is embedding.data where they are tied. */
typedef struct {
    qy_tensor_t embedding;                   /* (V, H) */
    qy_tensor_t positions;                   /* (P, H) or NULL data */
    qy_tensor_t head;                        /* (V, H) */
    qy_tensor_t final_norm, final_norm_bias; /* (H); borrowed from the model where it was set */
    qy_tensor_t original_norm, original_norm_bias; /* the checkpoint's */
    void *storage;
} qy_outer_weights_t;

qy_status_t qy_outer_weights_read(qy_outer_weights_t *out, const qy_model_t *model,
                                  qy_error_t *err);
void qy_outer_weights_free(qy_outer_weights_t *weights);

/* Full name of a block's tensor: "model.layers.3.self_attn.q_proj" + suffix (".weight"). */
void qy_model_tensor_name(char out[160], const qy_arch_t *arch, int64_t block, const char *name,
                          const char *suffix);

#endif
