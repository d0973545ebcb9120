/* ledger.jsonl, as status reads it and as a run opens it. */
#include "coordinator/ledger.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qy_ledger_t *ledger = NULL;
    qy_error_t err;
    const char *path = fuzz_file("ledger.jsonl", data, size);
    if (qy_ledger_read(&ledger, path, &err) == QY_OK)
        qy_ledger_close(&ledger);
    if (qy_ledger_open(&ledger, path, &err) != QY_OK)
        return 0;
    const qy_entry_t entry = {.kind = QY_LEDGER_STOP, .text = "done"};
    (void)qy_ledger_append(ledger, &entry, &err);
    qy_ledger_close(&ledger);
    return 0;
}
