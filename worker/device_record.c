#include "worker/device_record.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "kernels/device.h"

enum { RECORD_MAX = 64 << 10 };

static const char *const keys[] = {"device", "model", "compute", "libraries", "build"};
enum { N_KEYS = sizeof keys / sizeof *keys };

static qy_status_t compare(const char *path, const char *text, const char *const *values,
                           qy_error_t *err)
{
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    qy_status_t status = QY_OK;
    if (!root)
        return qy_fail(err, QY_ERR_FORMAT, "%s: not JSON; remove it to record this device", path);
    for (int i = 0; i < N_KEYS && status == QY_OK; i++) {
        const char *was = json_string_value(json_object_get(root, keys[i]));
        if (!was || strcmp(was, values[i]) != 0)
            status = qy_fail(err, QY_ERR_ARG,
                             "%s: this run was begun with %s \"%s\", here it is \"%s\": the bytes "
                             "would differ",
                             path, keys[i], was ? was : "?", values[i]);
    }
    json_decref(root);
    return status;
}

static qy_status_t record(const char *path, const char *const *values, qy_error_t *err)
{
    json_t *root = json_object();
    for (int i = 0; i < N_KEYS; i++)
        json_object_set_new(root, keys[i], json_string(values[i]));
    char *text = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", path);
    qy_status_t status = qy_file_write(path, text, strlen(text), err);
    free(text);
    return status;
}

qy_status_t qy_device_record(const qy_plan_t *plan, const char *build, qy_error_t *err)
{
    char path[QY_PATH_MAX], *text = NULL;
    size_t bytes;
    qy_device_t *dev = NULL;
    QY_TRY(qy_path(path, err, "%s/device.json", plan->spec.run_dir));
    QY_TRY(qy_device_open(&dev, plan->spec.resources.device, plan->spec.resources.compute,
                          (int)plan->spec.resources.threads, err));
    const char *values[N_KEYS] = {dev->kind, dev->model, qy_dtype_name(dev->compute),
                                  dev->libraries, build};
    qy_status_t status;
    if (qy_file_exists(path)) {
        status = qy_file_read(path, RECORD_MAX, &text, &bytes, err);
        if (status == QY_OK)
            status = compare(path, text, values, err);
        free(text);
    } else {
        status = record(path, values, err);
    }
    qy_device_close(&dev);
    return status;
}
