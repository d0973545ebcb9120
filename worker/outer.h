/*
 * What lies outside the blocks: embedding, learned positions, final norm, head, and the losses over
 * the vocabulary. Logits are taken in chunks of rows and columns, so all of them are never in
 * memory.
 */
#ifndef QY_WORKER_OUTER_H
#define QY_WORKER_OUTER_H

#include "base/arena.h"
#include "kernels/device.h"
#include "model/weights.h"

/* Chunk of logits: part of the plan in the sense that sums over the vocabulary follow it. */
enum { QY_HEAD_ROWS = 2048, QY_HEAD_COLS = 8192 };

typedef struct {
    const qy_device_t *dev;
    const qy_arch_t *arch;
    qy_tensor_t embedding, positions, head;      /* compute (V, H), (P, H), (V, H) */
    qy_tensor_t final_norm, final_norm_bias;     /* f32 (H) */
    qy_tensor_t teacher_norm, teacher_norm_bias; /* the checkpoint's */
} qy_outer_t;

typedef enum { QY_OUTER_EMBEDDING = 1, QY_OUTER_HEAD = 2 } qy_outer_part_t;

/* Tensors for the parts wanted (or-ed); a tied head shares the embedding's. */
qy_status_t qy_outer_take(qy_outer_t *outer, const qy_device_t *dev, const qy_arch_t *arch,
                          int parts, qy_arena_t *arena, qy_error_t *err);
/* Fills them from the checkpoint. staging: f32, device, at least QY_OUTER_STAGING elements. */
enum { QY_OUTER_STAGING = 1 << 20 };
qy_status_t qy_outer_load(const qy_outer_t *outer, const qy_model_t *model,
                          const qy_tensor_t *staging, qy_error_t *err);

/* Token and position ids of a batch in device memory. */
typedef struct {
    qy_tensor_t tokens, positions; /* i32 (batch × length) */
    int32_t *host;
    int64_t batch, length;
} qy_ids_t;

qy_status_t qy_ids_take(qy_ids_t *ids, const qy_outer_t *outer, int64_t batch, int64_t length,
                        qy_arena_t *arena, qy_error_t *err);
/* For batches of another shape, of no more tokens in all. */
qy_status_t qy_ids_reshape(qy_ids_t *ids, const qy_outer_t *outer, int64_t batch, int64_t length,
                           qy_error_t *err);
/* tokens: n × length ids on the host, n ≤ batch. */
qy_status_t qy_embed(const qy_outer_t *outer, qy_ids_t *ids, const int32_t *tokens, int64_t n,
                     qy_tensor_t *x, qy_error_t *err);

/* Work space of the head for up to max_rows rows. */
typedef struct {
    int64_t max_rows;
    int distill;
    qy_tensor_t normed, dnormed;             /* compute (R, H) */
    qy_tensor_t mean, rstd;                  /* f32 (R) */
    qy_tensor_t logits, dlogits;             /* f32, compute (R, C) */
    qy_tensor_t stats, picked;               /* f32 (R, 2), (R) */
    qy_tensor_t t_normed, t_logits, t_stats; /* the teacher's, with distill */
    qy_tensor_t loss;                        /* f32 (max_rows): loss of each row */
    qy_tensor_t targets;                     /* i32 (max_rows) */
} qy_head_work_t;

qy_status_t qy_head_work_take(qy_head_work_t *work, const qy_outer_t *outer, int64_t max_rows,
                              int distill, qy_arena_t *arena, qy_error_t *err);

/*
 * Next-token loss of every row of x (rows = n × length hidden states of the last block) against the
 * tokens that follow; the last row of each sequence is not scored. work->loss[row] = −log p.
 * dx NULL, or the gradient of scale × Σ loss, compute (rows, H).
 */
qy_status_t qy_head_next_token(const qy_outer_t *outer, qy_head_work_t *work, const qy_tensor_t *x,
                               const int32_t *tokens, int64_t n, int64_t length, float scale,
                               qy_tensor_t *dx, qy_error_t *err);

/* KL(teacher ‖ student) of every row; both go through the same head, the teacher through the
 * checkpoint's final norm. */
qy_status_t qy_head_distill(const qy_outer_t *outer, qy_head_work_t *work, const qy_tensor_t *x,
                            const qy_tensor_t *teacher, float scale, qy_tensor_t *dx,
                            qy_error_t *err);

#endif
