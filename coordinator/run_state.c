#include "coordinator/run_state.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "coordinator/outlook.h"
#include "coordinator/phases.h"
#include "jobs/store.h"

/* Enough for the latest lines of every worker. */
enum { METRICS_BYTES = 1 << 20 };

/* --- blocks ----------------------------------------------------------------------------------- */

static void read_block_file(qy_block_result_t *out, const char *path, const qy_plan_t *plan)
{
    qy_h5_t *file = NULL;
    if (qy_store_open(&file, path, plan, "block", NULL) != QY_OK)
        return; /* torn: will be redone */
    out->done = true;
    qy_h5_get_f64(file, "loss_first", &out->loss_before, NULL);
    qy_h5_get_f64(file, "loss_last", &out->loss_after, NULL);
    qy_h5_get_f64(file, "validation_before", &out->validation_before, NULL);
    qy_h5_get_f64(file, "validation_after", &out->validation_after, NULL);
    qy_h5_close(&file);
}

void qy_results_blocks(qy_block_result_t *out, const qy_plan_t *plan, const qy_ledger_t *ledger)
{
    double none = (double)NAN;
    for (int64_t b = 0; b < plan->arch.n_blocks; b++)
        out[b] = (qy_block_result_t){false, none, none, none, none, none, none};
    for (int64_t i = 0; ledger && i < qy_ledger_count(ledger); i++) {
        const qy_entry_t *e = qy_ledger_at(ledger, i);
        if (e->kind == QY_LEDGER_BLOCK && e->block >= 0 && e->block < plan->arch.n_blocks)
            out[e->block] = (qy_block_result_t){true,
                                                e->loss_before,
                                                e->loss_after,
                                                e->validation_before,
                                                e->validation_after,
                                                e->seconds,
                                                e->stall_s};
    }
    for (int64_t b = 0; b < plan->arch.n_blocks; b++) {
        char path[QY_PATH_MAX];
        if (qy_store_block(path, plan, b, NULL) != QY_OK)
            continue;
        bool there = qy_file_exists(path);
        if (!there)
            out[b].done = false; /* removed since: will be redone */
        else if (!out[b].done)
            read_block_file(&out[b], path, plan);
    }
}

/* --- times ------------------------------------------------------------------------------------ */

/* Seconds since a time as qy_utc writes it; NAN where it is none. */
static double age_of(const char *utc)
{
    return (double)time(NULL) - qy_history_time(utc);
}

/* fmin passes over what is not known. */
static double last_event_age(const qy_run_state_t *s)
{
    double age = (double)NAN;
    if (s->ledger && qy_ledger_count(s->ledger) > 0)
        age = age_of(qy_ledger_at(s->ledger, qy_ledger_count(s->ledger) - 1)->time);
    if (s->n_metrics > 0)
        age = fmin(age, age_of(s->metrics[s->n_metrics - 1].time));
    return age;
}

/* --- the latest start ------------------------------------------------------------------------- */

static bool is_same_task(const qy_entry_t *a, const qy_entry_t *b)
{
    return strcmp(a->phase, b->phase) == 0 && strcmp(a->task, b->task) == 0;
}

static void end_running(qy_run_state_t *s, const qy_entry_t *ended)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < s->n_tasks_running; i++)
        if (!is_same_task(s->running[i].assigned, ended))
            s->running[kept++] = s->running[i];
    s->n_tasks_running = kept;
}

/* What the ledger says since the latest start; *stop: how that ended, NULL where it did not. */
static void replay(qy_run_state_t *s, int64_t first, const qy_entry_t **stop)
{
    for (int64_t i = first; i < qy_ledger_count(s->ledger); i++) {
        const qy_entry_t *e = qy_ledger_at(s->ledger, i);
        switch (e->kind) {
        case QY_LEDGER_PHASE:
            s->phase = e->seconds < 0 ? e->phase : "";
            s->phase_s = e->seconds < 0 ? age_of(e->time) : (double)NAN;
            break;
        case QY_LEDGER_ASSIGN:
            s->running[s->n_tasks_running++] = (qy_running_t){.assigned = e};
            break;
        case QY_LEDGER_DONE:
        case QY_LEDGER_FAILED:
            end_running(s, e);
            break;
        case QY_LEDGER_STOP:
            *stop = e;
            break;
        default:
            break;
        }
    }
}

static void judge(qy_run_state_t *s, const qy_entry_t *stop)
{
    bool live = s->locked && s->holder.live;
    s->error = "";
    if (!s->start)
        s->state = live ? "starting" : "not started";
    else if (!stop)
        s->state = live ? "running" : "interrupted";
    else if (stop->status == QY_OK)
        s->state = "done";
    else
        s->state = stop->status == QY_ERR_STOPPED ? "stopped" : "failed";
    if (stop && stop->status != QY_OK && stop->status != QY_ERR_STOPPED)
        s->error = stop->text;
    if (!s->start || stop || !live) {
        s->n_tasks_running = 0;
        s->phase_s = (double)NAN;
    }
}

static void attach_progress(qy_run_state_t *s)
{
    const qy_metric_t *last = s->n_metrics > 0 ? &s->metrics[s->n_metrics - 1] : NULL;
    if (last && s->start && strcmp(last->phase, s->phase) == 0 &&
        strcmp(last->time, s->start->time) >= 0)
        s->latest = last;
    for (int64_t r = 0; r < s->n_tasks_running; r++)
        for (int64_t i = s->n_metrics - 1; i >= 0; i--) {
            const qy_metric_t *metric = &s->metrics[i];
            if (strcmp(metric->time, s->running[r].assigned->time) < 0)
                break; /* of an earlier attempt; times of one form sort as text */
            if (strcmp(metric->task, s->running[r].assigned->task) == 0) {
                s->running[r].latest = metric;
                break;
            }
        }
}

/* A running segment works on its first block that is not done. */
static void mark_running_blocks(qy_run_state_t *s)
{
    const char *quantize = qy_phase_name(QY_RUN_QUANTIZE);
    for (int64_t r = 0; r < s->n_tasks_running; r++) {
        const qy_entry_t *assigned = s->running[r].assigned;
        int64_t segment = assigned->task_id;
        if (strcmp(assigned->phase, quantize) != 0 || segment < 0 || segment >= s->plan->n_segments)
            continue;
        for (int64_t b = s->plan->segment_start[segment]; b < s->plan->segment_start[segment + 1];
             b++)
            if (!s->block[b].done) {
                s->block_running[b] = &s->running[r];
                s->n_running++;
                break;
            }
    }
}

/* --- what is saved ---------------------------------------------------------------------------- */

static void look_at(const char *path, double *newest)
{
    struct stat st;
    const char *name = strrchr(path, '/');
    if (strstr(name ? name : path, ".tmp.") || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return;
    *newest = fmax(*newest, (double)st.st_mtim.tv_sec + 1e-9 * (double)st.st_mtim.tv_nsec);
}

/* Of the files in a folder of the run, and in those below it. */
static void look_into(const char *folder, int depth, double *newest)
{
    DIR *dir = opendir(folder);
    char path[QY_PATH_MAX];
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
        if (e->d_name[0] == '.' || qy_path(path, NULL, "%s/%s", folder, e->d_name) != QY_OK)
            continue;
        look_at(path, newest);
        if (depth > 0 && qy_is_dir(path))
            look_into(path, depth - 1, newest);
    }
    if (dir)
        closedir(dir);
}

/* Seconds since a file that a restart would go on from was last written; NAN where there is none.
 */
static double saved_age(const qy_plan_t *plan)
{
    static const char *const folders[] = {"tokens",  "segments", "blocks",
                                          "streams", "model",    "e2e"};
    char path[QY_PATH_MAX];
    double newest = 0;
    struct timespec now;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (qy_path(path, NULL, "%s/%s", plan->spec.run_dir, folders[i]) == QY_OK)
            look_into(path, 1, &newest);
    clock_gettime(CLOCK_REALTIME, &now);
    double age = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec - newest;
    return newest > 0 ? fmax(age, 0) : (double)NAN;
}

/* Over the workers: how fast they are, how long devices waited for disks, who has gone quiet. */
static void add_up(qy_run_state_t *s)
{
    double sum = 0;
    for (int64_t i = 0; i < s->n_tasks_running; i++) {
        qy_running_t *r = &s->running[i];
        r->silent_s = age_of(r->latest ? r->latest->time : r->assigned->time);
        s->n_silent += r->silent_s > QY_SILENT_S;
        if (r->latest && isfinite(r->latest->progress.tokens_per_s))
            sum += fmax(r->latest->progress.tokens_per_s, 0);
    }
    if (s->n_tasks_running == 0 && s->latest && isfinite(s->phase_s))
        sum = s->latest->progress.tokens_per_s; /* E2E-QP is all workers' at once */
    s->tokens_per_s = sum > 0 ? sum : (double)NAN;
    for (int64_t b = 0; b < s->plan->arch.n_blocks; b++)
        if (isfinite(s->block[b].stall_s))
            s->stall_s += s->block[b].stall_s;
}

/* --- reading ---------------------------------------------------------------------------------- */

static qy_status_t read_files(qy_run_state_t *s, const char *run_dir, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    QY_TRY(qy_plan_load(&s->plan, run_dir, err));
    s->locked = qy_lock_inspect(run_dir, &s->holder);
    QY_TRY(qy_store_metrics(path, s->plan, err));
    QY_TRY(qy_metrics_read(&s->metrics, &s->n_metrics, path, METRICS_BYTES, err));
    QY_TRY(qy_store_ledger(path, s->plan, err));
    if (qy_file_exists(path))
        QY_TRY(qy_ledger_read(&s->ledger, path, err));
    size_t blocks = (size_t)s->plan->arch.n_blocks;
    size_t events = s->ledger ? (size_t)qy_ledger_count(s->ledger) : 0;
    s->block = calloc(blocks, sizeof *s->block);
    s->block_running = calloc(blocks, sizeof *s->block_running);
    s->running = calloc(events + 1, sizeof *s->running);
    return s->block && s->block_running && s->running
               ? QY_OK
               : qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its state", run_dir);
}

qy_status_t qy_run_state_read(qy_run_state_t *out, const char *run_dir, qy_error_t *err)
{
    double none = (double)NAN;
    qy_run_state_t s = {
        .phase = "", .phase_s = none, .eta_s = none, .run_eta_s = none, .tokens_per_s = none};
    const qy_entry_t *stop = NULL;
    qy_status_t status = read_files(&s, run_dir, err);
    if (status != QY_OK) {
        qy_run_state_free(&s);
        return status;
    }
    qy_results_blocks(s.block, s.plan, s.ledger);
    for (int64_t b = 0; b < s.plan->arch.n_blocks; b++)
        s.n_done += s.block[b].done;
    int64_t first = s.ledger ? qy_ledger_count(s.ledger) - 1 : -1;
    while (first >= 0 && qy_ledger_at(s.ledger, first)->kind != QY_LEDGER_START)
        first--;
    if (first >= 0) {
        s.start = qy_ledger_at(s.ledger, first);
        replay(&s, first, &stop);
    }
    judge(&s, stop);
    s.last_event_s = last_event_age(&s);
    attach_progress(&s);
    mark_running_blocks(&s);
    bool running = strcmp(s.state, "running") == 0;
    qy_history_read(&s.history, s.ledger, running ? (double)time(NULL) : (double)NAN);
    s.saved_s = saved_age(s.plan);
    add_up(&s);
    if (running)
        qy_outlook(&s);
    *out = s;
    return QY_OK;
}

void qy_run_state_free(qy_run_state_t *state)
{
    free(state->running);
    free(state->block_running);
    free(state->block);
    free(state->metrics);
    qy_ledger_close(&state->ledger);
    qy_plan_destroy(&state->plan);
    *state = (qy_run_state_t){0};
}
