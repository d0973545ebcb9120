#include "worker/device_record.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "kernels/device.h"
#include "worker/memory.h"

enum { RECORD_MAX = 64 << 10 };

static const char *const keys[] = {"device", "model", "compute", "libraries", "build"};
enum { N_KEYS = sizeof keys / sizeof *keys };

static qy_status_t read_record(json_t **out, const char *path, qy_error_t *err)
{
    char *text = NULL;
    size_t bytes;
    QY_TRY(qy_file_read(path, RECORD_MAX, &text, &bytes, err));
    *out = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    return *out
               ? QY_OK
               : qy_fail(err, QY_ERR_FORMAT, "%s: not JSON; remove it to record this device", path);
}

/* The record in the file of this path against a device; build NULL: whatever it is. */
static qy_status_t check(const char *path, const json_t *root, const qy_device_t *dev,
                         const char *build, qy_status_t refusal, qy_error_t *err)
{
    const char *values[N_KEYS] = {dev->kind, dev->model, qy_dtype_name(dev->compute),
                                  dev->libraries, build};
    char host[64] = "?";
    gethostname(host, sizeof host - 1);
    for (int i = 0; i < (build ? N_KEYS : N_KEYS - 1); i++) {
        const char *was = json_string_value(json_object_get(root, keys[i]));
        if (!was || strcmp(was, values[i]) != 0)
            return qy_fail(err, refusal,
                           "%s: this run was begun with %s \"%s\", on host %s it is \"%s\": the "
                           "bytes would differ. Take such a device, or another run_dir; remove "
                           "the file only where it is the record that is wrong",
                           path, keys[i], was ? was : "?", host, values[i]);
    }
    return QY_OK;
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

static qy_status_t open_device(qy_device_t **out, const qy_plan_t *plan, const char *name,
                               qy_error_t *err)
{
    qy_device_t *dev = NULL;
    QY_TRY(qy_device_open(&dev, name, plan->spec.resources.compute,
                          (int)plan->spec.resources.threads, err));
    qy_status_t status = qy_memory_check(plan, dev, err);
    if (status == QY_OK)
        *out = dev;
    else
        qy_device_close(&dev);
    return status;
}

/* The device that is to be what it was. */
static qy_status_t check_file(const char *path, const qy_device_t *dev, const char *build,
                              qy_error_t *err)
{
    json_t *root = NULL;
    QY_TRY(read_record(&root, path, err));
    qy_status_t status = check(path, root, dev, build, QY_ERR_ARG, err);
    json_decref(root);
    return status;
}

qy_status_t qy_device_record(const qy_plan_t *plan, const char *build, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_device_t *dev = NULL;
    QY_TRY(qy_path(path, err, "%s/device.json", plan->spec.run_dir));
    QY_TRY(open_device(&dev, plan, plan->spec.resources.device, err));
    const char *values[N_KEYS] = {dev->kind, dev->model, qy_dtype_name(dev->compute),
                                  dev->libraries, build};
    qy_status_t status =
        qy_file_exists(path) ? check_file(path, dev, build, err) : record(path, values, err);
    qy_device_close(&dev);
    return status;
}

/* "auto" has been decided by the first start: a GPU that is gone by now is to say so itself. */
static const char *name_of(const qy_plan_t *plan, const json_t *root)
{
    const char *name = plan->spec.resources.device;
    const char *was = json_string_value(json_object_get(root, keys[0]));
    return strcmp(name, "auto") == 0 && was ? was : name;
}

qy_status_t qy_device_open_recorded(qy_device_t **out, const qy_plan_t *plan, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    json_t *root = NULL;
    qy_device_t *dev = NULL;
    QY_TRY(qy_path(path, err, "%s/device.json", plan->spec.run_dir));
    QY_TRY(read_record(&root, path, err));
    qy_status_t status = open_device(&dev, plan, name_of(plan, root), err);
    if (status == QY_OK)
        status = check(path, root, dev, NULL, QY_ERR_DEVICE, err);
    json_decref(root);
    if (status == QY_OK)
        *out = dev;
    else
        qy_device_close(&dev);
    return status;
}

void qy_device_bind(int place, int n_places)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    char one[128];
    snprintf(one, sizeof one, "%d", n_places);
    setenv(QY_NODE_WORKERS, one, 1);
    if (!visible) {
        snprintf(one, sizeof one, "%d", place);
    } else if (strchr(visible, ',')) {
        for (int i = 0; i < place && visible; i++) {
            visible = strchr(visible, ',');
            visible = visible ? visible + 1 : NULL;
        }
        /* Past the end of the list there is no GPU for this process: an empty list says so. */
        snprintf(one, sizeof one, "%.*s", visible ? (int)strcspn(visible, ",") : 0,
                 visible ? visible : "");
    } else {
        return;
    }
    setenv("CUDA_VISIBLE_DEVICES", one, 1);
}
