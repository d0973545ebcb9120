/* What the tests of tokenizers share: the smallest model there is, put into files. */
#ifndef QY_TESTS_MODEL_TOKENIZER_FIXTURE_H
#define QY_TESTS_MODEL_TOKENIZER_FIXTURE_H

#include "model/tokenizer.h"
#include "tests/model/scratch.h"

#define VOCAB        "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
#define MODEL        "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\"]}"
#define NORMAL(text) "{" MODEL ",\"normalizer\":" text "}"
#define PRE(text)    "{" MODEL ",\"pre_tokenizer\":" text "}"
#define REGEX(text)                                                                                \
    PRE("{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"" text "\"}}")

static inline qy_status_t open_text(qy_tokenizer_t **t, const char *file)
{
    scratch_text("tokenizer.json", file);
    return qy_tokenizer_open(t, scratch, &err);
}

#endif
