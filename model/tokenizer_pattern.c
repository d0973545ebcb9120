#include "model/tokenizer_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_utf8.h"

enum {
    PATTERN_BYTES_MAX = 64 << 10,
    MATCH_LIMIT = 10000000, /* steps of one match: seconds at most */
    DEPTH_LIMIT = 100000,
    HEAP_LIMIT_KIB = 64 << 10,
    JIT_STACK_MIN = 32 << 10,
    JIT_STACK_MAX = 8 << 20
};

struct qy_pattern {
    pcre2_code *code;
    char *text;
};

struct qy_pattern_run {
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack;
};

static qy_status_t fail_pattern(const char *where, const char *pattern, const char *why,
                                qy_error_t *err)
{
    return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: pattern \"%.200s\": %s", where, pattern, why);
}

/* --- where Oniguruma's Ruby syntax and PCRE2 differ --- */

/* Behind a backslash: \h is a hexadecimal digit there, and words have other characters. */
static const char *check_escape(char c)
{
    if (c == 'h' || c == 'H')
        return "\\h is not supported";
    if (c == 'K')
        return "\\K is not supported";
    return c && strchr("wWbB", c) ? "\\w and \\b are not supported" : NULL;
}

/* At "[": nesting, &&, and what [:alpha:] and the like hold. Moves *at to the closing "]". */
static const char *check_class(const char *p, size_t *at)
{
    const char *wrong = NULL;
    size_t i = *at + 1;
    i += p[i] == '^';
    i += p[i] == ']';
    for (; p[i] && p[i] != ']' && !wrong; i++) {
        if (p[i] == '[')
            wrong = "a class inside a class is not supported";
        else if (p[i] == '&' && p[i + 1] == '&')
            wrong = "an intersection of classes is not supported";
        else if (p[i] == '\\' && p[i + 1])
            wrong = check_escape(p[++i]);
    }
    *at = i;
    return wrong;
}

/* Behind "(?": options other than i mean other things, or nothing, in the other syntax. */
static const char *check_group(const char *p)
{
    size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-");
    if (n > 0 && (p[n] == ':' || p[n] == ')') && strspn(p, "i-") != n)
        return "options other than (?i) are not supported";
    return NULL;
}

/* At "{": {,n} and {n,m}+ are read differently. */
static const char *check_counts(const char *p)
{
    size_t n = 1 + strspn(p + 1, "0123456789,");
    if (p[n] != '}')
        return NULL;
    return p[1] == ',' || p[n + 1] == '+' ? "this repetition is not supported" : NULL;
}

static const char *find_difference(const char *p)
{
    const char *wrong = NULL;
    for (size_t i = 0; p[i] && !wrong; i++) {
        if (p[i] == '\\' && p[i + 1]) {
            wrong = check_escape(p[++i]);
            if (strchr("pPx", p[i]) && p[i + 1] == '{') /* \p{L}: no repetition */
                i += strcspn(p + i, "}");
        } else if (p[i] == '[') {
            wrong = check_class(p, &i);
        } else if (p[i] == '(' && p[i + 1] == '?') {
            wrong = check_group(p + i + 2);
        } else if (p[i] == '{') {
            wrong = check_counts(p + i);
        }
        if (!p[i])
            break;
    }
    return wrong;
}

/* --- white space --- */

/* Oniguruma's \s; PCRE2's own has U+180E as well. It ends in a range: behind one, as behind \s, a
 * hyphen in a class means itself. */
#define SPACES                                                                                     \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{2000}-\\x{200a}"

/* What stands for \s or \S, of which c is the letter; NULL: c is of another escape. */
static const char *spaces_for(char c, bool in_class)
{
    if (c == 's')
        return in_class ? SPACES : "[" SPACES "]";
    if (c == 'S')
        return in_class ? "\\S\\x{180e}" : "[^" SPACES "]";
    return NULL;
}

/* Takes what at p is one thing: an escape's two characters, "[" with the "^" and "]" that belong to
 * it, or one character. */
static size_t step_over(const char *p, bool *in_class)
{
    size_t n = 1;
    if (*p == '\\') {
        n += p[1] != '\0';
    } else if (*p == '[' && !*in_class) {
        *in_class = true;
        n += p[n] == '^';
        n += p[n] == ']';
    } else if (*p == ']') {
        *in_class = false;
    }
    return n;
}

/* The pattern with Oniguruma's white space, which the caller frees; NULL: no memory. */
static char *replace_spaces(const char *pattern)
{
    char *text = NULL;
    size_t bytes;
    bool in_class = false;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return NULL;
    for (const char *p = pattern; *p;) {
        const char *spaces = *p == '\\' ? spaces_for(p[1], in_class) : NULL;
        size_t n = step_over(p, &in_class);
        if (spaces)
            fputs(spaces, out);
        else
            fwrite(p, 1, n, out);
        p += n;
    }
    if (fclose(out) == 0)
        return text;
    free(text);
    return NULL;
}

/* --- making --- */

static pcre2_code *compile(const char *pattern, bool literal, int *problem)
{
    PCRE2_SIZE at;
    /* In Ruby's syntax ^ and $ mean lines. */
    uint32_t options = literal ? PCRE2_UTF | PCRE2_LITERAL
                               : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return NULL;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, strlen(pattern), options, problem, &at, context);
    pcre2_compile_context_free(context);
    if (code)
        (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* else it is interpreted */
    return code;
}

qy_status_t qy_pattern_create(qy_pattern_t **out, const char *pattern, bool literal,
                              const char *where, qy_error_t *err)
{
    if (strlen(pattern) == 0 || strlen(pattern) > PATTERN_BYTES_MAX)
        return fail_pattern(where, pattern, "too short or too long", err);
    const char *difference = literal ? NULL : find_difference(pattern);
    if (difference)
        return fail_pattern(where, pattern, difference, err);
    qy_pattern_t *made = calloc(1, sizeof *made);
    if (!made)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for a pattern", where);
    int problem = PCRE2_ERROR_NOMEMORY;
    char *spaced = literal ? strdup(pattern) : replace_spaces(pattern);
    made->text = strdup(pattern);
    made->code = spaced ? compile(spaced, literal, &problem) : NULL;
    free(spaced);
    if (!made->text || !made->code) {
        char why[128];
        pcre2_get_error_message(problem, (PCRE2_UCHAR *)why, sizeof why);
        qy_pattern_destroy(&made);
        return fail_pattern(where, pattern, why, err);
    }
    *out = made;
    return QY_OK;
}

void qy_pattern_destroy(qy_pattern_t **pattern)
{
    if (!pattern || !*pattern)
        return;
    pcre2_code_free((*pattern)->code);
    free((*pattern)->text);
    free(*pattern);
    *pattern = NULL;
}

/* --- matching --- */

qy_status_t qy_pattern_run_create(qy_pattern_run_t **out, qy_error_t *err)
{
    qy_pattern_run_t *run = calloc(1, sizeof *run);
    if (!run)
        return qy_fail(err, QY_ERR_MEMORY, "no memory to match patterns");
    run->context = pcre2_match_context_create(NULL);
    run->data = pcre2_match_data_create(1, NULL);
    run->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL); /* NULL without JIT */
    if (!run->context || !run->data) {
        qy_pattern_run_destroy(&run);
        return qy_fail(err, QY_ERR_MEMORY, "no memory to match patterns");
    }
    pcre2_set_match_limit(run->context, MATCH_LIMIT);
    pcre2_set_depth_limit(run->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(run->context, HEAP_LIMIT_KIB);
    if (run->stack)
        pcre2_jit_stack_assign(run->context, NULL, run->stack);
    *out = run;
    return QY_OK;
}

void qy_pattern_run_destroy(qy_pattern_run_t **run)
{
    if (!run || !*run)
        return;
    pcre2_jit_stack_free((*run)->stack);
    pcre2_match_data_free((*run)->data);
    pcre2_match_context_free((*run)->context);
    free(*run);
    *run = NULL;
}

qy_status_t qy_pattern_next(const qy_pattern_t *pattern, qy_pattern_run_t *run, const char *text,
                            size_t bytes, size_t last, bool *found, size_t *begin, size_t *end,
                            qy_error_t *err)
{
    *found = false;
    for (size_t at = last; at <= bytes; at += at < bytes ? qy_utf8_length(text + at) : 1) {
        int result = pcre2_match(pattern->code, (PCRE2_SPTR)text, bytes, at, PCRE2_NO_UTF_CHECK,
                                 run->data, run->context);
        if (result == PCRE2_ERROR_NOMATCH)
            return QY_OK;
        if (result < 0) {
            char why[128];
            pcre2_get_error_message(result, (PCRE2_UCHAR *)why, sizeof why);
            return qy_fail(err, QY_ERR_FORMAT, "pattern \"%.200s\" at byte %zu of a text: %s",
                           pattern->text, at, why);
        }
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(run->data);
        if (range[0] < at || range[1] < range[0])
            return qy_fail(err, QY_ERR_UNSUPPORTED, "pattern \"%.200s\" matches backwards",
                           pattern->text);
        if (range[1] > range[0] || range[1] != last) {
            *begin = range[0];
            *end = range[1];
            *found = true;
            return QY_OK;
        }
    }
    return QY_OK;
}
