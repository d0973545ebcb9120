/*
 * Texts into token ids: .txt (one document), .jsonl (a document a line, key "text"), .npy (token
 * ids, samples × length, already cut). And the windows that calibration and evaluation take of
 * them.
 */
#ifndef QY_MODEL_TEXT_H
#define QY_MODEL_TEXT_H

#include "base/random.h"
#include "model/tokenizer.h"

/* Token ids of one text file, all documents: document i is ids[starts[i] … starts[i + 1]). */
typedef struct {
    int32_t *ids;
    int64_t n;
    int64_t *starts; /* n_documents + 1 */
    int64_t n_documents;
    int64_t row_length; /* of a .npy: its second dimension; else 0 */
} qy_text_t;

typedef enum {
    QY_TEXT_JOIN,     /* documents joined by a blank line, tokenized as one stream */
    QY_TEXT_DOCUMENTS /* each document tokenized on its own, with the post-processor's prefix */
} qy_text_mode_t;

/* IO, FORMAT (with line number for .jsonl), UNSUPPORTED suffix. */
qy_status_t qy_text_read(qy_text_t *out, const char *path, const qy_tokenizer_t *tokenizer,
                         qy_text_mode_t mode, qy_error_t *err);
void qy_text_free(qy_text_t *text);

typedef enum { QY_SAMPLING_STREAM, QY_SAMPLING_DOCUMENTS } qy_sampling_t;

/*
 * n windows of length tokens, (n, length) i32, the caller frees *out. The first ⌊9/10⌋ of the
 * tokens or documents are for training, the rest (held_out) for validation only. stream     window
 * i starts at ⌊u (L' − length)/2^64⌋ of its part, which has L' tokens, u = qy_random_u64(seed,
 * phase, i, 0) documents  window i is of a document drawn with replacement from those of its part
 * with more than length tokens (stream 0), and starts uniformly in it (stream 1); FORMAT where none
 * is longer .npy       row i of the file, which must have length tokens; held_out: of its last n
 * rows. That they do not overlap the others is the caller's to see to (n_documents) FORMAT where
 * the text is shorter than one window, with both lengths.
 */
qy_status_t qy_text_windows(int32_t **out, const qy_text_t *text, qy_sampling_t sampling, int64_t n,
                            int64_t length, bool held_out, uint32_t seed, qy_phase_t phase,
                            qy_error_t *err);

#endif
