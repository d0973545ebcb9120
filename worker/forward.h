/*
 * Walks samples through a model block by block: one block's weights at a time, all samples through
 * it, then the next. What capture, evaluation and the two streams of a segment share.
 */
#ifndef QY_WORKER_FORWARD_H
#define QY_WORKER_FORWARD_H

#include "model/qmodel.h"
#include "worker/block.h"
#include "worker/outer.h"
#include "worker/stream.h"
#include "worker/weights_ahead.h"

/* A run of one shape on one device. Fields are for reading; trainers take their tensors beside it.
 */
typedef struct {
    qy_device_t *dev;
    const qy_model_t *model;
    int64_t batch, length;
    void *memory; /* device, owned */
    qy_block_t block;
    qy_block_params_t params;
    qy_block_acts_t acts;
    qy_tensor_t x, y;                 /* compute (batch × length, hidden) */
    qy_tensor_t staging;              /* f32: one linear layer, or QY_OUTER_STAGING */
    qy_tensor_t codes, scales, zeros; /* of one linear layer, largest; only with a form */
    qy_tensor_t losses;               /* f32, of batches that wait to be looked at */
    qy_quant_form_t form;
    /* Hears of every batch that advance took through the block: its activations, in order, those of
     * samples [first, first + acts->batch). NULL: nobody does. */
    qy_status_t (*see)(void *context, const qy_block_acts_t *acts, int64_t first, qy_error_t *err);
    void *see_context;
    qy_weights_ahead_t *ahead; /* owned */
    int64_t ahead_end;         /* checkpoint's blocks before it are read ahead; 0: none is */
} qy_forward_t;

/*
 * Tensors into arena (which may only measure): form NULL where no quantized block will be loaded.
 * arena and dev must outlive it. Nothing is loaded.
 */
qy_status_t qy_forward_take(qy_forward_t *f, qy_device_t *dev, const qy_model_t *model,
                            const qy_quant_form_t *form, int64_t batch, int64_t length,
                            qy_arena_t *arena, qy_error_t *err);

/* take with device memory of its own. */
qy_status_t qy_forward_create(qy_forward_t *f, qy_device_t *dev, const qy_model_t *model,
                              const qy_quant_form_t *form, int64_t batch, int64_t length,
                              qy_error_t *err);
void qy_forward_free(qy_forward_t *f);

/* For samples of another shape: of no more tokens and no greater length than it was made for. */
void qy_forward_reshape(qy_forward_t *f, int64_t batch, int64_t length);

/* Device memory of take and, beside it, of the larger of the phases named (qy_outer_part_t, or-ed):
 * embed, and nll at the head; with the transfers of a stream of such samples. */
qy_status_t qy_forward_bytes(size_t *bytes, qy_device_t *dev, const qy_model_t *model,
                             const qy_quant_form_t *form, int64_t batch, int64_t length, int parts,
                             qy_error_t *err);

/* From here on the checkpoint's blocks up to end are loaded in order: while one is computed with,
 * the next is read. qy_forward_free ends it. */
void qy_forward_read_ahead(qy_forward_t *f, int64_t end);

/* Puts a block's weights into f->params: the checkpoint's, or a finished quantized block's. */
qy_status_t qy_forward_load_original(qy_forward_t *f, int64_t block, qy_error_t *err);
qy_status_t qy_forward_load_quantized(qy_forward_t *f, const qy_qblock_t *qblock, qy_error_t *err);

/*
 * Those samples of the stream that stand in front of this block through it, in place; its weights
 * are in f->params. Always whole batches from sample 0 on are computed, and only those samples
 * stored, so that the bytes do not depend on which they are. Queued on the device; STOPPED between
 * batches.
 */
qy_status_t qy_forward_advance(qy_forward_t *f, qy_stream_t *stream, int64_t block,
                               const qy_hooks_t *hooks, qy_error_t *err);

/* Mean squared error of block(source) against goal over samples [first, first + n): f64 mean of the
 * batches' f32 means, in order. NAN for n = 0. The streams stay as they are. */
qy_status_t qy_forward_error(qy_forward_t *f, qy_stream_t *source, qy_stream_t *goal, int64_t first,
                             int64_t n, double *mse, qy_error_t *err);

/* Embeds tokens (one window of length ids a sample) into the samples of the streams that have no
 * activations yet. */
qy_status_t qy_forward_embed(qy_forward_t *f, qy_stream_t *const *streams, int n_streams,
                             const int32_t *tokens, qy_error_t *err);

/* Sum of −log p over the T − 1 predictions of each sample of the stream (hidden states of the last
 * block), f64. */
qy_status_t qy_forward_nll(qy_forward_t *f, qy_stream_t *stream, const int32_t *tokens, double *nll,
                           qy_error_t *err);

/*
 * What stands at the model's rim, for callers that embed or score samples of several shapes: the
 * embedding (QY_OUTER_EMBEDDING) or the final norm and the head (QY_OUTER_HEAD), loaded, with work
 * space for as many tokens as f's shape has at opening. It serves on after qy_forward_reshape.
 */
typedef struct {
    void *memory; /* device, owned */
    qy_outer_t outer;
    qy_ids_t ids;
    qy_head_work_t work;
} qy_rim_t;

qy_status_t qy_rim_open(qy_rim_t *rim, const qy_forward_t *f, int parts, qy_error_t *err);
void qy_rim_close(qy_rim_t *rim, const qy_forward_t *f);

/* As qy_forward_embed. */
qy_status_t qy_rim_embed(qy_rim_t *rim, qy_forward_t *f, qy_stream_t *const *streams, int n_streams,
                         const int32_t *tokens, qy_error_t *err);
/* losses, host (samples × length): −log p of the token after each one; of a sample's last token
 * nothing that counts. */
qy_status_t qy_rim_losses(qy_rim_t *rim, qy_forward_t *f, qy_stream_t *stream,
                          const int32_t *tokens, float *losses, qy_error_t *err);

#endif
