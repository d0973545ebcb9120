#include "worker/segment_streams.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "jobs/finished.h"

static const char target_name[] = "target", input_name[] = "input";

static void scratch_name(int64_t segment, const char *name, char out[48])
{
    snprintf(out, 48, "%02lld-%s", (long long)segment, name);
}

/* The target goes ahead of the input by the block that is in training; where blocks are looked at
 * as it passes, all of it must pass again. */
static int64_t target_ahead(const qy_plan_t *plan)
{
    return plan->spec.quantize.method == QY_METHOD_QLLM ? 0 : 1;
}

/* --- start ------------------------------------------------------------------------------------ */

static qy_status_t fill_from_capture(qy_segment_streams_t *s, qy_error_t *err)
{
    const qy_plan_t *plan = s->work->plan;
    qy_stream_t *const both[] = {s->target, s->input};
    for (int64_t r = 0; r < plan->n_ranges; r++) {
        char path[QY_PATH_MAX];
        qy_h5_t *file = NULL;
        int64_t first, n;
        qy_plan_range(plan->n_samples, plan->n_ranges, r, &first, &n);
        QY_TRY(qy_store_capture(path, plan, s->segment, r, err));
        qy_status_t status = qy_store_open(&file, path, plan, "capture", err);
        if (status == QY_OK)
            status = qy_stream_fill(both, 2, file, s->work->dev->compute, first, n, s->first, err);
        qy_h5_close(&file);
        QY_TRY(qy_store_set_aside(path, status, err));
    }
    return QY_OK;
}

static qy_status_t fill_from_tokens(qy_segment_streams_t *s, qy_error_t *err)
{
    qy_stream_t *const both[] = {s->target, s->input};
    int32_t *tokens = NULL;
    int64_t n, length;
    QY_TRY(qy_store_read_tokens(&tokens, &n, &length, s->work->plan, "calibration", err));
    qy_status_t status = qy_forward_embed(s->forward, both, 2, tokens, err);
    free(tokens);
    return status;
}

/* What of an earlier attempt is of no use now: records of another segment cut, or past the goal
 * because finished blocks were taken away. */
static void keep_between(qy_stream_t *stream, int64_t first, int64_t last)
{
    for (int64_t i = 0; i < qy_stream_count(stream); i++) {
        int64_t block = qy_stream_block(stream, i);
        if (block < first || block > last)
            qy_stream_reset(stream, i);
    }
}

/* From saves, the newest first; a bad one is passed over. */
static void restore(qy_segment_streams_t *s, qy_stream_t *stream, const char *name, int64_t block)
{
    for (int64_t b = block; b > s->first && qy_stream_lowest(stream) < b; b--) {
        char path[QY_PATH_MAX];
        qy_error_t error;
        if (qy_store_stream(path, s->work->plan, s->segment, b, name, &error) != QY_OK ||
            qy_stream_restore(stream, path, b, &error) != QY_OK)
            qy_log(QY_LOG_WARN, "saved stream is not used: %s", error.text);
    }
}

/* All saves of a segment but those that go on, or stand, at this block (−1: all). */
static void remove_saves(const qy_plan_t *plan, int64_t segment, int64_t but)
{
    int64_t ahead = but < 0 ? 0 : target_ahead(plan);
    char path[QY_PATH_MAX];
    for (int64_t b = plan->segment_start[segment]; b <= plan->segment_start[segment + 1]; b++) {
        if (b != but + ahead && qy_store_stream(path, plan, segment, b, target_name, NULL) == QY_OK)
            unlink(path);
        if (b != but && qy_store_stream(path, plan, segment, b, input_name, NULL) == QY_OK)
            unlink(path);
    }
    if (but < 0 &&
        qy_path(path, NULL, "%s/streams/%02lld", plan->spec.run_dir, (long long)segment) == QY_OK)
        rmdir(path);
}

static int is_finished(const qy_plan_t *plan, int64_t segment)
{
    char path[QY_PATH_MAX];
    for (int64_t b = plan->segment_start[segment]; b < plan->segment_start[segment + 1]; b++)
        if (qy_store_block(path, plan, b, NULL) != QY_OK || !qy_file_exists(path))
            return 0;
    return 1;
}

void qy_segment_streams_sweep(const qy_plan_t *plan)
{
    for (int64_t k = 0; k < plan->n_segments; k++) {
        char name[48];
        if (!is_finished(plan, k))
            continue;
        scratch_name(k, target_name, name);
        qy_work_stream_remove(plan, name);
        scratch_name(k, input_name, name);
        qy_work_stream_remove(plan, name);
        remove_saves(plan, k, -1);
    }
}

static int64_t at_hand(const qy_stream_t *stream)
{
    int64_t n = 0;
    for (int64_t i = 0; i < qy_stream_count(stream); i++)
        n += qy_stream_block(stream, i) >= 0;
    return n;
}

static qy_status_t open_one(qy_segment_streams_t *s, const char *name, qy_stream_t **out,
                            qy_error_t *err)
{
    const qy_plan_t *plan = s->work->plan;
    char file[48];
    scratch_name(s->segment, name, file);
    return qy_work_stream(s->work, plan->n_samples, plan->spec.calibration.sequence_length, 2, file,
                          out, err);
}

qy_status_t qy_segment_streams_open(qy_segment_streams_t *s, const qy_work_t *work,
                                    qy_forward_t *forward, int64_t segment, int64_t block,
                                    qy_error_t *err)
{
    *s = (qy_segment_streams_t){.work = work,
                                .forward = forward,
                                .segment = segment,
                                .first = work->plan->segment_start[segment]};
    int64_t ahead = target_ahead(work->plan);
    qy_segment_streams_sweep(work->plan);
    QY_TRY(open_one(s, target_name, &s->target, err));
    QY_TRY(open_one(s, input_name, &s->input, err));
    keep_between(s->target, s->first, block + ahead);
    keep_between(s->input, s->first, block);
    restore(s, s->target, target_name, block + ahead);
    restore(s, s->input, input_name, block);
    int64_t n_target = at_hand(s->target), n_input = at_hand(s->input);
    if (n_target + n_input > 0)
        qy_log(QY_LOG_INFO,
               "segment %lld goes on at block %lld: of %lld samples %lld of the target and %lld of "
               "the input are at hand",
               (long long)segment, (long long)block, (long long)work->plan->n_samples,
               (long long)n_target, (long long)n_input);
    if (qy_stream_lowest(s->target) >= 0 && qy_stream_lowest(s->input) >= 0)
        return QY_OK;
    return s->first == 0 ? fill_from_tokens(s, err) : fill_from_capture(s, err);
}

/* The save that goes on is over, or is to be. */
static void end_save(qy_segment_streams_t *s, int cancel)
{
    qy_error_t error;
    double seconds;
    if (!s->save)
        return;
    qy_status_t status = qy_streams_save_end(&s->save, cancel, &seconds, &error);
    if (status == QY_OK) {
        remove_saves(s->work->plan, s->segment, s->saved_at);
        qy_log(QY_LOG_INFO,
               "segment %lld: streams saved at block %lld, beside the work in %.2f s; waited for "
               "saves %.2f s in all",
               (long long)s->segment, (long long)s->saved_at, seconds, s->waited_s);
    } else if (status != QY_ERR_STOPPED) {
        qy_log(QY_LOG_WARN, "streams are not saved: %s", error.text);
    }
}

void qy_segment_streams_close(qy_segment_streams_t *s, int finished)
{
    void (*const end)(qy_stream_t **) = finished ? qy_stream_discard : qy_stream_destroy;
    end_save(s, 1);
    if (finished && s->work)
        remove_saves(s->work->plan, s->segment, -1);
    end(&s->target);
    end(&s->input);
}

/* --- walks ------------------------------------------------------------------------------------ */

/* Until the stream may be stored to. */
static void make_way(qy_segment_streams_t *s, const qy_stream_t *stream)
{
    double began = qy_now_s();
    if (!s->save)
        return;
    int over = qy_streams_save_wait(s->save, stream);
    s->waited_s += qy_now_s() - began;
    if (over)
        end_save(s, 0);
}

qy_status_t qy_segment_streams_pass(qy_segment_streams_t *s, qy_stream_t *stream, int64_t block,
                                    qy_error_t *err)
{
    make_way(s, stream);
    double began = qy_now_s();
    QY_TRY(qy_forward_advance(s->forward, stream, block, s->work->hooks, err));
    QY_TRY(qy_stream_flush(stream, err));
    s->advance_s += qy_now_s() - began;
    return QY_OK;
}

static int any_at(const qy_stream_t *stream, int64_t block)
{
    for (int64_t i = 0; i < qy_stream_count(stream); i++)
        if (qy_stream_block(stream, i) == block)
            return 1;
    return 0;
}

static qy_status_t pass_input(qy_segment_streams_t *s, int64_t block, qy_error_t *err)
{
    qy_qblock_t q;
    QY_TRY(qy_finished_read(s->work->plan, block, &q, err));
    qy_status_t status = qy_forward_load_quantized(s->forward, &q, err);
    if (status == QY_OK)
        status = qy_segment_streams_pass(s, s->input, block, err);
    qy_qblock_free(&q);
    return status;
}

qy_status_t qy_segment_streams_bring(qy_segment_streams_t *s, int64_t block, qy_error_t *err)
{
    for (int64_t b = s->first; b < block; b++) {
        if (any_at(s->target, b)) {
            QY_TRY(qy_forward_load_original(s->forward, b, err));
            QY_TRY(qy_segment_streams_pass(s, s->target, b, err));
        }
        if (any_at(s->input, b))
            QY_TRY(pass_input(s, b, err));
    }
    return QY_OK;
}

/* --- saves ------------------------------------------------------------------------------------ */

static qy_status_t save_file(const qy_segment_streams_t *s, qy_stream_file_t *out,
                             qy_stream_t *stream, int64_t block, const char *name, qy_error_t *err)
{
    char folder[QY_PATH_MAX];
    out->stream = stream;
    QY_TRY(qy_stream_flush(stream, err)); /* it may just have been restored */
    QY_TRY(qy_store_stream(out->path, s->work->plan, s->segment, block, name, err));
    QY_TRY(qy_path(folder, err, "%.*s", (int)(strrchr(out->path, '/') - out->path), out->path));
    return qy_make_dirs(folder, err);
}

/* First the one that is stored to first: the input at the end of the block, the target in the next;
 * where it is not ahead, the target at once. */
static qy_status_t start_save(qy_segment_streams_t *s, int64_t block, qy_error_t *err)
{
    qy_stream_file_t files[QY_STREAMS_SAVED];
    int ahead = target_ahead(s->work->plan) > 0;
    QY_TRY(save_file(s, &files[!ahead], s->input, block, input_name, err));
    QY_TRY(save_file(s, &files[ahead], s->target, block + ahead, target_name, err));
    s->saved_at = block;
    return qy_streams_save_start(&s->save, files, s->work->hooks, err);
}

void qy_segment_streams_save(qy_segment_streams_t *s, int64_t block)
{
    qy_error_t error;
    if (block == s->first || s->save ||
        s->advance_s < 60 * s->work->plan->spec.checkpoint.recompute_minutes)
        return;
    if (start_save(s, block, &error) != QY_OK)
        qy_log(QY_LOG_WARN, "streams are not saved: %s", error.text);
    s->advance_s = 0;
}

double qy_segment_streams_stall_s(const qy_segment_streams_t *s)
{
    return s->target ? qy_stream_stall_s(s->target) + qy_stream_stall_s(s->input) + s->waited_s : 0;
}
