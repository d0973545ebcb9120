#include "coordinator/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "coordinator/ledger_line.h"

#define LEDGER_BYTES_MAX ((size_t)1 << 30)

struct qy_ledger {
    char path[QY_PATH_MAX];
    int fd;       /* −1: for reading only */
    size_t bytes; /* of whole lines */
    int64_t n, room;
    qy_entry_t *entry;
};

/* Takes entry over, values included. */
static qy_status_t keep(qy_ledger_t *ledger, const qy_entry_t *entry, qy_error_t *err)
{
    if (ledger->n == ledger->room) {
        int64_t room = ledger->room ? 2 * ledger->room : 64;
        qy_entry_t *more = realloc(ledger->entry, (size_t)room * sizeof *more);
        if (!more)
            return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %lld events", ledger->path,
                           (long long)room);
        ledger->entry = more;
        ledger->room = room;
    }
    ledger->entry[ledger->n++] = *entry;
    return QY_OK;
}

/* Every whole line; what is torn at the end is left out of ledger->bytes. */
static qy_status_t parse(qy_ledger_t *ledger, const char *text, size_t bytes, qy_error_t *err)
{
    for (long long number = 1; ledger->bytes < bytes; number++) {
        const char *line = text + ledger->bytes;
        size_t left = bytes - ledger->bytes;
        const char *end = memchr(line, '\n', left);
        if (!end)
            break;
        qy_entry_t entry;
        qy_error_t why;
        bool torn, is_last = end + 1 == text + bytes;
        if (qy_ledger_decode(&entry, line, (size_t)(end - line), &torn, &why) != QY_OK) {
            if (torn && is_last)
                break;
            return qy_fail(err, QY_ERR_FORMAT,
                           "%.200s:%lld: %.150s. Rename the ledger to go on: finished work counts "
                           "by its files, only evaluations are done again",
                           ledger->path, number, why.text);
        }
        qy_status_t status = keep(ledger, &entry, err);
        if (status != QY_OK) {
            free(entry.values);
            return status;
        }
        ledger->bytes += (size_t)(end + 1 - line);
    }
    return QY_OK;
}

static qy_status_t load(qy_ledger_t **out, const char *path, size_t *bytes, qy_error_t *err)
{
    char *text = NULL;
    QY_TRY(qy_file_read(path, LEDGER_BYTES_MAX, &text, bytes, err));
    qy_status_t status = QY_OK;
    qy_ledger_t *ledger = calloc(1, sizeof *ledger);
    if (!ledger) {
        status = qy_fail(err, QY_ERR_MEMORY, "%s: no memory for the ledger", path);
        goto free_text;
    }
    ledger->fd = -1;
    QY_TRY_GOTO(qy_path(ledger->path, err, "%s", path), close_ledger);
    QY_TRY_GOTO(parse(ledger, text, *bytes, err), close_ledger);
    *out = ledger;
    ledger = NULL;
close_ledger:
    qy_ledger_close(&ledger);
free_text:
    free(text);
    return status;
}

qy_status_t qy_ledger_read(qy_ledger_t **out, const char *path, qy_error_t *err)
{
    size_t bytes;
    return load(out, path, &bytes, err);
}

static qy_status_t fail_io(const qy_ledger_t *ledger, const char *call, qy_error_t *err)
{
    return qy_fail(err, QY_ERR_IO, "%s: %s: %s", ledger->path, call, strerror(errno));
}

qy_status_t qy_ledger_open(qy_ledger_t **out, const char *path, qy_error_t *err)
{
    size_t bytes;
    qy_ledger_t *ledger = NULL;
    qy_status_t status = QY_OK;
    if (!qy_file_exists(path))
        QY_TRY(qy_file_write(path, "", 0, err)); /* its name is durable, too */
    QY_TRY(load(&ledger, path, &bytes, err));
    ledger->fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (ledger->fd < 0) {
        status = fail_io(ledger, "open", err);
        goto close_ledger;
    }
    if (bytes != ledger->bytes &&
        (ftruncate(ledger->fd, (off_t)ledger->bytes) != 0 || fsync(ledger->fd) != 0)) {
        status = fail_io(ledger, "ftruncate", err);
        goto close_ledger;
    }
    *out = ledger;
    return QY_OK;

close_ledger:
    qy_ledger_close(&ledger);
    return status;
}

void qy_ledger_close(qy_ledger_t **ledger)
{
    qy_ledger_t *l = *ledger;
    if (!l)
        return;
    for (int64_t i = 0; i < l->n; i++)
        free(l->entry[i].values);
    free(l->entry);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
    *ledger = NULL;
}

int64_t qy_ledger_count(const qy_ledger_t *ledger)
{
    return ledger->n;
}

const qy_entry_t *qy_ledger_at(const qy_ledger_t *ledger, int64_t i)
{
    return &ledger->entry[i];
}

/* A line that cannot be finished (full disk) is taken back, so that the next one does not join it.
 */
static qy_status_t write_line(qy_ledger_t *ledger, const char *line, size_t n, qy_error_t *err)
{
    qy_status_t status = qy_write_all(ledger->fd, ledger->path, line, n, err);
    if (status == QY_OK && fsync(ledger->fd) != 0)
        status = fail_io(ledger, "fsync", err);
    if (status != QY_OK)
        (void)!ftruncate(ledger->fd, (off_t)ledger->bytes);
    else
        ledger->bytes += n;
    return status;
}

qy_status_t qy_ledger_append(qy_ledger_t *ledger, const qy_entry_t *entry, qy_error_t *err)
{
    char *line = NULL;
    size_t n = 0;
    qy_entry_t copy = *entry;
    if (ledger->fd < 0 || (unsigned)entry->kind >= QY_N_LEDGER || entry->n_values < 0)
        return qy_fail(err, QY_ERR_ARG,
                       "%s: event of kind %d, %lld values, to a ledger open for %s", ledger->path,
                       (int)entry->kind, (long long)entry->n_values,
                       ledger->fd < 0 ? "reading" : "writing");
    if (!copy.time[0])
        qy_utc(copy.time);
    copy.values = NULL;
    if (copy.n_values > 0) {
        copy.values = malloc((size_t)copy.n_values * sizeof *copy.values);
        if (!copy.values)
            return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %lld values", ledger->path,
                           (long long)copy.n_values);
        memcpy(copy.values, entry->values, (size_t)copy.n_values * sizeof *copy.values);
    }
    qy_status_t status = qy_ledger_encode(&copy, &line, &n, err);
    if (status == QY_OK)
        status = write_line(ledger, line, n, err);
    if (status == QY_OK)
        status = keep(ledger, &copy, err);
    if (status != QY_OK)
        free(copy.values);
    free(line);
    return status;
}
