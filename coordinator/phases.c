#include "coordinator/phases.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/evaluations.h"
#include "jobs/store.h"

static const struct {
    const char *name;
    qy_phase_by_t by;
} phases[QY_N_RUN_PHASES] = {
    [QY_RUN_TOKENS] = {"tokens", QY_BY_COORDINATOR},
    [QY_RUN_CAPTURE] = {"capture", QY_BY_TASKS},
    [QY_RUN_QUANTIZE] = {"quantize", QY_BY_TASKS},
    [QY_RUN_STITCH] = {"stitch", QY_BY_COORDINATOR},
    [QY_RUN_FINAL_NORM] = {"final_norm", QY_BY_TASKS},
    [QY_RUN_E2E_QP] = {"e2e_qp", QY_BY_ALL},
    [QY_RUN_EVALUATE] = {"evaluate", QY_BY_TASKS},
    [QY_RUN_EXPORT] = {"export", QY_BY_COORDINATOR},
};

const char *qy_phase_name(qy_run_phase_t phase)
{
    return phase < QY_N_RUN_PHASES ? phases[phase].name : "end";
}

qy_phase_by_t qy_phase_by(qy_run_phase_t phase)
{
    return phases[phase].by;
}

/*
 * Is a whole file of this kind there? Opening its folder first makes a network file system ask the
 * server again; else it may remember for seconds that a file which another host has just written is
 * not there.
 */
static bool has(const char *path, const qy_plan_t *plan, const char *kind, qy_error_t *why)
{
    char folder[QY_PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
    DIR *dir = opendir(folder);
    if (dir)
        closedir(dir);
    return qy_store_has(path, plan, kind, why);
}

/* These two read it, because the file of another text may have this name. */
static bool has_tokens(const qy_plan_t *plan, const char *name)
{
    int32_t *tokens = NULL;
    int64_t n, length;
    if (qy_store_read_tokens(&tokens, &n, &length, plan, name, NULL) != QY_OK)
        return false;
    free(tokens);
    return true;
}

static bool has_choices(const qy_plan_t *plan, const char *name)
{
    qy_choices_t choices;
    if (qy_store_read_choices(&choices, plan, name, NULL) != QY_OK)
        return false;
    qy_choices_free(&choices);
    return true;
}

static bool all_tokens(const qy_plan_t *plan)
{
    bool all = plan->n_samples == 0 || has_tokens(plan, "calibration");
    all = all && (!plan->spec.e2e_qp.present || has_tokens(plan, "e2e"));
    for (int i = 0; i < plan->spec.n_evaluate && all; i++) {
        const qy_evaluate_spec_t *e = &plan->spec.evaluate[i];
        all = e->task[0] ? has_choices(plan, e->name) : has_tokens(plan, e->name);
    }
    return all;
}

static bool all_exports(const qy_plan_t *plan)
{
    char path[QY_PATH_MAX];
    for (int i = 0; i < plan->spec.n_export; i++)
        if (qy_path(path, NULL, "%s/export/%s", plan->spec.run_dir, plan->spec.export_format[i]) !=
                QY_OK ||
            !qy_is_dir(path))
            return false;
    return true;
}

bool qy_phase_is_done(qy_run_phase_t phase, const qy_plan_t *plan)
{
    char path[QY_PATH_MAX];
    switch (phase) {
    case QY_RUN_TOKENS:
        return all_tokens(plan);
    case QY_RUN_STITCH:
        return qy_store_model(path, plan, NULL) == QY_OK && has(path, plan, "model", NULL);
    case QY_RUN_E2E_QP:
        return !plan->spec.e2e_qp.present || qy_store_e2e_last(plan, NULL) == plan->e2e.steps;
    case QY_RUN_EXPORT:
        return all_exports(plan);
    default:
        return false;
    }
}

/* --- lists ------------------------------------------------------------------------------------ */

void qy_task_list_free(qy_task_list_t *list)
{
    free(list->task);
    free(list->done);
    free(list->n_values);
    free(list->length);
    *list = (qy_task_list_t){0};
}

static qy_status_t list_create(qy_task_list_t *out, int64_t n, qy_error_t *err)
{
    size_t count = (size_t)n + 1; /* so that an empty list is no special case */
    *out = (qy_task_list_t){.task = calloc(count, sizeof *out->task),
                            .done = calloc(count, sizeof *out->done),
                            .n_values = calloc(count, sizeof *out->n_values),
                            .length = calloc(count, sizeof *out->length)};
    if (out->task && out->done && out->n_values && out->length)
        return QY_OK;
    qy_task_list_free(out);
    return qy_fail(err, QY_ERR_MEMORY, "no memory for a list of %lld tasks", (long long)n);
}

static qy_task_t *list_add(qy_task_list_t *list, const qy_plan_t *plan, qy_task_kind_t kind,
                           int64_t range)
{
    qy_task_t *task = &list->task[list->n];
    *task = (qy_task_t){.kind = kind, .id = list->n++, .range = range};
    memcpy(task->plan_hash, plan->hash, sizeof task->plan_hash);
    memcpy(task->run_dir, plan->spec.run_dir, sizeof task->run_dir);
    return task;
}

/* --- files --------------------------------------------------------------------------------------
 */

static qy_status_t check_file(const char *path, const qy_plan_t *plan, const char *kind,
                              qy_error_t *err)
{
    qy_error_t why = {QY_OK, "is not there"};
    if (has(path, plan, kind, &why))
        return QY_OK;
    return qy_fail(err, QY_ERR_IO, "%s: %s", path, why.text);
}

/* Blocks of the segment whose files are not there; missing (may be NULL): the first one's reason.
 */
static int64_t missing_blocks(const qy_plan_t *plan, int64_t segment, qy_error_t *missing)
{
    int64_t n = 0;
    for (int64_t b = plan->segment_start[segment]; b < plan->segment_start[segment + 1]; b++) {
        char path[QY_PATH_MAX];
        qy_status_t status = qy_store_block(path, plan, b, n ? NULL : missing);
        if (status == QY_OK)
            status = check_file(path, plan, "block", n ? NULL : missing);
        n += status != QY_OK;
    }
    return n;
}

/* --- capture ---------------------------------------------------------------------------------- */

static qy_status_t check_capture(const qy_plan_t *plan, const qy_task_t *task, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    if (task->set == QY_SET_E2E) {
        QY_TRY(qy_store_teacher(path, plan, task->range, err));
        return check_file(path, plan, "teacher", err);
    }
    for (int64_t k = 1; k < plan->n_segments; k++) {
        QY_TRY(qy_store_capture(path, plan, k, task->range, err));
        QY_TRY(check_file(path, plan, "capture", err));
    }
    return QY_OK;
}

static void add_captures(qy_task_list_t *list, const qy_plan_t *plan, qy_sample_set_t set,
                         int64_t n_samples, int64_t n_ranges)
{
    for (int64_t r = 0; r < n_ranges; r++) {
        int64_t first, n;
        qy_plan_range(n_samples, n_ranges, r, &first, &n);
        qy_task_t *task = list_add(list, plan, QY_TASK_CAPTURE, r);
        task->set = (int32_t)set;
        task->cost = (double)n;
        list->done[task->id] = check_capture(plan, task, NULL) == QY_OK;
    }
}

/* Captures that have served their purpose are needed no more, and may have been removed. */
static qy_status_t capture_tasks(qy_task_list_t *out, const qy_plan_t *plan, qy_error_t *err)
{
    int64_t ranges = 0, teacher = 0;
    for (int64_t k = 1; k < plan->n_segments && ranges == 0; k++)
        ranges = missing_blocks(plan, k, NULL) > 0 ? plan->n_ranges : 0;
    if (!qy_phase_is_done(QY_RUN_E2E_QP, plan))
        teacher = plan->n_e2e_ranges;
    QY_TRY(list_create(out, ranges + teacher, err));
    add_captures(out, plan, QY_SET_CALIBRATION, plan->n_samples, ranges);
    add_captures(out, plan, QY_SET_E2E, plan->e2e_samples, teacher);
    return QY_OK;
}

/* --- quantize --------------------------------------------------------------------------------- */

static qy_status_t segment_tasks(qy_task_list_t *out, const qy_plan_t *plan, qy_error_t *err)
{
    QY_TRY(list_create(out, plan->n_segments, err));
    for (int64_t k = 0; k < plan->n_segments; k++) {
        qy_task_t *task = list_add(out, plan, QY_TASK_SEGMENT, k);
        int64_t n = missing_blocks(plan, k, NULL);
        task->cost = (double)n;
        out->done[task->id] = n == 0;
    }
    return QY_OK;
}

/* --- final_norm ------------------------------------------------------------------------------- */

static qy_status_t check_norm(const qy_plan_t *plan, int64_t range, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_store_norm(path, plan, range, err));
    return check_file(path, plan, "norm", err);
}

static qy_status_t norm_tasks(qy_task_list_t *out, const qy_plan_t *plan, qy_error_t *err)
{
    int64_t ranges = qy_plan_norm_ranges(plan);
    QY_TRY(list_create(out, ranges, err));
    for (int64_t r = 0; r < ranges; r++) {
        int64_t first, n;
        qy_plan_range(plan->spec.calibration.samples, ranges, r, &first, &n);
        qy_task_t *task = list_add(out, plan, QY_TASK_FINAL_NORM, r);
        task->cost = (double)n;
        out->done[task->id] = check_norm(plan, r, NULL) == QY_OK;
    }
    return QY_OK;
}

/* --- evaluate --------------------------------------------------------------------------------- */

/* What an evaluation is cut into: range r is values [first[r], first[r + 1]). */
typedef struct {
    int n_ranges;
    int64_t first[QY_EVALUATE_RANGES + 1];
    double cost[QY_EVALUATE_RANGES]; /* tokens */
    int64_t length;                  /* of a window; 0 for a zero-shot task */
} cut_t;

static qy_status_t cut_text(cut_t *cut, const qy_plan_t *plan, const char *name, qy_error_t *err)
{
    int32_t *tokens = NULL;
    int64_t windows = 0;
    QY_TRY(qy_store_read_tokens(&tokens, &windows, &cut->length, plan, name, err));
    free(tokens);
    cut->n_ranges = (int)qy_plan_evaluate_ranges(plan, windows, cut->length);
    for (int r = 0; r < cut->n_ranges; r++) {
        int64_t n;
        qy_plan_range(windows, cut->n_ranges, r, &cut->first[r], &n);
        cut->first[r + 1] = cut->first[r] + n;
        cut->cost[r] = (double)n * (double)cut->length;
    }
    return QY_OK;
}

_Static_assert((int)QY_CHOICES_RANGES <= (int)QY_EVALUATE_RANGES, "ranges of a task fit a cut");

static qy_status_t cut_task(cut_t *cut, const qy_plan_t *plan, const char *name, qy_error_t *err)
{
    qy_choices_t task;
    QY_TRY(qy_store_read_choices(&task, plan, name, err));
    cut->n_ranges = qy_choices_cut(&task, plan->arch.max_positions, cut->first);
    for (int r = 0; r < cut->n_ranges; r++)
        for (int64_t i = cut->first[r]; i < cut->first[r + 1]; i++)
            cut->cost[r] += (double)qy_choices_padded(task.choice[i].n, plan->arch.max_positions);
    qy_choices_free(&task);
    return QY_OK;
}

static void add_evaluations(qy_task_list_t *list, const qy_plan_t *plan, const qy_ledger_t *ledger,
                            int text, const cut_t *cut)
{
    int n_variants = plan->spec.e2e_qp.present ? QY_VARIANT_FINAL + 1 : QY_VARIANT_STITCHED + 1;
    for (int variant = 0; variant < n_variants; variant++)
        for (int r = 0; r < cut->n_ranges; r++) {
            char tag[QY_EVALUATION_TAG_MAX];
            qy_task_t *task = list_add(list, plan, QY_TASK_EVALUATE, r);
            task->variant = variant;
            task->text = text;
            task->cost = cut->cost[r];
            list->n_values[task->id] = cut->first[r + 1] - cut->first[r];
            list->length[task->id] = cut->length;
            qy_evaluation_tag(tag, plan, task, cut->n_ranges, cut->length);
            const qy_entry_t *entry = qy_evaluation_find(ledger, tag);
            list->done[task->id] = entry && entry->n_values == list->n_values[task->id];
        }
}

static qy_status_t evaluation_tasks(qy_task_list_t *out, const qy_plan_t *plan,
                                    const qy_ledger_t *ledger, qy_error_t *err)
{
    QY_TRY(
        list_create(out, (int64_t)plan->spec.n_evaluate * QY_N_VARIANTS * QY_EVALUATE_RANGES, err));
    for (int i = 0; i < plan->spec.n_evaluate; i++) {
        const qy_evaluate_spec_t *e = &plan->spec.evaluate[i];
        cut_t cut = {0};
        qy_status_t status =
            e->task[0] ? cut_task(&cut, plan, e->name, err) : cut_text(&cut, plan, e->name, err);
        if (status != QY_OK) {
            qy_task_list_free(out);
            return status;
        }
        add_evaluations(out, plan, ledger, i, &cut);
    }
    return QY_OK;
}

static qy_status_t confirm_values(const qy_task_list_t *list, const qy_result_t *result,
                                  qy_error_t *err)
{
    int64_t expected = list->n_values[result->task_id];
    if (result->n_values != expected)
        return qy_fail(err, QY_ERR_COMM, "%lld values came, %lld expected",
                       (long long)result->n_values, (long long)expected);
    for (int64_t i = 0; i < expected; i++)
        if (!isfinite(result->values[i]))
            return qy_fail(err, QY_ERR_NUMERIC, "value %lld of the range: log likelihood %g",
                           (long long)i, result->values[i]);
    return QY_OK;
}

/* --- any phase with tasks --------------------------------------------------------------------- */

qy_status_t qy_phase_tasks(qy_task_list_t *out, qy_run_phase_t phase, const qy_plan_t *plan,
                           const qy_ledger_t *ledger, qy_error_t *err)
{
    switch (phase) {
    case QY_RUN_CAPTURE:
        return capture_tasks(out, plan, err);
    case QY_RUN_QUANTIZE:
        return segment_tasks(out, plan, err);
    case QY_RUN_FINAL_NORM:
        return norm_tasks(out, plan, err);
    case QY_RUN_EVALUATE:
        return evaluation_tasks(out, plan, ledger, err);
    default:
        return qy_fail(err, QY_ERR_ARG, "phase %s has no tasks", qy_phase_name(phase));
    }
}

qy_status_t qy_phase_confirm(const qy_plan_t *plan, const qy_task_list_t *list,
                             const qy_result_t *result, qy_error_t *err)
{
    const qy_task_t *task = &list->task[result->task_id];
    qy_error_t missing;
    switch (task->kind) {
    case QY_TASK_CAPTURE:
        return check_capture(plan, task, err);
    case QY_TASK_SEGMENT:
        if (missing_blocks(plan, task->range, &missing) == 0)
            return QY_OK;
        return qy_fail(err, QY_ERR_IO, "%s", missing.text);
    case QY_TASK_FINAL_NORM:
        return check_norm(plan, task->range, err);
    case QY_TASK_EVALUATE:
        return confirm_values(list, result, err);
    default:
        return qy_fail(err, QY_ERR_ARG, "task of kind %d", (int)task->kind);
    }
}

void qy_phase_done_text(char *out, size_t size, const qy_plan_t *plan, const qy_task_list_t *list,
                        int32_t task_id)
{
    const qy_task_t *task = &list->task[task_id];
    char tag[QY_EVALUATION_TAG_MAX] = "";
    if (task->kind == QY_TASK_EVALUATE) {
        int64_t n_ranges = 0;
        for (int i = 0; i < list->n; i++)
            n_ranges += list->task[i].text == task->text && list->task[i].variant == task->variant;
        qy_evaluation_tag(tag, plan, task, n_ranges, list->length[task_id]);
    }
    snprintf(out, size, "%s", tag);
}
