#include "model/tokenizer_utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const char replacement[] = "\xef\xbf\xbd";
enum { REPLACEMENT_BYTES = 3 };

/*
 * Length of the character at s, of which left > 0 bytes are there; negative where it is ill formed:
 * minus the bytes that one U+FFFD stands for. Source: The Unicode Standard, table 3-7.
 */
static int measure(const unsigned char *s, size_t left)
{
    unsigned low = 0x80, high = 0xbf;
    int n;
    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        n = 2;
    else if (s[0] >= 0xe0 && s[0] <= 0xef)
        n = 3;
    else if (s[0] >= 0xf0 && s[0] <= 0xf4)
        n = 4;
    else
        return -1;
    if (s[0] == 0xe0)
        low = 0xa0; /* not longer than needed */
    else if (s[0] == 0xed)
        high = 0x9f; /* no surrogates */
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f; /* at most U+10FFFF */
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= left || s[i] < low || s[i] > high)
            return -i;
        low = 0x80;
        high = 0xbf;
    }
    return n;
}

static size_t valid_prefix(const char *text, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        int n = measure((const unsigned char *)text + at, bytes - at);
        if (n < 0)
            return at;
        at += (size_t)n;
    }
    return at;
}

qy_status_t qy_utf8_repair(const char *text, size_t bytes, const char **out, size_t *out_bytes,
                           char **owned, qy_error_t *err)
{
    size_t valid = valid_prefix(text, bytes);
    *owned = NULL;
    if (valid == bytes) {
        *out = text;
        *out_bytes = bytes;
        return QY_OK;
    }
    size_t room = valid + (bytes - valid) * REPLACEMENT_BYTES;
    char *copy = malloc(room);
    if (!copy)
        return qy_fail(err, QY_ERR_MEMORY, "no memory to repair %zu bytes of text", bytes);
    memcpy(copy, text, valid);
    size_t used = valid;
    for (size_t at = valid; at < bytes;) {
        int n = measure((const unsigned char *)text + at, bytes - at);
        size_t taken = (size_t)abs(n);
        memcpy(copy + used, n > 0 ? text + at : replacement, n > 0 ? taken : REPLACEMENT_BYTES);
        used += n > 0 ? taken : REPLACEMENT_BYTES;
        at += taken;
    }
    *out = *owned = copy;
    *out_bytes = used;
    return QY_OK;
}

size_t qy_utf8_length(const char *text)
{
    unsigned char c = (unsigned char)*text;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

bool qy_utf8_is_ascii(const char *text, size_t bytes)
{
    unsigned char all = 0;
    for (size_t i = 0; i < bytes; i++)
        all |= (unsigned char)text[i];
    return all < 0x80;
}

/* Bytes of the white space character at s, 0 where it is another one. */
static size_t space_at(const char *s, size_t left)
{
    static const char *const wide[] = {
        "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
        "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
        "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
        "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80",
    };
    if (*s == ' ' || (*s >= '\t' && *s <= '\r'))
        return 1;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        size_t n = strlen(wide[i]);
        if (n <= left && memcmp(s, wide[i], n) == 0)
            return n;
    }
    return 0;
}

size_t qy_utf8_space_before(const char *text, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        size_t n = space_at(text + at, bytes - at);
        if (n == 0)
            break;
        at += n;
    }
    return at;
}

/* Where the last character of a text that is not empty begins. */
static size_t last_start(const char *text, size_t bytes)
{
    size_t start = bytes - 1;
    while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
        start--;
    return start;
}

size_t qy_utf8_space_after(const char *text, size_t bytes)
{
    size_t end = bytes;
    while (end > 0) {
        size_t start = last_start(text, end);
        if (space_at(text + start, end - start) == 0)
            break;
        end = start;
    }
    return bytes - end;
}

/* Letters that are counted among the symbols, which have no category of their own. */
static bool is_letter_symbol(utf8proc_int32_t c)
{
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

bool qy_utf8_begins_word(const char *text, size_t bytes)
{
    utf8proc_int32_t c;
    if (utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &c) < 1)
        return false;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return c == 0x200c || c == 0x200d || is_letter_symbol(c); /* joiners */
    }
}

bool qy_utf8_ends_in_word(const char *text, size_t bytes)
{
    if (bytes == 0)
        return false;
    size_t start = last_start(text, bytes);
    return qy_utf8_begins_word(text + start, bytes - start);
}
