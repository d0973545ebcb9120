#include "jobs/speed.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/json.h"

enum { CACHE_BYTES_MAX = 1 << 20, CACHE_ENTRIES_MAX = 32 };

/* Of one device each; docs/performance.md says where the numbers come from. */
static const qy_speed_t shipped[] = {
    {.kind = "cuda",
     .model = "NVIDIA H200",
     .compute = "bf16",
     .source = "shipped (docs/performance.md)",
     .memory = 150e9,
     .open_s = 1.2,
     .pin = 2.2e9,
     .read = 0.45e9,
     .load = 2e9,
     .start = 3e9,
     .freeze = 2e9,
     .decode = 200e9,
     .update = 125e9,
     .forward = 640e12,
     .train = 650e12,
     .head = 250e12,
     .tokenize = 5e6,
     .disk = 0.5e9},
};
enum { N_SHIPPED = sizeof shipped / sizeof *shipped };

/* Every number of the struct, by its name in the cache. */
static const struct {
    const char *name, *unit, *help;
    size_t offset;
} numbers[] = {
    {"memory", "bytes", "device memory", offsetof(qy_speed_t, memory)},
    {"open_s", "s", "a task's process, device and model", offsetof(qy_speed_t, open_s)},
    {"pin", "bytes/s", "host memory for streams", offsetof(qy_speed_t, pin)},
    {"read", "weights/s", "from the checkpoint", offsetof(qy_speed_t, read)},
    {"load", "weights/s", "to the device", offsetof(qy_speed_t, load)},
    {"start", "weights/s", "least-squares start", offsetof(qy_speed_t, start)},
    {"freeze", "weights/s", "to codes", offsetof(qy_speed_t, freeze)},
    {"decode", "weights/s", "from codes", offsetof(qy_speed_t, decode)},
    {"update", "weights/s", "optimizer step", offsetof(qy_speed_t, update)},
    {"forward", "FLOP/s", "samples through a block", offsetof(qy_speed_t, forward)},
    {"train", "FLOP/s", "training step without its update", offsetof(qy_speed_t, train)},
    {"head", "FLOP/s", "logits and loss", offsetof(qy_speed_t, head)},
    {"tokenize", "bytes/s", "text to tokens", offsetof(qy_speed_t, tokenize)},
    {"disk", "bytes/s", "written and synced", offsetof(qy_speed_t, disk)},
};
enum { N_NUMBERS = sizeof numbers / sizeof *numbers };

static double get(const qy_speed_t *speed, int i)
{
    double value;
    memcpy(&value, (const char *)speed + numbers[i].offset, sizeof value);
    return value;
}

/* --- the cache -------------------------------------------------------------------------------- */

static qy_status_t cache_path(char folder[QY_PATH_MAX], char path[QY_PATH_MAX], qy_error_t *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && cache[0] == '/')
        QY_TRY(qy_path(folder, err, "%s/quarry", cache));
    else if (home && home[0] == '/')
        QY_TRY(qy_path(folder, err, "%s/.cache/quarry", home));
    else
        return qy_fail(err, QY_ERR_ARG, "no cache folder: XDG_CACHE_HOME and HOME are not set");
    return qy_path(path, err, "%s/speeds.json", folder);
}

static qy_status_t read_text(const json_t *object, const char *path, const char *key, char *out,
                             size_t size, qy_error_t *err)
{
    const char *text = "";
    QY_TRY(qy_json_string(object, path, key, &text, err));
    snprintf(out, size, "%s", text);
    return QY_OK;
}

static qy_status_t read_entry(qy_speed_t *out, const json_t *object, const char *path,
                              qy_error_t *err)
{
    memset(out, 0, sizeof *out);
    QY_TRY(read_text(object, path, "kind", out->kind, sizeof out->kind, err));
    QY_TRY(read_text(object, path, "model", out->model, sizeof out->model, err));
    QY_TRY(read_text(object, path, "compute", out->compute, sizeof out->compute, err));
    QY_TRY(read_text(object, path, "source", out->source, sizeof out->source, err));
    QY_TRY(qy_json_i64(object, path, "threads", &out->threads, err));
    for (int i = 0; i < N_NUMBERS; i++) {
        double value = -1;
        QY_TRY(qy_json_f64(object, path, numbers[i].name, &value, err));
        if (!(value > 0) && numbers[i].offset != offsetof(qy_speed_t, memory))
            return qy_fail(err, QY_ERR_FORMAT, "%s: \"%s\" of %s is not a positive number", path,
                           numbers[i].name, out->model);
        memcpy((char *)out + numbers[i].offset, &value, sizeof value);
    }
    return QY_OK;
}

/* All entries, the newest first; none where there is no cache. */
static qy_status_t read_cache(qy_speed_t out[CACHE_ENTRIES_MAX], int *n, qy_error_t *err)
{
    char folder[QY_PATH_MAX], path[QY_PATH_MAX];
    json_t *root = NULL;
    const json_t *list = NULL;
    *n = 0;
    if (cache_path(folder, path, NULL) != QY_OK || !qy_file_exists(path))
        return QY_OK;
    QY_TRY(qy_json_read(&root, path, CACHE_BYTES_MAX, err));
    qy_status_t status = qy_json_array(root, path, "speeds", &list, err);
    for (size_t i = 0; status == QY_OK && i < json_array_size(list) && *n < CACHE_ENTRIES_MAX; i++)
        status = read_entry(&out[(*n)++], json_array_get(list, i), path, err);
    json_decref(root);
    return status;
}

static json_t *entry_object(const qy_speed_t *speed)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:I}", "kind", speed->kind, "model",
                               speed->model, "compute", speed->compute, "source", speed->source,
                               "threads", (json_int_t)speed->threads);
    for (int i = 0; object && i < N_NUMBERS; i++)
        json_object_set_new(object, numbers[i].name, json_real(get(speed, i)));
    return object;
}

static int is_same(const qy_speed_t *a, const qy_speed_t *b)
{
    return strcmp(a->kind, b->kind) == 0 && strcmp(a->model, b->model) == 0 &&
           strcmp(a->compute, b->compute) == 0 && a->threads == b->threads;
}

qy_status_t qy_speed_keep(const qy_speed_t *speed, qy_error_t *err)
{
    char folder[QY_PATH_MAX], path[QY_PATH_MAX];
    qy_speed_t known[CACHE_ENTRIES_MAX];
    int n = 0;
    QY_TRY(cache_path(folder, path, err));
    QY_TRY(qy_make_dirs(folder, err));
    (void)read_cache(known, &n, NULL); /* a broken cache is written anew */
    json_t *root = json_object(), *list = json_array();
    json_array_append_new(list, entry_object(speed));
    for (int i = 0; i < n && i < CACHE_ENTRIES_MAX - 1; i++)
        if (!is_same(&known[i], speed))
            json_array_append_new(list, entry_object(&known[i]));
    json_object_set_new(root, "speeds", list);
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    json_decref(root);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: out of memory", path);
    qy_status_t status = qy_file_write(path, text, strlen(text), err);
    free(text);
    return status;
}

/* --- finding ---------------------------------------------------------------------------------- */

/* More threads, more of everything that is computed; disks and processes stay as they are. */
static void scale_threads(qy_speed_t *speed, int64_t threads)
{
    if (strcmp(speed->kind, "cpu") != 0 || threads <= 0 || speed->threads <= 0)
        return;
    double *grows[] = {&speed->start,   &speed->freeze, &speed->decode, &speed->update,
                       &speed->forward, &speed->train,  &speed->head};
    for (size_t i = 0; i < sizeof grows / sizeof *grows; i++)
        *grows[i] *= (double)threads / (double)speed->threads;
    speed->threads = threads;
}

qy_status_t qy_speed_find(qy_speed_t *out, const char *device, int64_t threads, qy_error_t *err)
{
    qy_speed_t known[CACHE_ENTRIES_MAX + N_SHIPPED];
    int n = 0, any = strcmp(device, "auto") == 0;
    size_t length = strcspn(device, ":");
    QY_TRY(read_cache(known, &n, err));
    memcpy(known + n, shipped, sizeof shipped);
    n += any ? 0 : N_SHIPPED;
    for (int i = 0; i < n; i++)
        if (any || (strncmp(known[i].kind, device, length) == 0 && !known[i].kind[length])) {
            *out = known[i];
            scale_threads(out, threads);
            return QY_OK;
        }
    return qy_fail(err, QY_ERR_UNSUPPORTED,
                   "not known how fast the device (%s) is; quarry plan JOB.yaml --calibrate on it "
                   "measures",
                   device);
}

void qy_speed_print(const qy_speed_t *speed, FILE *file)
{
    fprintf(file, "speeds     %s, %s", speed->model, speed->compute);
    if (speed->threads)
        fprintf(file, ", %lld threads", (long long)speed->threads);
    fprintf(file, ": %s\n", speed->source);
    for (int i = 0; i < N_NUMBERS; i++)
        if (get(speed, i) > 0)
            fprintf(file, "  %-9s %10.4g %-10s %s\n", numbers[i].name, get(speed, i),
                    numbers[i].unit, numbers[i].help);
}
