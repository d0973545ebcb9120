/* What the parts of `quarry eval` share: the model that is judged. */
#ifndef QY_CLI_EVAL_H
#define QY_CLI_EVAL_H

#include <stdio.h>

#include "jobs/finished.h"
#include "model/exported.h"
#include "model/tokenizer.h"
#include "worker/run_task.h"

typedef struct {
    qy_plan_t *plan;        /* NULL: a plain model directory */
    qy_exported_t exported; /* of such a directory: what is done to activations */
    qy_model_t *model;
    qy_device_t *dev;
    qy_tokenizer_t *tokenizer;
    int64_t length;         /* tokens of a text's window */
    int text_bos, task_bos; /* the tokenizer's first tokens: before a text, before each item */
} eval_t;

/* Where the model's blocks come from. Valid as long as e. */
qy_variant_source_t qy_eval_source(eval_t *e);

/* Perplexity of a text, printed. */
qy_status_t qy_eval_text(eval_t *e, const char *path, qy_error_t *err);

/* Accuracy at a zero-shot task, printed; a line for each item into items (may be NULL). */
qy_status_t qy_eval_task(eval_t *e, const char *path, FILE *items, qy_error_t *err);

#endif
