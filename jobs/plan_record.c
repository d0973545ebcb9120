/* The plan in the run directory: job.yaml and plan.json, and back. */
#include "base/hash.h"
#include "jobs/digest.h"
#include "jobs/plan.h"
#include "jobs/plan_inner.h"
#include "jobs/store.h"
#include "model/checkpoint.h"
#include "model/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 20 };

/* --- plan.json -------------------------------------------------------------------------------- */

/* What a plan.json says. */
typedef struct {
    json_t *root;
    const json_t *canonical, *evaluate;
    char *canonical_text; /* owned */
    const char *hash;
    int64_t n_segments, n_workers;
} record_t;

static void close_record(record_t *record)
{
    json_decref(record->root);
    free(record->canonical_text);
    *record = (record_t){0};
}

static qy_status_t read_fields(record_t *record, const char *path, qy_error_t *err)
{
    int64_t schema = -1;
    QY_TRY(qy_json_i64(record->root, path, "schema", &schema, err));
    if (schema != QY_SCHEMA_VERSION)
        return qy_fail(err, QY_ERR_FORMAT, "%s: schema %lld, this program writes %d", path,
                       (long long)schema, QY_SCHEMA_VERSION);
    QY_TRY(qy_json_string(record->root, path, "hash", &record->hash, err));
    QY_TRY(qy_json_i64(record->root, path, "segments", &record->n_segments, err));
    QY_TRY(qy_json_i64(record->root, path, "workers", &record->n_workers, err));
    QY_TRY(qy_json_object(record->root, path, "result_keys", &record->canonical, err));
    QY_TRY(qy_json_array(record->root, path, "evaluate", &record->evaluate, err));
    if (!record->hash || !record->canonical || !record->evaluate || record->n_segments < 1 ||
        record->n_segments > QY_MAX_SEGMENTS || record->n_workers < 1)
        return qy_fail(err, QY_ERR_FORMAT, "%s: is not a whole plan", path);
    record->canonical_text = json_dumps(record->canonical, JSON_SORT_KEYS | JSON_COMPACT);
    char hex[QY_SHA256_HEX] = "";
    qy_sha256_t *h = NULL;
    QY_TRY(qy_sha256_create(&h, err));
    if (record->canonical_text)
        qy_sha256_add(h, record->canonical_text, strlen(record->canonical_text));
    qy_sha256_finish(&h, hex);
    if (strcmp(hex, record->hash) != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: its hash is not that of its keys", path);
    return QY_OK;
}

static qy_status_t open_record(record_t *record, const char *path, qy_error_t *err)
{
    *record = (record_t){0};
    QY_TRY(qy_json_read(&record->root, path, MAX_FILE, err));
    qy_status_t status = read_fields(record, path, err);
    if (status != QY_OK)
        close_record(record);
    return status;
}

/* Evaluations and numbers that only people read. */
static json_t *describe_evaluate(const qy_plan_t *plan)
{
    json_t *list = json_array();
    for (int i = 0; i < plan->spec.n_evaluate; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "name",
                                              plan->spec.evaluate[i].name, "sequence_length",
                                              (json_int_t)plan->spec.evaluate[i].sequence_length,
                                              "digest", plan->eval_digest[i]));
    return list;
}

static json_t *describe_block_ap(const qy_plan_t *plan)
{
    return json_pack("{s:I, s:f, s:f, s:f}", "steps", (json_int_t)plan->block_ap.steps, "weight_lr",
                     plan->block_ap.weight_lr, "quant_lr", plan->block_ap.quant_lr, "norm_lr",
                     plan->block_ap.norm_lr);
}

static json_t *describe_e2e(const qy_plan_t *plan)
{
    return json_pack("{s:I, s:I, s:f}", "steps", (json_int_t)plan->e2e.steps, "warmup",
                     (json_int_t)plan->e2e.warmup, "lr", plan->e2e.lr);
}

static qy_status_t plan_text(const qy_plan_t *plan, char **out, qy_error_t *err)
{
    json_t *root = json_pack(
        "{s:i, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:o}", "schema",
        QY_SCHEMA_VERSION, "hash", plan->hash, "segments", (json_int_t)plan->n_segments, "workers",
        (json_int_t)plan->n_workers, "result_keys",
        json_loads(plan->canonical, JSON_REJECT_DUPLICATES, NULL), "evaluate",
        describe_evaluate(plan), "block_ap", describe_block_ap(plan), "e2e_qp", describe_e2e(plan),
        "cpu_bytes", (json_int_t)plan->cpu_bytes, "gpu_bytes", (json_int_t)plan->gpu_bytes,
        "host_bytes", (json_int_t)plan->host_bytes, "stream_bytes", (json_int_t)plan->stream_bytes,
        "disk_bytes", (json_int_t)plan->disk_bytes, "estimate", qy_plan_time_object(&plan->time));
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    *out = text;
    return QY_OK;
}

/* --- recording -------------------------------------------------------------------------------- */

/* Digests that a canonical form already holds. */
static qy_status_t digest_in_record(void *context, const char *key, const char *path, char hex[65],
                                    qy_error_t *err)
{
    const json_t *at = context;
    (void)path;
    const char *dot = strchr(key, '.'); /* "model", or "section.text" */
    char section[32];
    snprintf(section, sizeof section, "%.*s", dot ? (int)(dot - key) : 0, key);
    if (dot)
        at = json_object_get(at, section);
    at = json_object_get(at, dot ? dot + 1 : key);
    const char *text = json_string_value(at);
    if (!text || strlen(text) != 64)
        return qy_fail(err, QY_ERR_FORMAT, "plan.json: no digest of %s", key);
    memcpy(hex, text, 65);
    return QY_OK;
}

/* The plan with the number of segments that was recorded; its own digests stay. */
static qy_status_t adopt(qy_plan_t *plan, const record_t *record, qy_error_t *err)
{
    if (plan->spec.quantize.segments != 0 || record->n_segments > plan->arch.n_blocks)
        return QY_OK;
    json_t *own = json_loads(plan->canonical, JSON_REJECT_DUPLICATES, NULL);
    if (!own)
        return qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    qy_plan_derive(plan, record->n_segments, record->n_workers);
    qy_status_t status = qy_plan_seal(plan, digest_in_record, own, err);
    json_decref(own);
    return status;
}

static qy_status_t compare(qy_plan_t *plan, const char *path, qy_error_t *err)
{
    record_t record;
    char text[400];
    qy_error_t why;
    if (open_record(&record, path, &why) != QY_OK)
        return qy_fail(err, why.status,
                       "%.350s. Put it back, or remove it: the plan is then made anew, and files "
                       "that do not fit it are too",
                       why.text);
    qy_status_t status = adopt(plan, &record, err);
    if (status == QY_OK && strcmp(record.hash, plan->hash) != 0) {
        status = qy_spec_difference(record.canonical_text, plan->canonical, text, sizeof text, err);
        if (status == QY_OK)
            status = qy_fail(err, QY_ERR_ARG, "%s: is another run: %s", plan->spec.run_dir, text);
    }
    if (status == QY_OK) /* what was said before the run stays */
        status = qy_plan_time_read(&plan->time, record.root, path, err);
    close_record(&record);
    return status;
}

static qy_status_t write_changed(const char *path, const char *text, qy_error_t *err)
{
    char *old = NULL;
    size_t bytes = 0;
    bool same = qy_file_exists(path) && qy_file_read(path, MAX_FILE, &old, &bytes, NULL) == QY_OK &&
                bytes == strlen(text) && memcmp(old, text, bytes) == 0;
    free(old);
    return same ? QY_OK : qy_file_write(path, text, strlen(text), err);
}

/* The model's configuration beside the plan, for who looks at the run where the checkpoint is not.
 */
static qy_status_t record_config(const qy_plan_t *plan, qy_error_t *err)
{
    char path[QY_PATH_MAX], where[QY_PATH_MAX];
    json_t *config = NULL;
    QY_TRY(qy_path(path, err, "%s/config.json", plan->spec.run_dir));
    QY_TRY(qy_checkpoint_config(&config, where, plan->spec.model, err));
    char *text = json_dumps(config, JSON_INDENT(2));
    json_decref(config);
    qy_status_t status =
        text ? write_changed(path, text, err) : qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    free(text);
    return status;
}

qy_status_t qy_plan_continue(qy_plan_t *plan, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_path(path, err, "%s/plan.json", plan->spec.run_dir));
    return qy_file_exists(path) ? compare(plan, path, err) : QY_OK;
}

qy_status_t qy_plan_record(qy_plan_t *plan, qy_error_t *err)
{
    char plan_path[QY_PATH_MAX], job_path[QY_PATH_MAX], *plan_json = NULL, *job = NULL;
    QY_TRY(qy_path(plan_path, err, "%s/plan.json", plan->spec.run_dir));
    QY_TRY(qy_path(job_path, err, "%s/job.yaml", plan->spec.run_dir));
    QY_TRY(qy_plan_continue(plan, err));
    QY_TRY(qy_make_dirs(plan->spec.run_dir, err));
    QY_TRY(record_config(plan, err));
    qy_status_t status = qy_spec_write(&plan->spec, &job, err);
    if (status == QY_OK)
        status = plan_text(plan, &plan_json, err);
    if (status == QY_OK)
        status = write_changed(job_path, job, err);
    if (status == QY_OK)
        status = write_changed(plan_path, plan_json, err);
    free(plan_json);
    free(job);
    return status;
}

/* --- loading ---------------------------------------------------------------------------------- */

static qy_status_t load_evaluate(qy_plan_t *plan, const record_t *record, const char *path,
                                 qy_error_t *err)
{
    if (json_array_size(record->evaluate) != (size_t)plan->spec.n_evaluate)
        return qy_fail(err, QY_ERR_FORMAT, "%s: its texts are not those of job.yaml", path);
    for (int i = 0; i < plan->spec.n_evaluate; i++) {
        const json_t *item = json_array_get(record->evaluate, (size_t)i);
        const char *name = json_string_value(json_object_get(item, "name"));
        const char *digest = json_string_value(json_object_get(item, "digest"));
        if (!name || strcmp(name, plan->spec.evaluate[i].name) != 0 || !digest ||
            strlen(digest) != 64)
            return qy_fail(err, QY_ERR_FORMAT, "%s: its texts are not those of job.yaml", path);
        memcpy(plan->eval_digest[i], digest, 65);
    }
    return QY_OK;
}

static qy_status_t load(qy_plan_t *plan, const record_t *record, const char *path, qy_error_t *err)
{
    if (record->n_segments > plan->arch.n_blocks)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %lld segments of a model of %lld blocks", path,
                       (long long)record->n_segments, (long long)plan->arch.n_blocks);
    qy_plan_derive(plan, record->n_segments, record->n_workers);
    QY_TRY(qy_plan_seal(plan, digest_in_record, (void *)(uintptr_t)record->canonical, err));
    if (strcmp(plan->hash, record->hash) != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: is not the plan of the job.yaml beside it", path);
    QY_TRY(qy_plan_time_read(&plan->time, record->root, path, err));
    return load_evaluate(plan, record, path, err);
}

/* The spec of a run directory, whose folder may have another name now. */
static qy_status_t read_spec(qy_spec_t *spec, const char *run_dir, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    char *real = realpath(run_dir, NULL);
    if (!real)
        return qy_fail(err, QY_ERR_IO, "%s: %s", run_dir, strerror(errno));
    qy_status_t status = qy_path(path, err, "%s/job.yaml", real);
    if (status == QY_OK)
        status = qy_spec_read(spec, path, NULL, 0, err);
    if (status == QY_OK) {
        memset(spec->run_dir, 0, sizeof spec->run_dir);
        status = qy_path(spec->run_dir, err, "%s", real);
    }
    free(real);
    return status;
}

/* From the checkpoint, or where that is not there from the run directory. */
static qy_status_t read_arch(qy_arch_t *arch, const qy_spec_t *spec, qy_error_t *err)
{
    qy_status_t status = qy_arch_read(arch, spec->model, err);
    if (status != QY_OK && !qy_file_exists(spec->model) &&
        qy_arch_read(arch, spec->run_dir, NULL) == QY_OK)
        return QY_OK;
    return status;
}

/* Of a folder without a plan, or one whose plan cannot be looked for. */
static qy_status_t refuse_folder(const char *run_dir, int reason, qy_error_t *err)
{
    return qy_fail(err, QY_ERR_IO, "%s: %s", run_dir,
                   reason == EACCES     ? strerror(reason)
                   : qy_is_dir(run_dir) ? "is no run directory: it has no plan.json"
                                        : "there is no such folder");
}

qy_status_t qy_plan_load(qy_plan_t **out, const char *run_dir, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    qy_spec_t *spec = calloc(1, sizeof *spec);
    qy_plan_t *plan = NULL;
    qy_arch_t arch;
    record_t record = {0};
    if (!spec)
        return qy_fail(err, QY_ERR_MEMORY, "plan: out of memory");
    qy_status_t status = qy_path(path, err, "%s/plan.json", run_dir);
    if (status == QY_OK && !qy_file_exists(path))
        status = refuse_folder(run_dir, errno, err);
    if (status == QY_OK)
        status = open_record(&record, path, err);
    if (status == QY_OK)
        status = read_spec(spec, run_dir, err);
    if (status == QY_OK)
        status = read_arch(&arch, spec, err);
    if (status == QY_OK)
        status = qy_plan_new(&plan, spec, &arch, err);
    if (status == QY_OK)
        status = load(plan, &record, path, err);
    close_record(&record);
    free(spec);
    if (status == QY_OK)
        *out = plan;
    else
        qy_plan_destroy(&plan);
    return status;
}

qy_status_t qy_plan_open_model(qy_model_t **out, const qy_plan_t *plan, qy_error_t *err)
{
    char planned[QY_SHA256_HEX], now[QY_SHA256_HEX];
    qy_model_t *model = NULL;
    json_t *keys = json_loads(plan->canonical, JSON_REJECT_DUPLICATES, NULL);
    qy_status_t status = digest_in_record(keys, "model", plan->spec.model, planned, err);
    json_decref(keys);
    QY_TRY(status);
    QY_TRY(qy_model_open(&model, plan->spec.model, err));
    status = qy_digest_model(model, now, err);
    if (status == QY_OK && strcmp(now, planned) != 0)
        status = qy_fail(err, QY_ERR_FORMAT, "%s: is not the checkpoint that %s was made from",
                         plan->spec.model, plan->spec.run_dir);
    if (status == QY_OK)
        *out = model;
    else
        qy_model_close(&model);
    return status;
}
