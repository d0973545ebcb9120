/* One line of the ledger: an event as JSON, a tab, the CRC-32 of the JSON in eight hexadecimal
 * digits. */
#ifndef QY_COORDINATOR_LEDGER_LINE_H
#define QY_COORDINATOR_LEDGER_LINE_H

#include <stdbool.h>
#include <stddef.h>

#include "coordinator/ledger.h"

/* The line with its newline; the caller frees. Only the fields of the event's kind are written; a
 * number that is not finite becomes null. */
qy_status_t qy_ledger_encode(const qy_entry_t *entry, char **line, size_t *n, qy_error_t *err);

/* n bytes without the newline. *torn: checksum or frame are wrong, as after a crash. FORMAT where
 * they are right and the content is not. out->values is the caller's to free. */
qy_status_t qy_ledger_decode(qy_entry_t *out, const char *line, size_t n, bool *torn,
                             qy_error_t *err);

#endif
