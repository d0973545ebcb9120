#include "cli/estimate.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/machine.h"
#include "jobs/plan_time.h"
#include "worker/calibrate.h"
#include "worker/memory.h"

/* What a node's scratch disk is taken to give, bytes/s, where resources.scratch_gbps is auto. */
static const double disk_assumed = 12e9;
/* Waiting for it is borne up to this share of the time. */
static const double most_wait = 0.05;

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

typedef struct {
    const qy_plan_t *plan;
    int64_t per_node;
    char *text;
    size_t size;
} verdict_t;

static bool gpu_fits(const verdict_t *v, const qy_speed_t *speed)
{
    char want[32], have[32];
    const qy_plan_t *plan = v->plan;
    if (strcmp(speed->kind, "cuda") != 0 || speed->memory <= 0 ||
        (double)plan->gpu_bytes + (double)QY_CONTEXT_BYTES <= speed->memory)
        return true;
    qy_plan_bytes_text(want, plan->gpu_bytes + (int64_t)QY_CONTEXT_BYTES);
    qy_plan_bytes_text(have, (int64_t)speed->memory);
    snprintf(v->text, v->size, "no-go: a worker needs %s of GPU memory, %s has %s", want,
             speed->model, have);
    return false;
}

/* What does not stay in host memory has to fit into scratch, here or as the job states it. */
static bool scratch_holds(const verdict_t *v)
{
    const qy_plan_t *plan = v->plan;
    const qy_spec_t *spec = &plan->spec;
    char want[32], have[32], kept[32];
    double per_node = (double)v->per_node, cache = (double)spec->resources.host_cache, room = 0;
    if (cache <= 0) /* as the workers will choose */
        cache = qy_machine_memory() / 2 / per_node;
    double rest = ((double)plan->stream_bytes - cache) * per_node;
    if (spec->resources.scratch_bytes > 0)
        room = (double)spec->resources.scratch_bytes;
    else if (rest > 0 && qy_disk_free(&room, spec->resources.scratch, NULL) != QY_OK)
        return true; /* another machine's folder */
    if (rest <= room)
        return true;
    qy_plan_bytes_text(want, (int64_t)rest);
    qy_plan_bytes_text(kept, (int64_t)cache);
    qy_plan_bytes_text(have, (int64_t)room);
    snprintf(v->text, v->size,
             "no-go: of its streams each worker holds %s in memory, which leaves %s to a node's "
             "scratch: %.200s has %s; raise resources.host_cache, or state resources.scratch_bytes "
             "where nodes have more",
             kept, want, spec->resources.scratch, have);
    return false;
}

static bool run_dir_holds(const verdict_t *v)
{
    qy_error_t err;
    if (qy_plan_check_saves(v->plan, &err) == QY_OK)
        return true;
    snprintf(v->text, v->size, "no-go: %s", err.text);
    return false;
}

static bool scratch_feeds(const verdict_t *v)
{
    const qy_plan_time_t *time = &v->plan->time;
    double stated = v->plan->spec.resources.scratch_gbps * 1e9, per_node = (double)v->per_node;
    double disk = stated > 0 ? stated : disk_assumed; /* auto: not a number */
    double wait = qy_plan_stream_wait(time, disk / per_node);
    if (wait <= most_wait)
        return true;
    snprintf(v->text, v->size,
             "no-go: the %lld workers of a node ask %.1f GB/s of its scratch disk and would wait "
             "%.0f %% of the time for %.1f (resources.scratch_gbps%s); raise resources.host_cache "
             "or use fewer workers a node",
             (long long)v->per_node, time->stream_bytes_per_s * per_node / 1e9, 100 * wait,
             disk / 1e9, stated > 0 ? "" : ": not stated, so assumed");
    return false;
}

bool qy_estimate_verdict(const qy_plan_t *plan, int64_t per_node, char *text, size_t size)
{
    qy_speed_t speed = {0};
    char want[32], time[32];
    const verdict_t v = {plan, per_node, text, size};
    qy_speed_find(&speed, plan->spec.resources.device, plan->spec.resources.threads, NULL);
    if (!gpu_fits(&v, &speed) || !scratch_holds(&v) || !scratch_feeds(&v) || !run_dir_holds(&v))
        return false;
    qy_plan_bytes_text(want, (plan->host_bytes + plan->cpu_bytes) * per_node);
    qy_plan_seconds_text(time, qy_plan_total_s(plan));
    if (plan->time.device[0])
        snprintf(text, size, "go: about %s; a node needs %s of memory", time, want);
    else
        snprintf(text, size,
                 "go, as far as is known: a node needs %s of memory; for hours, calibrate", want);
    return true;
}
