#include "cli/estimate.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "jobs/plan_time.h"
#include "worker/calibrate.h"
#include "worker/memory.h"

/* A node's disk that gives more than this, bytes/s, is not taken for granted. */
static const double disk_most = 12e9;

void qy_estimate(qy_plan_t *plan)
{
    qy_speed_t speed;
    const qy_spec_t *spec = &plan->spec;
    if (qy_speed_find(&speed, spec->resources.device, spec->resources.threads, NULL) == QY_OK)
        qy_plan_estimate(plan, &speed, NULL);
}

qy_status_t qy_estimate_calibrate(const qy_plan_t *plan, qy_error_t *err)
{
    char program[QY_PATH_MAX] = "";
    qy_speed_t speed;
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0)
        return qy_fail(err, QY_ERR_IO, "/proc/self/exe cannot be read");
    QY_TRY(qy_calibrate(&speed, plan, program, err));
    QY_TRY(qy_speed_keep(&speed, err));
    qy_speed_print(&speed, stdout);
    return QY_OK;
}

bool qy_estimate_verdict(const qy_plan_t *plan, int64_t per_node, char *text, size_t size)
{
    qy_speed_t speed = {0};
    char want[32], have[32];
    const qy_spec_t *spec = &plan->spec;
    qy_speed_find(&speed, spec->resources.device, spec->resources.threads, NULL);
    if (strcmp(speed.kind, "cuda") == 0 && speed.memory > 0 &&
        (double)plan->gpu_bytes + (double)QY_CONTEXT_BYTES > speed.memory) {
        qy_plan_bytes_text(want, plan->gpu_bytes + (int64_t)QY_CONTEXT_BYTES);
        qy_plan_bytes_text(have, (int64_t)speed.memory);
        snprintf(text, size, "no-go: a worker needs %s of GPU memory, %s has %s", want, speed.model,
                 have);
        return false;
    }
    double asked = plan->time.stream_bytes_per_s * (double)per_node;
    if (asked > disk_most) {
        snprintf(text, size,
                 "no-go: the %lld workers of a node ask %.1f GB/s of its scratch disk, more than "
                 "%.0f; raise resources.host_cache or use fewer workers a node",
                 (long long)per_node, asked / 1e9, disk_most / 1e9);
        return false;
    }
    qy_plan_bytes_text(want, (plan->host_bytes + plan->cpu_bytes) * per_node);
    if (plan->time.device[0])
        snprintf(text, size, "go: about %.1f h; a node needs %s of memory", //
                 qy_plan_total_s(plan) / 3600, want);
    else
        snprintf(text, size,
                 "go, as far as is known: a node needs %s of memory; for hours, calibrate", want);
    return true;
}
