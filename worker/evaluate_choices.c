/* Negative log likelihood of the continuations of a zero-shot task. */
#include <math.h>
#include <stdlib.h>

#include "worker/run_task.h"

/* Sequences of one padded length, side by side in one stream. */
typedef struct {
    int64_t first, n, length; /* sequences [first, first + n) of the task */
    qy_stream_t *stream;
} bucket_t;

typedef struct {
    const qy_choices_t *choices;
    qy_forward_t forward;
    int64_t max_tokens; /* of a batch */
    int n_buckets;
    bucket_t *bucket; /* shortest first; owned */
} walk_t;

/* --- buckets ---------------------------------------------------------------------------------- */

static qy_status_t make_buckets(walk_t *w, int64_t first, int64_t n, int64_t max_length,
                                qy_error_t *err)
{
    w->bucket = calloc((size_t)n, sizeof *w->bucket); /* at most one for each sequence */
    if (!w->bucket)
        return qy_fail(err, QY_ERR_MEMORY, "task: out of host memory");
    for (int64_t i = first; i < first + n; i++) {
        int64_t length = qy_choices_padded(w->choices->choice[i].n, max_length);
        if (w->n_buckets == 0 || w->bucket[w->n_buckets - 1].length != length)
            w->bucket[w->n_buckets++] = (bucket_t){.first = i, .length = length};
        w->bucket[w->n_buckets - 1].n++;
    }
    return QY_OK;
}

static qy_status_t open_streams(walk_t *w, double host_cache, const char *scratch, qy_error_t *err)
{
    const qy_forward_t *f = &w->forward;
    size_t row = (size_t)f->model->arch.hidden * qy_dtype_bytes(f->dev->compute);
    double total = 0;
    for (int i = 0; i < w->n_buckets; i++)
        total += (double)w->bucket[i].n * (double)w->bucket[i].length * (double)row;
    for (int i = 0; i < w->n_buckets; i++)
        QY_TRY(qy_stream_create(
            &w->bucket[i].stream, f->dev,
            &(qy_stream_options_t){.n = w->bucket[i].n,
                                   .sample_bytes = (size_t)w->bucket[i].length * row,
                                   .in_memory = total <= host_cache ? w->bucket[i].n : 0,
                                   .together = w->max_tokens / w->bucket[i].length,
                                   .scratch = scratch},
            err));
    return QY_OK;
}

static void close_buckets(walk_t *w)
{
    for (int i = 0; i < w->n_buckets; i++)
        qy_stream_destroy(&w->bucket[i].stream);
    free(w->bucket);
}

/* The bucket's tokens (n, length): behind each sequence token 0, which no scored one can see. */
static int32_t *padded_tokens(const walk_t *w, const bucket_t *b)
{
    int32_t *tokens = calloc((size_t)(b->n * b->length), sizeof *tokens);
    for (int64_t i = 0; i < b->n && tokens; i++) {
        const qy_choice_t *c = &w->choices->choice[b->first + i];
        for (int32_t t = 0; t < c->n; t++)
            tokens[i * b->length + t] = w->choices->ids[c->first + t];
    }
    return tokens;
}

static void shape_for(walk_t *w, const bucket_t *b)
{
    qy_forward_reshape(&w->forward, w->max_tokens / b->length, b->length);
}

/* --- the walk --------------------------------------------------------------------------------- */

static qy_status_t embed(walk_t *w, qy_error_t *err)
{
    qy_rim_t rim;
    qy_status_t status = QY_OK;
    QY_TRY(qy_rim_open(&rim, &w->forward, QY_OUTER_EMBEDDING, err));
    for (int i = 0; i < w->n_buckets && status == QY_OK; i++) {
        const bucket_t *b = &w->bucket[i];
        int32_t *tokens = padded_tokens(w, b);
        shape_for(w, b);
        status = tokens ? qy_rim_embed(&rim, &w->forward, &b->stream, 1, tokens, err)
                        : qy_fail(err, QY_ERR_MEMORY, "task: out of host memory");
        free(tokens);
    }
    qy_rim_close(&rim, &w->forward);
    return status;
}

static qy_status_t advance(walk_t *w, const qy_variant_source_t *source, const qy_hooks_t *hooks,
                           qy_error_t *err)
{
    int64_t blocks = w->forward.model->arch.n_blocks;
    double last = 0;
    qy_forward_read_ahead(&w->forward, blocks);
    for (int64_t block = 0; block < blocks; block++) {
        QY_TRY(qy_hooks_check(hooks, err));
        QY_TRY(qy_variant_load(&w->forward, source, block, err));
        for (int i = 0; i < w->n_buckets; i++) {
            shape_for(w, &w->bucket[i]);
            QY_TRY(qy_forward_advance(&w->forward, w->bucket[i].stream, block, hooks, err));
        }
        qy_hooks_progress(hooks, &last,
                          &(qy_progress_t){.kind = QY_TASK_EVALUATE,
                                           .block = block,
                                           .step = block + 1,
                                           .n_steps = blocks,
                                           .loss = (double)NAN});
    }
    return QY_OK;
}

/* Loss at row t is of token t + 1. */
static qy_status_t sum_scored(const walk_t *w, const bucket_t *b, const float *losses, double *nll,
                              qy_error_t *err)
{
    for (int64_t i = 0; i < b->n; i++) {
        const qy_choice_t *c = &w->choices->choice[b->first + i];
        nll[i] = 0;
        for (int64_t t = c->n - c->n_scored; t < c->n; t++)
            nll[i] += (double)losses[i * b->length + t - 1];
        if (!isfinite(nll[i]))
            return qy_fail(err, QY_ERR_NUMERIC,
                           "item %d, continuation %d: the log likelihood is %g", (int)c->item,
                           (int)c->choice, nll[i]);
    }
    return QY_OK;
}

static qy_status_t score_bucket(walk_t *w, qy_rim_t *rim, const bucket_t *b, double *nll,
                                qy_error_t *err)
{
    int32_t *tokens = padded_tokens(w, b);
    float *losses = malloc((size_t)(b->n * b->length) * sizeof *losses);
    qy_status_t status = QY_OK;
    if (!tokens || !losses)
        status = qy_fail(err, QY_ERR_MEMORY, "task: out of host memory");
    shape_for(w, b);
    if (status == QY_OK)
        status = qy_rim_losses(rim, &w->forward, b->stream, tokens, losses, err);
    if (status == QY_OK)
        status = sum_scored(w, b, losses, nll, err);
    free(losses);
    free(tokens);
    return status;
}

static qy_status_t score(walk_t *w, double *nll, qy_error_t *err)
{
    qy_rim_t rim;
    qy_status_t status = QY_OK;
    QY_TRY(qy_rim_open(&rim, &w->forward, QY_OUTER_HEAD, err));
    for (int i = 0; i < w->n_buckets && status == QY_OK; i++)
        status = score_bucket(w, &rim, &w->bucket[i],
                              nll + (w->bucket[i].first - w->bucket[0].first), err);
    qy_rim_close(&rim, &w->forward);
    return status;
}

qy_status_t qy_evaluate_choices(qy_device_t *dev, const qy_model_t *model,
                                const qy_variant_source_t *source, const qy_choices_t *choices,
                                int64_t first, int64_t n, double host_cache, const char *scratch,
                                const qy_hooks_t *hooks, double *nll, qy_error_t *err)
{
    walk_t w = {.choices = choices};
    qy_status_t status;
    if (n < 1)
        return QY_OK;
    int64_t max_length = model->arch.max_positions;
    int64_t longest = qy_choices_padded(choices->choice[first + n - 1].n, max_length);
    int64_t batch = qy_forward_batch(longest);
    w.max_tokens = batch * longest;
    QY_TRY(qy_forward_create(&w.forward, dev, model, qy_variant_form(source), batch, longest, err));
    QY_TRY_GOTO(make_buckets(&w, first, n, max_length, err), free_all);
    QY_TRY_GOTO(open_streams(&w, host_cache, scratch, err), free_all);
    QY_TRY_GOTO(embed(&w, err), free_all);
    QY_TRY_GOTO(advance(&w, source, hooks, err), free_all);
    status = score(&w, nll, err);
free_all:
    close_buckets(&w);
    qy_forward_free(&w.forward);
    return status;
}
