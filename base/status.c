#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int retry;
} status_table[QY_N_STATUS] = {
#define X(name, text, retry) {text, retry},
    QY_STATUS_LIST(X)
#undef X
};

const char *qy_status_name(qy_status_t status)
{
    return (unsigned)status < QY_N_STATUS ? status_table[status].name : "unknown status";
}

int qy_status_retry(qy_status_t status)
{
    return (unsigned)status < QY_N_STATUS ? status_table[status].retry : 0;
}

/* Names from strangers' files may hold anything: an error is one line, whatever it quotes. */
static void keep_one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
}

qy_status_t qy_fail(qy_error_t *err, qy_status_t status, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        keep_one_line(err->text);
    }
    return status;
}

qy_status_t qy_fail_in(qy_error_t *err, const char *format, ...)
{
    if (!err)
        return QY_ERR_ARG;
    char text[sizeof err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t used = strlen(text), kept = strlen(err->text), room = sizeof text - 1 - used;
    if (room >= 2) {
        kept = kept < room - 2 ? kept : room - 2;
        memcpy(text + used, ": ", 2);
        memcpy(text + used + 2, err->text, kept);
        text[used + 2 + kept] = '\0';
    }
    memcpy(err->text, text, sizeof text);
    return err->status;
}
