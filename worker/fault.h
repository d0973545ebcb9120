/*
 * Faults on purpose, for tests of failing processes and devices. QUARRY_TEST_FAIL=KIND@TASK[#N] in
 * the environment makes the task whose name begins with TASK fail in each of its first N attempts
 * (1), in the midst of its work (at its second look for a stop request):
 *   crash    a segmentation fault
 *   kill     SIGKILL, as from the OOM killer
 *   device   a call of the device fails
 *   address  a kernel writes where no memory is: on a GPU all that follows fails, on a CPU a crash
 */
#ifndef QY_WORKER_FAULT_H
#define QY_WORKER_FAULT_H

#include "jobs/task.h"
#include "kernels/device.h"

typedef enum {
    QY_FAULT_NONE,
    QY_FAULT_CRASH,
    QY_FAULT_KILL,
    QY_FAULT_DEVICE,
    QY_FAULT_ADDRESS
} qy_fault_kind_t;

typedef struct qy_fault {
    qy_fault_kind_t kind;
    int looks; /* left until it strikes */
    const qy_device_t *dev;
} qy_fault_t;

/* What the environment wants of this task. */
qy_fault_t qy_fault_of(const qy_task_t *task, const qy_device_t *dev);

/* Counts a look, and strikes at the last. */
qy_status_t qy_fault_look(qy_fault_t *fault, qy_error_t *err);

#endif
