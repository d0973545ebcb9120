/* quarry eval --text: perplexity of a text. */
#include "cli/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/text.h"

/* The text's tokens, after the post-processor's prefix where wanted; the caller frees. */
static qy_status_t read_tokens(const eval_t *e, const char *path, int32_t **tokens, int64_t *n,
                               qy_error_t *err)
{
    int32_t prefix[8];
    qy_text_t text;
    int n_prefix = e->text_bos ? qy_tokenizer_prefix(e->tokenizer, prefix, 8) : 0;
    QY_TRY(qy_text_read(&text, path, e->tokenizer, QY_TEXT_JOIN, err));
    int32_t *all = malloc((size_t)(text.n + n_prefix + 1) * sizeof *all);
    qy_status_t status = all ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", path);
    if (all) {
        memcpy(all, prefix, (size_t)n_prefix * sizeof *all);
        memcpy(all + n_prefix, text.ids, (size_t)text.n * sizeof *all);
        *tokens = all;
        *n = text.n + n_prefix;
        if (*n < e->length)
            status = qy_fail(err, QY_ERR_FORMAT, "%s: %lld tokens are less than one window of %lld",
                             path, (long long)*n, (long long)e->length);
    }
    qy_text_free(&text);
    return status;
}

qy_status_t qy_eval_text(eval_t *e, const char *path, qy_error_t *err)
{
    int32_t *tokens = NULL;
    int64_t n = 0;
    double *nll = NULL, sum = 0;
    qy_stream_t *stream = NULL;
    qy_status_t status;
    QY_TRY_GOTO(read_tokens(e, path, &tokens, &n, err), free_tokens);
    int64_t windows = n / e->length;
    size_t bytes = (size_t)(e->length * e->model->arch.hidden) * qy_dtype_bytes(e->dev->compute);
    nll = malloc((size_t)windows * sizeof *nll);
    status = nll ? QY_OK : qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", path);
    if (status == QY_OK)
        status = qy_stream_create(
            &stream, e->dev,
            &(qy_stream_options_t){.n = windows, .sample_bytes = bytes, .in_memory = windows}, err);
    const qy_variant_source_t source = qy_eval_source(e);
    if (status == QY_OK)
        status = qy_evaluate_windows(e->dev, e->model, &source, stream, tokens, windows, e->length,
                                     &(qy_hooks_t){0}, nll, err);
    for (int64_t i = 0; i < windows && status == QY_OK; i++)
        sum += nll[i];
    if (status == QY_OK)
        printf("%s: %lld windows of %lld tokens\nperplexity %.3f\n", path, (long long)windows,
               (long long)e->length, exp(sum / (double)(windows * (e->length - 1))));
    qy_stream_destroy(&stream);
    free(nll);
free_tokens:
    free(tokens);
    return status;
}
