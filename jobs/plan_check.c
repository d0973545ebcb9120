/* Everything that can be refused before a run is started; nothing is written. */
#include "jobs/finished.h"
#include "jobs/plan_inner.h"
#include "jobs/plan_time.h"
#include "jobs/spec_table.h"
#include "model/export.h"
#include "model/text_npy.h"
#include "model/tokenizer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- sizes ------------------------------------------------------------------------------------ */

static qy_status_t check_groups(const qy_plan_t *plan, qy_error_t *err)
{
    for (int i = 0; i < QY_N_LINEARS && plan->group; i++) {
        const qy_linear_desc_t *d = &plan->arch.linear[i];
        if (d->present && d->in % plan->group != 0)
            return qy_fail(err, QY_ERR_ARG,
                           "quantize.weights.group_size: %lld does not divide the %lld columns of "
                           "layer %s",
                           (long long)plan->group, (long long)d->in, d->name);
    }
    return QY_OK;
}

static qy_status_t check_clusters(const qy_plan_t *plan, qy_error_t *err)
{
    const qy_spec_t *spec = &plan->spec;
    if (spec->quantize.method != QY_METHOD_RPTQ)
        return QY_OK;
    if (spec->quantize.weights.symmetric)
        return qy_fail(err, QY_ERR_ARG,
                       "quantize.weights.symmetric: true, but rptq's clusters have zero points of "
                       "their own");
    if (spec->rptq.clusters > plan->arch.hidden || spec->rptq.clusters > plan->arch.intermediate)
        return qy_fail(err, QY_ERR_ARG, "rptq.clusters: %lld, but there are only %lld channels",
                       (long long)spec->rptq.clusters, (long long)plan->arch.hidden);
    if (spec->rptq.head_clusters > plan->arch.head_dim)
        return qy_fail(err, QY_ERR_ARG,
                       "rptq.head_clusters: %lld, but a head has only %lld channels",
                       (long long)spec->rptq.head_clusters, (long long)plan->arch.head_dim);
    return QY_OK;
}

static qy_status_t check_length(const qy_plan_t *plan, const char *what, int64_t length,
                                qy_error_t *err)
{
    if (length < 2)
        return qy_fail(err, QY_ERR_ARG, "%s.sequence_length: %lld tokens; at least 2", what,
                       (long long)length);
    if (length > plan->arch.max_positions)
        return qy_fail(err, QY_ERR_ARG,
                       "%s.sequence_length: %lld tokens, but the model has %lld positions", what,
                       (long long)length, (long long)plan->arch.max_positions);
    return QY_OK;
}

static qy_status_t check_batch(const char *what, int64_t batch, int64_t samples, qy_error_t *err)
{
    if (batch > samples)
        return qy_fail(err, QY_ERR_ARG, "%s.batch_size: %lld windows, but there are only %lld",
                       what, (long long)batch, (long long)samples);
    return QY_OK;
}

/* --- texts ------------------------------------------------------------------------------------ */

static bool ends_in(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && strcmp(path + n - m, suffix) == 0;
}

/* Rows of token ids are the windows. */
static qy_status_t check_rows(const char *what, const char *path, int64_t n, int64_t length,
                              qy_error_t *err)
{
    int64_t rows, cols;
    if (qy_text_npy_shape(&rows, &cols, path, err) != QY_OK)
        return qy_fail_in(err, "%s", what);
    if (cols != length)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s: rows of %lld tokens, windows of %lld wanted",
                       what, path, (long long)cols, (long long)length);
    if (rows < n)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s: %lld rows, the job takes %lld", what, path,
                       (long long)rows, (long long)n);
    return QY_OK;
}

/* For n windows. A token has at least one byte, so a text of fewer bytes than a window has tokens
 * cannot do; whether a longer one can is seen when it is tokenized. */
static qy_status_t check_text(const char *what, const char *path, int64_t n, int64_t length,
                              bool *tokenizes, qy_error_t *err)
{
    struct stat st;
    bool ids = ends_in(path, ".npy");
    if (!ids && !ends_in(path, ".txt") && !ends_in(path, ".jsonl"))
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: %s: a text is a .txt, .jsonl or .npy file",
                       what, path);
    if (stat(path, &st) != 0 || access(path, R_OK) != 0)
        return qy_fail(err, QY_ERR_ARG, "%s: %s: %s", what, path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return qy_fail(err, QY_ERR_ARG, "%s: %s: is not a file", what, path);
    if (!ids && st.st_size < length + 1)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s: its %lld bytes hold no window of %lld tokens",
                       what, path, (long long)st.st_size, (long long)length);
    *tokenizes = *tokenizes || !ids;
    return ids ? check_rows(what, path, n, length, err) : QY_OK;
}

static qy_status_t check_task(const char *what, const char *path, qy_error_t *err)
{
    bool tokenizes = false;
    if (!ends_in(path, ".jsonl"))
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: %s: a task is a .mc.jsonl file", what, path);
    return check_text(what, path, 1, 1, &tokenizes, err);
}

static qy_status_t check_texts(const qy_plan_t *plan, qy_error_t *err)
{
    const qy_spec_t *spec = &plan->spec;
    int64_t length = spec->calibration.sequence_length, samples = spec->calibration.samples;
    bool tokenizes = false;
    if (qy_spec_calibrates(spec))
        QY_TRY(check_text("calibration.text", spec->calibration.text,
                          samples + spec->calibration.validation_samples, length, &tokenizes, err));
    if (spec->e2e_qp.sequence_length)
        length = spec->e2e_qp.sequence_length;
    if (spec->e2e_qp.samples)
        samples = spec->e2e_qp.samples;
    if (spec->e2e_qp.present)
        QY_TRY(check_text("e2e_qp.text",
                          spec->e2e_qp.text[0] ? spec->e2e_qp.text : spec->calibration.text,
                          samples, length, &tokenizes, err));
    for (int i = 0; i < spec->n_evaluate; i++) {
        char what[QY_NAME_MAX + 16];
        snprintf(what, sizeof what, "evaluate %s", spec->evaluate[i].name);
        if (spec->evaluate[i].task[0]) {
            QY_TRY(check_task(what, spec->evaluate[i].task, err));
            tokenizes = true;
            continue;
        }
        QY_TRY(check_length(plan, what, spec->evaluate[i].sequence_length, err));
        QY_TRY(check_text(what, spec->evaluate[i].text, 1, spec->evaluate[i].sequence_length,
                          &tokenizes, err));
    }
    qy_tokenizer_t *tokenizer = NULL;
    if (!tokenizes)
        return QY_OK;
    QY_TRY(qy_tokenizer_open(&tokenizer, spec->model, err));
    qy_tokenizer_close(&tokenizer);
    return QY_OK;
}

/* --- the phases ------------------------------------------------------------------------------- */

static qy_status_t check_e2e(const qy_plan_t *plan, qy_error_t *err)
{
    const qy_spec_t *spec = &plan->spec;
    if (!spec->e2e_qp.present)
        return QY_OK;
    int64_t length = spec->e2e_qp.sequence_length, samples = spec->e2e_qp.samples;
    if (length)
        QY_TRY(check_length(plan, "e2e_qp", length, err));
    else
        QY_TRY(check_length(plan, "calibration", spec->calibration.sequence_length, err));
    samples = samples ? samples : spec->calibration.samples;
    return check_batch("e2e_qp", spec->e2e_qp.batch_size, samples, err);
}

qy_status_t qy_plan_check_exports(const qy_plan_t *plan, const qy_model_t *model, qy_error_t *err)
{
    const qy_spec_t *spec = &plan->spec;
    const qy_quant_form_t form = qy_plan_form(plan);
    if (spec->n_export && spec->quantize.method == QY_METHOD_RPTQ)
        return qy_fail(err, QY_ERR_ARG, "export %s: no format holds rptq's clusters of channels",
                       spec->export_format[0]);
    for (int i = 0; i < spec->n_export; i++) {
        const char *name = spec->export_format[i];
        const qy_exporter_t *exporter = qy_exporter_find(name);
        if (!exporter)
            return qy_fail(err, QY_ERR_ARG, "export: unknown format \"%s\"; known: %s", name,
                           qy_exporter_names());
        for (int j = 0; j < i; j++)
            if (strcmp(spec->export_format[j], name) == 0)
                return qy_fail(err, QY_ERR_ARG, "export: \"%s\" is named twice", name);
        qy_status_t status = exporter->check(&plan->arch, &form, err);
        if (status == QY_OK && exporter->check_model)
            status = exporter->check_model(model, err);
        if (status != QY_OK)
            return qy_fail_in(err, "export %s", name);
    }
    return QY_OK;
}

/* --- the run directory ------------------------------------------------------------------------ */

/* The nearest folder above path (or path itself) that exists. */
static qy_status_t existing_above(char out[QY_PATH_MAX], const char *path, qy_error_t *err)
{
    struct stat st;
    QY_TRY(qy_path(out, err, "%s", path));
    while (stat(out, &st) != 0) {
        char *slash = strrchr(out, '/');
        if (errno != ENOENT || !slash)
            return qy_fail(err, QY_ERR_ARG, "run_dir: %s: %s", out, strerror(errno));
        slash[slash == out] = '\0';
    }
    if (!S_ISDIR(st.st_mode))
        return qy_fail(err, QY_ERR_ARG, "run_dir: %s is not a folder", out);
    return QY_OK;
}

/* By whatever names: "model/", a link to it, "x/../model". */
static bool are_one_folder(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A job that a person has written, where a run puts its own. */
static qy_status_t check_job_file(const char *run_dir, qy_error_t *err)
{
    char plan[QY_PATH_MAX], job[QY_PATH_MAX], head[sizeof QY_SPEC_HEADER] = "";
    QY_TRY(qy_path(plan, err, "%s/plan.json", run_dir));
    QY_TRY(qy_path(job, err, "%s/job.yaml", run_dir));
    FILE *file = qy_file_exists(plan) ? NULL : fopen(job, "r");
    if (!file)
        return QY_OK;
    (void)!fgets(head, sizeof head, file);
    fclose(file);
    return strcmp(head, QY_SPEC_HEADER) == 0
               ? QY_OK
               : qy_fail(err, QY_ERR_ARG,
                         "run_dir: the run would write its own job over %s: give that file "
                         "another name, or the run another run_dir",
                         job);
}

static qy_status_t check_run_dir(const qy_plan_t *plan, qy_error_t *err)
{
    char folder[QY_PATH_MAX];
    const char *run_dir = plan->spec.run_dir;
    if (are_one_folder(run_dir, plan->spec.model))
        return qy_fail(err, QY_ERR_ARG, "run_dir: %s is the model's folder", run_dir);
    QY_TRY(existing_above(folder, run_dir, err));
    if (access(folder, R_OK | W_OK | X_OK) != 0)
        return qy_fail(err, QY_ERR_ARG, "run_dir: cannot write to %s: %s", folder, strerror(errno));
    return check_job_file(run_dir, err);
}

qy_status_t qy_plan_check(const qy_plan_t *plan, const qy_model_t *model, qy_error_t *err)
{
    const qy_spec_t *spec = &plan->spec;
    int64_t n_blocks = model->arch.n_blocks;
    if (spec->quantize.segments > n_blocks)
        return qy_fail(err, QY_ERR_ARG, "quantize.segments: %lld, but the model has %lld blocks",
                       (long long)spec->quantize.segments, (long long)n_blocks);
    QY_TRY(check_groups(plan, err));
    QY_TRY(check_clusters(plan, err));
    if (qy_spec_calibrates(spec)) {
        QY_TRY(check_length(plan, "calibration", spec->calibration.sequence_length, err));
        if (spec->quantize.method == QY_METHOD_BLOCK_AP)
            QY_TRY(
                check_batch("block_ap", spec->block_ap.batch_size, spec->calibration.samples, err));
        bool qllm = spec->quantize.method == QY_METHOD_QLLM;
        if (qllm)
            QY_TRY(check_batch("qllm", spec->qllm.batch_size, spec->calibration.samples, err));
        if (qllm && spec->qllm.search_samples > spec->calibration.samples)
            return qy_fail(err, QY_ERR_ARG, "qllm.search_samples: %lld windows of %lld",
                           (long long)spec->qllm.search_samples,
                           (long long)spec->calibration.samples);
    }
    QY_TRY(check_e2e(plan, err));
    QY_TRY(qy_plan_check_exports(plan, model, err));
    QY_TRY(check_texts(plan, err));
    return check_run_dir(plan, err);
}

/* --- room ------------------------------------------------------------------------------------- */

/* Bytes left for the run; a run that is continued has its files already, and needs no more. */
static qy_status_t find_room(const qy_plan_t *plan, double *left, qy_error_t *err)
{
    char recorded[QY_PATH_MAX];
    *left = INFINITY;
    QY_TRY(qy_path(recorded, err, "%s/plan.json", plan->spec.run_dir));
    return qy_file_exists(recorded) ? QY_OK : qy_disk_free(left, plan->spec.run_dir, err);
}

qy_status_t qy_plan_check_saves(const qy_plan_t *plan, qy_error_t *err)
{
    char want[32], have[32];
    double left, saves = (double)qy_plan_saves_bytes(plan);
    QY_TRY(find_room(plan, &left, err));
    if (!plan->time.device[0] || saves == 0 || (double)plan->disk_bytes + saves <= left)
        return QY_OK;
    qy_plan_bytes_text(want, qy_plan_saves_bytes(plan));
    qy_plan_bytes_text(have, left < 9e18 ? (int64_t)left : INT64_MAX);
    return qy_fail(err, QY_ERR_ARG,
                   "saved streams need %s beside the run's files, the run directory's disk has %s "
                   "left; raise checkpoint.recompute_minutes or take more segments",
                   want, have);
}

qy_status_t qy_plan_check_fit(const qy_plan_t *plan, qy_error_t *err)
{
    char want[32], have[32];
    double left;
    QY_TRY(find_room(plan, &left, err));
    qy_plan_bytes_text(want, plan->disk_bytes);
    qy_plan_bytes_text(have, left < 9e18 ? (int64_t)left : INT64_MAX);
    if ((double)plan->disk_bytes > left)
        return qy_fail(err, QY_ERR_ARG, "run_dir: the run needs %s of disk, %s has %s left", want,
                       plan->spec.run_dir, have);
    return QY_OK;
}
