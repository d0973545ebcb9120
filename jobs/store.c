#include "jobs/store.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- names ------------------------------------------------------------------------------------ */

qy_status_t qy_store_tokens(char out[QY_PATH_MAX], const qy_plan_t *plan, const char *name,
                            qy_error_t *err)
{
    return qy_path(out, err, "%s/tokens/%s.h5", plan->spec.run_dir, name);
}

qy_status_t qy_store_capture(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t segment,
                             int64_t range, qy_error_t *err)
{
    return qy_path(out, err, "%s/segments/%02" PRId64 "/%02" PRId64 ".h5", plan->spec.run_dir,
                   segment, range);
}

qy_status_t qy_store_teacher(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t range,
                             qy_error_t *err)
{
    return qy_path(out, err, "%s/segments/teacher/%02" PRId64 ".h5", plan->spec.run_dir, range);
}

qy_status_t qy_store_block(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t block,
                           qy_error_t *err)
{
    return qy_path(out, err, "%s/blocks/%03" PRId64 ".h5", plan->spec.run_dir, block);
}

qy_status_t qy_store_partial(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t block,
                             qy_error_t *err)
{
    return qy_path(out, err, "%s/blocks/%03" PRId64 ".partial.h5", plan->spec.run_dir, block);
}

qy_status_t qy_store_stream(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t segment,
                            int64_t block, const char *name, qy_error_t *err)
{
    return qy_path(out, err, "%s/streams/%02" PRId64 "/%03" PRId64 "-%s.bin", plan->spec.run_dir,
                   segment, block, name);
}

qy_status_t qy_store_model(char out[QY_PATH_MAX], const qy_plan_t *plan, qy_error_t *err)
{
    return qy_path(out, err, "%s/model/model.h5", plan->spec.run_dir);
}

qy_status_t qy_store_norm(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t range,
                          qy_error_t *err)
{
    return qy_path(out, err, "%s/norm/%02" PRId64 ".h5", plan->spec.run_dir, range);
}

qy_status_t qy_store_e2e(char out[QY_PATH_MAX], const qy_plan_t *plan, int64_t step, int64_t block,
                         qy_error_t *err)
{
    return qy_path(out, err, "%s/e2e/step-%05" PRId64 "/%03" PRId64 ".h5", plan->spec.run_dir, step,
                   block);
}

qy_status_t qy_store_ledger(char out[QY_PATH_MAX], const qy_plan_t *plan, qy_error_t *err)
{
    return qy_path(out, err, "%s/ledger.jsonl", plan->spec.run_dir);
}

qy_status_t qy_store_metrics(char out[QY_PATH_MAX], const qy_plan_t *plan, qy_error_t *err)
{
    return qy_path(out, err, "%s/metrics.jsonl", plan->spec.run_dir);
}

static qy_status_t prepare(const qy_plan_t *plan, const char *folder, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_path(path, err, "%s/%s", plan->spec.run_dir, folder));
    return qy_make_dirs(path, err);
}

qy_status_t qy_store_prepare(const qy_plan_t *plan, qy_error_t *err)
{
    static const char *const always[] = {"tokens", "blocks", "model", "logs"};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        QY_TRY(prepare(plan, always[i], err));
    /* Segment 0 starts from the embedding: nothing is stored for it. */
    for (int64_t k = 1; k < plan->n_segments && plan->n_ranges > 0; k++) {
        char folder[48];
        snprintf(folder, sizeof folder, "segments/%02" PRId64, k);
        QY_TRY(prepare(plan, folder, err));
    }
    if (plan->n_e2e_ranges > 0)
        QY_TRY(prepare(plan, "segments/teacher", err));
    if (qy_plan_norm_ranges(plan) > 0)
        QY_TRY(prepare(plan, "norm", err));
    return plan->spec.e2e_qp.present ? prepare(plan, "e2e", err) : QY_OK;
}

/* --- marks ------------------------------------------------------------------------------------ */

qy_status_t qy_store_mark(qy_h5_t *file, const qy_plan_t *plan, const char *kind, qy_error_t *err)
{
    QY_TRY(qy_h5_set_i64(file, "schema_version", QY_SCHEMA_VERSION, err));
    QY_TRY(qy_h5_set_string(file, "plan_hash", plan->hash, err));
    return qy_h5_set_string(file, "kind", kind, err);
}

static qy_status_t check_marks(qy_h5_t *file, const qy_plan_t *plan, const char *kind,
                               qy_error_t *err)
{
    int64_t version = 0;
    char hash[65], found[64];
    const char *path = qy_h5_path(file);
    QY_TRY(qy_h5_get_i64(file, "schema_version", &version, err));
    if (version != QY_SCHEMA_VERSION)
        return qy_fail(err, QY_ERR_FORMAT, "%s: schema version %" PRId64 ", this program writes %d",
                       path, version, QY_SCHEMA_VERSION);
    QY_TRY(qy_h5_get_string(file, "plan_hash", hash, sizeof hash, err));
    if (strcmp(hash, plan->hash) != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: of another plan (%.8s, this one is %.8s)", path,
                       hash, plan->hash);
    QY_TRY(qy_h5_get_string(file, "kind", found, sizeof found, err));
    if (strcmp(found, kind) != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: holds \"%s\", not \"%s\"", path, found, kind);
    return QY_OK;
}

qy_status_t qy_store_open(qy_h5_t **out, const char *path, const qy_plan_t *plan, const char *kind,
                          qy_error_t *err)
{
    qy_h5_t *file = NULL;
    QY_TRY(qy_h5_open(&file, path, err));
    qy_status_t status = check_marks(file, plan, kind, err);
    if (status == QY_OK)
        *out = file;
    else
        qy_h5_close(&file);
    return status;
}

int qy_store_has(const char *path, const qy_plan_t *plan, const char *kind, qy_error_t *why)
{
    qy_h5_t *file = NULL;
    if (qy_store_open(&file, path, plan, kind, why) != QY_OK)
        return 0;
    qy_h5_close(&file);
    return 1;
}

qy_status_t qy_store_set_aside(const char *path, qy_status_t status, qy_error_t *err)
{
    char aside[QY_PATH_MAX];
    qy_error_t why = {QY_OK, ""};
    if (status != QY_ERR_FORMAT && status != QY_ERR_SHAPE)
        return status;
    if (err)
        why = *err;
    QY_TRY(qy_path(aside, err, "%s.torn", path));
    if (rename(path, aside) != 0)
        return qy_fail(err, QY_ERR_IO, "%.350s; it stays in the way, rename: %s", why.text,
                       strerror(errno));
    return qy_fail(err, QY_ERR_DAMAGED, "%.400s; set aside as .torn, will be made again", why.text);
}

/* --- steps of E2E-QP -------------------------------------------------------------------------- */

/* Are the files of all blocks of this step there and whole? */
static int has_step(const qy_plan_t *plan, int64_t step)
{
    for (int64_t block = 0; block < plan->arch.n_blocks; block++) {
        char path[QY_PATH_MAX];
        if (qy_store_e2e(path, plan, step, block, NULL) != QY_OK ||
            !qy_store_has(path, plan, "e2e", NULL))
            return 0;
    }
    return 1;
}

/* The number of a folder "step-NNNNN", or −1. */
static int64_t step_of(const char *name, int64_t n_steps)
{
    if (strncmp(name, "step-", 5) != 0 || !name[5] || name[5 + strspn(name + 5, "0123456789")])
        return -1;
    long long step = strtoll(name + 5, NULL, 10);
    return step <= n_steps ? (int64_t)step : -1;
}

int64_t qy_store_e2e_last(const qy_plan_t *plan, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    int64_t best = -1;
    if (qy_path(path, err, "%s/e2e", plan->spec.run_dir) != QY_OK)
        return -1;
    DIR *dir = opendir(path);
    if (!dir)
        return -1;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        int64_t step = step_of(entry->d_name, plan->e2e.steps);
        if (step > best && has_step(plan, step))
            best = step;
    }
    closedir(dir);
    return best;
}

void qy_store_e2e_drop(const qy_plan_t *plan, int64_t before)
{
    char path[QY_PATH_MAX], step_path[QY_PATH_MAX];
    if (qy_path(path, NULL, "%s/e2e", plan->spec.run_dir) != QY_OK)
        return;
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        int64_t step = step_of(entry->d_name, plan->e2e.steps);
        if (step >= 0 && step < before &&
            qy_path(step_path, NULL, "%s/%s", path, entry->d_name) == QY_OK)
            qy_remove_tree(step_path, NULL);
    }
    if (dir)
        closedir(dir);
}
