/*
 * Zero-shot tasks: items of a context and some continuations, of which one is right. Their file (a
 * JSON object a line: "id", "context", "continuations", "gold"), the token sequences that a model
 * scores, and the accuracy that follows from the scores.
 *
 * Source: EleutherAI's lm-evaluation-harness (multiple choice: acc, and acc_norm by UTF-8 bytes).
 */
#ifndef QY_MODEL_CHOICES_H
#define QY_MODEL_CHOICES_H

#include <stdbool.h>

#include "model/tokenizer.h"

/* One continuation after its context: a sequence whose last n_scored tokens are the continuation's.
 */
typedef struct {
    int64_t first; /* its tokens: ids[first … first + n) */
    int32_t n, n_scored;
    int32_t item, choice; /* choice 0, 1, … of the item */
    int32_t bytes;        /* of the continuation, without the space it begins with */
} qy_choice_t;

typedef struct {
    int64_t n_items, n, n_ids;
    int32_t *gold;       /* n_items: the right choice */
    qy_choice_t *choice; /* n: shortest sequence first; of equals in the file's order */
    int32_t *ids;        /* n_ids: the sequences, one after the other in this order */
} qy_choices_t;

/*
 * Reads and tokenizes a task file. The tokens of a continuation are those that context and
 * continuation together have beyond the context's own; spaces at a context's end count as the
 * continuation's. prefix: the tokenizer's first tokens stand before each context. A sequence of
 * more than max_length tokens loses its first ones.
 * IO; FORMAT with file and line: no such object, gold beyond the continuations, a continuation
 * without bytes or tokens, with nothing before it, or as long as max_length.
 */
qy_status_t qy_choices_read(qy_choices_t *out, const char *path, const qy_tokenizer_t *tokenizer,
                            bool prefix, int64_t max_length, qy_error_t *err);
void qy_choices_free(qy_choices_t *choices);

/* FORMAT where the parts do not fit together; for choices that come from a file of the run. */
qy_status_t qy_choices_check(const qy_choices_t *choices, int64_t vocab, const char *where,
                             qy_error_t *err);

/* Accuracies and their standard errors √(p(1 − p)/(n − 1)); 0 with one item. by_bytes: the score of
 * a continuation is its log likelihood per byte. Of equal scores the first choice counts. */
typedef struct {
    int64_t n_items;
    double accuracy, error;
    double by_bytes, by_bytes_error;
} qy_accuracy_t;

/* nll[i]: Σ −log p of the scored tokens of choice[i]. MEMORY; NUMERIC where one is not finite. */
qy_status_t qy_choices_score(const qy_choices_t *choices, const double *nll, qy_accuracy_t *out,
                             qy_error_t *err);

/* What the model chose, for each item: choices of least nll and of least nll per byte. The caller
 * gives room for n_items each, best has room for 2 n_items. */
void qy_choices_pick(const qy_choices_t *choices, const double *nll, int32_t *chosen,
                     int32_t *chosen_by_bytes, double *best);

/*
 * Cuts the sequences into ranges that are worth a task of their own: range r is sequences
 * [first[r], first[r + 1]), and has about as many padded tokens as any other. Returns their number.
 */
enum { QY_CHOICES_RANGES = 8, QY_CHOICES_TOKENS = 1 << 18 };
int qy_choices_cut(const qy_choices_t *choices, int64_t max_length,
                   int64_t first[QY_CHOICES_RANGES + 1]);

/* Tokens that a sequence of n takes where sequences go side by side: n rounded up, so that there
 * are few lengths; never more than max_length. */
int64_t qy_choices_padded(int64_t n, int64_t max_length);

#endif
