/* Forward and backward passes of a stage of E2E-QP. */
#include "kernels/quant.h"
#include "worker/e2e_stage.h"

static qy_status_t dequantize(const qy_e2e_stage_t *s, qy_e2e_block_t *b, int id, qy_error_t *err)
{
    const qy_e2e_layer_t *l = &b->layer[id];
    const qy_tensor_t *group = &b->group[qy_linear_site(id)];
    int bits = (int)s->plan->spec.quantize.weights.bits;
    if (group->data)
        return qy_cluster_dequant_fwd(s->dev, &b->params.w[id], &l->codes, &l->s, &l->zeros, group,
                                      bits, err);
    return qy_dequant_fwd(s->dev, &b->params.w[id], &l->codes, &l->s, &l->zeros, bits, 0, err);
}

/* Dequantizes block i, unless its weights are still there. */
static qy_status_t weights_of(qy_e2e_stage_t *s, int64_t i, qy_error_t *err)
{
    qy_e2e_block_t *b = &s->blocks[i];
    if (s->weights_block == i)
        return QY_OK;
    s->weights_block = -1;
    for (int k = 0; k < QY_N_LINEARS; k++)
        if (b->layer[k].codes.data)
            QY_TRY(dequantize(s, b, k, err));
    s->weights_block = i;
    return QY_OK;
}

/* Input of block i for micro-batch m. */
static qy_tensor_t input(const qy_e2e_stage_t *s, int64_t i, int64_t m, int64_t n)
{
    int64_t slot = m % s->n_slots;
    return qy_tensor_slice(&s->blocks[i].x, slot * s->y.shape[0], n * s->acts.length);
}

qy_tensor_t qy_e2e_stage_input(const qy_e2e_stage_t *s, int64_t m, int64_t n)
{
    return input(s, 0, m, n);
}

/* Where the activations of block i for micro-batch m are, with the block's input and output. */
static qy_block_acts_t acts_of(const qy_e2e_stage_t *s, int64_t i, int64_t m, int64_t n)
{
    const qy_block_acts_t *kept = &s->kept[i * s->n_slots + m % s->n_slots];
    qy_block_acts_t acts = qy_block_acts_narrow(i < s->n_kept ? kept : &s->acts, n);
    acts.slot[QY_SLOT_X] = input(s, i, m, n);
    acts.slot[QY_SLOT_Y] =
        i + 1 < s->n ? input(s, i + 1, m, n) : qy_tensor_slice(&s->y, 0, n * acts.length);
    return acts;
}

static qy_status_t forward_one(qy_e2e_stage_t *s, int64_t i, int64_t m, int64_t n, qy_error_t *err)
{
    qy_block_acts_t acts = acts_of(s, i, m, n);
    const qy_tensor_t x = acts.slot[QY_SLOT_X], y = acts.slot[QY_SLOT_Y];
    if (i >= s->n_kept) {
        s->acts_block = i;
        s->acts_micro = m;
    }
    QY_TRY(weights_of(s, i, err));
    return qy_block_forward(&s->block, &s->blocks[i].params, &acts, &x, &y, err);
}

qy_status_t qy_e2e_stage_forward(qy_e2e_stage_t *s, int64_t m, int64_t n, qy_error_t *err)
{
    for (int64_t i = 0; i < s->n; i++)
        QY_TRY(forward_one(s, i, m, n, err));
    return QY_OK;
}

qy_status_t qy_e2e_stage_backward(qy_e2e_stage_t *s, int64_t m, int64_t n, qy_error_t *err)
{
    for (int64_t i = s->n - 1; i >= 0; i--) {
        s->current = (int)i;
        if (i >= s->n_kept && (s->acts_block != i || s->acts_micro != m))
            QY_TRY(forward_one(s, i, m, n, err));
        QY_TRY(weights_of(s, i, err));
        qy_block_acts_t acts = acts_of(s, i, m, n);
        qy_tensor_t dy = qy_tensor_slice(&s->dy, 0, n * acts.length);
        QY_TRY(qy_block_backward(&s->block, &s->blocks[i].params, &acts, &s->grads, &dy,
                                 i > 0 || !s->has_embedding, err));
    }
    s->acts_block = -1;
    s->fresh = 0;
    return QY_OK;
}
