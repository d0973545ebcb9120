/* UTF-8 of strangers: what is not UTF-8 becomes U+FFFD, so that all behind it may trust the text.
 */
#ifndef QY_MODEL_TOKENIZER_UTF8_H
#define QY_MODEL_TOKENIZER_UTF8_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/*
 * *out is text itself where it is well formed, else *owned, a copy for the caller to free in which
 * each maximal ill-formed part is one U+FFFD, as Unicode recommends (3.9) and Python decodes.
 */
qy_status_t qy_utf8_repair(const char *text, size_t bytes, const char **out, size_t *out_bytes,
                           char **owned, qy_error_t *err);

/* Bytes of the character at text, which is well formed. */
size_t qy_utf8_length(const char *text);

bool qy_utf8_is_ascii(const char *text, size_t bytes);

/* Bytes of the white space (Unicode's property) at the beginning, or at the end. */
size_t qy_utf8_space_before(const char *text, size_t bytes);
size_t qy_utf8_space_after(const char *text, size_t bytes);

/* Whether the text begins with a character of words, or ends in one: Unicode's \w (UTS 18, annex
 * C).
 */
bool qy_utf8_begins_word(const char *text, size_t bytes);
bool qy_utf8_ends_in_word(const char *text, size_t bytes);

#endif
