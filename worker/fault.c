#include "worker/fault.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/fill.h"

enum { LOOKS = 2, NOWHERE = 4096 /* an address that neither host nor device maps */ };

static const char *const names[] = {[QY_FAULT_CRASH] = "crash",
                                    [QY_FAULT_KILL] = "kill",
                                    [QY_FAULT_DEVICE] = "device",
                                    [QY_FAULT_ADDRESS] = "address"};

qy_fault_t qy_fault_of(const qy_task_t *task, const qy_device_t *dev)
{
    qy_fault_t fault = {.dev = dev, .looks = LOOKS};
    const char *wanted = getenv("QUARRY_TEST_FAIL"), *at = wanted ? strchr(wanted, '@') : NULL;
    char name[96];
    if (!at)
        return fault;
    const char *task_end = strchr(at, '#');
    size_t length = task_end ? (size_t)(task_end - at - 1) : strlen(at + 1);
    qy_task_name(task, name);
    if (strncmp(name, at + 1, length) != 0 || task->attempt > (task_end ? atoi(task_end + 1) : 1))
        return fault;
    for (int kind = QY_FAULT_CRASH; kind <= QY_FAULT_ADDRESS; kind++)
        if (strlen(names[kind]) == (size_t)(at - wanted) &&
            strncmp(wanted, names[kind], (size_t)(at - wanted)) == 0)
            fault.kind = (qy_fault_kind_t)kind;
    return fault;
}

qy_status_t qy_fault_look(qy_fault_t *fault, qy_error_t *err)
{
    if (fault->kind == QY_FAULT_NONE || --fault->looks != 0)
        return QY_OK;
    qy_tensor_t nowhere = qy_tensor_1d((void *)(uintptr_t)NOWHERE, QY_F32, 1024);
    switch (fault->kind) {
    case QY_FAULT_CRASH:
        raise(SIGSEGV);
        break;
    case QY_FAULT_KILL:
        raise(SIGKILL);
        break;
    case QY_FAULT_DEVICE:
        return qy_fail(err, QY_ERR_DEVICE, "a device failure on purpose (QUARRY_TEST_FAIL)");
    case QY_FAULT_ADDRESS:
        return qy_fill(fault->dev, &nowhere, 1.0f, err);
    default:
        break;
    }
    return QY_OK;
}
