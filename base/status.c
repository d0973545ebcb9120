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

qy_status_t qy_fail(qy_error_t *err, qy_status_t status, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return status;
}

qy_status_t qy_fail_in(qy_error_t *err, const char *format, ...)
{
    if (!err)
        return QY_ERR_ARG;
    char text[sizeof err->text], old[sizeof err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(old, err->text, sizeof old);
    size_t used = strlen(text);
    snprintf(err->text, sizeof err->text, "%s", text);
    if (used + 3 < sizeof err->text)
        snprintf(err->text + used, sizeof err->text - used, ": %s", old);
    return err->status;
}
