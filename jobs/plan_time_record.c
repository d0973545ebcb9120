/* The estimate in plan.json. */
#include <stdio.h>
#include <string.h>

#include "jobs/plan_inner.h"
#include "jobs/plan_time.h"

json_t *qy_plan_time_object(const qy_plan_time_t *time)
{
    if (!time->device[0])
        return json_null();
    json_t *phases = json_object();
    for (int i = 0; i < QY_N_TIME_PHASES; i++)
        json_object_set_new(phases, qy_time_phase_name((qy_time_phase_t)i),
                            json_real(time->phase_s[i]));
    return json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "device", time->device,
                     "source", time->source, "stream_bytes_per_s", time->stream_bytes_per_s,
                     "train_bytes_per_s", time->train_bytes_per_s, "walk_bytes_per_s",
                     time->walk_bytes_per_s, "train_share", time->train_share, "walk_share",
                     time->walk_share, "walk_s", time->walk_s, "phase_s", phases);
}

qy_status_t qy_plan_time_read(qy_plan_time_t *out, const json_t *root, const char *path,
                              qy_error_t *err)
{
    const json_t *object = NULL, *phases = NULL;
    const char *device = "", *source = "";
    qy_plan_time_t time = {0};
    QY_TRY(qy_json_object(root, path, "estimate", &object, err));
    if (!object)
        return QY_OK;
    QY_TRY(qy_json_string(object, path, "device", &device, err));
    QY_TRY(qy_json_string(object, path, "source", &source, err));
    QY_TRY(qy_json_f64(object, path, "stream_bytes_per_s", &time.stream_bytes_per_s, err));
    QY_TRY(qy_json_f64(object, path, "train_bytes_per_s", &time.train_bytes_per_s, err));
    QY_TRY(qy_json_f64(object, path, "walk_bytes_per_s", &time.walk_bytes_per_s, err));
    QY_TRY(qy_json_f64(object, path, "train_share", &time.train_share, err));
    QY_TRY(qy_json_f64(object, path, "walk_share", &time.walk_share, err));
    QY_TRY(qy_json_f64(object, path, "walk_s", &time.walk_s, err));
    QY_TRY(qy_json_object(object, path, "phase_s", &phases, err));
    for (int i = 0; phases && i < QY_N_TIME_PHASES; i++)
        QY_TRY(qy_json_f64(phases, path, qy_time_phase_name((qy_time_phase_t)i), &time.phase_s[i],
                           err));
    snprintf(time.device, sizeof time.device, "%s", device);
    snprintf(time.source, sizeof time.source, "%s", source);
    *out = time;
    return QY_OK;
}
